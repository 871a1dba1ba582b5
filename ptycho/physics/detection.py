"""From the waves on the detector to expected counts: an incoherent sum, a blur, a background.

    e = B sum_m |w_m|^2 + b

``B`` is a Gaussian point-spread function of a standard deviation in pixels, as its transfer function
``exp(-2 pi^2 sigma^2 f^2)`` (f in cycles per pixel): it keeps the number of photons, is its own adjoint, and treats the
frame as periodic. It is given as its variance ``sigma^2``, by which the expected counts change at first order even
where there is no blur yet.
"""

import numpy as np
from keras import ops

from ptycho import backend
from ptycho.arrays import Array, Complex, Float
from ptycho.physics.fourier import intensity, times_real


def mode_sum(waves: Complex[Array, "*batch M n n"]) -> Float[Array, "*batch n n"]:
    """``sum_m |w_m|^2``: modes add incoherently (Thibault & Menzel, Nature 494, 68 (2013))."""
    return ops.sum(intensity(waves), axis=-3)


def blurred(
    image: Float[Array, "*batch n m"], variance_px2: float | Float[Array, ""], derivative: bool = False
) -> Float[Array, "*batch n m"]:
    """``B`` of an image; with ``derivative`` its change by the variance, ``F^-1[-2 pi^2 f^2 exp(-2 pi^2 v f^2) F]``."""
    size = image.shape[-2:]
    squared = np.add.outer(*(np.fft.fftfreq(n) ** 2 for n in size))
    exponent = ops.convert_to_tensor(-2 * np.pi**2 * squared, dtype="float32")
    # d/dv exp(E v) = E exp(E v), with E = -2 pi^2 f^2
    transfer = ops.exp(exponent * variance_px2)
    spectrum = backend.fft2(backend.make_complex(image, ops.zeros_like(image)))
    # The transfer function is real and even in f: the imaginary part is rounding.
    return ops.real(backend.ifft2(times_real(spectrum, exponent * transfer if derivative else transfer)))
