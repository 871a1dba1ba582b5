"""Where two images of half the data agree."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptycho.evaluation import TooSmall
from ptycho.evaluation.frc import RingCorrelation, half_bit_threshold, ring_frequency
from ptycho.evaluation.half_sets import HalfSets, agreement, correlated

SIDE = 128


def half_sets_of(correlation, pixel_size_m=None):
    rings = RingCorrelation(ring_frequency(SIDE), np.asarray(correlation), half_bit_threshold(SIDE))
    return HalfSets("frames", rings, pixel_size_m)


def test_the_resolution_is_where_the_correlation_falls_below_half_a_bit():
    frequency = ring_frequency(SIDE)
    halves = half_sets_of(np.where(frequency < 0.4, 1.0, 0.0), 2e-9)
    first = frequency[frequency >= 0.4][0]
    assert halves.half_bit == pytest.approx(first)
    assert halves.resolution_px == pytest.approx(1 / first)
    assert halves.resolution() == "4.9 nm (2.5 px)"
    assert halves.to_dict()["half_bit_of_nyquist"] == halves.half_bit


def test_one_ring_may_fall_by_chance_and_the_slowest_may_lie_below():
    frequency = ring_frequency(SIDE)
    correlation = np.where(frequency < 0.4, 1.0, 0.0)
    correlation[[0, 1, 9]] = 0
    correlation[50] = 1
    assert half_sets_of(correlation).half_bit == pytest.approx(frequency[frequency >= 0.4][0])


def test_the_reflections_of_a_crystal_agree_again_beyond():
    """Rings of a lattice at 0.4 and 0.7 of Nyquist, as wide as four: the last of them, which the median keeps."""
    frequency = ring_frequency(SIDE)
    halves = half_sets_of(np.where((frequency < 0.2) | (np.abs(frequency - 0.7) < 0.03), 1.0, 0.0), 2e-11)
    last = frequency[np.abs(frequency - 0.7) < 0.03][-1]
    assert halves.half_bit == pytest.approx(frequency[frequency >= 0.2][0])
    assert halves.finest == pytest.approx(last)
    assert "agree again" in halves.sentence() and f"{0.2 / last:.2g} A" in halves.sentence()
    alone = half_sets_of(np.where((frequency < 0.2) | (frequency == frequency[50]), 1.0, 0.0))
    assert "again" not in alone.sentence()


def test_agreement_everywhere_and_nowhere():
    everywhere, nowhere = half_sets_of(np.ones(SIDE // 2 - 1)), half_sets_of(np.zeros(SIDE // 2 - 1))
    assert everywhere.half_bit == 1
    assert everywhere.resolution() == "1 px or better"
    assert nowhere.half_bit is None
    assert "no spatial frequency" in nowhere.sentence()
    assert agreement(np.array([0.5, 1.0]), np.array([1.0, 1.0]), np.array([0.5, 0.5])) == 1


def test_noise_on_a_shared_area_does_not_correlate():
    """Two images of independent noise share nothing but where they are: their edge must not count as agreement."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    coverage = (np.hypot(y, x) < 50).astype("float32")
    noise = [1 + 0.3 * (rng.normal(size=(SIDE, SIDE)) + 1j * rng.normal(size=(SIDE, SIDE))) for _ in range(2)]
    rings = correlated(*(image * (coverage > 0) for image in noise), coverage)
    # Of n independent pixels the correlation of noise is 1 / sqrt(2 n), and that is what the threshold is made of.
    assert (rings.correlation < rings.half_bit).mean() > 0.95


def test_the_same_object_under_independent_noise_agrees_up_to_where_it_ends():
    rng = np.random.default_rng(1)
    blurred = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 2.0, mode="wrap")
    clean = np.exp(1j * blurred / blurred.std() * 0.3)
    noisy = [clean + 0.02 * (rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)) for _ in range(2)]
    turned = noisy[1] * np.exp(2.0j)  # a global phase means nothing
    rings = correlated(noisy[0].astype("complex64"), turned.astype("complex64"), np.ones(clean.shape, "float32"))
    found = HalfSets("photons", rings).half_bit
    # Signal over noise falls through 0.2 (half a bit of both halves) where power exp(-(2 pi f 2)^2) meets that noise.
    power = np.abs(np.fft.fft2(clean - clean.mean())) ** 2
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)) * 2
    snr = [power[np.abs(radius - f) < 1 / SIDE].mean() / (2 * 0.02**2 * SIDE**2) for f in ring_frequency(SIDE)]
    expected = ring_frequency(SIDE)[np.flatnonzero(np.array(snr) > 0.207)[-1]]
    assert found == pytest.approx(expected, abs=0.1)


def test_a_dark_image_has_no_rings():
    coverage = np.zeros((SIDE, SIDE), "float32")
    coverage[:10, :10] = 1
    with pytest.raises(TooSmall, match="too few"):
        correlated(np.ones((SIDE, SIDE), "complex64"), np.ones((SIDE, SIDE), "complex64"), coverage)
