"""Stochastic steps go down the misfit that the model describes."""

import numpy as np
import pytest
from keras import ops

from ptycho.config import SimulationConfig
from ptycho.refinement import minibatch as steps
from ptycho.refinement.model import FAINT, Frames, descent
from ptycho.refinement.refine import amplitude_loss
from ptycho.refinement.solver import Solver
from ptycho.simulation.simulate import simulate
from tests.helpers import complex_normal, to_numpy
from tests.refinement.test_model import problem

BOTH = ("object", "probe")
NOTHING = dict(pull=np.zeros((1, 1), "complex64"), pull_bend=np.zeros((1, 1), "float32"))
SETTINGS = [dict(), dict(side=11), dict(near=True), dict(moved=False)]
EVERY = pytest.mark.parametrize("settings", SETTINGS, ids=str)


@pytest.fixture(scope="module")
def noiseless():
    return simulate(
        SimulationConfig(N=20, positions=64, step_px=3.0, jitter_px=1.0, probe_modes=2, noise=False, photons=1e4)
    )


@pytest.mark.parametrize("noise", ["amplitude", "poisson"])
@EVERY
def test_the_gradient_of_adam_is_the_descent(settings, noise):
    """Two derivations of one gradient: by hand, and by the backend's own differentiation."""
    state, batch, optics = problem(**settings, poisson=noise == "poisson")

    def loss(counts, expected):
        if noise == "poisson":  # 4 times what `descent` goes down
            return expected - counts * ops.log(expected + FAINT)
        return 2 * (ops.sqrt(counts) - ops.sqrt(expected + FAINT)) ** 2

    moments = {name: np.zeros((4, *state[name].shape), "float32") for name in BOTH} | dict(step=np.float32(0))
    _, after = steps.adam(
        state, batch | NOTHING, moments, dict.fromkeys(BOTH, np.float32(0.1)), optics=optics, unknowns=BOTH, loss=loss
    )
    found = descent(state, batch, optics=optics, unknowns=BOTH)
    pixels = to_numpy(Frames(state, batch, optics).used).sum()
    for name in BOTH:
        mean = to_numpy(after[name])[:2] / (1 - steps.DECAYS[0])
        expected = -4 * to_numpy(found[name]) / pixels
        # float32 along two ways, through pixels that are nearly dark.
        np.testing.assert_allclose(mean[0] + 1j * mean[1], expected, atol=1e-4 * np.abs(expected).max())
    assert float(after["step"]) == 1


def test_a_first_step_of_adam_is_its_rate_along_each_part():
    state, batch, optics = problem()
    moments = dict(object=np.zeros((4, *state["object"].shape), "float32"), step=np.float32(0))
    found, _ = steps.adam(
        state,
        batch | NOTHING,
        moments,
        dict(object=np.float32(0.01)),
        optics=optics,
        unknowns=("object",),
        loss=amplitude_loss,
    )
    change = to_numpy(found["object"]) - state["object"]
    seen = np.abs(to_numpy(descent(state, batch, optics=optics, unknowns=("object",))["object"])) > 1e-3
    np.testing.assert_allclose(np.abs(change[seen].real), 0.01, rtol=1e-3)
    np.testing.assert_allclose(np.abs(change[seen].imag), 0.01, rtol=1e-3)


@pytest.mark.parametrize("unknowns", [("object",), ("probe",), BOTH], ids="-".join)
@EVERY
def test_lengths_of_lsqml_bring_the_exit_waves_nearest(settings, unknowns, monkeypatch):
    """What the exit waves still lack is at right angles to what object and probe changed them by."""
    monkeypatch.setattr(steps, "SAMPLE", 1)
    state, batch, optics = problem(**settings)
    found = steps.lsqml(state, batch | NOTHING, optics=optics, unknowns=unknowns, damping=0.3)
    frames = Frames(state, batch, optics)
    change = {name: to_numpy(found[name]) - state[name] for name in unknowns}
    made = dict(
        object=lambda line: to_numpy(frames.cut(ops.convert_to_tensor(line)))[:, None] * to_numpy(frames.probes),
        probe=lambda line: to_numpy(frames.patches)[:, None] * to_numpy(frames.placed(ops.convert_to_tensor(line))),
    )
    present = batch["present"][:, None, None, None]
    waves = [present * made[name](change[name]) for name in unknowns]
    left = to_numpy(frames.missing()) - sum(waves)
    for wave in waves:
        # Lines that are nearly alike share a step by the ridge: that part of it is not the best.
        assert abs(np.vdot(wave, left).real) < 10 * steps.RIDGE * np.vdot(wave, wave).real


@pytest.mark.parametrize("size", [1, 3, 9, 20])
def test_lengths_of_small_batches_are_sound(size, noiseless):
    """However few tell the lengths: one dim frame at the border would make steps of any length."""
    solver = Solver(noiseless, np.arange(64), np.arange(0))
    empty = solver.judge()["misfit"]
    for _ in range(2):
        assert solver.stochastic("lsqml", BOTH, size) < 0.5 * empty


@pytest.mark.parametrize("method", [steps.lsqml, steps.rpie])
def test_steps_pass_by_what_no_light_fell_on(method):
    state, batch, optics = problem()
    batch = batch | dict(corner=np.zeros_like(batch["corner"]))
    found = method(state, batch | NOTHING, optics=optics, unknowns=BOTH, damping=0.3)
    assert np.isfinite(to_numpy(found["object"])).all()
    np.testing.assert_array_equal(to_numpy(found["object"])[14:], state["object"][14:])


@pytest.mark.parametrize("unknowns", [("object",), BOTH], ids="-".join)
@pytest.mark.parametrize("method", ["lsqml", "rpie", "adam"])
def test_the_misfit_falls(method, unknowns, noiseless):
    """Of noiseless data, from empty space and a probe that is off by a tenth (or known)."""
    rng = np.random.default_rng(0)
    scale = 0.1 * np.abs(noiseless.probe).mean() * ("probe" in unknowns)
    probe = (noiseless.probe + scale * complex_normal(rng, *noiseless.probe.shape)).astype("complex64")
    solver = Solver(noiseless, np.arange(64), np.arange(0), probe=probe)
    misfits = []
    for _ in range(12):
        if method == "adam":
            misfits.append(solver.adam(unknowns, 8, amplitude_loss))
        else:
            misfits.append(solver.stochastic(method, unknowns, 8))
    assert misfits[-1] < 0.05 * misfits[0]
    # From epoch to epoch it falls but for what batches differ by.
    assert np.mean(np.diff(misfits) < 0) > 0.8
    if "probe" not in unknowns:
        np.testing.assert_array_equal(solver.state["probe"], probe)
