"""Shapes to draw samples with, in pixels, and the transmission of a sample.

Edges are anti-aliased: the fraction of a pixel that material covers follows from the signed distance of its centre to
the outline, negative inside.
"""

import numpy as np

from ptycho.arrays import Array, Complex, Float, Real

Shape = tuple[int, int]
Window = tuple[slice, slice]
Rng = np.random.Generator
Map = Float[Array, "H W"]
"""A quantity of every pixel."""
Point = Float[Array, "2"]
"""(y, x) in pixels."""


def transmission(absorption: Float[Array, "*shape"], phase: Float[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """``exp(-absorption + i phase)`` as complex64; absorption >= 0 keeps the amplitude at 1 or less."""
    rounding = 1e-7  # of real and imaginary part to float32, which could lift an amplitude of 1 above 1
    return np.exp(-absorption - rounding + 1j * phase).astype(np.complex64)


def blob(shape: Shape, centre: Point, radii: Point, wobble: float, rng: Rng) -> tuple[Window, Map]:
    """A rounded outline: the window it lies in, and the signed distance from it there in pixels (first order).

    ``rho = 1 + sum_k a_k cos(k angle + p_k)`` for k = 2, 3, 5 in coordinates in units of the radii; the distance is the
    difference of both sides over the slope of rho per pixel.
    """
    window = window_around(shape, centre, max(radii) * (1 + 3 * wobble) + 6)
    y, x = grid(shape, window)
    turn = rng.uniform(0, 2 * np.pi)
    v = ((y - centre[0]) * np.cos(turn) - (x - centre[1]) * np.sin(turn)) / radii[0]
    u = ((y - centre[0]) * np.sin(turn) + (x - centre[1]) * np.cos(turn)) / radii[1]
    rho, angle = np.hypot(v, u), np.arctan2(v, u)
    # Higher harmonics are weaker: outlines stay round.
    height, offset = rng.normal(0, wobble, 3) / (1, 1.5, 2.5), rng.uniform(0, 2 * np.pi, 3)
    bulge = sum(a * np.cos(k * angle + p) for k, a, p in zip((2, 3, 5), height, offset))
    slope = np.hypot(v / radii[0], u / radii[1]) / np.maximum(rho, 1e-9)  # of rho, per pixel
    return window, (rho - 1 - bulge) / np.maximum(slope, 1e-9)


def covered(distance: Map) -> Map:
    """Fraction of a pixel inside an outline at a signed distance from the pixel's centre."""
    return np.clip(0.5 - distance, 0, 1)


def box(y: Real[Array, "H #W"], x: Real[Array, "#H W"], low: tuple[float, float], high: tuple[float, float]) -> Map:
    """Cover of a box between two corners (y, x)."""
    across = lambda t, a, b: covered(a - t) * covered(t - b)
    return across(y, low[0], high[0]) * across(x, low[1], high[1])


def window_around(shape: Shape, centre: Point, reach: float) -> Window:
    """The pixels within a distance of a point, cut at the border."""
    low = [max(0, int(np.floor(c - reach))) for c in centre]
    high = [max(0, min(n, int(np.ceil(c + reach)) + 1)) for c, n in zip(centre, shape)]
    return slice(min(low[0], high[0]), high[0]), slice(min(low[1], high[1]), high[1])


def grid(shape: Shape, window: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates y (H, 1) and x (1, W) of the pixels of a window."""
    rows, columns = window or (slice(0, shape[0]), slice(0, shape[1]))
    return np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)[None, :]
