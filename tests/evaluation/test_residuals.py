"""How far frames are from what an estimate leads one to expect, in units of the shot noise that is known here."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import poisson

from ptycho.config import Multislice, NearField, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation import FrameResiduals, frame_error, frame_residuals, shot_noise_error, summarise
from ptycho.physics import forward
from ptycho.simulation.simulate import simulate
from tests.physics import oracle

FRAMES = 12


def estimate_of(side=15, modes=2, frames=FRAMES, photons=1e5, seed=0) -> Reconstruction:
    """Random object, probe modes and sub-pixel positions, of which some frames hang over the border."""
    rng = np.random.default_rng(seed)
    image = 1 + 0.3 * (rng.normal(size=(41, 30)) + 1j * rng.normal(size=(41, 30)))
    probe = rng.normal(size=(modes, side, side)) + 1j * rng.normal(size=(modes, side, side))
    probe *= np.sqrt(photons / np.sum(np.abs(probe) ** 2))
    return Reconstruction.bare(image, probe, rng.uniform((0, 0), (40, 29), (frames, 2)))


def oracle_counts(estimate: Reconstruction) -> np.ndarray:
    """By the independent model in double precision, with border values that go on beyond the object."""
    slices = estimate.object[None] if estimate.slices is None else estimate.slices
    near, thick = estimate.near_field, estimate.multislice
    return oracle.expected_counts(
        np.pad(slices, ((0, 0), (60, 60), (60, 60)), mode="edge"),
        estimate.probe,
        estimate.positions_px + 60,
        near=None if near is None else (near.distance_px, near.wavelength_px, near.kind),
        spacing=None if thick is None else (thick.spacing_px, thick.wavelength_px, thick.kind),
        opr=estimate.opr_modes,
        weights=estimate.opr_weights,
        background=estimate.background,
        blur_px=estimate.blur_px,
    )


def with_unknown(name: str, estimate: Reconstruction) -> Reconstruction:
    """The estimate with one more unknown than object, probe and positions."""
    rng = np.random.default_rng(3)
    mean = float(np.sum(np.abs(estimate.probe) ** 2)) / estimate.N**2
    fields = dict(
        background=dict(background=rng.uniform(0, 0.5 * mean, (estimate.N, estimate.N))),
        blur=dict(blur_px=0.7),
        opr=dict(opr_modes=0.3 * estimate.probe[:1, ::-1], opr_weights=rng.choice([-1.0, 1.0], (FRAMES, 1))),
        near=dict(near_field=NearField(distance_px=8.0, wavelength_px=0.5)),
        thick=dict(
            slices=np.stack([estimate.object, estimate.object[:, ::-1]]),
            multislice=Multislice(slices=2, spacing_px=6.0, wavelength_px=0.5),
        ),
    )
    return replace(estimate, **fields[name])


UNKNOWNS = ("background", "blur", "opr", "near", "thick")


@pytest.mark.parametrize("side", [15, 16])
def test_expected_counts_are_those_of_the_oracle_beyond_the_border_too(side):
    estimate = estimate_of(side)
    expected = oracle_counts(estimate)
    assert np.linalg.norm(estimate.expected_counts() - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["none", *UNKNOWNS])
def test_nothing_is_left_of_a_noiseless_scan_by_either_measure(name):
    """At sub-pixel positions, with whatever the estimate holds: rounding of single precision, and no more."""
    estimate = estimate_of() if name == "none" else with_unknown(name, estimate_of())
    counts = oracle_counts(estimate)
    assert abs(frame_error(estimate, counts, range(FRAMES))) < 1e-10
    assert np.all(frame_residuals(estimate, counts).ratio < 1e-10 * counts.mean())


def test_the_true_object_of_a_simulation_is_left_with_nothing_by_either_measure():
    """As a shift of the object instead of the probe left 4e-5 of a scan at sub-pixel positions."""
    scan = simulate(SimulationConfig(N=24, positions=36, step_px=4.0, jitter_px=1.0, photons=1e5, noise=False, seed=3))
    assert np.abs(scan.positions - np.rint(scan.positions)).max() > 0.4
    truth = Reconstruction.bare(scan.object, scan.probe, scan.positions)
    assert abs(frame_error(truth, scan.counts, range(36))) < 1e-10
    assert frame_residuals(truth, scan.counts).ratio.max() < 1e-10


@pytest.mark.parametrize("name", UNKNOWNS)
def test_whatever_the_estimate_holds_is_judged_along(name):
    """Counts are those of an estimate with one more unknown: with it they are at the shot noise, without it not."""
    estimate = with_unknown(name, estimate_of())
    expected = oracle_counts(estimate)
    counts = np.random.default_rng(1).poisson(expected)
    without = Reconstruction.bare(estimate.object, estimate.probe, estimate.positions_px)
    noise = shot_noise_error(expected)
    assert frame_error(estimate, counts, range(FRAMES)) == pytest.approx(noise, rel=0.2)
    assert summarise(frame_residuals(estimate, counts)).frames_beyond_5_sigma == 0
    assert frame_error(without, counts, range(FRAMES)) > 3 * noise
    assert summarise(frame_residuals(without, counts)).frames_beyond_5_sigma == FRAMES


def test_noiseless_frames_have_no_error():
    estimate = estimate_of()
    counts = estimate.expected_counts()
    assert abs(frame_error(estimate, counts, range(FRAMES))) < 1e-12
    assert frame_error(replace(estimate, object=np.ones_like(estimate.object)), counts, range(FRAMES)) > 0.01


def test_by_hand_with_one_global_scale():
    """Model amplitudes 1 and 2, measured 2 and 1: best scale 4/5, error (5 - 16/5) / 5."""
    estimate = Reconstruction.bare(np.array([[1.0, 2.0]]), np.array([[[1.0]]]), np.array([[0.0, 0.0], [0.0, 1.0]]))
    error = frame_error(estimate, np.array([[[4]], [[1]]]), [0, 1])
    assert error == pytest.approx((5 - 16 / 5) / 5)


def test_scale_and_phase_of_the_model_do_not_matter():
    estimate = estimate_of()
    counts = np.random.default_rng(1).poisson(estimate.expected_counts())
    error = frame_error(estimate, counts, range(FRAMES))
    assert error > 0
    other = replace(estimate, object=estimate.object * 3j, probe=estimate.probe / 17)
    assert frame_error(other, counts, range(FRAMES)) == pytest.approx(error, rel=1e-5)  # single precision


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.float32])
def test_type_of_the_counts_does_not_matter(dtype):
    estimate = estimate_of(photons=3e3)
    counts = np.random.default_rng(1).poisson(estimate.expected_counts())
    counts = counts.clip(max=255)
    reference = frame_error(estimate, counts.astype(float), range(FRAMES))
    assert frame_error(estimate, counts.astype(dtype), range(FRAMES)) == reference


def test_only_the_named_frames_and_used_pixels_count():
    estimate = estimate_of()
    counts = estimate.expected_counts()
    counts[:, 3, 4] = 1e6  # a hot pixel
    counts[7] = 0  # a lost frame
    good = np.ones((15, 15), bool)
    good[3, 4] = False
    named = [i for i in range(FRAMES) if i != 7]
    assert abs(frame_error(estimate, counts, named, mask=good)) < 1e-12
    assert frame_error(estimate, counts, named) > 0.1
    assert frame_error(estimate, counts, range(FRAMES), mask=good) > 0.01


def test_a_probe_without_mode_axis():
    estimate = estimate_of(modes=1)
    bare = Reconstruction.bare(estimate.object, estimate.probe[0], estimate.positions_px)
    assert abs(frame_error(bare, estimate.expected_counts(), range(FRAMES))) < 1e-12


def test_a_model_without_light_explains_nothing():
    estimate = estimate_of()
    counts = estimate.expected_counts()
    assert frame_error(replace(estimate, object=0 * estimate.object), counts, range(FRAMES)) == 1.0


def test_input_that_cannot_be_judged_is_refused():
    estimate = estimate_of()
    counts = np.ones((FRAMES, 15, 15))
    with pytest.raises(ValueError, match="none, or hold no photon"):
        frame_error(estimate, counts, [])
    with pytest.raises(ValueError, match="none, or hold no photon"):
        frame_error(estimate, 0 * counts, [1])
    with pytest.raises(ValueError, match="do not fit frames of 15 x 15"):
        frame_error(replace(estimate, probe=estimate.probe[..., 1:]), counts, [1])
    with pytest.raises(ValueError, match="object has values that are NaN"):
        frame_error(replace(estimate, object=np.where(estimate.object.real > 1, 1, np.nan)), counts, [1])
    with pytest.raises(ValueError, match="expected counts"):
        shot_noise_error(np.array([-1.0, 2.0]))
    with pytest.raises(ValueError, match="expected counts"):
        shot_noise_error(np.zeros(3))


# --- the limit of noise ------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [1e-6, 0.01, 0.3, 1, 5.5, 20, 63.99, 64.01, 300])
def test_shot_noise_by_summation(mean):
    k = np.arange(int(mean + 20 * np.sqrt(mean) + 50))
    exact = np.sum(poisson.pmf(k, mean) * (np.sqrt(k) - np.sqrt(mean)) ** 2) / mean
    assert shot_noise_error(np.array([mean])) == pytest.approx(exact, rel=2e-5)


def test_shot_noise_limits():
    assert shot_noise_error(np.array([1e-12])) == pytest.approx(2, rel=1e-5)  # 2 - 2 sqrt(l)
    assert shot_noise_error(np.array([1e6])) == pytest.approx(0.25e-6, rel=1e-6)  # 7 / 16 l^-1 relative


def test_shot_noise_is_weighted_by_photons():
    one, two = shot_noise_error(np.array([3.0])), shot_noise_error(np.array([50.0]))
    assert shot_noise_error(np.array([[3.0, 0.0], [50.0, 50.0]])) == pytest.approx((3 * one + 100 * two) / 103)


def scatter_of_the_error(expected):
    """Standard deviation of ``sum (sqrt(k) - sqrt(l))^2 / sum l``, from 30 draws of everything."""
    rng = np.random.default_rng(5)
    draws = [np.sum((np.sqrt(rng.poisson(expected)) - np.sqrt(expected)) ** 2) for _ in range(30)]
    return np.std(draws, ddof=1) / expected.sum()


@pytest.mark.parametrize("photons", [100, 1e4])
def test_truth_is_left_with_shot_noise(photons):
    estimate = estimate_of(photons=photons)
    expected = estimate.expected_counts()
    counts = np.random.default_rng(1).poisson(expected)
    error = frame_error(estimate, counts, range(FRAMES))
    # 5 standard deviations, of the numerator as drawn and of the photons in the denominator
    tolerance = 5 * (scatter_of_the_error(expected) + shot_noise_error(expected) / np.sqrt(expected.sum()))
    assert error == pytest.approx(shot_noise_error(expected), abs=tolerance)


def test_truth_of_the_shared_data_is_left_with_shot_noise(sim64):
    frames = range(0, len(sim64["counts"]), 10)
    truth = Reconstruction.bare(sim64["object"], sim64["probe"], sim64["positions_px"])
    error = frame_error(truth, sim64["counts"], frames)
    expected = truth.expected_counts(frames)
    assert error == pytest.approx(0.0061, abs=0.00005)
    tolerance = 5 * (scatter_of_the_error(expected) + shot_noise_error(expected) / np.sqrt(expected.sum()))
    assert error == pytest.approx(shot_noise_error(expected), abs=tolerance)
    assert frame_error(replace(truth, object=truth.object.conj()), sim64["counts"], frames) > 3 * error


def test_same_numbers_as_the_common_judge(sim64, score):
    """At integer positions: between pixels it moves the object, not the probe."""
    rng = np.random.default_rng(0)
    image = sim64["object"] * (1 + 0.05 * rng.normal(size=sim64["object"].shape))
    positions = np.rint(sim64["positions_px"] + rng.normal(size=sim64["positions_px"].shape))
    positions[:3] = [[3, 5], [390, 200], [100, 400]]  # frames that hang over the border, or lie beyond it
    frames = [0, 1, 2, *range(3, 1681, 40)]
    theirs = score.frame_error(image, sim64["probe"], *positions.T, sim64["counts"], frames)
    ours = frame_error(Reconstruction.bare(image, sim64["probe"], positions), sim64["counts"], frames)
    assert ours == pytest.approx(theirs, rel=1e-6)


# --- residuals of single frames ------------------------------------------------------------------

SIDE, SCAN_FRAMES = 24, 144


@pytest.fixture(scope="module")
def bright_scan():
    """1e7 photons in 576 pixels: 1e4 each, so that the squared residuals are nearly chi-squared."""
    return simulate(SimulationConfig(N=SIDE, positions=SCAN_FRAMES, step_px=4.0, jitter_px=1.0, photons=1e7, seed=3))


def residuals(scan, **changes) -> FrameResiduals:
    """Of the true object, but for what is changed of the estimate or of the data."""
    data = {name: changes.pop(name) for name in ("frames", "mask") if name in changes}
    counts = changes.pop("counts", scan.counts)
    truth = Reconstruction.bare(scan.object, scan.probe, scan.positions, near_field=scan.near_field)
    return frame_residuals(replace(truth, **changes), counts, **data)


@pytest.mark.parametrize("dose", ["bright_scan", "small_scan"])
def test_the_true_object_has_ratio_1_and_a_standard_normal_deviation(dose, request):
    """F independent deviations of mean 0 and variance 1: their mean scatters by 1 / sqrt(F), their std by
    sqrt((2 + k) / (4 F)) with their excess kurtosis k. Light is in some hundred pixels, so k is 12 / 100 for squares
    of Gaussians; at 1e5 photons (small_scan) the far field's sparse pixels add less than 1. 5 sigma each."""
    scan = request.getfixturevalue(dose)
    judgement = residuals(scan)
    assert abs(judgement.deviation.mean()) < 5 / np.sqrt(SCAN_FRAMES)
    assert abs(judgement.deviation.std() - 1) < 5 * np.sqrt(3 / (4 * SCAN_FRAMES))
    sigma = (judgement.ratio - 1) / judgement.deviation  # of each ratio
    assert abs((judgement.ratio - 1).mean()) < 5 * np.sqrt((sigma**2).mean() / SCAN_FRAMES)
    summary = summarise(judgement)
    assert summary.frames_beyond_5_sigma == 0
    assert summary.standing_out == ()
    assert summary.sentence().endswith("times the shot noise (median)")


