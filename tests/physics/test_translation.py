import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from ptycho.physics.fourier import dft, inverse_dft
from ptycho.physics.translation import shift_ramp, translate
from tests.helpers import (
    EPS,
    assert_adjoint,
    assert_near,
    complex_normal,
    gradient,
    normal,
    slope,
    to_numpy,
    translated,
)

SIZES = [(8, 8), (7, 7), (5, 8), (12, 9)]
KINDS = {"real": normal, "complex": complex_normal}
FEW = settings(max_examples=15, deadline=None, derandomize=True)


def fourier_shift(waves, shifts):
    """By the shift theorem."""
    return inverse_dft(dft(waves) * shift_ramp(shifts, tuple(waves.shape[-2:])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_zero_shift_is_the_exact_identity(size, kind):
    """Also in the last row and column."""
    images = KINDS[kind](np.random.default_rng(0), 3, *size)
    np.testing.assert_array_equal(to_numpy(translate(images, np.zeros((3, 2), "float32"))), images)


@FEW
@given(
    dy=st.integers(-9, 9),
    dx=st.integers(-9, 9),
    size=st.sampled_from(SIZES),
    kind=st.sampled_from(list(KINDS)),
)
def test_whole_pixel_shift_copies_and_fills_with_zeros(dy, dx, size, kind):
    image = KINDS[kind](np.random.default_rng(1), *size)
    moved = to_numpy(translate(image[None], np.array([[dy, dx]], "float32")))[0]
    np.testing.assert_array_equal(moved, translated(image, dy, dx).astype(image.dtype))


@FEW
@given(
    shift=st.tuples(*[st.floats(-10, 10, width=32)] * 2),
    size=st.sampled_from(SIZES),
    kind=st.sampled_from(list(KINDS)),
)
def test_sub_pixel_shift_matches_the_bilinear_reference(shift, size, kind):
    """The source coordinate (below 32) rounds to 32 eps of a pixel, times the difference of neighbours."""
    image = KINDS[kind](np.random.default_rng(2), *size)
    moved = to_numpy(translate(image[None], np.array([shift], "float32")))[0]
    atol = 8 * 32 * EPS * np.abs(image).max()
    np.testing.assert_allclose(moved, translated(image.astype(complex), *shift), rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [1, 15, 16, 17, 64])
def test_an_image_does_not_depend_on_the_rest_of_its_batch(batch):
    rng = np.random.default_rng(4)
    images, shifts = complex_normal(rng, batch, 6, 7), rng.uniform(-3, 3, (batch, 2)).astype("float32")
    together = to_numpy(translate(images, shifts))
    alone = [to_numpy(translate(images[i : i + 1], shifts[i : i + 1]))[0] for i in range(batch)]
    np.testing.assert_array_equal(together, alone)


def test_shifts_in_double_precision_are_taken():
    """Positions are float64 in a scan."""
    images = normal(np.random.default_rng(5), 1, 6, 7)
    wide, narrow = np.array([[0.5, -1.25]]), np.array([[0.5, -1.25]], "float32")
    np.testing.assert_array_equal(to_numpy(translate(images, wide)), to_numpy(translate(images, narrow)))
    waves = images.astype("complex64")
    np.testing.assert_array_equal(to_numpy(fourier_shift(waves, wide)), to_numpy(fourier_shift(waves, narrow)))


def test_gradients_of_translate():
    """In the images: the adjoint, ``<w, T g> = <T^H w, g>``. In the shifts: finite differences, where it is smooth, off
    whole pixels."""
    rng = np.random.default_rng(6)
    images, weights = normal(rng, 2, 5, 6), normal(rng, 2, 5, 6)
    shifts = np.array([[0.3, -1.4], [2.45, 0.7]], "float32")
    by_image, by_shift = gradient(lambda i, s: ops.sum(ops.multiply(translate(i, s), weights)), images, shifts)
    other = normal(rng, 2, 5, 6)
    moved = to_numpy(translate(other, shifts))
    scale = np.linalg.norm(weights) * np.linalg.norm(moved)
    assert abs(np.sum(by_image.astype(float) * other) - np.sum(weights.astype(float) * moved)) < 64 * EPS * scale

    def reference(s):
        moved = [translated(image.astype(float), *shift) for image, shift in zip(images, s)]
        return float(np.sum(np.array(moved) * weights))

    expected = [[slope(reference, shifts, np.eye(4)[2 * b + a].reshape(2, 2)) for a in (0, 1)] for b in (0, 1)]
    # The sums run over 30 products, of weights that carry the 16 eps of a coordinate below 8.
    scale = np.linalg.norm(weights) * np.linalg.norm(images)
    np.testing.assert_allclose(by_shift, expected, rtol=0, atol=64 * EPS * scale)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (3, 11)])
