"""Gradient and curvature are those of the objective and of the amplitudes: checked against differences of these."""

from types import SimpleNamespace

import numpy as np
import pytest

from ptycho.config import NearField, RefineConfig, SimulationConfig
from ptycho.physics.forward import Specification
from ptycho.physics.propagation import transfer_function
from ptycho.physics.translation import outer, shift_ramp
from ptycho.refinement.batches import Members
from ptycho.refinement.likelihood import FAINT, Likelihood
from ptycho.refinement.solver import Solver, curvature, gradients
from ptycho.refinement.unknowns import (
    UNKNOWNS,
    Affine,
    Background,
    BatchFit,
    Blur,
    Object,
    OprModes,
    OprWeights,
    Positions,
    Probe,
    unknowns_at,
)
from ptycho.simulation.simulate import simulate
from tests.helpers import EPS, assert_near, complex_normal, normal, to_numpy

SHAPE = (28, 26)
FAR = [dict(side=12, moved=True), dict(side=12, moved=False), dict(side=11, moved=True)]
ALL = [dict(own, near=False) for own in FAR] + [dict(own, near=True) for own in FAR[:2]]
ALL += [dict(side=12, moved=True, near=False, slices=3)]
BOTH = pytest.mark.parametrize("poisson", [False, True], ids=["amplitude", "poisson"])
PER_FRAME = ("origin", "subpixel", "counts", "present", "opr_weights")
EVERYTHING = (Object(), Probe(), Background(), Positions(), OprModes(2), OprWeights(), Blur())


def name_of(settings):
    kinds = ["moved" * settings["moved"] or "still", "near" * settings["near"] or "far"]
    return "-".join([str(settings["side"]), *kinds, *["thick"] * ("slices" in settings)])


EVERY = pytest.mark.parametrize("settings", ALL, ids=name_of)


def problem(side=12, moved=True, near=False, poisson=False, modes=2, frames=5, slices=1, seed=0):
    """An estimate with all that can be fitted, a batch that it does not fit, and what they are compiled for.

    The last frame only fills up.
    """
    rng = np.random.default_rng(seed)
    estimate = dict(
        object=1 + np.float32(0.2) * complex_normal(rng, slices, *SHAPE),
        probe=3 * complex_normal(rng, modes, side, side),
        background=rng.uniform(1, 3, (side, side)).astype("float32"),
        opr=complex_normal(rng, 2, side, side),
        blur=np.float32(0.3),
    )
    mask = np.ones((side, side), "float32")
    mask[2, 3] = 0
    batch = dict(
        origin=rng.integers(0, SHAPE[1] - side, (frames, 2)).astype("int32"),
        subpixel=(rng.uniform(-0.5, 0.5, (frames, 2)) * moved).astype("float32"),
        counts=(1.0 + rng.poisson(40, (frames, side, side))).astype("float32"),
        mask=mask,
        present=np.array([1] * (frames - 1) + [0], "float32"),
        opr_weights=normal(rng, frames, 2),
    )
    if near:
        batch["transfer"] = transfer_function((side, side), 8.0, 0.5)
    if slices > 1:
        batch["spacing"] = transfer_function((side, side), 6.0, 0.5)
    return estimate, batch, dict(specification=Specification(SHAPE, moved), likelihood=Likelihood(poisson))


def directions_for(estimate, batch, rng):
    """A direction for each unknown."""
    complex_ones = {name: complex_normal(rng, *estimate[name].shape) for name in ("object", "probe", "opr")}
    real = dict(background=estimate["background"].shape, opr_weights=batch["opr_weights"].shape, blur=())
    real["positions"] = batch["subpixel"].shape
    return complex_ones | {name: np.asarray(normal(rng, *shape), "float32") for name, shape in real.items()}


