"""A scan cut into tiles that fit into memory, and the pieces of object put together again."""

import math
from typing import NamedTuple

import numpy as np

from ptycho.physics.grid import ObjectGrid

COVERED = 1e-3
"""Illumination, over that of the brightest pixel of one probe, from which on an object pixel counts as measured."""


class Tile(NamedTuple):
    """A rectangle of the object, and the frames that it is made of."""

    frames: np.ndarray
    """Indices of the frames that illuminate the tile."""
    low: tuple[float, float]
    high: tuple[float, float]
    """(y, x) of the tile's sides in pixels of the scan; infinite at the border of the scan."""


class Piece(NamedTuple):
    """A part of the object, to be averaged with others."""

    values: np.ndarray
    """``(h, w)`` complex."""
    weight: np.ndarray
    """``(h, w)`` float: illumination of each pixel, in units of the probe's brightest."""
    origin: tuple[int, int]
    """(y, x) of the first pixel, in pixels of the scan."""
    frames: np.ndarray
    """Indices of the frames that it was made of."""


def reach(probe: np.ndarray, photons: float = 0.99) -> int:
    """Distance from the middle of a probe ``(M, n, n)`` within which this part of its ``photons`` fall, in pixels."""
    illumination = (np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0)
    n = illumination.shape[-1]
    y, x = np.abs(np.mgrid[:n, :n] - n // 2)
    # Distances by the larger of y and x: tiles are rectangles.
    by_distance = np.bincount(np.maximum(y, x).ravel(), illumination.ravel())
    return int(np.searchsorted(np.cumsum(by_distance), photons * illumination.sum())) + 1


def cut(positions: np.ndarray, margin: float, limit: int) -> list[Tile]:
    """Tiles that cover a scan, of at most ``limit`` frames each where frames are not all in one place.

    A tile has the frames within ``margin`` pixels of it: frames near a border belong to several. As few tiles as
    will do, as nearly square as the scan lets them be; they are not cut further where they are narrower than two
    margins, or as many as the frames.

    Args:
        positions: ``(P, 2)`` (y, x) in pixels.
        margin: how far from a tile a frame still matters.
        limit: frames in a tile.
    """
    low, extent = positions.min(axis=0), np.maximum(np.ptp(positions, axis=0), 1e-9)
    counts = np.array([1, 1])
    while True:
        sides = extent / counts
        last = sides.max() < 2 * margin or counts.prod() >= len(positions)
        if last or counts.prod() * limit >= len(positions):
            tiles = _grid(positions, [low[k] + sides[k] * np.arange(1, counts[k]) for k in (0, 1)], margin)
            if last or max(len(tile.frames) for tile in tiles) <= limit:
                return tiles
        # The longer side is cut once more, so that tiles stay nearly square.
        counts[np.argmax(sides)] += 1


def _grid(positions: np.ndarray, borders: list[np.ndarray], margin: float) -> list[Tile]:
    """The tiles with frames of a grid; ``borders`` are those between tiles, along y and x."""
    edges = [np.concatenate([[-np.inf], inner, [np.inf]]) for inner in borders]
    columns = len(edges[1]) - 1
    # Number of the tile along axis k, with all edges moved by `shift`
    cell = lambda k, shift: np.searchsorted(edges[k] + shift, positions[:, k], side="right") - 1
    local = np.unique(cell(0, 0) * columns + cell(1, 0))
    # Edges moved by +margin give the first tile that a frame is near, by -margin the last.
    first, last = ([cell(k, shift) for k in (0, 1)] for shift in (margin, -margin))
    # A frame is near the tiles from its first to its last, along both axes.
    candidates = []
    for dy in range((last[0] - first[0]).max() + 1):
        for dx in range((last[1] - first[1]).max() + 1):
            near = np.flatnonzero((first[0] + dy <= last[0]) & (first[1] + dx <= last[1]))
            candidates.append(((first[0][near] + dy) * columns + first[1][near] + dx, near))
    cells, frames = (np.concatenate(pieces) for pieces in zip(*candidates, strict=True))
    # By tile, then by frame: the frames of a tile follow one another.
    order = np.lexsort((frames, cells))
    cells, frames = cells[order], frames[order]
    begin, end = (np.searchsorted(cells, local, side) for side in ("left", "right"))
    origin = lambda y, x: (float(edges[0][y]), float(edges[1][x]))
    return [
        Tile(frames[a:b], origin(y, x), origin(y + 1, x + 1))
        for a, b, y, x in zip(begin, end, *np.divmod(local, columns), strict=True)
    ]


def window(tile: Tile, origin: np.ndarray, shape: tuple[int, int], ramp: float) -> np.ndarray:
    """Contribution of a tile in each pixel ``(h, w)``: 1 inside, and over its sides a ramp of twice ``ramp`` pixels.

    The windows of the tiles of a scan add up to one.
    """
    shares = []
    for low, high, start, size in zip(tile.low, tile.high, origin, shape, strict=True):
        at = start + np.arange(size)
        # Linear over 2 ramp about the border: what rises in a tile falls in its neighbour, and both add up to 1.
        rise = np.ones(size) if math.isinf(low) else np.clip((at - low) / (2 * ramp) + 0.5, 0, 1)
        fall = np.ones(size) if math.isinf(high) else np.clip((high - at) / (2 * ramp) + 0.5, 0, 1)
        shares.append(rise * fall)
    return (shares[0][:, None] * shares[1]).astype("float32")


class Mosaic:
    """The object of a scan as it grows: the mean of its pieces, weighted with their illumination."""

    def __init__(self, positions: np.ndarray, side: int):
        self.grid = ObjectGrid.around(positions, side)
        self.shape = self.grid.shape
        self.total = np.zeros(self.shape, "complex64")
        self.illumination = np.zeros(self.shape, "float32")

    @property
    def origin(self) -> np.ndarray:
        """(y, x) of the first pixel of the object, in pixels of the scan."""
        return np.array(self.grid.origin)

    def add(self, piece: Piece) -> None:
        """Take in a piece, in place; what lies outside the object is left out."""
        # Numbers of Python: arrays of two took as long as the sums do.
        (y, x), (height, width) = piece.origin, piece.values.shape
        y, x = int(y) - self.grid.origin[0], int(x) - self.grid.origin[1]
        top, bottom = max(y, 0), min(y + height, self.shape[0])
        left, right = max(x, 0), min(x + width, self.shape[1])
        if bottom <= top or right <= left:
            return
        region = np.s_[top:bottom, left:right]
        source = np.s_[top - y : bottom - y, left - x : right - x]
        weight = piece.weight[source]
        self.total[region] += piece.values[source] * weight
        self.illumination[region] += weight

    def merge(self, other: "Mosaic") -> None:
        """Take in the mosaic of some of the positions, in place."""
        low = other.origin - self.origin
        region = tuple(slice(a, a + n) for a, n in zip(low, other.shape, strict=True))
        self.total[region] += other.total
        self.illumination[region] += other.illumination

    @property
    def object(self) -> np.ndarray:
        """The object so far ``(H, W)`` complex64; 0 where nothing has been illuminated."""
        # sum w o / sum w
        return np.divide(
            self.total, self.illumination, out=np.zeros_like(self.total), where=self.illumination > COVERED
        )

    @property
    def coverage(self) -> np.ndarray:
        """Illumination of each pixel so far ``(H, W)`` float32; 0 where it is less than `COVERED`."""
        return np.where(self.illumination > COVERED, self.illumination, 0).astype("float32")
