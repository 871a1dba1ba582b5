"""Stochastic steps go down the misfit that the model describes."""

import numpy as np
import pytest
from keras import ops

from ptycho.config import SimulationConfig
from ptycho.refinement import minibatch as steps
from ptycho.refinement.likelihood import FAINT
from ptycho.refinement.refine import amplitude_loss, poisson_loss
from ptycho.refinement.solver import Solver, gradients
from ptycho.refinement.unknowns import BatchFit, Object, Probe
from ptycho.simulation.simulate import simulate
from tests.helpers import complex_normal, to_numpy
from tests.refinement.test_unknowns import problem

BOTH = ("object", "probe")
NO_PRIOR = dict(prior_gradient=np.zeros((1, 1, 1), "complex64"), prior_curvature=np.zeros((1, 1, 1), "float32"))
SETTINGS = [dict(), dict(side=11), dict(near=True), dict(moved=False), dict(slices=3)]
EVERY = pytest.mark.parametrize("settings", SETTINGS, ids=str)


@pytest.fixture(scope="module")
def noiseless():
    return simulate(
        SimulationConfig(N=20, positions=64, step_px=3.0, jitter_px=1.0, probe_modes=2, noise=False, photons=1e4)
    )


@pytest.mark.parametrize("noise", ["amplitude", "poisson"])
@EVERY
def test_the_gradient_of_adam_is_that_of_the_unknowns(settings, noise):
    """Two derivations of one gradient: by hand, and by the backend's own differentiation; priors weigh the same."""
    estimate, batch, kinds = problem(**settings, poisson=noise == "poisson")

    def loss(counts, expected):  # L
        if noise == "poisson":
            return (expected - counts * ops.log(expected + FAINT)) / 4
        return (ops.sqrt(counts) - ops.sqrt(expected + FAINT)) ** 2 / 2

    prior = complex_normal(np.random.default_rng(5), *estimate["object"].shape).astype("complex64")
    moments = {name: np.zeros((2, 2, *estimate[name].shape), "float32") for name in BOTH} | dict(step=np.float32(0))
    rates = dict.fromkeys(BOTH, np.float32(0.1))
    weighed = batch | NO_PRIOR | dict(prior_gradient=prior)
    _, after = steps.adam_step(estimate, weighed, moments, rates, **kinds, names=BOTH, loss=loss)
    totals = gradients(estimate, batch, **kinds, unknowns=(Object(), Probe()), measures=False)
    pixels = to_numpy(BatchFit(estimate, batch, *kinds.values()).residuals.used).sum()
    for name in BOTH:
        mean = to_numpy(after[name])[0] / (1 - 0.9)
        expected = -(to_numpy(totals[f"{name}.gradient"]) + (prior if name == "object" else 0)) / pixels
        # float32 along two ways, through pixels that are nearly dark.
        np.testing.assert_allclose(mean[0] + 1j * mean[1], expected, atol=1e-4 * np.abs(expected).max())
    assert float(after["step"]) == 1


@pytest.mark.parametrize("loss", [amplitude_loss, poisson_loss])
def test_losses_of_adam_curve_as_the_objective_that_priors_are_weighed_against(loss):
    """``d^2 L / d sqrt(e)^2 = 1`` at ``e = k``; of a thousand counts the floor of the losses is 1e-5."""
    counts, root, step = 1000.0, np.sqrt(1000.0), 0.5
    low, middle, high = (float(loss(np.float64(counts), np.float64((root + k * step) ** 2))) for k in (-1, 0, 1))
    # The fourth derivative of the Poisson loss is 3 / k: h^2 / 12 of it is 6e-5.
    assert (low - 2 * middle + high) / step**2 == pytest.approx(1, rel=1e-3)


