"""The one forward model against the oracle, its linearisation against finite differences, its adjoint against both."""

from itertools import product

import numpy as np
import pytest

from ptycho.physics.forward import ForwardModel, Specification
from ptycho.physics.patches import split_positions
from ptycho.physics.propagation import transfer_function
from tests.helpers import EPS, complex_normal, normal, to_numpy
from tests.physics import oracle

SHAPE = (31, 28)
FRAMES = 5
NEAR = (60.0, 0.2, "angular-spectrum")
SPACING = (25.0, 0.3, "fresnel")

CASES = [
    dict(N=n, slices=s, near=near, modes=m, **extra)
    for n, s, near, m, extra in product(
        (12, 13),
        (1, 3),
        (False, True),
        (1, 3),
        (
            {},
            dict(subpixel=True),
            dict(subpixel=True, opr=2, background=True, blur=0.8),
            dict(background=True),
            dict(blur=1.3),
            dict(opr=1),
        ),
    )
]


def named(case) -> str:
    return "-".join(f"{key}{value}" for key, value in case.items())


class Problem:
    """A generic estimate and batch of frames, some of which reach beyond the object."""

    def __init__(self, N, slices, near, modes, subpixel=False, opr=0, background=False, blur=0.0, seed=0):
        rng = np.random.default_rng([seed, N, slices, modes, opr])
        self.N, self.near = N, NEAR if near else None
        self.positions = rng.uniform(0, np.array(SHAPE), (FRAMES, 2)) if subpixel else rng.integers(0, 28, (FRAMES, 2))
        integer, rest = split_positions(self.positions)
        self.blur_px = blur
        self.estimate = dict(
            object=complex_normal(rng, slices, *SHAPE),
            probe=complex_normal(rng, modes, N, N),
        )
        self.batch = dict(origin=integer - N // 2, subpixel=rest)
        if opr:
            self.estimate["opr"] = complex_normal(rng, opr, N, N)
            self.batch["opr_weights"] = normal(rng, FRAMES, opr)
        if background:
            self.estimate["background"] = np.abs(normal(rng, N, N))
        if blur:
            self.estimate["blur"] = np.float32(blur**2)
        if near:
            self.batch["transfer"] = transfer_function((N, N), *NEAR)
        if slices > 1:
            self.batch["spacing"] = transfer_function((N, N), *SPACING)
        self.specification = Specification(SHAPE, subpixel)

    def model(self) -> ForwardModel:
        return ForwardModel(self.estimate, self.batch, self.specification)

    def reference(self, **changed) -> np.ndarray:
        """Of the oracle, at the estimate with some arrays replaced."""
        at = {name: np.asarray(value) for name, value in (self.estimate | changed).items() if name != "positions"}
        return oracle.expected_counts(
            at["object"],
            at["probe"],
            changed.get("positions", self.positions),
            near=self.near,
            spacing=SPACING,
            opr=at.get("opr"),
            weights=changed.get("opr_weights", self.batch.get("opr_weights")),
            background=at.get("background"),
            blur_px=np.sqrt(at.get("blur", 0.0)),
        )


@pytest.fixture(params=CASES, ids=named)
def problem(request) -> Problem:
    return Problem(**request.param)


@pytest.mark.filterwarnings("ignore:the near field is undersampled")
def test_expected_counts_are_those_of_the_oracle(problem):
    expected = problem.reference()
    error = np.linalg.norm(to_numpy(problem.model().expected) - expected) / np.linalg.norm(expected)
    assert error < 1e-5


def directions(problem, rng) -> dict[str, np.ndarray]:
    """A generic change of every unknown that the problem has."""
    found = {
        name: complex_normal(rng, *problem.estimate[name].shape)
        for name in ("object", "probe", "opr")
        if name in problem.estimate
    }
    if "opr" in problem.estimate:
        found["opr_weights"] = normal(rng, *problem.batch["opr_weights"].shape)
    if problem.specification.subpixel:
        found["positions"] = normal(rng, FRAMES, 2)
    if "background" in problem.estimate:
        found["background"] = normal(rng, problem.N, problem.N)
    if "blur" in problem.estimate:
        found["blur"] = np.float32(1.0)
    return found


def change(model: ForwardModel, name: str, direction) -> np.ndarray:
    """The model's change of the expected counts along a direction of an unknown."""
    estimate, batch = model.estimate, model.batch
    make = dict(
        object=lambda d: model.object_change(d),
        probe=lambda d: to_numpy(model.probe_change(d)).sum(axis=1),
        opr=lambda d: model.opr_change(d, batch["opr_weights"]),
        opr_weights=lambda d: model.opr_change(estimate["opr"], d),
        positions=lambda d: model.position_change(d),
        background=lambda d: np.broadcast_to(d, model.expected.shape),
        blur=lambda d: d * to_numpy(model.blur_change()),
    )
    return to_numpy(make[name](direction))


STEP = 1e-4
"""Of central differences in double precision: their error is of the order of its square, 1e-8."""


@pytest.mark.filterwarnings("ignore:the near field is undersampled")
def test_changes_are_those_of_finite_differences(problem):
    rng = np.random.default_rng(7)
    model, start = problem.model(), problem.estimate | problem.batch | dict(positions=problem.positions)
    for name, direction in directions(problem, rng).items():
        wide = np.asarray(start[name], complex if np.iscomplexobj(direction) else float)
        at = lambda sign: problem.reference(**{name: wide + sign * STEP * direction})  # noqa: B023
        expected = (at(1) - at(-1)) / (2 * STEP)
        error = np.linalg.norm(change(model, name, direction) - expected) / np.linalg.norm(expected)
        assert error < 2e-5, name


@pytest.mark.filterwarnings("ignore:the near field is undersampled")
def test_gradients_are_the_adjoints_of_the_changes(problem):
    """``<u, J d> = Re <J^T u, d>`` to rounding of either side."""
    rng = np.random.default_rng(8)
    model = problem.model()
    u = normal(rng, FRAMES, problem.N, problem.N)
    chi = model.diffraction.adjoint(u)
    gradients = dict(object=model.object_gradient(chi), probe=model.probe_gradient(chi))
    if "opr" in problem.estimate:
        gradients["opr"] = model.opr_gradient(chi, model.batch["opr_weights"])
        waves, wide = to_numpy(model.opr_exit_waves()), to_numpy(chi)[:, :1]
        gradients["opr_weights"] = (waves.real * wide.real + waves.imag * wide.imag).sum(axis=(2, 3))
    for name, gradient in gradients.items():
        direction = directions(problem, rng)[name]
        forward = change(model, name, direction).astype(float)
        back = to_numpy(gradient).astype(complex)
        left, right = float((u * forward).sum()), float(np.vdot(back, direction).real)
        scale = np.linalg.norm(u) * np.linalg.norm(forward) + np.linalg.norm(back) * np.linalg.norm(direction)
        assert abs(left - right) <= 64 * EPS * scale, name


def test_photons_reach_the_far_field_and_survive_the_blur():
    """Vacuum on all sides: the expected total is that of the probe, whatever the blur."""
    problem = Problem(N=13, slices=3, near=False, modes=3, subpixel=True, blur=0.9)
    problem.estimate["object"] = np.ones((3, 60, 60), "complex64")
    problem.batch["origin"] = np.full((FRAMES, 2), 20, "int32")
    model = ForwardModel(problem.estimate, problem.batch, Specification((60, 60), True))
    photons = float((np.abs(problem.estimate["probe"]) ** 2).sum())
    np.testing.assert_allclose(to_numpy(model.expected).sum(axis=(1, 2)), photons, rtol=16 * EPS * 13)
