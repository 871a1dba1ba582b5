"""The grid of an object: which of its pixels lie under the frames of a scan.

Positions are (y, x) in pixels of the scan; ``origin`` is the scan's pixel at the first pixel of the object. Patches
stay on the grid, at the integer part of a position; the probe moves by its sub-pixel part, in [-1/2, 1/2).
"""

import os
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.signal import fftconvolve

from ptycho.physics.patches import placed, split_positions


@dataclass(frozen=True)
class ObjectGrid:
    """Pixels of an object that frames of N x N pixels lie on."""

    origin: tuple[int, int]
    """(y, x) of its first pixel, in pixels of the scan."""
    shape: tuple[int, int]
    """Height and width."""
    N: int
    """Side of the frames."""

    @classmethod
    def around(cls, positions: np.ndarray, N: int, margin: int = 0) -> "ObjectGrid":
        """The smallest grid that holds all frames at ``positions (P, 2)``, with a margin on all sides, in pixels."""
        integer, _ = split_positions(positions)
        # A frame covers the pixels p - N // 2 to p - N // 2 + N - 1, for N odd or even.
        low, high = integer.min(axis=0) - N // 2 - margin, integer.max(axis=0) - N // 2 + N + margin
        grid = cls((int(low[0]), int(low[1])), (int(high[0] - low[0]), int(high[1] - low[1])), N)
        grid.require_memory(len(positions))
        return grid

    def require_memory(self, frames: int, arrays: int = 6, sparse: int = 2**24) -> None:
        """Raise ValueError where an object is larger than memory, or than its frames can cover.

        A fit holds about so many ``arrays`` of complex64 of it. An object of more than ``sparse`` pixels, of which the
        frames cover less than a hundredth, comes from positions in a wrong unit, or from a stray one.
        """
        height, width = self.shape
        pixels = height * width
        needed = 8 * arrays * pixels
        if needed <= memory_bytes() and (pixels <= sparse or pixels <= 100 * frames * self.N**2):
            return
        raise ValueError(
            f"the positions spread over {height} x {width} pixels, of which {frames} frames of {self.N} x {self.N} "
            f"cover {min(100.0, 100 * frames * self.N**2 / pixels):.2g} %: the object would take {needed / 1e9:.3g} "
            "GB. Check the unit of the positions (--position-unit, --pixel-size-nm; `ptycho doctor` proposes one), and "
            "for a stray one"
        )

    def rounded_up(self, multiple: int = 16) -> "ObjectGrid":
        """As large or larger, its sides multiples: scans that are nearly alike then share what is compiled for a shape,
        which XLA never frees."""
        height, width = (-(-side // multiple) * multiple for side in self.shape)
        return ObjectGrid(self.origin, (height, width), self.N)

    def frames(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where frames at ``positions (P, 2)`` lie: the object pixel under their first one, int32, and the sub-pixel
        rest of their positions, float32, both ``(P, 2)``."""
        integer, subpixel = split_positions(positions)
        return (integer - self.N // 2 - np.array(self.origin)).astype("int32"), subpixel

    def on_grid(self, positions: np.ndarray) -> np.ndarray:
        """Positions in pixels of the object."""
        return positions - np.array(self.origin)

    def placed(self, image: np.ndarray, origin: np.ndarray, canvas: np.ndarray) -> np.ndarray:
        """A copy of ``canvas``, on this grid, with an image on it whose first pixel is the scan's ``origin``."""
        return placed(image, np.asarray(origin) - np.array(self.origin), canvas)

    def spread(self, pattern: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Sum over frames at ``positions (P, 2)`` of one real ``pattern (N, N)``, such as the illumination:
        ``(H, W)`` float32."""
        # out[y] = sum_j pattern[y - y_j], y_j the first pixel of frame j: the full convolution from its first pixel on.
        # Its FFT rounds where nothing is illuminated, to either sign: hence the maximum.
        total = fftconvolve(self._points(positions, np.ones(len(positions))), pattern)
        return np.maximum(total[: self.shape[0], : self.shape[1]], 0).astype("float32")

    def coverage(self, probe: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Illumination by frames at ``positions``, over that of the brightest pixel of ``probe (M, N, N)``."""
        illumination = (np.abs(probe) ** 2).sum(axis=0)
        return self.spread(illumination / illumination.max(), positions)

    def under_frames(self, image: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted sum over frames of a real ``image (H, W)`` under them, ``(N, N)``: adjoint of `spread`."""
        # out[i] = sum_j w_j image[y_j + i]: a correlation, as a convolution with the reversed points, whose pixel
        # (H - 1, W - 1) is i = 0.
        full = fftconvolve(image, self._points(positions, weights)[::-1, ::-1])
        height, width = self.shape
        return np.maximum(full[height - 1 : height - 1 + self.N, width - 1 : width - 1 + self.N], 0).astype("float32")

    def _points(self, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``(H, W)``: the weights at the pixels under the frames' first ones."""
        points = np.zeros(self.shape, "float32")
        # Several frames may have the same pixel; ``points[index] += weights`` would count one of them.
        np.add.at(points, tuple(self.frames(positions)[0].T), weights)
        return points


@cache
def memory_bytes() -> float:
    """Main memory of this machine; infinite where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no POSIX system
        return float("inf")


def nearest_the_middle(positions: np.ndarray, count: int) -> np.ndarray:
    """Indices, in ascending order, of the ``count`` of some positions ``(P, 2)`` that lie nearest their median."""
    distance = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:count])
