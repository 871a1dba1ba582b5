"""The unitary DFT, and complex arithmetic that keeps gradients real.

Products of a real and a complex array never cast the real one: that gives the same numbers, but a gradient that has
to be cast back (TensorFlow warns of that at every step).
"""

from keras import ops

from ptycho import backend
from ptycho.arrays import Array, Complex, Float, Num

CENTRE_AXES = (-2, -1)


def make_complex(real: Float[Array, "..."], imag: Float[Array, "..."]) -> Complex[Array, "..."]:
    """``real + i imag``."""
    return backend.make_complex(real, imag)


def polar(log_amplitude: Float[Array, "..."], phase: Float[Array, "..."]) -> Complex[Array, "..."]:
    """``exp(log_amplitude + i phase)``; the phase in radians."""
    amplitude = ops.exp(log_amplitude)
    return make_complex(amplitude * ops.cos(phase), amplitude * ops.sin(phase))


def intensity(wave: Complex[Array, "..."]) -> Float[Array, "..."]:
    """``|wave|^2`` without a square root, so that its gradient is finite at zero too."""
    real, imag = ops.real(wave), ops.imag(wave)
    return real * real + imag * imag


def times_real(wave: Complex[Array, "..."], factor: Num[Array, "..."]) -> Complex[Array, "..."]:
    """A complex array times a real one (shapes broadcast)."""
    return ops.multiply(wave, make_complex(factor, ops.zeros_like(factor)))


def fftshift(image: Num[Array, "*batch n m"]) -> Num[Array, "*batch n m"]:
    """Move the pixel ``[0, 0]`` to the centre ``[n // 2, m // 2]``."""
    return ops.roll(image, (image.shape[-2] // 2, image.shape[-1] // 2), CENTRE_AXES)


def dft(exit_wave: Complex[Array, "*batch n m"]) -> Complex[Array, "*batch n m"]:
    """Fraunhofer propagation: the unitary 2-D DFT, so that photons are conserved; zero frequency at pixel (0, 0).

    Goodman, Introduction to Fourier Optics, 4th ed., section 4.3. No pixel is moved: leaving out the centring of the
    exit wave multiplies the far field by a phase ramp, which neither its intensity nor `inverse_dft` can tell.
    """
    # `fft2` has no factor: 1 / sqrt(n m) makes it unitary.
    norm = (exit_wave.shape[-2] * exit_wave.shape[-1]) ** -0.5
    return backend.fft2(exit_wave) * norm


def inverse_dft(wave: Complex[Array, "*batch n m"]) -> Complex[Array, "*batch n m"]:
    """Inverse and adjoint of `dft`."""
    # `ifft2` divides by n m: sqrt(n m) leaves the 1 / sqrt(n m) of a unitary transform.
    norm = (wave.shape[-2] * wave.shape[-1]) ** 0.5
    return backend.ifft2(wave) * norm
