"""Error bars, against errors whose size is known."""

import numpy as np
import pytest

from ptycho.evaluation import band_coverage, noise_level, uncertainty


def test_the_noise_level_is_that_of_counted_photons():
    """The amplitude a of a pixel from k ~ Poisson(n a^2), sqrt(k / n), has the variance 1 / (4 n) of one quadrature, up
    to 1 + O(1 / (n a^2)), here 0.1 %; the std of 20 000 draws scatters by 0.5 %: 5 of these, and the bias."""
    n, amplitude = 1000.0, 0.8
    found = np.sqrt(np.random.default_rng(0).poisson(n * amplitude**2, 20000) / n)
    assert found.std() == pytest.approx(noise_level(np.array(n)) / np.sqrt(2), rel=0.026)


def test_uncertainty_adds_spread_and_noise():
    coverage, probe = np.array([[0.0, 2.0]], "float32"), np.full((2, 4, 4), 5.0 + 0j)
    found = uncertainty(np.array([[0.0, 0.3]]), coverage, probe, 2.0)
    assert found.dtype == np.float32
    assert np.isinf(found[0, 0])
    # Two modes of 25 photons: 100 photons on the pixel.
    assert found[0, 1] == pytest.approx(2 * np.sqrt(0.3**2 + 1 / 200), rel=1e-6)
    assert uncertainty(None, coverage, probe)[0, 1] == pytest.approx(np.sqrt(1 / 200), rel=1e-6)


def test_gaussian_errors_are_within_the_band_as_often_as_expected():
    """40 000 pixels: a share p scatters by sqrt(p (1 - p) / 40 000), 0.0024 and 0.0007; 5 of these."""
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.1, 0.5, (200, 200))
    truth = np.ones((200, 200), complex)
    noise = sigma * np.sqrt(0.5) * (rng.normal(size=(200, 200)) + 1j * rng.normal(size=(200, 200)))
    found = band_coverage(truth + noise, truth, sigma, np.ones((200, 200), bool))
    assert found["expected_1_sigma"] == pytest.approx(0.632, abs=5e-4)
    assert found["expected_2_sigma"] == pytest.approx(0.982, abs=5e-4)
    assert found["within_1_sigma"] == pytest.approx(found["expected_1_sigma"], abs=0.012)
    assert found["within_2_sigma"] == pytest.approx(found["expected_2_sigma"], abs=0.0035)
    with pytest.raises(ValueError, match="no pixel"):
        band_coverage(truth, truth, sigma, np.zeros((200, 200), bool))
