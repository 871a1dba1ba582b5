"""The unknowns of a fit: one class each, and the list of them. The solver knows the list, not the names.

An unknown says where it starts, what the gradient of a batch is (from the forward model and the residuals), how that
becomes a search direction (the preconditioner), how the amplitudes change along a direction, and how a change is
applied within bounds. Arrays are entries of the solver's ``state`` under the unknown's ``field``, which is also that of
the forward model's estimate or batch; those of ``per_frame`` unknowns have one entry a frame. To add one: write its
class, add a line to `UNKNOWNS`, and a setting ``<name>_from`` to `RefineConfig`.

A search direction is the gradient over an estimate of the curvature's diagonal plus a part (``damping``) of its largest
value: dim pixels move slowly, and noise does not decide.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from keras import ops
from scipy.ndimage import gaussian_filter

from ptycho.arrays import Array, Num
from ptycho.config import RefineConfig
from ptycho.physics.detection import mode_sum
from ptycho.physics.forward import ForwardModel
from ptycho.physics.fourier import intensity
from ptycho.physics.interaction import incident_waves
from ptycho.refinement.likelihood import Likelihood, Residuals

if TYPE_CHECKING:
    from ptycho.refinement.solver import Solver

Gradients = dict[str, np.ndarray]
"""Of the fitted frames: ``gradient``, and for some unknowns ``curvature``."""

Change = Num[Array, "..."]
"""Of an unknown: an array like it, or a number where it is one number."""


class BatchFit:
    """The forward model of a batch, its residuals, and the exit-wave residual chi = ``-dL/dpsi``."""

    def __init__(self, estimate, batch, specification, likelihood: Likelihood):
        self.model = ForwardModel(estimate, batch, specification)
        self.estimate, self.batch = self.model.estimate, self.model.batch
        self.present = self.batch["present"]
        used = self.batch["mask"] * self.present[:, None, None]
        self.residuals = Residuals(self.batch["counts"], self.model.expected, used, likelihood)
        self._chi: Array | None = None

    @property
    def chi(self) -> Array:
        """``(B, M, N, N)``: the change of the exit waves towards the measured counts."""
        if self._chi is None:
            self._chi = self.model.diffraction.adjoint(self.residuals.gradient())
        return self._chi


class Unknown(ABC):
    """What the solver asks of an unknown."""

    name: ClassVar[str]
    field: ClassVar[str]
    """The entry of the solver's state that it changes."""
    per_frame: ClassVar[bool] = False
    """Whether each frame has a value of its own."""

    def start(self, solver: "Solver") -> None:  # noqa: B027 (many have nothing to do)
        """Make ready: an entry of the state, where there is none yet."""

    @abstractmethod
    def gradient(self, fit: BatchFit) -> dict[str, Array]:
        """``-dL`` by the unknown, and what else its direction needs; sums over the frames, or ``(B, ...)``."""

    @abstractmethod
    def direction(self, solver: "Solver", gradients: Gradients, frames: np.ndarray) -> Change:
        """Search direction from the gradient of some frames."""

    @abstractmethod
    def amplitude_changes(self, fit: BatchFit, direction: Array) -> Array:
        """How the amplitudes ``(L, B, N, N)`` change along the L `components` of a direction."""

    def components(self, direction: Change) -> list[Change]:
        """Parts of a direction that get a step length each; they add up to it."""
        return [direction]

    @abstractmethod
    def apply(self, solver: "Solver", change: Change) -> Change:
        """The state's entry after a change, within bounds."""


def damped(gradient: np.ndarray, curvature: np.ndarray, damping: float, axes: tuple[int, ...] | None = None):
    """``g / (c + damping max(c))``, the largest curvature taken over ``axes``."""
    return gradient / (curvature + damping * curvature.max(axis=axes, keepdims=axes is not None) + 1e-12)


@dataclass(frozen=True)
class Object(Unknown):
    """The transmission ``(S, H, W)`` of the sample, all its slices."""

    damping: float = 0.3
    """Of the brightest pixel's illumination. With 0.1 the dim rim overshoots, with 1 it lags (docs/decisions/009)."""
    name, field = "object", "object"

    def gradient(self, fit):
        return dict(gradient=fit.model.object_gradient(fit.chi))

    def direction(self, solver, gradients, frames):
        # (g - dR/dO) / (c + c_prior + damping max(c)), with c = sum_j |psi_s|^2 in slice s: the diagonal of the Hessian
        # of sum |dpsi|^2 / 2, dpsi = psi_s dO. That of the amplitudes is smaller: they see one quadrature of each wave.
        illumination = np.stack(
            [solver.grid.spread(beam, solver.state["positions"][frames]) for beam in solver.beams()]
        )
        slope, curvature = solver.prior_gradient(frames)
        total = illumination + curvature
        most = illumination.max(axis=(1, 2), keepdims=True)
        return ((gradients["gradient"] + slope) / (total + self.damping * most)).astype("complex64")

    def amplitude_changes(self, fit, direction):
        return fit.residuals.amplitude_change(fit.model.object_change(direction))[None]

    def apply(self, solver, change):
        return solver.bounded("object", (solver.state["object"] + change).astype("complex64"))


