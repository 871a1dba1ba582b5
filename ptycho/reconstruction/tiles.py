"""A scan cut into tiles that fit into memory, and the pieces of object put together again."""

import math
from typing import NamedTuple

import numpy as np

COVERED = 1e-3
"""Light, relative to the brightest pixel of one probe, from which on a pixel of the object counts as measured."""

LIT = 0.99
"""Part of the probe's light within the radius that says how far a frame reaches."""


class Tile(NamedTuple):
    """A rectangle of the object, and the frames that it is made of."""

    frames: np.ndarray
    """Indices of the frames whose light reaches the tile."""
    low: tuple[float, float]
    high: tuple[float, float]
    """(y, x) of the tile's sides in pixels of the scan; infinite at the border of the scan."""


class Piece(NamedTuple):
    """A part of the object, to be averaged with others."""

    values: np.ndarray
    """``(h, w)`` complex."""
    weight: np.ndarray
    """``(h, w)`` float: light on each pixel, in units of the probe's brightest."""
    corner: tuple[int, int]
    """(y, x) of the first pixel, in pixels of the scan."""
    frames: np.ndarray
    """Indices of the frames that it was made of."""


def reach(probe: np.ndarray) -> int:
    """Distance from the middle of a probe ``(M, n, n)`` within which most of its light (`LIT`) falls, in pixels."""
    light = (np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0)
    n = light.shape[-1]
    y, x = np.abs(np.mgrid[:n, :n] - n // 2)
    by_distance = np.bincount(np.maximum(y, x).ravel(), light.ravel())
    return int(np.searchsorted(np.cumsum(by_distance), LIT * light.sum())) + 1


def cut(positions: np.ndarray, margin: float, limit: int) -> list[Tile]:
    """Tiles that cover a scan, of at most ``limit`` frames each where frames are not all in one place.

    A tile has the frames within ``margin`` pixels of it: frames near a border belong to several. As few tiles as
    will do, as nearly square as the scan lets them be.

    Args:
        positions: ``(P, 2)`` (y, x) in pixels.
        margin: how far from a tile a frame still matters.
        limit: frames in a tile.
    """
    low, extent = positions.min(axis=0), np.maximum(np.ptp(positions, axis=0), 1e-9)
    counts = np.array([1, 1])
    while True:
        tiles = _grid(positions, low, extent, counts, margin)
        sides = extent / counts
        if max(len(tile.frames) for tile in tiles) <= limit or sides.max() < 2 * margin:
            return tiles
        counts[np.argmax(sides)] += 1


def _grid(positions, low, extent, counts, margin) -> list[Tile]:
    edges = [np.linspace(low[k], low[k] + extent[k], counts[k] + 1) for k in (0, 1)]
    for edge in edges:
        edge[0], edge[-1] = -np.inf, np.inf
    tiles = []
    for y in range(counts[0]):
        for x in range(counts[1]):
            sides = np.array([edges[0][y], edges[1][x]]), np.array([edges[0][y + 1], edges[1][x + 1]])
            inside = ((positions >= sides[0] - margin) & (positions < sides[1] + margin)).all(axis=1)
            if ((positions >= sides[0]) & (positions < sides[1])).all(axis=1).any():
                tiles.append(Tile(np.flatnonzero(inside), tuple(sides[0]), tuple(sides[1])))
    return tiles


def window(tile: Tile, corner: np.ndarray, shape: tuple[int, int], ramp: float) -> np.ndarray:
    """Share of a tile in each pixel ``(h, w)``: 1 inside, and over its sides a ramp of twice ``ramp`` pixels.

    The windows of the tiles of a scan add up to one.
    """
    shares = []
    for low, high, start, size in zip(tile.low, tile.high, corner, shape, strict=True):
        at = start + np.arange(size)
        rise = np.ones(size) if math.isinf(low) else np.clip((at - low) / (2 * ramp) + 0.5, 0, 1)
        fall = np.ones(size) if math.isinf(high) else np.clip((high - at) / (2 * ramp) + 0.5, 0, 1)
        shares.append(rise * fall)
    return (shares[0][:, None] * shares[1]).astype("float32")


class Mosaic:
    """The object of a scan as it grows: the mean of its pieces, weighted with the light on them."""

    def __init__(self, positions: np.ndarray, side: int):
        whole = np.floor(positions + 0.5).astype(int)
        self.origin = whole.min(axis=0) - side // 2
        """(y, x) of the first pixel of the object, in pixels of the scan."""
        self.shape = tuple(int(n) for n in whole.max(axis=0) - whole.min(axis=0) + side)
        self.total = np.zeros(self.shape, "complex64")
        self.light = np.zeros(self.shape, "float32")

    def add(self, piece: Piece) -> None:
        """Take in a piece, in place; what lies outside the object is left out."""
        corner = np.asarray(piece.corner) - self.origin
        low = np.maximum(corner, 0)
        high = np.minimum(corner + piece.values.shape, self.shape)
        if (high <= low).any():
            return
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        there = tuple(slice(a, b) for a, b in zip(low - corner, high - corner, strict=True))
        self.total[here] += piece.values[there] * piece.weight[there]
        self.light[here] += piece.weight[there]

    def merge(self, other: "Mosaic") -> None:
        """Take in the mosaic of some of the positions, in place."""
        low = other.origin - self.origin
        here = tuple(slice(a, a + n) for a, n in zip(low, other.shape, strict=True))
        self.total[here] += other.total
        self.light[here] += other.light

    @property
    def object(self) -> np.ndarray:
        """The object so far ``(H, W)`` complex64; 0 where no light has fallen."""
        return np.divide(self.total, self.light, out=np.zeros_like(self.total), where=self.light > COVERED)

    @property
    def coverage(self) -> np.ndarray:
        """Light on each pixel so far ``(H, W)`` float32; 0 where it is less than `COVERED`."""
        return np.where(self.light > COVERED, self.light, 0).astype("float32")
