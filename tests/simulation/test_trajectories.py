"""Scan positions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ptycho.simulation.trajectories import jittered, raster, raster_shape, spiral


def test_a_raster_goes_along_x_first_and_is_centred() -> None:
    positions = raster(2, 3, 4.0)
    assert positions.dtype == np.float64
    assert positions.tolist() == [[-2, -4], [-2, 0], [-2, 4], [2, -4], [2, 0], [2, 4]]


@given(st.integers(1, 100_000))
def test_the_grid_nearest_to_a_number_of_positions(positions: int) -> None:
    rows, columns = raster_shape(positions)
    assert abs(rows * columns - positions) <= rows / 2
    assert abs(rows - columns) <= 2


def test_a_spiral_has_the_density_of_a_raster_in_every_ring_and_direction() -> None:
    """One position per step^2; Vogel's spiral keeps neighbours apart, 0.85 steps at least, 1.2 at most."""
    step = 3.0
    positions = spiral(2000, step)
    radius = np.linalg.norm(positions, axis=1)
    assert (np.diff(radius) > 0).all()
    for r in (10.0, 30.0, 60.0):
        assert abs((radius < r).sum() - np.pi * r**2 / step**2) <= 1
    upper = np.sign(positions).mean(axis=0)
    np.testing.assert_allclose(upper, 0, atol=0.02)
    nearest = cKDTree(positions).query(positions, 2)[0][:, 1]
    assert nearest.min() > 0.85 * step
    assert nearest.max() < 1.2 * step


def test_jitter_is_uniform_and_independent_along_the_axes() -> None:
    """Means and (co)variances of n draws scatter by their standard errors; five of them are allowed."""
    n, reach = 20_000, 2.0
    moves = jittered(np.full((n, 2), 7.0), reach, np.random.default_rng(0)) - 7.0
    assert np.abs(moves).max() <= reach
    variance = reach**2 / 3
    np.testing.assert_allclose(moves.mean(axis=0), 0, atol=5 * np.sqrt(variance / n))
    spread = np.sqrt((reach**4 / 5 - variance**2) / n)
    np.testing.assert_allclose(np.cov(moves.T), variance * np.eye(2), atol=5 * max(spread, variance / np.sqrt(n)))


def test_no_jitter_moves_nothing() -> None:
    positions = raster(3, 3, 5.0)
    np.testing.assert_array_equal(jittered(positions, 0.0, np.random.default_rng(0)), positions)