def moved_along(estimate, batch, name, step, direction):
    """Estimate and batch after a step of an unknown, which either of them may hold."""
    if name in ("opr_weights", "positions"):
        name = "subpixel" if name == "positions" else name
        return estimate, batch | {name: (batch[name] + step * direction).astype("float32")}
    return estimate | {name: (estimate[name] + step * direction).astype(estimate[name].dtype)}, batch


def objective(estimate, batch, kinds):
    """L, in double precision from the model's expected counts."""
    fit = BatchFit(estimate, batch, kinds["specification"], kinds["likelihood"])
    expected, used = to_numpy(fit.model.expected).astype(float) + FAINT, to_numpy(fit.residuals.used)
    counts = batch["counts"].astype(float)
    if kinds["likelihood"].poisson:
        return (used * (expected - counts - counts * np.log(expected / counts))).sum() / 4
    return (used * (np.sqrt(counts) - np.sqrt(expected)) ** 2).sum() / 2


def differences(function, step):
    """Slope of a float32 function at 0 by central differences of two steps: the error is of fifth order."""
    half, full = ((function(h) - function(-h)) / (2 * h) for h in (step / 2, step))
    return (4 * half - full) / 3


def gradient_of(unknown, estimate, batch, kinds):
    totals = gradients(estimate, batch, **kinds, unknowns=(unknown,), measures=False)
    return to_numpy(totals[f"{unknown.name}.gradient"])


@pytest.mark.parametrize("unknown", [own for own in EVERYTHING if own.name != "positions"], ids=lambda own: own.name)
@BOTH
@EVERY
def test_the_gradient_is_the_slope_of_the_objective(unknown, settings, poisson):
    estimate, batch, kinds = problem(**settings, poisson=poisson)
    direction = directions_for(estimate, batch, np.random.default_rng(1))[unknown.name]
    gradient = gradient_of(unknown, estimate, batch, kinds)
    along = lambda h: objective(*moved_along(estimate, batch, unknown.name, h, direction), kinds)
    step = 2e-2
    # The objective has float32 intensities of frames: their errors, each EPS of a part of it, add up at random at most.
    rounding = 4 * EPS * along(0.0) / step
    assert -np.vdot(direction, gradient).real == pytest.approx(differences(along, step), rel=5e-4, abs=rounding)


@BOTH
@pytest.mark.parametrize("settings", [own for own in ALL if own["moved"]], ids=name_of)
def test_the_gradient_of_positions_is_the_slope(settings, poisson):
    estimate, batch, kinds = problem(**settings, poisson=poisson)
    gradient = gradient_of(Positions(), estimate, batch, kinds)
    for k in range(len(gradient) - 1):
        one = batch | {name: batch[name][k : k + 1] for name in PER_FRAME}
        for axis, d in enumerate(np.eye(2)):
            along = lambda h, one=one, d=d: objective(*moved_along(estimate, one, "positions", h, d), kinds)
            rounding = 4 * EPS * along(0.0) / 0.03
            assert -gradient[k, axis] == pytest.approx(differences(along, 0.03), rel=1e-3, abs=rounding)
    assert not gradient[-1].any()
    np.testing.assert_array_equal(gradient_of(Affine(), estimate, batch, kinds), gradient)


def test_frames_that_are_not_fitted_to_move_by_a_damped_step_too():
    """The damping is that of the frames at hand: held-out ones have a curvature of their own, and only they."""
    rng = np.random.default_rng(2)
    curvature, gradient = np.zeros((6, 2, 2)), rng.normal(size=(6, 2))
    curvature[4:] = np.array([[2.0, 0.3], [0.3, 1.0]]) * rng.uniform(1, 2, (2, 1, 1))
    solver = SimpleNamespace(frames=np.arange(4))
    unknown = Positions()
    step = unknown.direction(solver, dict(gradient=gradient, curvature=curvature), np.arange(4, 6))[4:]
    ridge = unknown.damping * np.trace(curvature[4:], axis1=1, axis2=2).mean()
    restored = np.einsum("pab,pb->pa", curvature[4:] + ridge * np.eye(2), step)
    np.testing.assert_allclose(restored, gradient[4:], rtol=1e-5)


