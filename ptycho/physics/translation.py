"""Sub-pixel translation: bilinear, zero outside; and the factor of the Fourier shift theorem."""

import numpy as np
from keras import ops

from ptycho.arrays import Array, Complex, Float, Num
from ptycho.physics.fourier import make_complex
from ptycho.physics.patches import extract


def translate(images: Num[Array, "B H W"], shifts: Float[Array, "B 2"]) -> Num[Array, "B H W"]:
    """Move each image by ``(dy, dx)`` pixels: ``out[y, x] = in[y - dy, x - dx]``, bilinear, zero outside."""
    # out[c] = in[c - d], c the centre pixel: a shift by d reads a patch of the image's own size at c - d.
    return extract(images, _source(images, shifts), tuple(images.shape[-2:]))[:, 0]


def _source(images, shifts):
    """Where the centre pixel of each moved image comes from, as one position of one patch ``(B, 1, 2)``."""
    centre = ops.convert_to_tensor([images.shape[-2] // 2, images.shape[-1] // 2], dtype="float32")
    return ops.expand_dims(ops.subtract(centre, shifts), 1)


def shift_ramp(
    shifts: Float[Array, "*shifts 2"], size: tuple[int, int], centred: bool = False
) -> Complex[Array, "*shifts n m"]:
    """What the DFT of a wave of ``size`` (n, m) is multiplied with to move it by (dy, dx), periodic and unitary.

    Zero frequency first, or at pixel ``(n // 2, m // 2)`` if ``centred``. At an even size the Nyquist frequency is
    shifted like ``exp(-i pi d)``, so the shift by ``-d`` is the inverse and the adjoint.
    """
    shifts = ops.cast(ops.convert_to_tensor(shifts), "float32")
    # One factor for each axis: n + m cosines a shift, where their product has n m pixels.
    return outer(*(_phases(shifts[..., axis, None], n, centred) for axis, n in enumerate(size)))


def outer(y: Complex[Array, "*shifts n"], x: Complex[Array, "*shifts m"]) -> Complex[Array, "*shifts n m"]:
    """Products of factors along y and along x."""
    return ops.multiply(ops.expand_dims(y, -1), ops.expand_dims(x, -2))


def _phases(shift, n: int, centred: bool):
    """``exp(-2 pi i f d)`` for the ``n`` frequencies of an axis."""
    frequency = np.fft.fftfreq(n)
    angle = shift * ops.convert_to_tensor(
        -2 * np.pi * (np.fft.fftshift(frequency) if centred else frequency), dtype="float32"
    )
    return make_complex(ops.cos(angle), ops.sin(angle))
