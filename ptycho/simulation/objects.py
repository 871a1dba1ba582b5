"""Samples: complex transmissions ``(H, W)`` complex64, of amplitude 1 at most and phase in radians.

Features have sizes in pixels and do not grow with the field: a larger field holds more of them.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from ptycho.arrays import Array, Complex
from ptycho.simulation.natural import fractal, leaves, weave
from ptycho.simulation.shapes import Map, Point, Rng, Shape, blob, box, covered, grid, transmission, window_around


def make_object(kind: str, shape: Shape, rng: Rng) -> Complex[Array, "H W"]:
    """A random sample, complex64, with ``|transmission| <= 1``, the same for the same state of ``rng``.

    Kinds: ``cells`` (membranes, nuclei, organelles and fine granules; amplitude down to about 0.5, phase up to about
    1.5 rad), ``siemens`` (a star with a marker that tells y from x and left from right), ``lines`` (straight lines of
    random position, direction and width, as in the synthetic-lines benchmark), ``gold_balls`` (clusters of weakly
    absorbing spheres; the phase is proportional to the projected thickness), and for networks to learn from ``leaves``
    (shapes of all sizes that hide each other), ``fractal`` (fields with a power law) and ``weave`` (bent waves).

    Raises ValueError for another kind.
    """
    makers: dict[str, Callable[[Shape, Rng], np.ndarray]] = {
        "cells": cells,
        "siemens": siemens,
        "lines": straight_lines,
        "gold_balls": gold_balls,
        "leaves": leaves,
        "fractal": fractal,
        "weave": weave,
    }
    if kind not in makers:
        raise ValueError(f"there is no object kind {kind!r}; choose one of {', '.join(makers)}")
    return makers[kind](shape, rng)


def cells(shape: Shape, rng: Rng) -> Complex[Array, "H W"]:
    """Cells of 25 to 55 px with membranes, nuclei, organelles of 3 to 9 px and granules of 2 to 3 px."""
    thickness, dense, fine = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for centre in _scattered_points(shape, _number(shape, 3600), rng):
        _draw_cell(centre, rng.uniform(25, 55), thickness, dense, fine, rng)
    grain = _speckle(shape, 1.2, rng) * (0.03 + 0.08 * np.tanh(thickness))
    ground = 0.08 * _speckle(shape, 12, rng)
    phase = 0.45 * thickness + 0.30 * dense + 0.50 * fine + grain + ground
    absorption = 0.10 * thickness + 0.25 * dense + 0.08 * fine + 0.4 * grain
    return transmission(_squeezed(absorption - absorption.min(), 0.7), _squeezed(phase - phase.min(), 1.7))


def siemens(shape: Shape, rng: Rng) -> Complex[Array, "H W"]:
    """A star of 36 spokes with two ring gaps, and an L of unequal arms in the upper left corner."""
    y, x = grid(shape)
    y, x = y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    outer, spokes = 0.46 * min(shape), 36
    # r sin(n phi) / n: 0 on the edges of n spokes, with slope 1 across them, so a distance to first order
    spoke = covered(-radius * np.sin(spokes * angle + rng.uniform(0, 2 * np.pi)) / spokes)
    gap = np.maximum(_ring(radius, 0.35 * outer, 0.02 * outer), _ring(radius, 0.65 * outer, 0.02 * outer))
    star = spoke * covered(radius - outer) * (1 - gap)
    return _metal(np.maximum(star, _marker(shape)))


def straight_lines(shape: Shape, rng: Rng) -> Complex[Array, "H W"]:
    """Straight lines across the field, 1.5 to 6 px wide, each with its own phase and absorption."""
    phase, absorption = np.zeros(shape), np.zeros(shape)
    y, x = grid(shape)
    for _ in range(max(6, sum(shape) // 14)):
        (cy, cx), angle, width = _point(shape, rng), rng.uniform(0, np.pi), rng.uniform(1.5, 6)
        # |n.(r - c)| - width / 2, n the normal of the line
        cover = covered(np.abs((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) - width / 2)
        phase += rng.uniform(0.15, 0.7) * cover
        absorption += rng.uniform(0.02, 0.25) * cover
    return transmission(_squeezed(absorption, 0.8), _squeezed(phase, 1.6))


def gold_balls(shape: Shape, rng: Rng) -> Complex[Array, "H W"]:
    """Spheres of 2.5 to 13 px radius in one layer, in loose clusters on a thin, slightly uneven film."""
    thickness = np.zeros(shape)
    for _ in range(_number(shape, 1800)):
        centre, extent = _point(shape, rng), rng.uniform(6, 30)
        for _ in range(rng.integers(3, 14)):
            _add_ball(thickness, centre + rng.normal(0, extent, 2), 2.5 + 10.5 * rng.beta(1.3, 3))
    thickness = gaussian_filter(thickness, 0.5)  # a sphere's rim is steeper than a pixel
    return transmission(0.012 * thickness, 0.055 * (thickness + 0.6 * _speckle(shape, 8, rng)))


def _draw_cell(centre: Point, radius: float, thickness: Map, dense: Map, fine: Map, rng: Rng) -> None:
    """Add a cell: dome and membrane, a nucleus, organelles and granules."""
    radii = radius * rng.uniform(0.7, 1, 2)
    window, distance = blob(thickness.shape, centre, radii, 0.12, rng)
    inside = covered(distance)
    dome = np.sqrt(np.clip(-distance / radii.min(), 0, 1))
    thickness[window] += inside * (0.35 + 0.65 * dome)
    fine[window] += _membrane(distance, 1.2)
    nucleus = centre + rng.uniform(-0.25, 0.25, 2) * radii
    _draw_organelle(nucleus, radii * rng.uniform(0.3, 0.45, 2), dense, fine, rng)
    for _ in range(int(radius * 0.5)):
        position = centre + _disc_point(rng) * 0.8 * radii
        _draw_organelle(position, rng.uniform(3, 9) * rng.uniform(0.4, 1, 2), dense, fine, rng)
    for _ in range(int(radius * 0.8)):
        window, distance = blob(thickness.shape, centre + _disc_point(rng) * 0.9 * radii, np.full(2, 1.2), 0.0, rng)
        dense[window] += rng.uniform(0.4, 1) * covered(distance)


def _draw_organelle(centre: Point, radii: Point, dense: Map, fine: Map, rng: Rng) -> None:
    window, distance = blob(dense.shape, centre, np.maximum(radii, 1.5), 0.08, rng)
    dense[window] += rng.uniform(0.2, 0.9) * covered(distance)
    fine[window] += 0.6 * _membrane(distance, 0.9)


def _add_ball(thickness: Map, centre: Point, radius: float) -> None:
    window = window_around(thickness.shape, centre, radius + 2)
    y, x = grid(thickness.shape, window)
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    # The chord 2 sqrt(R^2 - r^2) along the beam
    ball = 2 * np.sqrt(np.clip(radius**2 - squared, 0, None))
    # One layer: where balls touch, the thicker counts, not the sum.
    thickness[window] = np.maximum(thickness[window], ball)


def _membrane(distance: Map, width: float) -> Map:
    # A ridge along the outline
    return np.exp(-((distance / width) ** 2))


def _ring(radius: Map, middle: float, width: float) -> Map:
    return covered(np.abs(radius - middle) - width / 2)


def _marker(shape: Shape) -> Map:
    """An L in the upper left corner whose upright is twice as long as its foot."""
    y, x = grid(shape)
    unit = min(shape) / 40
    upright = box(y, x, (unit, unit), (9 * unit, 2.5 * unit))
    foot = box(y, x, (7.5 * unit, unit), (9 * unit, 5 * unit))
    return np.maximum(upright, foot)


def _metal(cover: Map) -> Complex[Array, "H W"]:
    return transmission(0.25 * cover, 0.9 * cover)


def _squeezed(values: Map, limit: float) -> Map:
    """Values >= 0 brought below ``limit``, the small ones almost unchanged."""
    return limit * np.tanh(values / limit)


def _speckle(shape: Shape, width: float, rng: Rng) -> Map:
    """Smooth Gaussian noise of unit variance."""
    # Periodic, so that the variance is the same at the border
    noise = gaussian_filter(rng.standard_normal(shape), width, mode="wrap")
    return noise / noise.std()


def _number(shape: Shape, area: float) -> int:
    """One feature for each area in square pixels, at least two."""
    return max(2, round(shape[0] * shape[1] / area))


def _point(shape: Shape, rng: Rng) -> Point:
    return rng.uniform(0, 1, 2) * shape


def _scattered_points(shape: Shape, number: int, rng: Rng) -> list[Point]:
    """Random points that keep apart: each is the best of ten candidates (Mitchell, SIGGRAPH 1991)."""
    points = [_point(shape, rng)]
    for _ in range(number - 1):
        candidates = rng.uniform(0, 1, (10, 2)) * shape
        gaps = np.linalg.norm(candidates[:, None] - np.array(points), axis=-1).min(axis=1)
        points.append(candidates[np.argmax(gaps)])
    return points


def _disc_point(rng: Rng) -> Point:
    """A random point of the unit disc."""
    # The root, as the area within r goes with r^2: uniform over the disc
    radius, angle = np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    return np.array([radius * np.sin(angle), radius * np.cos(angle)])
