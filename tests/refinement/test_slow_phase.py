"""The slow phase of an object, fitted by itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptycho.config import RefineConfig, SimulationConfig
from ptycho.refinement.refine import make_solver, refine, slow_phase_step
from ptycho.simulation.simulate import simulate

POISSON = RefineConfig(noise="poisson")


@pytest.fixture(scope="module")
def steps():
    """Two wide regions with a step of 0.6 rad between them, under a curved probe, and the truth as a start."""
    y, x = np.mgrid[:120, :120]
    sample = np.exp(0.6j * (x + 0.3 * y > 75)).astype("complex64")
    settings = SimulationConfig(N=32, positions=225, step_px=5.0, jitter_px=1.0, photons=3e4, defocus=1.0, seed=3)
    scan = simulate(settings, object=sample)
    fit = refine(scan, replace(POISSON, epochs=2))
    return scan, fit.result


def solver_of(scan, result):
    return make_solver(scan, np.arange(len(scan)), np.arange(0), POISSON, result)


def true_object(scan, solver):
    """The truth on the solver's canvas."""
    origin = np.rint(solver.grid.on_grid(scan.positions)[0] - scan.positions[0]).astype(int)
    return solver.grid.placed(scan.object, origin, np.ones(solver.grid.shape, "complex64"))


def error_of(solver, true):
    """rms phase error where light falls, but for a constant, in rad."""
    light = solver.coverage()
    off = solver.state["object"][0] * true.conj()
    phase = np.angle(off * np.exp(-1j * np.angle((off * light).sum())))
    return float(np.sqrt((light * phase**2).sum() / light.sum()))


def test_a_slow_error_of_a_true_image_is_taken_out(steps):
    """Details true, the slow phase not: the counts tell it. Most of it goes: what is slower than a step is wide."""
    scan, result = steps
    solver = solver_of(scan, result)
    true = true_object(scan, solver)
    slow = gaussian_filter(np.random.default_rng(0).normal(size=true.shape), 16)
    solver.state["object"] = (true * np.exp(0.3j * slow / slow.std()))[None].astype("complex64")
    before = error_of(solver, true)
    for _ in range(24):
        slow_phase_step(solver)
    assert before > 0.2
    assert error_of(solver, true) < before / 2


def test_amplitude_and_fine_detail_stay_and_so_do_the_priors(steps):
    scan, result = steps
    solver = solver_of(scan, result)
    solver.priors = solver.priors._replace(tv=0.3)
    image = solver.state["object"].copy()
    for _ in range(3):
        slow_phase_step(solver)
    after = solver.state["object"]
    np.testing.assert_allclose(np.abs(after), np.abs(image), rtol=1e-5)
    change = np.angle(after * image.conj())[0]
    assert np.abs(change).max() > 1e-3
    # Two Gaussians of 8 pixels: from one pixel to the next it changes by 1 / (8 sqrt(2 e)) of its height at most.
    assert np.abs(np.diff(change, axis=0)).max() < np.abs(change).max() / 8
    assert solver.priors.tv == 0.3


def test_a_fit_with_total_variation_that_holds_it_back_ends_nearer_to_the_truth(steps):
    scan, _ = steps
    held_back = replace(POISSON, tv_weight=3.0)
    without, freed = (refine(scan, replace(held_back, slow_phase=count)) for count in (0, 16))
    errors = []
    for fit in (without, freed):
        solver = solver_of(scan, fit.result)
        errors.append(error_of(solver, true_object(scan, solver)))
    assert freed.criterion < without.criterion
    assert errors[1] < errors[0]


def test_slow_phase_that_predicts_no_better_is_not_taken(steps):
    """Near the object's mean (`flat_weight`) it would be taken away again."""
    scan, _ = steps
    plain, freed = (
        refine(scan, replace(POISSON, tv_weight=0.1, flat_weight=0.3, epochs=50, slow_phase=count)) for count in (0, 8)
    )
    np.testing.assert_array_equal(plain.result.object, freed.result.object)


def test_other_methods_have_none():
    with pytest.raises(ValueError, match="slow_phase"):
        RefineConfig(method="lsqml", slow_phase=4)
