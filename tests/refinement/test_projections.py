"""Reflected projections lead out of wrong minima: a flat disc, frames that hardly overlap."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import NearField, RefineConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.refinement import refine as refinement
from ptycho.refinement.projections import can_project, project
from ptycho.refinement.refine import make_solver, may_be_stuck, own_misfit, refine
from ptycho.refinement.solver import Solver
from ptycho.simulation.simulate import simulate

LINES = SimulationConfig(N=48, positions=36, step_px=14.0, jitter_px=1.0, object_kind="lines", defocus=0.0)


@pytest.fixture(scope="module")
def lines() -> Scan:
    """Under a flat disc, 27 % of whose diameter neighbours share."""
    return simulate(LINES)


def solver_of(scan: Scan, start: Reconstruction | None = None) -> Solver:
    return make_solver(scan, np.arange(len(scan)), np.arange(0), RefineConfig(noise="poisson"), start)


def snr(image: np.ndarray, scan: Scan) -> float:
    return compare_objects(image, scan.object).snr_db


def test_a_fit_in_a_wrong_minimum_is_led_out(lines: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """10.5 dB, where a flat object has 9.8, and 22.8 dB. Shot noise alone leaves sqrt(e) errors of a photon a pixel of
    the object or less: 86 photons on each, 19 dB and more."""
    led = refine(lines, RefineConfig(noise="poisson"))
    monkeypatch.setattr(refinement, "may_be_stuck", lambda *_: False)
    left = refine(lines, RefineConfig(noise="poisson"))
    assert own_misfit(solver_of(lines, start=led.result)) < 1 < own_misfit(solver_of(lines, start=left.result))
    assert snr(led.result.object, lines) > 19 > snr(left.result.object, lines) + 6
    assert len(led.history) > len(left.history)


def test_a_fit_at_the_noise_is_left_alone(small_scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "project", lambda *_: pytest.fail("nothing was wrong"))
    refine(small_scan, RefineConfig(noise="poisson"))


def test_what_fits_worse_is_not_taken(small_scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    def astray(solver: Solver) -> None:
        rng = np.random.default_rng(0)
        solver.state["object"] = np.exp(3j * rng.random(solver.state["object"].shape)).astype("complex64")

    config = RefineConfig(noise="poisson", epochs=80)
    monkeypatch.setattr(refinement, "may_be_stuck", lambda *_: False)
    left = refine(small_scan, config)
    monkeypatch.setattr(refinement, "may_be_stuck", lambda *_: True)
    monkeypatch.setattr(refinement, "project", astray)
    np.testing.assert_array_equal(refine(small_scan, config).result.object, left.result.object)


@pytest.mark.parametrize("case", ["one mode", "two modes", "near field", "a background"])
def test_from_vacuum_they_come_near_the_object(case: str) -> None:
    """Of expected counts without noise: the misfit then is what the image lacks, far below shot noise."""
    config = SimulationConfig(N=32, positions=64, step_px=4.0, noise=False, seed=2)
    if case == "two modes":
        config = replace(config, probe_modes=2)
    if case == "near field":
        config = replace(config, near_field=NearField(distance_px=12.0, wavelength_px=0.5))
    scan = simulate(config)
    if case == "a background":
        scan = replace(scan, counts=scan.counts + np.float32(3.0))
    solver = solver_of(scan)
    if case == "a background":
        solver.state["background"] = np.full((32, 32), 3.0, "float32")
    before = own_misfit(solver)
    project(solver)
    assert own_misfit(solver) < 0.1 < before


def test_only_a_fit_of_the_object_alone_may_be_stuck(lines: Scan, small_scan: Scan) -> None:
    """Where probe or positions are not known yet, what is left of the misfit is theirs."""
    solver = solver_of(lines)
    assert may_be_stuck(solver, RefineConfig())
    assert not may_be_stuck(solver, RefineConfig(probe_from=1))
    assert not may_be_stuck(solver, RefineConfig(method="lsqml"))
    assert not may_be_stuck(solver, RefineConfig(epochs=71))  # a few epochs are what was asked for
    assert may_be_stuck(solver_of(small_scan), RefineConfig())  # vacuum
    assert not may_be_stuck(solver_of(small_scan, start=refine(small_scan).result), RefineConfig())


def test_the_exit_waves_have_to_fit_into_memory(lines: Scan) -> None:
    solver = solver_of(lines)
    assert can_project(solver, most_pixels=36 * 48 * 48)
    assert not can_project(solver, most_pixels=36 * 48 * 48 - 1)
