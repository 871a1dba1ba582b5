import numpy as np
import pytest
from keras import ops
from scipy.special import j1

from ptycho.physics.fourier import (
    dft,
    far_field,
    fftshift,
    ifftshift,
    intensity,
    inverse_dft,
    inverse_far_field,
    make_complex,
    polar,
    times_real,
)
from tests.helpers import (
    EPS,
    assert_adjoint,
    assert_near,
    complex_normal,
    dft_reference,
    gradient,
    normal,
    to_numpy,
)

SHAPES = [(8, 8), (7, 7), (5, 8), (12, 9), (1, 6), (3, 2, 16, 17)]
# A fast Fourier transform of n pixels rounds about log2(n) times, n <= 4096; a wrong formula is off by 1e6.
ROUNDINGS = 64


@pytest.mark.parametrize("shape", SHAPES)
def test_far_field_is_the_centred_unitary_dft(shape):
    wave = complex_normal(np.random.default_rng(0), *shape)
    assert_near(far_field(wave), dft_reference(wave), ROUNDINGS)


@pytest.mark.parametrize("shape", SHAPES)
def test_total_intensity_is_conserved(shape):
    wave = complex_normal(np.random.default_rng(1), *shape)

    def total(w):
        return to_numpy(intensity(w)).astype(float).sum(axis=(-2, -1))

    np.testing.assert_allclose(total(far_field(wave)), total(wave), rtol=ROUNDINGS * EPS)


@pytest.mark.parametrize("shape", SHAPES)
def test_back_propagation_is_inverse_and_adjoint(shape):
    rng = np.random.default_rng(2)
    x, y = complex_normal(rng, *shape), complex_normal(rng, *shape)
    assert_near(inverse_far_field(far_field(x)), x, 2 * ROUNDINGS)
    assert_near(far_field(inverse_far_field(x)), x, 2 * ROUNDINGS)
    assert_adjoint(far_field, inverse_far_field, x, y, ROUNDINGS)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_uncentred_transform_is_unitary_too(shape):
    rng = np.random.default_rng(6)
    x, y = complex_normal(rng, *shape), complex_normal(rng, *shape)
    assert_near(inverse_dft(dft(x)), x, 2 * ROUNDINGS)
    assert_near(dft(inverse_dft(x)), x, 2 * ROUNDINGS)
    assert_adjoint(dft, inverse_dft, x, y, ROUNDINGS)
    np.testing.assert_allclose(np.linalg.norm(to_numpy(dft(x))), np.linalg.norm(x), rtol=ROUNDINGS * EPS)


@pytest.mark.parametrize("shape", SHAPES)
def test_leaving_out_the_centring_only_turns_phases_of_the_far_field(shape):
    wave = complex_normal(np.random.default_rng(7), *shape)
    centred = to_numpy(intensity(far_field(wave)))
    assert_near(intensity(dft(wave)), np.fft.ifftshift(centred, axes=(-2, -1)), 2 * ROUNDINGS)


@pytest.mark.parametrize("shape", SHAPES)
def test_shifts_are_those_of_numpy(shape):
    image = normal(np.random.default_rng(3), *shape)
    np.testing.assert_array_equal(to_numpy(fftshift(image)), np.fft.fftshift(image, axes=(-2, -1)))
    np.testing.assert_array_equal(to_numpy(ifftshift(image)), np.fft.ifftshift(image, axes=(-2, -1)))


@pytest.mark.parametrize("n", [64, 63])
def test_far_field_of_a_gaussian_is_a_gaussian(n):
    """exp(-pi x^2 / s^2) has the transform s exp(-pi s^2 f^2); at s^2 = n / 2 both fit the frame to 1e-21."""
    s_squared = n / 2
    r_squared = np.add.outer((np.arange(n) - n // 2) ** 2, (np.arange(n) - n // 2) ** 2)
    wave = np.exp(-np.pi * r_squared / s_squared).astype("complex64")
    analytic = s_squared / n * np.exp(-np.pi * s_squared * r_squared / n**2)
    assert_near(far_field(wave), analytic, ROUNDINGS)


def test_far_field_of_a_disc_is_an_airy_pattern():
    """Amplitude 2 J1(z) / z, z = 2 pi a f (Goodman, section 4.4), times the sinc of a pixel's area average.

    What aliases into |f| < 0.08 from |f| > 0.9 is below 4 sqrt(8 / pi) / (2 pi a 0.9)^1.5 * 0.1 = 3e-4 of
    the peak, and the 16-fold sampled edge of 200 pixels adds 1e-4.
    """
    n, radius, fine = 256, 32.0, 16
    axis = (np.arange(n * fine) + 0.5) / fine - 0.5 - n // 2
    disc = np.add.outer(axis**2, axis**2) < radius**2
    wave = disc.reshape(n, fine, n, fine).mean(axis=(1, 3)).astype("complex64")
    frequency = (np.arange(n) - n // 2) / n
    z = 2 * np.pi * radius * np.hypot(*np.meshgrid(frequency, frequency))
    z[n // 2, n // 2] = 1e-9
    airy = 2 * j1(z) / z * np.outer(np.sinc(frequency), np.sinc(frequency))
    low = np.hypot(*np.meshgrid(frequency, frequency)) < 0.08  # the main lobe and four rings
    measured = to_numpy(far_field(wave)) * n / (np.pi * radius**2)
    assert np.abs(measured - airy)[low].max() < 1e-3


def test_complex_arithmetic_matches_numpy():
    rng = np.random.default_rng(4)
    wave, factor, phase = complex_normal(rng, 3, 4, 5), normal(rng, 4, 5), normal(rng, 3, 4, 5)
    np.testing.assert_array_equal(to_numpy(make_complex(wave.real, wave.imag)), wave)
    assert_near(polar(phase / 2, phase), np.exp(phase / 2 + 1j * phase), 8)
    assert_near(times_real(wave, factor), wave * factor, 2)
    assert_near(intensity(wave), np.abs(wave.astype(complex)) ** 2, 4)


def test_intensity_has_a_finite_gradient_at_zero():
    zero = np.zeros((4, 4), "float32")
    grads = gradient(lambda re, im: ops.sum(intensity(make_complex(re, im))), zero, zero)
    np.testing.assert_array_equal(grads, 0)


def test_gradient_through_the_far_field_is_the_adjoint():
    """d/dx Re <y, F x> = F_H y for a complex x held as two real arrays."""
    rng = np.random.default_rng(5)
    x, y = complex_normal(rng, 6, 9), complex_normal(rng, 6, 9)

    def real_inner_product(re, im):
        wave = far_field(make_complex(re, im))
        return ops.sum(ops.multiply(ops.real(wave), y.real) + ops.multiply(ops.imag(wave), y.imag))

    real, imag = gradient(real_inner_product, x.real.copy(), x.imag.copy())
    assert_near(real + 1j * imag, to_numpy(inverse_far_field(y)), ROUNDINGS)
