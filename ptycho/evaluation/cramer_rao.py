"""The shot-noise bound: how well any unbiased method can know an object from the counts of a scan.

Counts k with the expected values e(o) hold the Fisher information ``F = sum_j (de_j/do) (de_j/do)^T / e_j`` about the
object o, real and imaginary part of every pixel; no unbiased estimate has a covariance below its inverse (Cramer-Rao;
for ptychography Godard et al., Opt. Express 20, 25914 (2012)). The counts enter as ``F = J^T J`` with
``J = d(2 sqrt(e))/do``, which is finite where nothing is expected. ``de/do`` is the linearisation of the forward model
at the estimate, in the far or near field, with whatever blur and background the estimate has.

``F^-1 J^T n``, n white noise of variance 1, has the covariance ``F^-1 J^T J F^-1 = F^-1``: each draw of n, with one
linear system solved, is an error as the best unbiased method would make, and says all about it: its size pixel by pixel
(the mean square of several draws is the diagonal of ``F^-1``: Hutchinson's probing), its spectrum, its SNR.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np
from keras import ops

from ptycho.arrays import Array, Bool, Complex, Float
from ptycho.backend import compiled
from ptycho.data.reconstruction import Reconstruction
from ptycho.physics.detection import mode_sum
from ptycho.physics.forward import Arrays, ForwardModel, Specification, frame_batches, specification_of, tensors
from ptycho.physics.grid import ObjectGrid
from ptycho.physics.propagation import free_space


def efficient_errors(
    estimate: Reconstruction,
    rng: np.random.Generator,
    *,
    draws: int = 1,
    mask: Bool[Array, "n n"] | None = None,
    iterations: int = 300,
    tolerance: float = 1e-3,
    known_below: float = 1e-3,
    batch_pixels: int = 2**20,
) -> Complex[Array, "K *object"]:
    """Errors ``(draws, H, W)`` complex64 that the best unbiased method would make of an object, all else known.

    Those of a thick sample are ``(draws, S, H, W)``. With k times the photons, and times the background, they are
    ``1 / sqrt(k)`` times as large. The global phase, which no count tells, is to be taken out (`register`). Frames see
    nothing outside the object.

    Args:
        estimate: the object, and what else the counts depend on.
        rng: of the noise.
        draws: errors, independent of each other.
        mask: True where a pixel is used; None: all.
        iterations, tolerance: of conjugate gradients, which end at a residual of ``tolerance``; what is missing then,
            or after so many ``iterations``, makes the errors smaller: they stay a bound.
        known_below: pixels with less illumination than this fraction of the brightest one's count as known.
        batch_pixels: probe-mode pixels computed at once; 2^20 are 8 MB for each complex array on the way.
    """
    used_pixels = np.ones((estimate.N,) * 2, bool) if mask is None else np.asarray(mask, bool)
    information = _Information(estimate, used_pixels, known_below, batch_pixels)
    errors = np.stack([information.error(rng, iterations, tolerance) for _ in range(draws)])
    return errors[:, 0] if estimate.slices is None else errors


class _Information:
    """``J`` and its adjoint at the object ``(S, H, W)`` of an estimate, batch by batch of its frames."""

    def __init__(self, estimate: Reconstruction, used_pixels: np.ndarray, known_below: float, batch_pixels: int):
        self.estimate, positions = tensors(estimate.estimate()), estimate.positions_px
        grid = ObjectGrid((0, 0), estimate.object.shape, estimate.N)
        size = max(1, min(len(positions), batch_pixels // estimate.probe.size))
        self.shape = size, estimate.N, estimate.N
        batches = frame_batches(
            grid,
            positions,
            size,
            opr_weights=estimate.opr_weights,
            transfer=free_space(estimate.near_field, estimate.N),
            spacing=free_space(estimate.multislice, estimate.N),
        )
        # Frames that only fill up the last batch count in no pixel.
        self.batches = [
            (tensors(batch), (used_pixels & (np.arange(size) < frames)[:, None, None]).astype("float32"))
            for batch, frames in batches
        ]
        specification = specification_of(grid, positions)
        self._normal, self._adjoint, illumination = (
            _compiled(function, specification) for function in (_normal, _adjoint, _illumination)
        )
        # J^T J has the diagonal 2 sum |psi|^2 where all photons of a wave psi are counted: the preconditioner.
        # Modes, blur and background leave less; how much less depends on the pixel only weakly.
        # (The iterator gives no arguments, without end: `_sum` ends with the batches.)
        photons = self._sum(illumination, iter(lambda: (), None))
        self.unknown = photons > known_below * photons.max(axis=(1, 2), keepdims=True)
        # Infinite where the object counts as known: the error there is 0.
        self.diagonal = np.where(self.unknown, 2 * photons, np.inf)

    def _sum(self, function: Callable[..., Array], arguments: Iterator[tuple[Array, ...]]) -> np.ndarray:
        """The sum over all batches of a function of each, in double precision."""
        images = (
            ops.convert_to_numpy(function(*values, self.estimate, batch, used))
            for (batch, used), values in zip(self.batches, arguments)
        )
        return sum(image.astype(complex if np.iscomplexobj(image) else float) for image in images)

    def normal(self, image: np.ndarray) -> np.ndarray:
        """``J^T J v`` of an image ``v (S, H, W)``."""
        values = (image.astype("complex64"),)
        return np.where(self.unknown, self._sum(self._normal, iter(lambda: values, None)), 0)

    def error(self, rng: np.random.Generator, iterations: int, tolerance: float) -> np.ndarray:
        """``(J^T J)^-1 J^T n`` by preconditioned conjugate gradients from zero."""
        # Drawn batch by batch, so that the noise of a frame does not depend on the size of the batches.
        noise = iter(lambda: (rng.standard_normal(self.shape, "float32"),), None)
        residual = np.where(self.unknown, self._sum(self._adjoint, noise), 0)
        error, direction, power, first = np.zeros_like(residual), np.zeros_like(residual), 1.0, None
        # Of F x = r_0 with the preconditioner D: z = D^-1 r, beta = (r.z) / (r.z)_old, d = z + beta d_old,
        # alpha = (r.z) / (d.F d), x += alpha d, r -= alpha F d. Real inner products: F is linear in real and imaginary
        # part, not in the complex object.
        for _ in range(iterations):
            preconditioned = residual / self.diagonal
            previous, power = power, float(np.vdot(residual, preconditioned).real)
            first = first or power
            if power <= tolerance**2 * first:
                break
            direction = preconditioned + power / previous * direction
            curvature = self.normal(direction)
            step = power / np.vdot(direction, curvature).real
            error, residual = error + step * direction, residual - step * curvature
        return error.astype("complex64")


@lru_cache(maxsize=8)
def _compiled(function: Callable[..., Array], specification: Specification) -> Callable[..., Array]:
    """One compiled function for all estimates that are alike."""
    return compiled(partial(function, specification=specification))


def _scale(model: ForwardModel, used: Float[Array, "B n n"]) -> Float[Array, "B n n"]:
    """``1 / sqrt(e)`` in used pixels: ``d(2 sqrt(e)) = de / sqrt(e)``, which is 0 where no wave is."""
    return used / ops.sqrt(model.expected + 1e-12)


def _normal(
    image: Complex[Array, "S H W"],
    estimate: Arrays,
    batch: Arrays,
    used: Float[Array, "B n n"],
    specification: Specification,
) -> Complex[Array, "S H W"]:
    """``J^T J v`` of frames."""
    model = ForwardModel(estimate, batch, specification)
    # J^T J v = (de/do)^T (1 / e) (de/do) v
    change = model.object_change(image) * _scale(model, used) ** 2
    return model.object_gradient(model.diffraction.adjoint(change))


def _adjoint(
    change: Float[Array, "B n n"],
    estimate: Arrays,
    batch: Arrays,
    used: Float[Array, "B n n"],
    specification: Specification,
) -> Complex[Array, "S H W"]:
    """``J^T u`` of frames."""
    model = ForwardModel(estimate, batch, specification)
    # J^T n = (de/do)^T (n / sqrt(e))
    return model.object_gradient(model.diffraction.adjoint(change * _scale(model, used)))


def _illumination(
    estimate: Arrays, batch: Arrays, used: Float[Array, "B n n"], specification: Specification
) -> Float[Array, "S H W"]:
    """Photons of frames on each pixel of each slice."""
    model = ForwardModel(estimate, batch, specification)
    present = ops.max(used, axis=(-2, -1), keepdims=True)
    return model.accumulate([mode_sum(waves) * present for waves in model.diffraction.incident])
