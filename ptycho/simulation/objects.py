"""Samples: complex transmissions ``(H, W)`` complex64, of amplitude 1 at most and phase in radians.

Features are measured in pixels and do not grow with the field, so that a larger field holds more of them.
Edges are anti-aliased: a pixel takes the part of the material that covers it, from the signed distance of
its centre to the outline (negative inside).
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

Window = tuple[slice, slice]


def make_object(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random sample ``(H, W)`` complex64 with ``|transmission| <= 1``, the same for the same state of
    ``rng``.

    Kinds: ``cells`` (membranes, nuclei, organelles and fine granules; amplitude down to about 0.5, phase up
    to about 1.5 rad), ``siemens`` (a star with a marker that tells y from x and left from right), ``lines``
    (straight lines of random place, direction and width, as in the synthetic-lines benchmark),
    ``gold_balls`` (clusters of weakly absorbing spheres; the phase is proportional to the projected
    thickness).

    Raises ValueError for another kind.
    """
    makers: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
        "cells": cells,
        "siemens": siemens,
        "lines": lines,
        "gold_balls": gold_balls,
    }
    if kind not in makers:
        raise ValueError(f"there is no object kind {kind!r}; choose one of {', '.join(makers)}")
    return makers[kind](shape, rng)


def transmission(absorption: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """``exp(-absorption + i phase)`` as complex64; absorption >= 0 keeps the amplitude at 1 or less."""
    rounding = 1e-7  # of the parts to float32, which could lift an amplitude of 1 above 1
    return np.exp(-absorption - rounding + 1j * phase).astype(np.complex64)


def cells(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cells of 25 to 55 px with membranes, nuclei, organelles of 3 to 9 px and granules of 2 to 3 px."""
    thickness, dense, fine = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for centre in _scattered_points(shape, _number(shape, 3600), rng):
        _draw_cell(centre, rng.uniform(25, 55), thickness, dense, fine, rng)
    grain = _speckle(shape, 1.2, rng) * (0.03 + 0.08 * np.tanh(thickness))
    ground = 0.08 * _speckle(shape, 12, rng)
    phase = 0.45 * thickness + 0.30 * dense + 0.50 * fine + grain + ground
    absorption = 0.10 * thickness + 0.25 * dense + 0.08 * fine + 0.4 * grain
    return transmission(_squeezed(absorption - absorption.min(), 0.7), _squeezed(phase - phase.min(), 1.7))


def siemens(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A star of 36 spokes with two ring gaps, and an L of unequal arms in the upper left corner."""
    y, x = _grid(shape)
    y, x = y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    outer, spokes = 0.46 * min(shape), 36
    spoke = _covered(-radius * np.sin(spokes * angle + rng.uniform(0, 2 * np.pi)) / spokes)
    gap = np.maximum(_ring(radius, 0.35 * outer, 0.02 * outer), _ring(radius, 0.65 * outer, 0.02 * outer))
    star = spoke * _covered(radius - outer) * (1 - gap)
    return _metal(np.maximum(star, _marker(shape)))


def lines(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Straight lines across the field, 1.5 to 6 px wide, each with its own phase and absorption."""
    phase, absorption = np.zeros(shape), np.zeros(shape)
    y, x = _grid(shape)
    for _ in range(max(6, sum(shape) // 14)):
        (cy, cx), angle, width = _point(shape, rng), rng.uniform(0, np.pi), rng.uniform(1.5, 6)
        line = _covered(np.abs((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) - width / 2)
        phase += rng.uniform(0.15, 0.7) * line
        absorption += rng.uniform(0.02, 0.25) * line
    return transmission(_squeezed(absorption, 0.8), _squeezed(phase, 1.6))


def gold_balls(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Spheres of 2.5 to 13 px radius in one layer, in loose clusters on a thin, slightly uneven film."""
    thickness = np.zeros(shape)
    for _ in range(_number(shape, 1800)):
        centre, spread = _point(shape, rng), rng.uniform(6, 30)
        for _ in range(rng.integers(3, 14)):
            _add_ball(thickness, centre + rng.normal(0, spread, 2), 2.5 + 10.5 * rng.beta(1.3, 3))
    thickness = gaussian_filter(thickness, 0.5)  # a sphere's rim is steeper than a pixel
    return transmission(0.012 * thickness, 0.055 * (thickness + 0.6 * _speckle(shape, 8, rng)))


def _draw_cell(centre, radius, thickness, dense, fine, rng):
    radii = radius * rng.uniform(0.7, 1, 2)
    window, distance = _blob(thickness.shape, centre, radii, 0.12, rng)
    inside = _covered(distance)
    dome = np.sqrt(np.clip(-distance / radii.min(), 0, 1))
    thickness[window] += inside * (0.35 + 0.65 * dome)
    fine[window] += _membrane(distance, 1.2)
    nucleus = centre + rng.uniform(-0.25, 0.25, 2) * radii
    _draw_organelle(nucleus, radii * rng.uniform(0.3, 0.45, 2), dense, fine, rng)
    for _ in range(int(radius * 0.5)):
        place = centre + _disc_point(rng) * 0.8 * radii
        _draw_organelle(place, rng.uniform(3, 9) * rng.uniform(0.4, 1, 2), dense, fine, rng)
    for _ in range(int(radius * 0.8)):
        window, distance = _blob(thickness.shape, centre + _disc_point(rng) * 0.9 * radii, (1.2, 1.2), 0, rng)
        dense[window] += rng.uniform(0.4, 1) * _covered(distance)


def _draw_organelle(centre, radii, dense, fine, rng):
    window, distance = _blob(dense.shape, centre, np.maximum(radii, 1.5), 0.08, rng)
    dense[window] += rng.uniform(0.2, 0.9) * _covered(distance)
    fine[window] += 0.6 * _membrane(distance, 0.9)


def _add_ball(thickness, centre, radius):
    window = _window(thickness.shape, centre, radius + 2)
    y, x = _grid(thickness.shape, window)
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    ball = 2 * np.sqrt(np.clip(radius**2 - squared, 0, None))
    thickness[window] = np.maximum(thickness[window], ball)


def _blob(shape, centre, radii, wobble, rng) -> tuple[Window, np.ndarray]:
    """A rounded outline: the window it lies in, and there the signed distance in pixels (first order)."""
    window = _window(shape, centre, max(radii) * (1 + 3 * wobble) + 6)
    y, x = _grid(shape, window)
    turn = rng.uniform(0, 2 * np.pi)
    v = ((y - centre[0]) * np.cos(turn) - (x - centre[1]) * np.sin(turn)) / radii[0]
    u = ((y - centre[0]) * np.sin(turn) + (x - centre[1]) * np.cos(turn)) / radii[1]
    rho, angle = np.hypot(v, u), np.arctan2(v, u)
    height, offset = rng.normal(0, wobble, 3) / (1, 1.5, 2.5), rng.uniform(0, 2 * np.pi, 3)
    bulge = sum(a * np.cos(k * angle + p) for k, a, p in zip((2, 3, 5), height, offset))
    slope = np.hypot(v / radii[0], u / radii[1]) / np.maximum(rho, 1e-9)  # of rho, per pixel
    return window, (rho - 1 - bulge) / np.maximum(slope, 1e-9)


def _covered(distance):
    """Part of a pixel inside an outline at a signed distance from the pixel's centre."""
    return np.clip(0.5 - distance, 0, 1)


def _membrane(distance, width):
    return np.exp(-((distance / width) ** 2))


def _ring(radius, middle, width):
    return _covered(np.abs(radius - middle) - width / 2)


def _marker(shape):
    """An L in the upper left corner whose upright is twice as long as its foot."""
    y, x = _grid(shape)
    unit = min(shape) / 40
    upright = _box(y, x, (unit, unit), (9 * unit, 2.5 * unit))
    foot = _box(y, x, (7.5 * unit, unit), (9 * unit, 5 * unit))
    return np.maximum(upright, foot)


def _box(y, x, low, high):
    across = lambda t, a, b: _covered(a - t) * _covered(t - b)
    return across(y, low[0], high[0]) * across(x, low[1], high[1])


def _metal(cover):
    return transmission(0.25 * cover, 0.9 * cover)


def _squeezed(values, limit):
    """Values >= 0 brought below ``limit``, the small ones almost unchanged."""
    return limit * np.tanh(values / limit)


def _speckle(shape, width, rng):
    """Smooth Gaussian noise of unit variance."""
    noise = gaussian_filter(rng.standard_normal(shape), width, mode="wrap")
    return noise / noise.std()


def _number(shape, area):
    return max(2, round(shape[0] * shape[1] / area))


def _point(shape, rng):
    return rng.uniform(0, 1, 2) * shape


def _scattered_points(shape, number, rng):
    """Random points that keep apart: each is the best of ten candidates (Mitchell, SIGGRAPH 1991)."""
    points = [_point(shape, rng)]
    for _ in range(number - 1):
        candidates = rng.uniform(0, 1, (10, 2)) * shape
        gaps = np.linalg.norm(candidates[:, None] - np.array(points), axis=-1).min(axis=1)
        points.append(candidates[np.argmax(gaps)])
    return points


def _disc_point(rng):
    radius, angle = np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    return np.array([radius * np.sin(angle), radius * np.cos(angle)])


def _window(shape, centre, reach) -> Window:
    low = [max(0, int(np.floor(c - reach))) for c in centre]
    high = [max(0, min(n, int(np.ceil(c + reach)) + 1)) for c, n in zip(centre, shape)]
    return slice(min(low[0], high[0]), high[0]), slice(min(low[1], high[1]), high[1])


def _grid(shape, window: Window | None = None):
    rows, columns = window or (slice(0, shape[0]), slice(0, shape[1]))
    return np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)[None, :]
