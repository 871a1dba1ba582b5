"""Descent and curvature are those of the misfit: checked against differences of the misfit itself."""

import numpy as np
import pytest
from keras import ops

from ptycho.reconstruction.refine.model import FAINT, Frames, Optics, curvature, descent

SIDE, SHAPE = 12, (28, 26)


def complex_noise(rng, *shape, scale=1.0):
    return (scale * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype("complex64")


def problem(moved=True, poisson=False, modes=2, frames=5, seed=0):
    """A state, a batch that it does not fit, and the optics."""
    rng = np.random.default_rng(seed)
    state = dict(
        object=1 + complex_noise(rng, *SHAPE, scale=0.2),
        probe=complex_noise(rng, modes, SIDE, SIDE, scale=3),
        background=rng.uniform(1, 3, (SIDE, SIDE)).astype("float32"),
    )
    mask = np.ones((SIDE, SIDE), "float32")
    mask[2, 3] = 0
    batch = dict(
        corner=rng.integers(0, SHAPE[1] - SIDE, (frames, 2)).astype("int32"),
        fraction=(rng.uniform(-0.5, 0.5, (frames, 2)) * moved).astype("float32"),
        counts=(1.0 + rng.poisson(40, (frames, SIDE, SIDE))).astype("float32"),
        mask=mask,
        present=np.array([1] * (frames - 1) + [0], "float32"),
    )
    return state, batch, Optics(SHAPE, moved, poisson)


def loss(state, batch, optics):
    """The misfit that `descent` goes down, in double precision from the model's expected counts."""
    frames = Frames(state, batch, optics)
    expected = np.asarray(ops.convert_to_numpy(frames.expected), float) + FAINT
    used = np.asarray(ops.convert_to_numpy(frames.used), float)
    counts = np.fft.ifftshift(batch["counts"].astype(float), axes=(1, 2))
    if optics.poisson:
        return (used * (expected - counts - counts * np.log(expected / counts))).sum() / 4
    return (used * (np.sqrt(counts) - np.sqrt(expected)) ** 2).sum() / 2


def lines_for(state, batch, rng):
    return dict(
        object=complex_noise(rng, *SHAPE),
        probe=complex_noise(rng, *state["probe"].shape),
        background=rng.normal(size=(SIDE, SIDE)).astype("float32"),
    )


@pytest.mark.parametrize("unknown", ["object", "probe", "background"])
@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_descent_is_the_slope_of_the_misfit(unknown, poisson, moved):
    state, batch, optics = problem(moved, poisson)
    line = lines_for(state, batch, np.random.default_rng(1))[unknown]
    found = ops.convert_to_numpy(descent(state, batch, optics=optics, unknowns=(unknown,))[unknown])
    slope = np.vdot(line, found).real
    step = 1e-2
    up, down = (loss(state | {unknown: state[unknown] + h * line}, batch, optics) for h in (step, -step))
    # float32 amplitudes: the two losses are good to a few 1e-7 of themselves; the differences of third order are less.
    assert -slope == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=1e-6 * up / step)


def test_descent_of_positions_is_the_slope():
    """But for the central differences of the object: they are n / 2 pi sin(2 pi / n) of the slope of a wave of n px."""
    state, batch, optics = problem()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    state["object"] = (1 + 0.3 * np.cos(2 * np.pi * y / 28) + 0.2j * np.sin(2 * np.pi * x / 26)).astype("complex64")
    found = ops.convert_to_numpy(descent(state, batch, optics=optics, unknowns=("positions",))["positions"])
    waves = 2 * np.pi / np.array(SHAPE)
    found = found / (np.sin(waves) / waves)
    step = 0.05
    for k in range(len(found) - 1):  # the last frame only fills up
        one = batch | {name: batch[name][k : k + 1] for name in ("corner", "fraction", "counts", "present")}
        for axis in (0, 1):
            # A frame that moves sees another part of the object: the object moves the other way.
            frequency = np.fft.fftfreq(SHAPE[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
            spectrum = np.fft.fft2(state["object"])
            up, down = (
                loss(state | dict(object=np.fft.ifft2(spectrum * ramp).astype("complex64")), one, optics)
                for ramp in (np.exp(2j * np.pi * frequency * step), np.exp(-2j * np.pi * frequency * step))
            )
            # Third order: (step * wave)^2 / 6 of the slope. The losses are good to 1e-6 of themselves.
            assert -found[k, axis] == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-6 * up / step)
    assert not found[-1].any()


def test_curvature_is_that_of_the_amplitudes():
    """Against differences of the modelled amplitudes along each line."""
    state, batch, optics = problem()
    lines = lines_for(state, batch, np.random.default_rng(3))
    found = ops.convert_to_numpy(curvature(state, batch, {k: [v] for k, v in lines.items()}, optics=optics))
    step = 1e-2

    def amplitudes(state):
        frames = Frames(state, batch, optics)
        return ops.convert_to_numpy(frames.used * frames.roots).astype(float).ravel()

    patterns = [
        (amplitudes(state | {k: state[k] + step * v}) - amplitudes(state | {k: state[k] - step * v})) / (2 * step)
        for k, v in lines.items()
    ]
    expected = np.array([[a @ b for b in patterns] for a in patterns])
    unit = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(found / np.outer(unit, unit), expected / np.outer(unit, unit), atol=5e-3)


def test_frames_that_fill_up_and_masked_pixels_do_not_count():
    state, batch, optics = problem()
    other = {k: v.copy() for k, v in batch.items()}
    other["counts"][-1] = 1e4
    other["counts"][:, (2 + SIDE // 2) % SIDE, (3 + SIDE // 2) % SIDE] = 1e5
    for name, value in descent(state, batch, optics=optics, unknowns=("object", "probe", "background")).items():
        again = descent(state, other, optics=optics, unknowns=("object", "probe", "background"))[name]
        np.testing.assert_allclose(ops.convert_to_numpy(again), ops.convert_to_numpy(value), rtol=1e-6, atol=1e-6)
