import numpy as np
import pytest

from ptycho.evaluation import fourier_ring_correlation, frc_resolution, half_bit_threshold, resolutions
from ptycho.evaluation.frc import ring_index


def white(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def low_pass(image, cut):
    """``image`` without the frequencies above ``cut`` (over Nyquist)."""
    k = 2 * np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
    return np.fft.ifft2(np.fft.fft2(image) * (k <= cut))


def ring_pixels(side):
    return np.bincount(ring_index(side).ravel())[1 : side // 2]


@pytest.mark.parametrize("side", [32, 65])
def test_identical_images_correlate_fully(side):
    frequency, correlation = fourier_ring_correlation(white((side, side)), white((side, side)))
    np.testing.assert_allclose(correlation, 1, rtol=1e-12)
    np.testing.assert_allclose(frequency, np.arange(1, side // 2) / (side / 2))


def test_independent_noise_does_not_correlate():
    """Var = 1 / (2 n): of the n pixels of a ring, a Hann window leaves half independent (35/18 along it)."""
    side = 128
    _, c = fourier_ring_correlation(white((side, side), 1), white((side, side), 2))
    sigma = 1 / np.sqrt(2 * ring_pixels(side) * 18 / 35)
    assert np.all(np.abs(c) < 5 * sigma)
    assert abs(np.mean(c / sigma)) < 5 / np.sqrt(len(c))


def test_number_of_independent_pixels_in_a_ring():
    """The scatter of the correlation of noise is what `half_bit_threshold` takes it to be."""
    side, draws = 48, 300
    c = [fourier_ring_correlation(white((side, side), 2 * i), white((side, side), 2 * i + 1))[1] for i in range(draws)]
    share = 1 / (2 * np.var(c, axis=0) * ring_pixels(side))
    threshold = half_bit_threshold(side)
    # solve the formula for the number it was made with
    snr = (np.sqrt(2) - 1) / 2
    root = (snr - threshold * (1 + snr)) / (threshold * 2 * np.sqrt(snr) - 2 * np.sqrt(snr) - 1)
    assumed = 1 / root**2 / ring_pixels(side)
    np.testing.assert_allclose(assumed, assumed[0])
    # a variance from 300 draws is good to sqrt(2 / 300) = 8 %, their mean over 23 rings to 2 %; a ring keeps
    # a little less than all of the ties along it, as it is not straight
    assert 0.95 * assumed[0] < share.mean() < 1.2 * assumed[0]


@pytest.mark.parametrize("snr", [0.2071, 1.0, 4.0])
def test_common_signal_in_independent_noise(snr):
    """Two halves of signal-to-noise ratio s correlate by s / (1 + s)."""
    signal, side = white((160, 160), 1) * np.sqrt(snr), 160
    _, c = fourier_ring_correlation(signal + white((side, side), 2), signal + white((side, side), 3))
    weights = ring_pixels(side)
    sigma = 1 / np.sqrt(2 * weights.sum() / 4)  # a quarter of all pixels are independent under the window
    assert np.average(c, weights=weights) == pytest.approx(snr / (1 + snr), abs=5 * sigma)


@pytest.mark.parametrize("cut", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(128, 128), (151, 128)])
def test_cut_off_of_a_low_pass_is_found(shape, cut):
    image = white(shape)
    frequency, c = fourier_ring_correlation(image, low_pass(image, cut))
    # rounding to a ring is half a ring, the window's main lobe spreads by one more, on either side of it
    assert frc_resolution(frequency, c, 0.5) == pytest.approx(cut, abs=2.5 / (min(shape) / 2))
    assert np.all(c[frequency < cut - 4 / 64] > 0.95)
    assert np.all(c[frequency > cut + 4 / 64] < 0.5)


def test_resolutions_are_ordered_by_threshold():
    """SNR 400 exp(-16 k^2) falls through 1, 0.2071 and 1/6 (the thresholds) at k = 0.61, 0.69 and 0.70."""
    k = 2 * np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    signal = 20 * np.fft.ifft2(np.fft.fft2(white((128, 128), 1)) * np.exp(-8 * k**2))
    found = resolutions(signal + white((128, 128), 2), signal + white((128, 128), 3))
    assert found["half"] == pytest.approx(np.sqrt(np.log(400 / 1) / 16), abs=0.05)
    assert found["half_bit"] == pytest.approx(np.sqrt(np.log(400 / 0.2071) / 16), abs=0.05)
    assert found["one_seventh"] == pytest.approx(np.sqrt(np.log(400 * 6) / 16), abs=0.05)
    assert found["half"] < found["half_bit"] <= found["one_seventh"]


def test_half_bit_curve():
    """Van Heel & Schatz: (0.2071 + 1.9102 / sqrt n) / (1.2071 + 0.9102 / sqrt n), falling towards 0.1716."""
    curve = half_bit_threshold(4096)
    root = 1 / np.sqrt(ring_pixels(4096) * 18 / 35)  # 18/35: (sum w^2)^2 / (n sum w^4) of a long Hann window
    np.testing.assert_allclose(curve, (0.2071 + 1.9102 * root) / (1.2071 + 0.9102 * root), rtol=1e-3)
    assert curve[-1] == pytest.approx(0.1716, abs=0.02)
    assert np.all(curve < 1)


def test_a_phase_between_the_images_is_seen():
    image = white((64, 64))
    _, c = fourier_ring_correlation(1j * image, image)
    np.testing.assert_allclose(c, 0, atol=1e-12)
    _, c = fourier_ring_correlation(-2 * image, image)
    np.testing.assert_allclose(c, -1, rtol=1e-12)


def test_means_and_opposite_borders_do_not_correlate():
    """Two unrelated images, bright and tilted alike: beyond the first rings the tilt must not show."""
    side = 128
    tilt = 10 + np.linspace(-3, 3, side)
    _, c = fourier_ring_correlation(tilt + white((side, side), 1), tilt + white((side, side), 2))
    sigma = 1 / np.sqrt(2 * ring_pixels(side) * 18 / 35)
    assert np.all(np.abs(c[5:]) < 5 * sigma[5:])


@pytest.mark.parametrize("shape", [(70, 64), (64, 75)])
def test_not_square_takes_the_central_square(shape):
    a, b = white(shape, 1), white(shape, 1) + white(shape, 2)
    y, x = (shape[0] - 64) // 2, (shape[1] - 64) // 2
    middle = np.s_[y : y + 64, x : x + 64]
    np.testing.assert_array_equal(fourier_ring_correlation(a, b), fourier_ring_correlation(a[middle], b[middle]))


def test_an_image_without_structure_correlates_with_nothing():
    _, c = fourier_ring_correlation(np.full((64, 64), 0.1 + 0.7j), white((64, 64)))
    np.testing.assert_array_equal(c, 0)


def test_resolution_by_hand():
    frequency = np.array([0.2, 0.4, 0.6])
    assert frc_resolution(frequency, np.array([0.9, 0.4, 0.8]), 0.5) == 0.4
    assert frc_resolution(frequency, np.array([0.9, 0.5, 0.8]), 0.5) == 1.0
    assert frc_resolution(frequency, np.array([0.9, 0.6, 0.2]), np.array([0.5, 0.7, 0.1])) == 0.4


@pytest.mark.parametrize("shapes", [((64, 64), (64, 65)), ((64,), (64,)), ((7, 64), (7, 64))])
def test_shapes_that_do_not_match_are_refused(shapes):
    with pytest.raises(ValueError, match="two images of one shape"):
        fourier_ring_correlation(np.ones(shapes[0]), np.ones(shapes[1]))