def test_a_first_step_of_adam_is_its_rate_along_each_part():
    estimate, batch, kinds = problem()
    moments = dict(object=np.zeros((2, 2, *estimate["object"].shape), "float32"), step=np.float32(0))
    rates = dict(object=np.float32(0.01))
    values, _ = steps.adam_step(
        estimate, batch | NO_PRIOR, moments, rates, **kinds, names=("object",), loss=amplitude_loss
    )
    change = to_numpy(values["object"]) - estimate["object"]
    totals = gradients(estimate, batch, **kinds, unknowns=(Object(),), measures=False)
    illuminated = np.abs(to_numpy(totals["object.gradient"])) > 1e-3
    np.testing.assert_allclose(np.abs(change[illuminated].real), 0.01, rtol=1e-3)
    np.testing.assert_allclose(np.abs(change[illuminated].imag), 0.01, rtol=1e-3)


@pytest.mark.parametrize("names", [("object",), ("probe",), BOTH], ids="-".join)
@EVERY
def test_lengths_of_lsqml_bring_the_exit_waves_nearest(settings, names):
    """What the exit waves still lack is at right angles to what object and probe changed them by."""
    estimate, batch, kinds = problem(**settings)
    values = steps.lsqml_step(estimate, batch | NO_PRIOR, **kinds, names=names, damping=0.3, sample=1)
    fit = BatchFit(estimate, batch, *kinds.values())
    model = fit.model
    change = {name: ops.convert_to_tensor(to_numpy(values[name]) - estimate[name]) for name in names}
    make = dict(
        object=lambda own: model._exit_change(slice_changes=model.extract(own)),
        probe=lambda own: model._exit_change(probe_change=model.place_probe(own)),
    )
    present = batch["present"][:, None, None, None]
    waves = [present * to_numpy(make[name](change[name])) for name in names]
    left = to_numpy(fit.chi) - sum(waves)
    for wave in waves:
        # Directions that are nearly alike share a step by the ridge: that part of it is not the best.
        assert abs(np.vdot(wave, left).real) < 10 * steps.RIDGE * np.vdot(wave, wave).real


@pytest.mark.parametrize("size", [1, 3, 9, 20])
def test_lengths_of_small_batches_are_sound(size, noiseless):
    """However few tell the lengths: one dim frame at the border would make steps of any length."""
    solver = Solver(noiseless, np.arange(64), np.arange(0))
    empty = solver.evaluate()["misfit"]
    for _ in range(2):
        assert solver.minibatch_epoch("lsqml", BOTH, size).sum() < 0.5 * empty


@pytest.mark.parametrize("method", [steps.lsqml_step, steps.rpie_step])
def test_steps_leave_what_is_not_illuminated(method):
    estimate, batch, kinds = problem()
    batch = batch | dict(origin=np.zeros_like(batch["origin"]))
    values = method(estimate, batch | NO_PRIOR, **kinds, names=BOTH, damping=0.3)
    assert np.isfinite(to_numpy(values["object"])).all()
    np.testing.assert_array_equal(to_numpy(values["object"])[:, 14:], estimate["object"][:, 14:])


@pytest.mark.parametrize("names", [("object",), BOTH], ids="-".join)
@pytest.mark.parametrize("method", ["lsqml", "rpie", "adam"])
def test_the_misfit_falls(method, names, noiseless):
    """Of noiseless data, from empty space and a probe that is off by a tenth (or known)."""
    rng = np.random.default_rng(0)
    scale = 0.1 * np.abs(noiseless.probe).mean() * ("probe" in names)
    probe = (noiseless.probe + scale * complex_normal(rng, *noiseless.probe.shape)).astype("complex64")
    solver = Solver(noiseless, np.arange(64), np.arange(0), probe=probe)
    misfits = []
    for _ in range(12):
        if method == "adam":
            misfits.append(solver.adam_epoch(names, 8, amplitude_loss))
        else:
            misfits.append(solver.minibatch_epoch(method, names, 8).sum())
    assert misfits[-1] < 0.05 * misfits[0]
    # From epoch to epoch it falls but for what batches differ by.
    assert np.mean(np.diff(misfits) < 0) > 0.8
    if "probe" not in names:
        np.testing.assert_array_equal(solver.state["probe"], probe)