@dataclass(frozen=True)
class Probe(Unknown):
    """The probe modes ``(M, N, N)``; each goes a length of its own."""

    damping: float = 0.3
    """Of the largest sum over the frames of ``|O|^2`` under a probe pixel."""
    name, field = "probe", "probe"

    def gradient(self, fit):
        return dict(gradient=fit.model.probe_gradient(fit.chi))

    def direction(self, solver, gradients, frames):
        # c = sum_j |O_j|^2 under each probe pixel: dpsi = O dP
        curvature = solver.object_under_frames(np.ones(len(frames)), frames)
        return damped(gradients["gradient"], curvature, self.damping).astype("complex64")

    def amplitude_changes(self, fit, direction):
        # (B, M, N, N) -> (M, B, N, N): the modes are the components.
        return fit.residuals.amplitude_change(ops.moveaxis(fit.model.probe_change(direction), 1, 0))

    def components(self, direction):
        return [direction * mode for mode in np.eye(len(direction), dtype="float32")[:, :, None, None]]

    def apply(self, solver, change):
        return solver.bounded("probe", (solver.state["probe"] + change).astype("complex64"))


@dataclass(frozen=True)
class Background(Unknown):
    """Counts ``(N, N)`` that do not come through the sample, the same in all frames; never negative."""

    blur_px: float = 0.0
    """It is smooth on this scale, in detector pixels."""
    damping: float = 0.003
    """Of the brightest pixel's curvature: pixels are told apart by nothing but their own counts."""
    name, field = "background", "background"

    def start(self, solver):
        solver.state.setdefault("background", np.zeros((solver.scan.N,) * 2, "float32"))

    def gradient(self, fit):
        # de = db: g = sum_j u_j, and c = sum_j 1 / (4 e_j) from d sqrt(e) = db / (2 sqrt(e)).
        # A pixel that expects less than one photon says as much about the background as one that expects one.
        curvature = fit.residuals.used / (4 * ops.maximum(fit.model.expected, 1.0))
        return dict(gradient=ops.sum(fit.residuals.gradient(), axis=0), curvature=ops.sum(curvature, axis=0))

    def direction(self, solver, gradients, frames):
        gradient = gradients["gradient"]
        # Pixels at the bound 0 whose gradient points below it stay where they are.
        inside = np.where((solver.state["background"] > 0) | (gradient > 0), gradient, 0)
        direction = damped(inside, gradients["curvature"], self.damping)
        return gaussian_filter(direction, self.blur_px) if self.blur_px else direction

    def amplitude_changes(self, fit, direction):
        return fit.residuals.amplitude_change(direction)[None]

    def apply(self, solver, change):
        return np.maximum(solver.state["background"] + change, 0)


@dataclass(frozen=True)
class Blur(Unknown):
    """Variance of the detector's Gaussian point-spread function, in square pixels; never negative.

    The variance, not the width: where there is no blur yet the expected counts change with it at first order.
    """

    largest_step_px2: float = 0.5
    """It changes by so much in a step at most: far from the solution the quadratic model overshoots."""
    name, field = "blur", "blur"

    def start(self, solver):
        solver.state.setdefault("blur", np.zeros((), "float32"))

    def gradient(self, fit):
        # v the variance: g = sum r d sqrt(e)/dv, c = sum (d sqrt(e)/dv)^2, with r = -dL / d sqrt(e)
        change = fit.residuals.amplitude_change(fit.model.blur_change())
        return dict(gradient=ops.sum(fit.residuals.difference * change), curvature=ops.sum(change**2))

    def direction(self, solver, gradients, frames):
        step = gradients["gradient"] / (gradients["curvature"] + 1e-12)
        return np.clip(step, -self.largest_step_px2, self.largest_step_px2).astype("float32")

    def amplitude_changes(self, fit, direction):
        return fit.residuals.amplitude_change(direction * fit.model.blur_change())[None]

    def apply(self, solver, change):
        bounded = np.clip(change, -self.largest_step_px2, self.largest_step_px2)
        return np.maximum(solver.state["blur"] + bounded, 0).astype("float32")


