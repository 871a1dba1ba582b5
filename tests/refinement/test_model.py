"""Descent and curvature are those of the misfit and of the amplitudes: checked against differences of these."""

import numpy as np
import pytest

from ptycho.config import NearField, SimulationConfig
from ptycho.physics.diffraction import expected_counts
from ptycho.physics.patches import extract
from ptycho.physics.propagation import moved_back, transfer_function
from ptycho.physics.translation import fourier_shift, outer, shift_ramp
from ptycho.refinement.batches import Members
from ptycho.refinement.model import FAINT, Frames, Optics, centring, curvature, descent
from ptycho.refinement.solver import Solver
from ptycho.simulation.simulate import simulate
from tests.helpers import EPS, assert_near, complex_normal, normal, to_numpy

SHAPE = (28, 26)
FAR = [dict(side=12, moved=True), dict(side=12, moved=False), dict(side=11, moved=True)]
ALL = [dict(own, near=False) for own in FAR] + [dict(own, near=True) for own in FAR[:2]]
BOTH = pytest.mark.parametrize("poisson", [False, True], ids=["amplitude", "poisson"])
OF_FRAMES = ("corner", "fraction", "counts", "present", "share")


def name_of(settings):
    return "-".join([str(settings["side"]), "moved" * settings["moved"] or "still", "near" * settings["near"] or "far"])


EVERY = pytest.mark.parametrize("settings", ALL, ids=name_of)


def problem(side=12, moved=True, near=False, poisson=False, modes=2, frames=5, seed=0):
    """A state with all that varies, a batch that it does not fit, and the optics; the last frame only fills up."""
    rng = np.random.default_rng(seed)
    state = dict(
        object=1 + np.float32(0.2) * complex_normal(rng, *SHAPE),
        probe=3 * complex_normal(rng, modes, side, side),
        background=rng.uniform(1, 3, (side, side)).astype("float32"),
        opr=complex_normal(rng, 2, side, side),
    )
    mask = np.ones((side, side), "float32")
    mask[2, 3] = 0
    batch = dict(
        corner=rng.integers(0, SHAPE[1] - side, (frames, 2)).astype("int32"),
        fraction=(rng.uniform(-0.5, 0.5, (frames, 2)) * moved).astype("float32"),
        counts=(1.0 + rng.poisson(40, (frames, side, side))).astype("float32"),
        mask=mask,
        present=np.array([1] * (frames - 1) + [0], "float32"),
        share=normal(rng, frames, 2),
    )
    if near:
        batch["transfer"] = transfer_function((side, side), 8.0, 0.5)
    return state, batch, Optics(SHAPE, moved, poisson)


def lines_for(state, batch, rng):
    """A direction for each unknown that changes the amplitudes linearly."""
    lines = {name: complex_normal(rng, *state[name].shape) for name in ("object", "probe", "opr")}
    real = dict(background=state["background"].shape, share=batch["share"].shape, positions=batch["fraction"].shape)
    return lines | {name: normal(rng, *shape) for name, shape in real.items()}


def moved_along(state, batch, name, step, line):
    """State and batch after a step of an unknown, which either of them may hold."""
    if name in ("share", "positions"):
        name = "fraction" if name == "positions" else name
        return state, batch | {name: (batch[name] + step * line).astype("float32")}
    return state | {name: (state[name] + step * line).astype(state[name].dtype)}, batch


def loss(state, batch, optics):
    """What `descent` goes down, in double precision from the model's expected counts."""
    frames = Frames(state, batch, optics)
    expected, used = to_numpy(frames.expected).astype(float) + FAINT, to_numpy(frames.used)
    counts = batch["counts"].astype(float)
    if optics.poisson:
        return (used * (expected - counts - counts * np.log(expected / counts))).sum() / 4
    return (used * (np.sqrt(counts) - np.sqrt(expected)) ** 2).sum() / 2


def differences(function, step):
    """Slope of a float32 function at 0 by central differences of two steps: the error is of fifth order."""
    half, whole = ((function(h) - function(-h)) / (2 * h) for h in (step / 2, step))
    return (4 * half - whole) / 3


