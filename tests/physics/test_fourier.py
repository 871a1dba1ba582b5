import numpy as np
import pytest
from keras import ops

from ptycho.physics.fourier import (
    dft,
    fftshift,
    intensity,
    inverse_dft,
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
def test_dft_is_the_unitary_one_with_zero_frequency_first(shape):
    wave = complex_normal(np.random.default_rng(0), *shape)
    centred = np.fft.ifftshift(dft_reference(np.fft.fftshift(wave, axes=(-2, -1))), axes=(-2, -1))
    assert_near(dft(wave), centred, ROUNDINGS)


@pytest.mark.parametrize("shape", SHAPES)
def test_back_propagation_is_inverse_and_adjoint(shape):
    rng = np.random.default_rng(6)
    x, y = complex_normal(rng, *shape), complex_normal(rng, *shape)
    assert_near(inverse_dft(dft(x)), x, 2 * ROUNDINGS)
    assert_near(dft(inverse_dft(x)), x, 2 * ROUNDINGS)
    assert_adjoint(dft, inverse_dft, x, y, ROUNDINGS)
    np.testing.assert_allclose(np.linalg.norm(to_numpy(dft(x))), np.linalg.norm(x), rtol=ROUNDINGS * EPS)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shift_is_that_of_numpy(shape):
    image = normal(np.random.default_rng(3), *shape)
    np.testing.assert_array_equal(to_numpy(fftshift(image)), np.fft.fftshift(image, axes=(-2, -1)))


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


def test_gradient_through_the_dft_is_the_adjoint():
    """d/dx Re <y, F x> = F_H y for a complex x held as two real arrays."""
    rng = np.random.default_rng(5)
    x, y = complex_normal(rng, 6, 9), complex_normal(rng, 6, 9)

    def real_inner_product(re, im):
        wave = dft(make_complex(re, im))
        return ops.sum(ops.multiply(ops.real(wave), y.real) + ops.multiply(ops.imag(wave), y.imag))

    real, imag = gradient(real_inner_product, x.real.copy(), x.imag.copy())
    assert_near(real + 1j * imag, to_numpy(inverse_dft(y)), ROUNDINGS)
