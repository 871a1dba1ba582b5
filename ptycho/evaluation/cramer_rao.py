"""The shot-noise bound: how well any unbiased method can know an object from the counts of a scan.

Counts k with the expected values e(o) hold the Fisher information ``F = sum_j (de_j/do) (de_j/do)^T / e_j`` about the
object o, real and imaginary part of every pixel; no unbiased estimate has a covariance below its inverse (Cramer-Rao;
for ptychography Godard et al., Opt. Express 20, 25914 (2012)). The counts enter as ``F = J^T J`` with
``J = d(2 sqrt(e))/do``, which is finite where nothing is expected.

``F^-1 J^T n``, n white noise of variance 1, has the covariance ``F^-1 J^T J F^-1 = F^-1``: each draw of n, with one
linear system solved, is an error as the best unbiased method would make, and says all about it: its size pixel by pixel
(the mean square of several draws is the diagonal of ``F^-1``: Hutchinson's probing), its spectrum, its SNR.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from keras import ops

from ptycho.arrays import Array, Bool, Complex, Float
from ptycho.backend import compiled
from ptycho.physics.diffraction import exit_waves, illumination, mode_intensities_sum
from ptycho.physics.fourier import dft, inverse_dft, times_real
from ptycho.physics.patches import accumulate, extract, split_positions
from ptycho.physics.translation import fourier_shift

CHUNK_PIXELS = 2**20
"""Probe-mode pixels computed in one go: 8 MB for each complex array on the way."""

SEEN = 1e-3
"""Light, as part of the brightest pixel's, below which a pixel counts as known: nothing would be left to say of it."""


def efficient_errors(
    object: Complex[Array, "H W"],
    probe: Complex[Array, "M n n"],
    positions: Float[Array, "P 2"],
    rng: np.random.Generator,
    *,
    draws: int = 1,
    mask: Bool[Array, "n n"] | None = None,
    iterations: int = 300,
    tolerance: float = 1e-3,
) -> Complex[Array, "K H W"]:
    """Errors ``(draws, H, W)`` complex64 that the best unbiased estimate of an object would have, the probe known.

    With k times the photons they are ``1 / sqrt(k)`` times as large. Pixels of hardly any light (`SEEN`) count as
    known. The global phase, which no count tells, is to be taken out (`register`).

    ``probe`` is in sqrt(photons), ``positions`` (y, x) in pixels of ``object``, ``mask`` True where a pixel is used.
    The linear systems are solved by conjugate gradients, up to a residual of ``tolerance``; what is missing then, or
    after so many ``iterations``, makes the errors smaller: they stay a bound.
    """
    use = np.ones(probe.shape[-2:], "float32") if mask is None else np.asarray(mask, "float32")
    information = _Information(object, probe, positions, np.fft.ifftshift(use))
    return np.stack([information.error(rng, iterations, tolerance) for _ in range(draws)])


class _Information:
    """``J`` and its adjoint at an object, frames chunk by chunk."""

    def __init__(self, object, probe, positions, use):
        whole, rest = split_positions(positions)
        size = max(1, min(len(whole), CHUNK_PIXELS // probe.size))
        self.shape, self.side = object.shape, probe.shape[-2:]
        prepare = compiled(_directions)
        light = compiled(partial(_light, shape=self.shape))
        image = np.asarray(object, "complex64")[None]
        self.chunks, total = [], np.zeros(self.shape)
        for start in range(0, len(whole), size):
            here = np.arange(start, start + size)
            used = (here < len(whole)).astype("float32")  # one shape, so that it compiles once
            here = here.clip(max=len(whole) - 1)
            moved = fourier_shift(np.asarray(probe, "complex64")[None], rest[here][:, None])
            places = whole[here][None]
            directions = prepare(image, moved, places, use * used[:, None, None])
            self.chunks.append((moved, places, directions))
            total += np.asarray(light(moved, places, used))
        self.seen = total > SEEN * total.max()
        self.weight = np.where(self.seen, 2 * total, np.inf)
        """The diagonal of ``J^T J``."""
        self._normal = compiled(partial(_normal, shape=self.shape))
        self._adjoint = compiled(partial(_adjoint, shape=self.shape))

    def normal(self, image):
        """``J^T J`` of an image (H, W)."""
        values = image.astype("complex64")[None]
        return self._sum(lambda chunk: self._normal(values, *chunk))

    def _sum(self, part: Callable):
        total = sum(np.asarray(part(chunk)).astype(complex) for chunk in self.chunks)
        return np.where(self.seen, total, 0)

    def error(self, rng, iterations, tolerance):
        """``(J^T J)^-1 J^T n`` by preconditioned conjugate gradients from zero."""
        count = self.chunks[0][0].shape[0]
        noise = lambda: rng.standard_normal((count, *self.side), "float32")
        residual = self._sum(lambda chunk: self._adjoint(noise(), *chunk))
        found, direction, power = np.zeros_like(residual), 0, 1.0
        first = None
        for _ in range(iterations):
            steered = residual / self.weight
            new = np.vdot(residual, steered).real
            first = first or new
            if new <= tolerance**2 * first:
                break
            direction, power = steered + new / power * direction, new
            turned = self.normal(direction)
            step = power / np.vdot(direction, turned).real
            found, residual = found + step * direction, residual - step * turned
        return found.astype("complex64")


def _directions(image, moved, places, use):
    """The far field in units of its own root, ``psi_m / sqrt(e)`` (P, M, n, n); 0 where unused."""
    waves = dft(exit_waves(extract(image, places, tuple(moved.shape[-2:]))[0], moved))
    root = ops.sqrt(mode_intensities_sum(waves) + 1e-12)
    return times_real(waves, ops.expand_dims(use / root, -3))


def _light(moved, places, used, shape):
    """Photons of all frames on each pixel of the object (H, W)."""
    return accumulate((illumination(moved) * used[:, None, None])[None], places, shape)[0]


def _change(image, moved, places, directions):
    """``J v``: change of ``2 sqrt(e)`` in each detector pixel (P, n, n) with the object."""
    waves = dft(exit_waves(extract(image, places, tuple(moved.shape[-2:]))[0], moved))
    return 2 * ops.sum(ops.real(ops.conj(directions) * waves), axis=-3)


def _adjoint(change, moved, places, directions, shape):
    """``J^T u`` as an image (H, W): adjoint of `_change` by real inner products."""
    waves = inverse_dft(times_real(directions, 2 * ops.expand_dims(change, -3)))
    return accumulate(ops.sum(ops.conj(moved) * waves, axis=-3)[None], places, shape)[0]


def _normal(image, moved, places, directions, shape):
    return _adjoint(_change(image, moved, places, directions), moved, places, directions, shape)
