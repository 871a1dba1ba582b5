"""The residuals of frames, warnings by name, and error bars: all against simulations whose noise is known."""

import json

import numpy as np
import pytest

from ptycho.evaluation import (
    FrameResiduals,
    band_coverage,
    frame_residuals,
    light_let_through,
    noise_level,
    summarise,
    uncertainty,
    warnings_about,
)

SIDE, FRAMES = 24, 144


@pytest.fixture(scope="module")
def bright_scan():
    """1e7 photons in 576 pixels: 1e4 each, so that the squared residuals are nearly chi-squared."""
    from ptycho.config import SimulationConfig
    from ptycho.simulation.simulate import simulate

    return simulate(SimulationConfig(N=SIDE, positions=FRAMES, step_px=4.0, jitter_px=1.0, photons=1e7, seed=3))


def residuals(scan, **changes) -> FrameResiduals:
    given = dict(positions_px=scan.positions, counts=scan.counts) | changes
    return frame_residuals(scan.object, scan.probe, **given)


@pytest.mark.parametrize("dose", ["bright_scan", "small_scan"])
def test_the_true_object_has_ratio_1_and_a_standard_normal_deviation(dose, request):
    """F independent deviations of mean 0 and variance 1: their mean scatters by 1 / sqrt(F), their std by
    sqrt((2 + k) / (4 F)) with their excess kurtosis k. Light is in some hundred pixels, so k is 12 / 100 for squares
    of Gaussians; at 1e5 photons (small_scan) the far field's sparse pixels add less than 1. 5 sigma each."""
    scan = request.getfixturevalue(dose)
    found = residuals(scan)
    assert abs(found.deviation.mean()) < 5 / np.sqrt(FRAMES)
    assert abs(found.deviation.std() - 1) < 5 * np.sqrt(3 / (4 * FRAMES))
    sigma = (found.ratio - 1) / found.deviation  # of each ratio
    assert abs((found.ratio - 1).mean()) < 5 * np.sqrt((sigma**2).mean() / FRAMES)
    trust = summarise(found)
    assert trust.frames_beyond_5_sigma == 0
    assert trust.standing_out == ()
    assert trust.sentence().endswith("times the shot noise (median)")


def test_the_true_object_of_a_near_field_has_ratio_1_only_in_the_near_field():
    """Half the frames of the far field, and as far from it: a deviation of mean 0 and standard deviation 1."""
    from ptycho.config import NearField, SimulationConfig
    from ptycho.simulation.simulate import simulate

    near = NearField(distance_px=40.0, wavelength_px=0.5)
    scan = simulate(SimulationConfig(N=SIDE, positions=64, step_px=4.0, near_field=near, seed=3))
    found = residuals(scan, transfer=scan.transfer)
    assert abs(found.deviation.mean()) < 5 / np.sqrt(64)
    assert abs(found.deviation.std() - 1) < 5 * np.sqrt(3 / (4 * 64))
    assert residuals(scan).deviation.min() > 5


