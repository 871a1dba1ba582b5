"""Scale and rotation are found before a fit, and the lowest point of a valley between the points tried."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import SimulationConfig
from ptycho.refinement.likelihood import AMPLITUDES, Likelihood
from ptycho.refinement.solver import Solver
from ptycho.refinement.starts import find_focus, find_map, lowest_point
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


def focusing(defocus_rad: float, frames: int = 100, **settings: float) -> Solver:
    """A solver for a scan whose guessed probe is off focus by so many rad at its mean frequency."""
    known = dict(photons=1e5) | settings
    scan = simulate(SimulationConfig(N=32, positions=frames, step_px=4.0, seed=2, **known))
    squared = np.add.outer(*(np.fft.fftfreq(32) ** 2,) * 2)
    spectrum = np.fft.fft2(scan.probe)
    power = (np.abs(spectrum) ** 2).sum(axis=0)
    probe = np.fft.ifft2(spectrum * np.exp(1j * defocus_rad * power.sum() / (power * squared).sum() * squared))
    return Solver(replace(scan, probe=probe, probe_known=False, object=None), np.arange(frames), np.arange(0))


def test_a_probe_in_focus_is_left_as_it_is():
    solver = focusing(0.0)
    given = solver.state["probe"].copy()
    assert find_focus(solver) is None
    np.testing.assert_array_equal(solver.state["probe"], given)


def test_a_search_goes_a_little_beyond_its_range_while_the_misfit_falls():
    """6.6 rad, where 6.0 were allowed, left a simulated scan at fifteen times the shot noise."""
    solver = focusing(-4.0)
    assert find_focus(solver, range_rad=2.4) is None
    true = focusing(0.0).state["probe"]
    alike = np.abs(np.vdot(solver.state["probe"], true)) / np.vdot(true, true).real
    assert alike > 0.95


def test_a_broad_valley_is_no_focus():
    """Frames that are all alike but for noise: the widest probe follows it least."""
    scan = focusing(0.0).scan
    noise = np.random.default_rng(0).poisson(scan.mean_pattern * 2, scan.counts.shape).astype("uint16")
    weak = replace(scan, counts=noise, probe=scan.probe * np.float32(np.sqrt(2)))
    solver = Solver(weak, np.arange(100), np.arange(0))
    given = solver.state["probe"].copy()
    assert find_focus(solver) is None
    np.testing.assert_array_equal(solver.state["probe"], given)
    blind = Solver(weak, np.arange(100), np.arange(0))
    find_focus(blind, sigmas=-1e9, least_gain=-1e9)
    assert not np.array_equal(blind.state["probe"], given)


def test_a_search_that_ends_at_its_limit_says_so():
    assert "may lie beyond" in (find_focus(focusing(-4.0), range_rad=1.2) or "")


def test_steps_from_vacuum_do_not_overshoot_where_frames_are_dim():
    """A first pass by the Poisson likelihood prefers a probe that is out of focus, by least squares the right one."""
    solver = focusing(0.0, frames=144, photons=100.0, defocus=1.0)
    given = solver.state["probe"].copy()
    spectrum, squared = np.fft.fft2(given), np.add.outer(*(np.fft.fftfreq(32) ** 2,) * 2)
    power = (np.abs(spectrum) ** 2).sum(axis=0)

    def misfit(defocus_rad, likelihood):
        ramp = np.exp(1j * defocus_rad * power.sum() / (power * squared).sum() * squared)
        solver.state["probe"] = np.fft.ifft2(spectrum * ramp).astype("complex64")
        solver.vacuum()
        return solver.minibatch_epoch("lsqml", ["object"], 16, likelihood=likelihood).sum()

    poisson = Likelihood(poisson=True, dark=1e-3)
    assert min(misfit(2.4, poisson), misfit(3.6, poisson)) < 0.95 * misfit(0.0, poisson)
    assert min(misfit(a, AMPLITUDES) for a in (-2.4, 2.4, 3.6)) > misfit(0.0, AMPLITUDES)
    solver.state["probe"] = given
    assert find_focus(solver) is None
    np.testing.assert_array_equal(solver.state["probe"], given)
