"""Scan positions ``(P, 2)`` float64 in object pixels, order (y, x), centred near zero."""

import numpy as np

from ptycho.arrays import Array, Float

GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


def raster(rows: int, columns: int, step_px: float) -> Float[Array, "P 2"]:
    """A rectangular grid in row order: y changes slowest."""
    y = (np.arange(rows) - (rows - 1) / 2) * step_px
    x = (np.arange(columns) - (columns - 1) / 2) * step_px
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def raster_shape(positions: int) -> tuple[int, int]:
    """Rows and columns of a nearly square grid with about as many points as ``positions``."""
    rows = max(1, round(np.sqrt(positions)))
    return rows, max(1, round(positions / rows))


def spiral(positions: int, step_px: float) -> Float[Array, "{positions} 2"]:
    """Fermat spiral, from the centre outwards, with one position per ``step_px**2`` as a raster has.

    ``r_k = step sqrt((k + 1/2) / pi)``, turned by the golden angle each time: uniform density without the
    periodicity of a raster (Huang et al., Opt. Express 22, 12634 (2014); the half is Vogel's, for the
    centre).
    """
    index = np.arange(positions) + 0.5
    # pi r_k^2 = k step^2: one position for each step^2
    radius = step_px * np.sqrt(index / np.pi)
    angle = GOLDEN_ANGLE * index
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1)


def jittered(positions: Float[Array, "P 2"], jitter_px: float, rng: np.random.Generator) -> Float[Array, "P 2"]:
    """Positions moved by independent uniform amounts within +-``jitter_px`` along y and x."""
    return positions + rng.uniform(-jitter_px, jitter_px, positions.shape)