def test_parts_of_the_frames_take_their_parts_of_the_prior():
    scan = simulate(SimulationConfig(N=16, positions=16, step_px=4.0))
    solver = Solver(scan, np.arange(12), np.arange(12, 16))
    solver.state["object"] = complex_normal(np.random.default_rng(1), *solver.state["object"].shape)
    solver.priors = solver.priors._replace(tv=0.1)
    slopes, curvatures = zip(*(solver.prior_gradient(part) for part in (np.arange(3), np.arange(3, 12))))
    slope, stiffness = solver.priors.gradient(solver.state["object"])
    np.testing.assert_allclose(sum(slopes), slope, rtol=1e-5, atol=1e-6 * np.abs(slope).max())
    np.testing.assert_allclose(sum(curvatures), stiffness, rtol=1e-5)


def test_positions_have_no_seams():
    """A move by a pixel is one of the origin, but for what the probe wraps around."""
    estimate, batch, kinds = problem(side=11)
    y, x = np.mgrid[:11, :11] - 5
    estimate["probe"] = (30 * np.exp(-(y**2 + x**2) / 4 + 1j * y * x / 9)).astype("complex64")[None]
    del estimate["opr"], batch["opr_weights"]
    still, origin = np.zeros_like(batch["subpixel"]), batch["origin"].clip(0, 12)
    moved, next_one = (
        to_numpy(
            BatchFit(
                estimate, batch | dict(subpixel=still + step, origin=origin + 1 - step), *kinds.values()
            ).model.expected
        )
        for step in (1, 0)
    )
    assert np.linalg.norm(moved - next_one) < 0.05 * np.linalg.norm(next_one)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("near", [None, NearField(distance_px=8.0, wavelength_px=0.5)], ids=["far", "near"])
def test_shift_factors_of_a_solver_are_those_of_the_subpixel_positions(side, near):
    """XLA may compute either in an order of its own: a phase of up to pi, good to EPS."""
    scan = simulate(SimulationConfig(N=side, positions=9, near_field=near))
    batch = Solver(scan, np.arange(9), np.arange(0))._batch(Members(np.arange(9), np.ones(9, "float32")))
    ramps = to_numpy(shift_ramp(batch["subpixel"], (scan.N, scan.N), centred=near is None))
    np.testing.assert_allclose(to_numpy(outer(*batch["shift_factors"])), ramps, atol=8 * EPS)


@EVERY
def test_the_curvature_is_that_of_the_amplitudes(settings):
    """Against differences of the modelled amplitudes along every kind of direction, two of the object."""
    estimate, batch, kinds = problem(**settings)
    rng = np.random.default_rng(3)
    made = directions_for(estimate, batch, rng)
    pairs = [(own, made[own.name]) for own in EVERYTHING if settings["moved"] or own.name != "positions"]
    pairs.insert(1, (Object(), complex_normal(rng, *estimate["object"].shape)))
    unknowns, directions = zip(*pairs, strict=True)
    gram = to_numpy(curvature(estimate, batch, list(directions), **kinds, unknowns=unknowns))

    def amplitudes(estimate, batch):
        residuals = BatchFit(estimate, batch, *kinds.values()).residuals
        return to_numpy(residuals.used * residuals.amplitudes).astype(float).ravel()

    patterns = np.array(
        [
            differences(lambda h, own=own, d=d: amplitudes(*moved_along(estimate, batch, own.name, h, d)), 1e-2)
            for own, direction in pairs
            for d in own.components(direction)
        ]
    )
    expected = patterns @ patterns.T
    unit = np.sqrt(np.diag(expected))
    # Amplitudes of up to 100 are good to EPS of themselves, over the step; pixels that are nearly dark bend sharply.
    np.testing.assert_allclose(gram / np.outer(unit, unit), expected / np.outer(unit, unit), atol=2e-3)