@dataclass(frozen=True)
class Positions(Unknown):
    """The position (y, x) of each frame."""

    damping: float = 0.03
    """Of the mean curvature: frames without features stay where they are."""
    largest_step_px: float = 0.5
    """A frame moves by so much in a step at most: the linearisation holds no further."""
    name, field, per_frame = "positions", "positions", True

    def start(self, solver):
        solver.moved()

    def gradient(self, fit):
        # J_a = d sqrt(e) / d position along axis a, frame by frame: C_ab = <J_a, J_b>, g_a = <r, J_a>, with
        # r = -dL / d sqrt(e)
        product = lambda one, other: ops.sum(one * other, axis=(1, 2))
        slopes = [
            fit.residuals.amplitude_change(fit.model.position_change(axis))
            for axis in np.eye(2, dtype="float32")[:, None]
        ]
        curvature = [ops.stack([product(one, other) for other in slopes], axis=-1) for one in slopes]
        gradient = ops.stack([product(fit.residuals.difference, slope) for slope in slopes], axis=-1)
        return dict(gradient=gradient, curvature=ops.stack(curvature, axis=-2))

    def direction(self, solver, gradients, frames):
        """Newton's step, frame by frame."""
        curvature = gradients["curvature"]
        ridge = self.damping * np.trace(curvature, axis1=1, axis2=2)[frames].mean() + 1e-12
        # (C_p + ridge) d_p = g_p
        step = np.linalg.solve(curvature + ridge * np.eye(2), gradients["gradient"][..., None])[..., 0]
        return step.astype("float32")

    def amplitude_changes(self, fit, direction):
        return fit.residuals.amplitude_change(fit.model.position_change(direction))[None]

    def apply(self, solver, change):
        return solver.moved_within_margin(np.clip(change, -self.largest_step_px, self.largest_step_px))


@dataclass(frozen=True)
class Affine(Unknown):
    """One linear map of all positions about their mean: scale, rotation and shear."""

    largest_step_px: float = 1.0
    """The frame that moves most moves by so much in a step at most."""
    name, field, per_frame = "affine", "positions", True

    def start(self, solver):
        solver.moved()

    def gradient(self, fit):
        return Positions().gradient(fit)

    def direction(self, solver, gradients, frames):
        """The map A of ``sum_p C_p A x_p x_p^T = sum_p g_p x_p^T``, as moves ``(P, 2)``."""
        given = solver.scan.positions
        x = (given - given[solver.frames].mean(axis=0)).astype("float64")
        gradient = gradients["gradient"][solver.frames].astype("float64")
        # Linear in the four entries of A: sum_p C_p,ij x_p,a x_p,b A_jb = sum_p g_p,i x_p,a
        normal = np.einsum("pa,pb,pij->iajb", x[solver.frames], x[solver.frames], gradients["curvature"][solver.frames])
        normal = normal.reshape(4, 4) + 1e-6 * np.trace(normal.reshape(4, 4)) * np.eye(4)
        matrix = self._matrix(normal, np.einsum("pi,pa->ia", gradient, x[solver.frames]).ravel())
        # d_p = A x_p
        return (x @ matrix.T).astype("float32")

    def _matrix(self, normal: np.ndarray, slope: np.ndarray) -> np.ndarray:
        return np.linalg.solve(normal, slope).reshape(2, 2)

    def amplitude_changes(self, fit, direction):
        return Positions().amplitude_changes(fit, direction)

    def apply(self, solver, change):
        return solver.moved_within_margin(change * min(1, self.largest_step_px / max(np.abs(change).max(), 1e-12)))


@dataclass(frozen=True)
class Rotation(Affine):
    """One rotation of all positions about their mean: their distances are known better than the frames tell."""

    name = "rotation"

    def _matrix(self, normal: np.ndarray, slope: np.ndarray) -> np.ndarray:
        # A = r J: the best along one line of the four entries
        quarter_turn = np.array([[0.0, -1.0], [1.0, 0.0]])
        along = quarter_turn.ravel()
        return (along @ slope) / (along @ normal @ along) * quarter_turn