def test_the_ratio_is_the_formula(bright_scan):
    """One frame at a whole-pixel position, written out; float32 in the simulated counts plays no part."""
    position = np.array([[20.0, 22.0]])
    rows, columns = (slice(p - SIDE // 2, p + SIDE // 2) for p in (20, 22))
    wave = np.fft.fftshift(np.fft.fft2(bright_scan.probe[0] * bright_scan.object[rows, columns], norm="ortho"))
    e, c = np.abs(wave) ** 2, bright_scan.counts[0].astype(float)
    found = residuals(bright_scan, positions_px=position, counts=bright_scan.counts[:1])
    squared = ((c - e) ** 2).sum()
    # complex64 in the probe makes the FFT above single precision.
    np.testing.assert_allclose(found.ratio, squared / e.sum(), rtol=1e-4)
    np.testing.assert_allclose(found.deviation, (squared - e.sum()) / np.sqrt((2 * e**2 + e).sum()), rtol=1e-4)


def test_wrong_frames_stand_out(small_scan):
    counts, positions = small_scan.counts.copy(), small_scan.positions.copy()
    counts[17] = small_scan.counts[90]
    positions[40] += (2.0, -2.0)
    trust = summarise(residuals(small_scan, counts=counts, positions_px=positions))
    assert set(trust.standing_out) == {17, 40}
    assert set(trust.worst_frames[:2]) == {17, 40}
    assert trust.frames_beyond_5_sigma == 2
    assert "; 2 frames stand out: " in trust.sentence()


def test_an_imperfect_object_is_far_everywhere_and_no_frame_stands_out():
    """Ratios about 10 with a scatter of 10 %: every frame beyond shot noise, none an outlier but the planted one."""
    ratio = 10 * (1 + 0.1 * np.random.default_rng(0).normal(size=200))
    even = FrameResiduals(np.arange(200), ratio, (ratio - 1) / 0.1)
    assert summarise(even).frames_beyond_5_sigma == 200
    assert summarise(even).standing_out == ()
    ratio[3] = 40
    assert summarise(FrameResiduals(np.arange(200), ratio, (ratio - 1) / 0.1)).standing_out == (3,)


def test_masked_pixels_are_not_looked_at(small_scan):
    mask = np.ones((SIDE, SIDE), bool)
    mask[8:12, 8:12] = False
    counts = small_scan.counts.copy()
    counts[:, ~mask] = 60000
    spoiled, clean = residuals(small_scan, counts=counts, mask=mask), residuals(small_scan, mask=mask)
    np.testing.assert_array_equal(spoiled.ratio, clean.ratio)
    assert residuals(small_scan, counts=counts).ratio.min() > 100


def test_chunks_and_chosen_frames_do_not_matter(small_scan, monkeypatch):
    whole = residuals(small_scan)
    monkeypatch.setattr("ptycho.evaluation.trust.CHUNK_PIXELS", 7 * SIDE**2)
    np.testing.assert_allclose(residuals(small_scan).ratio, whole.ratio, rtol=1e-12)
    some = residuals(small_scan, frames=[30, 4])
    np.testing.assert_array_equal(some.frames, [30, 4])
    np.testing.assert_allclose(some.ratio, whole.ratio[[30, 4]], rtol=1e-12)


def test_what_cannot_be_judged_is_refused_or_not_a_number(small_scan):
    with pytest.raises(ValueError, match="no frames"):
        residuals(small_scan, frames=[])
    with pytest.raises(ValueError, match="0 used pixels"):
        residuals(small_scan, mask=np.zeros((SIDE, SIDE), bool))
    with pytest.raises(ValueError, match="one position a frame"):
        residuals(small_scan, positions_px=small_scan.positions[:5])
    counts = small_scan.counts[:2].copy()
    counts[0] = 0
    dark = frame_residuals(0 * small_scan.object, small_scan.probe, small_scan.positions[:2], counts)
    assert np.isnan(dark.ratio[0])
    assert np.isinf(dark.ratio[1])
    nothing = summarise(FrameResiduals(*(values[:1] for values in dark)))
    assert json.loads(json.dumps(nothing.to_dict(), allow_nan=False))["median_ratio"] is None


# --- warnings --------------------------------------------------------------------------------------


def image(contrast: float, ramp: float = 0.0, seed: int = 0):
    """(object, coverage, probe): a complex object of this rms contrast where light is; 100 photons on the brightest
    probe pixel, coverage 4 inside. Shot noise alone: sqrt(1 / (2 * 400)) = 0.035."""
    rng = np.random.default_rng(seed)
    coverage = np.zeros((80, 90), "float32")
    coverage[10:70, 10:80] = 4.0
    noise = contrast * np.sqrt(0.5) * (rng.normal(size=(2, 80, 90)) * np.array([1, 1j])[:, None, None]).sum(axis=0)
    wave = (0.8 + noise) * np.exp(1j * ramp * np.arange(90))
    return np.where(coverage > 0, wave, 0), coverage, np.full((1, 8, 8), 10.0 + 0j)


@pytest.mark.parametrize("ramp", [0.0, 0.2])
def test_a_flat_object_is_named_with_numbers(ramp):
    (warning,) = warnings_about(*image(0.01, ramp))
    assert "flat" in warning
    assert "0.01 (rms)" in warning
    assert "0.035" in warning


@pytest.mark.parametrize("ramp", [0.0, 0.2])
def test_a_healthy_object_gives_no_warning(ramp):
    assert warnings_about(*image(0.1, ramp)) == []


def test_a_dark_object_is_named_with_its_share():
    """4200 lit pixels of 400 photons let 0.8^2 + 0.1^2 of them through."""
    object, coverage, probe = image(0.1)
    passed = 4200 * 400 * 0.65
    assert light_let_through(object, coverage, probe, passed) == pytest.approx(1, rel=0.01)
    assert warnings_about(object, coverage, probe, counts=passed) == []
    (warning,) = warnings_about(object, coverage, probe, counts=100 * passed)
    assert "dark: it lets 1 % of the photons through" in warning
    assert light_let_through(object, coverage, probe, 0.0) == np.inf


def test_dead_output_is_flat():
    _, coverage, probe = image(0.1)
    assert "flat" in warnings_about(np.zeros(coverage.shape, complex), coverage, probe)[0]
    with pytest.raises(ValueError, match="no light"):
        warnings_about(coverage + 0j, 0 * coverage, probe)


def test_true_objects_are_healthy(small_scan):
    coverage = np.ones(small_scan.object.shape, "float32")
    assert warnings_about(small_scan.object, coverage, small_scan.probe) == []


def test_saturated_outputs_are_named_with_their_share():
    """8 x 8 patches all lit: 5 of the 100 at the bound of the phase, 10 at that of the amplitude."""
    rng = np.random.default_rng(1)
    amplitude, phase = rng.uniform(0.2, 0.9, (100, 8, 8)), rng.uniform(-2, 2, (100, 8, 8))
    healthy = amplitude * np.exp(1j * phase)
    assert warnings_about(*image(0.1), patches=healthy, amplitude_bound=1.0) == []
    phase[:5], amplitude[-10:] = 0.995 * np.pi, 0.995
    at_bounds = amplitude * np.exp(1j * phase)
    first, second = warnings_about(*image(0.1), patches=at_bounds, amplitude_bound=1.0)
    assert "phase is within 1 % of +-pi in 5 % of pixels" in first
    assert "bound 1 in 10 % of pixels" in second
    assert len(warnings_about(*image(0.1), patches=at_bounds)) == 1  # without a bound there is none to be at


# --- uncertainty -----------------------------------------------------------------------------------


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
