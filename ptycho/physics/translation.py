"""Sub-pixel translation: bilinear (exact adjoint at hand, zero outside) and by the Fourier shift theorem."""

import numpy as np
from keras import ops

from ptycho.arrays import Array, Complex, Float, Num
from ptycho.physics.fourier import dft, inverse_dft, make_complex
from ptycho.physics.patches import accumulate, extract


def translate(images: Num[Array, "B H W"], shifts: Float[Array, "B 2"]) -> Num[Array, "B H W"]:
    """Move each image by ``(dy, dx)`` pixels: ``out[y, x] = in[y - dy, x - dx]``, bilinear, zero outside."""
    return extract(images, _source(images, shifts), tuple(images.shape[-2:]))[:, 0]


def translate_adjoint(images: Num[Array, "B H W"], shifts: Float[Array, "B 2"]) -> Num[Array, "B H W"]:
    """Adjoint of `translate` with the same shifts."""
    return accumulate(ops.expand_dims(images, 1), _source(images, shifts), tuple(images.shape[-2:]))


def _source(images, shifts):
    """Where the centre pixel of each moved image comes from, as one position of one patch ``(B, 1, 2)``."""
    centre = ops.convert_to_tensor([images.shape[-2] // 2, images.shape[-1] // 2], dtype="float32")
    return ops.expand_dims(ops.subtract(centre, shifts), 1)


def fourier_shift(
    waves: Complex[Array, "*waves n m"], shifts: Float[Array, "*shifts 2"]
) -> Complex[Array, "*moved n m"]:
    """Move waves by ``(dy, dx)`` pixels with the Fourier shift theorem: periodic and unitary.

    The leading axes of ``shifts`` broadcast against those of ``waves``. At an even size the Nyquist frequency is
    shifted like ``exp(-i pi d)``, so the shift by ``-d`` is the inverse and the adjoint.
    """
    waves = ops.convert_to_tensor(waves)
    return inverse_dft(dft(waves) * shift_ramp(shifts, tuple(waves.shape[-2:])))


def shift_ramp(shifts: Float[Array, "*shifts 2"], size: tuple[int, int]) -> Complex[Array, "*shifts n m"]:
    """What the DFT of a wave of ``size`` (n, m), zero frequency first, is multiplied with to move it by (dy, dx)."""
    shifts = ops.cast(ops.convert_to_tensor(shifts), "float32")
    frequency_y, frequency_x = (ops.convert_to_tensor(np.fft.fftfreq(n), dtype="float32") for n in size)
    # Not `ops.add`: with shapes (1, n, 1) and (1, 1, n) Keras 3.15 on TensorFlow takes the second for a bias.
    angle = (-2 * np.pi) * (
        shifts[..., 0, None, None] * frequency_y[:, None] + shifts[..., 1, None, None] * frequency_x
    )
    return make_complex(ops.cos(angle), ops.sin(angle))