def test_the_true_object_of_a_near_field_has_ratio_1_only_in_the_near_field():
    """Half the frames of the far field, and as far from it: a deviation of mean 0 and standard deviation 1."""
    near = NearField(distance_px=40.0, wavelength_px=0.5)
    scan = simulate(SimulationConfig(N=SIDE, positions=64, step_px=4.0, near_field=near, seed=3))
    judgement = residuals(scan)
    assert abs(judgement.deviation.mean()) < 5 / np.sqrt(64)
    assert abs(judgement.deviation.std() - 1) < 5 * np.sqrt(3 / (4 * 64))
    assert residuals(scan, near_field=None).deviation.min() > 5


def test_the_ratio_is_the_formula(bright_scan):
    """One frame at a whole-pixel position, written out; float32 in the simulated counts plays no part."""
    position = np.array([[20.0, 22.0]])
    rows, columns = (slice(p - SIDE // 2, p + SIDE // 2) for p in (20, 22))
    wave = np.fft.fftshift(np.fft.fft2(bright_scan.probe[0] * bright_scan.object[rows, columns], norm="ortho"))
    e, c = np.abs(wave) ** 2, bright_scan.counts[0].astype(float)
    judgement = residuals(bright_scan, positions_px=position, counts=bright_scan.counts[:1])
    squared = ((c - e) ** 2).sum()
    # complex64 in the probe makes the FFT above single precision.
    np.testing.assert_allclose(judgement.ratio, squared / e.sum(), rtol=1e-4)
    np.testing.assert_allclose(judgement.deviation, (squared - e.sum()) / np.sqrt((2 * e**2 + e).sum()), rtol=1e-4)


def test_wrong_frames_stand_out(small_scan):
    counts, positions = small_scan.counts.copy(), small_scan.positions.copy()
    counts[17] = small_scan.counts[90]
    positions[40] += (2.0, -2.0)
    summary = summarise(residuals(small_scan, counts=counts, positions_px=positions))
    assert set(summary.standing_out) == {17, 40}
    assert set(summary.worst_frames[:2]) == {17, 40}
    assert summary.frames_beyond_5_sigma == 2
    assert "; 2 frames stand out: " in summary.sentence()


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


def test_batches_and_chosen_frames_do_not_matter(small_scan, monkeypatch):
    everything = residuals(small_scan)
    chosen = residuals(small_scan, frames=[30, 4])
    np.testing.assert_array_equal(chosen.frames, [30, 4])
    np.testing.assert_allclose(chosen.ratio, everything.ratio[[30, 4]], rtol=1e-6)
    in_batches = partial(forward.expected_batches, batch_frames=7)
    monkeypatch.setattr(forward, "expected_batches", in_batches)
    np.testing.assert_allclose(residuals(small_scan).ratio, everything.ratio, rtol=1e-6)


def test_what_cannot_be_judged_is_refused_or_not_a_number(small_scan):
    with pytest.raises(ValueError, match="no frames"):
        residuals(small_scan, frames=[])
    with pytest.raises(ValueError, match="0 used pixels"):
        residuals(small_scan, mask=np.zeros((SIDE, SIDE), bool))
    with pytest.raises(ValueError, match="one position a frame"):
        residuals(small_scan, positions_px=small_scan.positions[:5])
    counts = small_scan.counts[:2].copy()
    counts[0] = 0
    dark = residuals(small_scan, object=0 * small_scan.object, positions_px=small_scan.positions[:2], counts=counts)
    assert np.isnan(dark.ratio[0])
    assert np.isinf(dark.ratio[1])
    nothing = summarise(FrameResiduals(*(values[:1] for values in dark)))
    assert json.loads(json.dumps(nothing.to_dict(), allow_nan=False))["median_ratio"] is None