@EVERY
def test_the_forward_model_is_that_of_the_simulator(settings):
    state, batch, optics = problem(**settings)
    del state["background"], state["opr"], batch["share"]
    side = settings["side"]
    patches = extract(state["object"][None], batch["corner"][None] + side // 2, (side, side))[0]
    probe = fourier_shift(state["probe"][None], batch["fraction"][:, None])
    transfer = moved_back(batch["transfer"], batch["fraction"][:, None]) if settings["near"] else None
    expected = to_numpy(expected_counts(patches, probe, transfer))
    # Both are Fourier transforms of float32, of a few roundings for each of the log2(N^2) stages.
    assert_near(Frames(state, batch, optics).expected, expected, 64)


def test_the_centring_puts_the_zero_frequency_in_the_middle():
    for side in (12, 13):
        wave = np.fft.fft2(np.ones((side, side)) * centring(side))
        assert np.unravel_index(np.argmax(np.abs(wave)), wave.shape) == (side // 2, side // 2)


@pytest.mark.parametrize("unknown", ["object", "probe", "background", "opr", "share"])
@BOTH
@EVERY
def test_descent_is_the_slope_of_the_misfit(unknown, settings, poisson):
    state, batch, optics = problem(**settings, poisson=poisson)
    line = lines_for(state, batch, np.random.default_rng(1))[unknown]
    asked = ("opr",) if unknown == "share" else (unknown,)
    found = to_numpy(descent(state, batch, optics=optics, unknowns=asked)[unknown])
    along = lambda h: loss(*moved_along(state, batch, unknown, h, line), optics)
    step = 2e-2
    # The loss has float32 intensities of frames: their errors, each EPS of a part of it, add up at random at most.
    rounding = 4 * EPS * along(0.0) / step
    assert -np.vdot(line, found).real == pytest.approx(differences(along, step), rel=2e-4, abs=rounding)


@BOTH
@pytest.mark.parametrize("settings", [own for own in ALL if own["moved"]], ids=name_of)
def test_descent_of_positions_is_the_slope(settings, poisson):
    state, batch, optics = problem(**settings, poisson=poisson)
    found = to_numpy(descent(state, batch, optics=optics, unknowns=("positions",))["positions"])
    for k in range(len(found) - 1):
        one = batch | {name: batch[name][k : k + 1] for name in OF_FRAMES}
        for axis, d in enumerate(np.eye(2)):
            along = lambda h, one=one, d=d: loss(*moved_along(state, one, "positions", h, d), optics)
            rounding = 4 * EPS * along(0.0) / 0.03
            assert -found[k, axis] == pytest.approx(differences(along, 0.03), rel=1e-3, abs=rounding)
    assert not found[-1].any()


def test_positions_have_no_seams():
    """A move by a whole pixel is one of the corner, but for what the probe wraps around."""
    state, batch, optics = problem(side=11)
    y, x = np.mgrid[:11, :11] - 5
    state["probe"] = (30 * np.exp(-(y**2 + x**2) / 4 + 1j * y * x / 9)).astype("complex64")[None]
    del state["opr"], batch["share"]
    still, corner = np.zeros_like(batch["fraction"]), batch["corner"].clip(0, 12)
    moved, next_one = (
        to_numpy(Frames(state, batch | dict(fraction=still + step, corner=corner + 1 - step), optics).expected)
        for step in (1, 0)
    )
    assert np.linalg.norm(moved - next_one) < 0.05 * np.linalg.norm(next_one)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("near", [None, NearField(distance_px=8.0, wavelength_px=0.5)], ids=["far", "near"])
def test_phases_of_a_solver_are_those_of_the_fractions(side, near):
    """XLA may compute either in an order of its own: a phase of up to pi, good to EPS."""
    scan = simulate(SimulationConfig(N=side, positions=9, near_field=near))
    batch = Solver(scan, np.arange(9), np.arange(0))._batch(Members(np.arange(9), np.ones(9, "float32")))
    ramps = to_numpy(shift_ramp(batch["fraction"], (scan.N, scan.N), centred=near is None))
    np.testing.assert_allclose(to_numpy(outer(*batch["phases"])), ramps, atol=8 * EPS)


@EVERY
def test_curvature_is_that_of_the_amplitudes(settings):
    """Against differences of the modelled amplitudes along every kind of line, two of the object."""
    state, batch, optics = problem(**settings)
    rng = np.random.default_rng(3)
    lines = {name: [line] for name, line in lines_for(state, batch, rng).items()}
    lines["object"].append(complex_normal(rng, *SHAPE))
    if not settings["moved"]:
        del lines["positions"]
    found = to_numpy(curvature(state, batch, lines, optics=optics))

    def amplitudes(state, batch):
        frames = Frames(state, batch, optics)
        return to_numpy(frames.used * frames.roots).astype(float).ravel()

    patterns = np.array(
        [
            differences(lambda h, name=name, line=line: amplitudes(*moved_along(state, batch, name, h, line)), 1e-2)
            for name, own in lines.items()
            for whole in own
            # Each mode of the probe goes a length of its own.
            for line in (np.eye(2, dtype="float32")[:, :, None, None] * whole if name == "probe" else [whole])
        ]
    )
    expected = patterns @ patterns.T
    unit = np.sqrt(np.diag(expected))
    # Amplitudes of up to 100 are good to EPS of themselves, over the step; pixels that are nearly dark bend sharply.
    np.testing.assert_allclose(found / np.outer(unit, unit), expected / np.outer(unit, unit), atol=2e-3)


@pytest.mark.parametrize("settings", [own for own in ALL if own["moved"]], ids=name_of)
def test_the_bend_of_positions_is_the_curvature_of_each_frame(settings):
    state, batch, optics = problem(**settings)
    bend = to_numpy(descent(state, batch, optics=optics, unknowns=("positions",))["positions_bend"])
    for k in range(len(bend)):
        one = batch | {name: batch[name][k : k + 1] for name in OF_FRAMES}
        found = to_numpy(
            curvature(state, one, dict(positions=list(np.eye(2, dtype="float32")[:, None])), optics=optics)
        )
        # Sums of float32 over 144 pixels in another order, of transforms of few roundings.
        assert_near(bend[k], found, 256)
    assert not bend[-1].any()


@BOTH
def test_frames_that_fill_up_and_masked_pixels_do_not_count(poisson):
    state, batch, optics = problem(poisson=poisson)
    other = batch | dict(counts=batch["counts"].copy())
    other["counts"][-1] = 1e4
    other["counts"][:, 2, 3] = 1e5
    unknowns = ("measures", "object", "probe", "background", "positions", "opr")
    found, again = (descent(state, own, optics=optics, unknowns=unknowns) for own in (batch, other))
    assert len(found) == 3 + 5 + 4
    for name, value in found.items():
        np.testing.assert_array_equal(to_numpy(again[name]), to_numpy(value))
        if name in ("positions", "positions_bend", "share", "share_bend"):
            assert not to_numpy(value)[-1].any()


def test_sums_over_batches_are_those_of_their_frames():
    state, batch, optics = problem()
    unknowns = ("object", "probe", "background", "positions", "opr")
    whole = descent(state, batch, optics=optics, unknowns=unknowns)
    parts = [
        descent(state, batch | {name: batch[name][part] for name in OF_FRAMES}, optics=optics, unknowns=unknowns)
        for part in (slice(0, 2), slice(2, 5))
    ]
    for name, value in whole.items():
        own = [to_numpy(part[name]) for part in parts]
        joined = np.concatenate(own) if name.partition("_")[0] in ("positions", "share") else sum(own)
        assert_near(joined, to_numpy(value), 64)


def test_measures_are_those_of_the_counts():
    state, batch, optics = problem()
    frames = Frames(state, batch, optics)
    used, counts = to_numpy(frames.used).astype(bool), batch["counts"].astype(float)
    expected = to_numpy(frames.expected).astype(float)
    k, e = counts[used], expected[used]
    found = {name: float(value) for name, value in descent(state, batch, optics=optics, unknowns=()).items()}
    with_more = descent(state, batch, optics=optics, unknowns=("object", "measures"))
    assert {name: float(value) for name, value in with_more.items() if name != "object"} == found
    assert found["misfit"] == pytest.approx(((np.sqrt(k) - np.sqrt(e)) ** 2).sum(), rel=1e-5)
    assert found["deviance"] == pytest.approx(0.5 * (e - k + k * np.log(k / e)).sum(), rel=1e-4)
    assert found["noise"] == pytest.approx(used.sum() / 4, rel=0.2)  # 1/4 a pixel for many photons
