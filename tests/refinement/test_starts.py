"""Scale and rotation are found before a fit, and the lowest point of a valley between the points tried."""

import numpy as np
import pytest

from ptycho.config import SimulationConfig
from ptycho.refinement.solver import Solver
from ptycho.refinement.starts import find_map, lowest_point
from ptycho.simulation.simulate import simulate

GRID = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)


def test_the_lowest_point_of_a_paraboloid_is_found_exactly():
    y, x = (GRID - [0.3, -0.2]).T
    np.testing.assert_allclose(lowest_point(GRID, 5 + 2 * y**2 - y * x + x**2), [0.3, -0.2], atol=1e-12)


@pytest.mark.parametrize(
    ("values", "best"),
    [
        (lambda y, x: y + 2 * x, [-1, -1]),  # at the border, where it may fall further
        (lambda y, x: np.where((y == 0) & (x == 0), -1.1, y * x), [0, 0]),  # a saddle, but for one point
    ],
    ids=["border", "saddle"],
)
def test_without_a_minimum_between_them_it_is_the_best_of_the_points(values, best):
    np.testing.assert_array_equal(lowest_point(GRID, values(*GRID.T)), best)


def test_scale_and_rotation_are_found():
    scan = simulate(SimulationConfig(N=25, positions=144, step_px=3.0, jitter_px=1.0, photons=1e5, seed=4))
    middle = scan.positions.mean(axis=0)
    wrong = np.array([[0.02, -0.0175], [0.0175, 0.02]])
    solver = Solver(scan, np.arange(144), np.arange(0))
    solver.move_to(scan.positions + (scan.positions - middle) @ wrong.T)
    find_map(solver)
    found = np.linalg.lstsq(scan.positions - middle, solver.state["positions"] - middle, rcond=None)[0].T - np.eye(2)
    assert np.abs(found).max() < 0.0075 / 2  # the nearest point of the last grid, at least
    assert (solver.state["object"] == 1).all()
    np.testing.assert_array_equal(solver.frames, np.arange(144))
    assert solver.epoch == 0