@dataclass(frozen=True)
class OprModes(Unknown):
    """Modes ``(K, N, N)`` by which the first probe mode varies from frame to frame."""

    modes: int = 1
    damping: float = 0.3
    name, field = "opr", "opr"

    def start(self, solver):
        if "opr" not in solver.state:
            solver.state["opr"] = first_opr_modes(solver.state["probe"][0], self.modes)
            solver.state["opr_weights"] = np.zeros((len(solver.scan), self.modes), "float32")

    def gradient(self, fit):
        weights = fit.batch["opr_weights"] * fit.present[:, None]
        return dict(gradient=fit.model.opr_gradient(fit.chi, weights))

    def direction(self, solver, gradients, frames):
        # c_k = sum_j c_jk^2 |O_j|^2: dpsi_j0 = O_j sum_k c_jk dV_k
        weights = solver.state["opr_weights"][frames].T
        curvature = np.stack([solver.object_under_frames(weight**2, frames) for weight in weights])
        return damped(gradients["gradient"], curvature, self.damping, axes=(1, 2)).astype("complex64")

    def amplitude_changes(self, fit, direction):
        return fit.residuals.amplitude_change(fit.model.opr_change(direction, fit.batch["opr_weights"]))[None]

    def apply(self, solver, change):
        return (solver.state["opr"] + change).astype("complex64")


@dataclass(frozen=True)
class OprWeights(Unknown):
    """How much ``(P, K)`` of each OPR mode a frame has."""

    damping: float = 0.3
    name, field, per_frame = "opr_weights", "opr_weights", True

    def gradient(self, fit):
        waves, chi = fit.model.opr_exit_waves(), fit.chi[:, :1]
        # dpsi_j0 = sum_k O_j V_k dc_jk: g_jk = Re sum conj(O_j V_k) chi_j0
        common = ops.real(waves) * ops.real(chi) + ops.imag(waves) * ops.imag(chi)
        # Curvature of the exit waves, which is larger than that of the amplitudes.
        curvature = ops.sum(intensity(waves), axis=(2, 3)) * fit.present[:, None]
        return dict(gradient=ops.sum(common, axis=(2, 3)), curvature=curvature)

    def direction(self, solver, gradients, frames):
        return damped(gradients["gradient"], gradients["curvature"], self.damping, axes=(0,))

    def amplitude_changes(self, fit, direction):
        return fit.residuals.amplitude_change(fit.model.opr_change(fit.estimate["opr"], direction))[None]

    def apply(self, solver, change):
        return solver.state["opr_weights"] + change


UNKNOWNS: dict[str, Callable[[RefineConfig], tuple[Unknown, ...]]] = dict(
    probe=lambda config: (Probe(),),
    positions=lambda config: (Positions(),),
    affine=lambda config: (Affine(),),
    rotation=lambda config: (Rotation(),),
    background=lambda config: (Background(blur_px=config.background_blur_px),),
    opr=lambda config: (OprModes(config.opr_modes), OprWeights()),
    blur=lambda config: (Blur(),),
)
"""What can be fitted beside the object: each from the epoch that ``<name>_from`` of `RefineConfig` says."""


def unknowns_at(config: RefineConfig, epoch: int) -> tuple[Unknown, ...]:
    """The unknowns that are fitted in an epoch."""
    begin = {name: getattr(config, f"{name}_from") for name in UNKNOWNS}
    chosen = [make(config) for name, make in UNKNOWNS.items() if begin[name] is not None and epoch >= begin[name]]
    return (Object(), *(unknown for group in chosen for unknown in group))


def first_opr_modes(probe_mode: np.ndarray, count: int) -> np.ndarray:
    """``(K, N, N)``: modes by which a probe ``(N, N)`` most likely varies, each with its power.

    The probe itself (its strength varies), and its derivatives by y and x (it moves).
    """
    # P, dP/dy and dP/dx (central differences): to first order what a probe varies by that flickers and moves
    modes = [probe_mode, *(np.roll(probe_mode, -1, axis) - np.roll(probe_mode, 1, axis) for axis in (0, 1))][:count]
    power = np.linalg.norm(probe_mode)
    return np.stack([mode * (power / np.linalg.norm(mode)) for mode in modes]).astype("complex64")


def slice_illumination(probe: np.ndarray, spacing: np.ndarray | None, slices: int) -> np.ndarray:
    """``(S, N, N)``: illumination of each slice by a probe ``(M, N, N)`` in vacuum."""
    # |psi_s|^2 of the probe alone: with O = 1 only its propagation from slice to slice counts.
    vacuum = [np.ones(probe.shape[-2:], "complex64")] * slices
    incident = incident_waves(vacuum, ops.convert_to_tensor(probe), spacing)
    return np.stack([ops.convert_to_numpy(mode_sum(waves)) for waves in incident])