def test_fourier_shift_by_whole_pixels_is_a_roll(size, shift):
    wave = complex_normal(np.random.default_rng(7), 2, *size)
    # The angle, up to pi |d|, rounds to that many eps.
    angle = np.pi * np.abs(shift).sum()
    moved = fourier_shift(wave, np.array(shift, "float32"))
    assert_near(moved, np.roll(wave, shift, axis=(-2, -1)), 128 + 4 * angle)


@pytest.mark.parametrize("size", SIZES)
def test_fourier_shift_moves_plane_waves_by_parts_of_a_pixel(size):
    """exp(2 pi i k x / n) becomes exp(2 pi i k (x - d) / n) for each frequency below Nyquist."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    ky, kx = (height - 1) // 2, -((width - 1) // 2)

    def wave(dy, dx):
        return np.exp(2j * np.pi * (ky * (y - dy) / height + kx * (x - dx) / width))

    shift = np.array([0.37, -1.61], "float32")
    assert_near(fourier_shift(wave(0, 0).astype("complex64"), shift), wave(*shift.astype(float)), 128)


@pytest.mark.parametrize("size", SIZES)
def test_fourier_shift_back_is_inverse_and_adjoint(size):
    rng = np.random.default_rng(8)
    shifts = rng.uniform(-4, 4, (3, 2)).astype("float32")
    x, y = complex_normal(rng, 3, *size), complex_normal(rng, 3, *size)
    assert_near(fourier_shift(fourier_shift(x, shifts), -shifts), x, 256)
    assert_adjoint(lambda a: fourier_shift(a, shifts), lambda a: fourier_shift(a, -shifts), x, y, 128)


def test_shifts_broadcast_over_the_modes_of_a_probe():
    """Probe (1, M, n, n), one shift for each of B frames: (B, M, n, n)."""
    rng = np.random.default_rng(9)
    probe, shifts = complex_normal(rng, 1, 3, 8, 8), rng.uniform(-1, 1, (5, 2)).astype("float32")
    moved = to_numpy(fourier_shift(probe, shifts[:, None]))
    assert moved.shape == (5, 3, 8, 8)
    assert_near(moved[4, 2], to_numpy(fourier_shift(probe[0, 2], shifts[4])), 16)


@pytest.mark.parametrize("shifts", [(1, 2), (2,), (1, 1, 2), (3, 2)])
def test_one_shift_is_as_any_other(shifts):
    """Keras 3.15 adds (1, n, 1) and (1, 1, n) as if the second were a bias: one shift alone was a wrong one."""
    rng = np.random.default_rng(0)
    wave, shift = complex_normal(rng, 8, 8), rng.uniform(-1, 1, shifts).astype("float32")
    y, x = np.fft.fftfreq(8)[:, None], np.fft.fftfreq(8)
    ramp = np.exp(-2j * np.pi * (shift[..., 0, None, None] * y + shift[..., 1, None, None] * x))
    expected = np.fft.ifft2(np.fft.fft2(wave) * ramp)
    assert_near(fourier_shift(wave, shift), expected, 128)


def test_fourier_shift_is_differentiable_in_the_shift():
    """For a plane wave below Nyquist d/dd exp(-2 pi i k d / n) is known: here the real part of one pixel."""
    n, k = 8, 2
    wave = np.exp(2j * np.pi * k * np.arange(n) / n)[None].repeat(n, 0).astype("complex64")
    (grad,) = gradient(lambda d: ops.real(fourier_shift(wave, d))[0, 3], np.array([0.4, 0.3], "float32"))
    angle = 2 * np.pi * k / n
    expected = [0.0, angle * np.sin(angle * (3 - 0.3))]
    np.testing.assert_allclose(grad, expected, atol=128 * EPS * angle)