@pytest.mark.parametrize("settings", [own for own in ALL if own["moved"]], ids=name_of)
def test_the_curvature_of_positions_is_that_of_each_frame(settings):
    estimate, batch, kinds = problem(**settings)
    totals = gradients(estimate, batch, **kinds, unknowns=(Positions(),), measures=False)
    of_frames = to_numpy(totals["positions.curvature"])
    axes = list(np.eye(2, dtype="float32")[:, None])
    for k in range(len(of_frames)):
        one = batch | {name: batch[name][k : k + 1] for name in PER_FRAME}
        single = to_numpy(curvature(estimate, one, axes, **kinds, unknowns=(Positions(),) * 2))
        # Sums of float32 over 144 pixels in another order, of transforms of few roundings.
        assert_near(of_frames[k], single, 256)
    assert not of_frames[-1].any()


@BOTH
def test_frames_that_fill_up_and_masked_pixels_do_not_count(poisson):
    estimate, batch, kinds = problem(poisson=poisson)
    del estimate["blur"]  # it mixes masked pixels into their neighbours, in the model though not in the counts
    other = batch | dict(counts=batch["counts"].copy())
    other["counts"][-1] = 1e4
    other["counts"][:, 2, 3] = 1e5
    unknowns = tuple(own for own in EVERYTHING if own.name != "blur")
    totals, again = (gradients(estimate, own, **kinds, unknowns=unknowns, measures=True) for own in (batch, other))
    assert len(totals) == 4 + 6 + 3
    for name, value in totals.items():
        np.testing.assert_array_equal(to_numpy(again[name]), to_numpy(value))
        if name.startswith(("positions", "opr_weights")):
            assert not to_numpy(value)[-1].any()


def test_sums_over_batches_are_those_of_their_frames():
    estimate, batch, kinds = problem()
    of_all = gradients(estimate, batch, **kinds, unknowns=EVERYTHING, measures=True)
    parts = [
        gradients(
            estimate,
            batch | {name: batch[name][part] for name in PER_FRAME},
            **kinds,
            unknowns=EVERYTHING,
            measures=True,
        )
        for part in (slice(0, 2), slice(2, 5))
    ]
    for name, value in of_all.items():
        values = [to_numpy(part[name]) for part in parts]
        joined = np.concatenate(values) if name.startswith(("positions", "opr_weights")) else sum(values)
        assert_near(joined, to_numpy(value), 64)


@BOTH
def test_measures_are_those_of_the_counts(poisson):
    estimate, batch, kinds = problem(poisson=poisson)
    fit = BatchFit(estimate, batch, *kinds.values())
    used, counts = to_numpy(fit.residuals.used).astype(bool), batch["counts"].astype(float)
    k, e = counts[used], to_numpy(fit.model.expected).astype(float)[used]
    totals = gradients(estimate, batch, **kinds, unknowns=(), measures=True)
    measures = {name: float(value) for name, value in totals.items()}
    assert measures["misfit"] == pytest.approx(((np.sqrt(k) - np.sqrt(e)) ** 2).sum(), rel=1e-5)
    assert measures["deviance"] == pytest.approx(0.5 * (e - k + k * np.log(k / e)).sum(), rel=1e-4)
    assert measures["shot_noise"] == pytest.approx(used.sum() / 4, rel=0.2)  # 1/4 a pixel for many photons
    assert measures["objective"] == measures["deviance" if poisson else "misfit"]


def test_unknowns_are_those_of_the_settings():
    """Each name of the list has a setting that says from when on; the object is always fitted."""
    assert unknowns_at(RefineConfig(), 1) == (Object(),)
    for name in UNKNOWNS:
        config = RefineConfig(**{f"{name}_from": 3})
        assert unknowns_at(config, 2) == (Object(),)
        assert [own.name for own in unknowns_at(config, 3)][1] == name
