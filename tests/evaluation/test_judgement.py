"""Is it an image? The verdict of the truth, of wrong geometry, of a flat object; and what shot noise leaves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import xlogy

from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation import Errors, Judgement, frame_error, judge, shot_noise_error, verdict
from ptycho.evaluation.judgement import _Sums, deviance_scatter, illumination_covered


@pytest.fixture(scope="module")
def truth(small_scan):
    return Reconstruction.bare(small_scan.object, small_scan.probe, small_scan.positions)


def judged(estimate, scan, **keywords):
    held_out = scan.held_out_mask(10)
    return judge(estimate, scan.counts, np.flatnonzero(held_out), np.flatnonzero(~held_out), scan.mask, **keywords)


@pytest.mark.parametrize("mean", [0.003, 0.2, 1.0, 7.0, 63.0, 66.0, 400.0])
def test_the_expected_deviance_is_that_of_drawn_counts(mean):
    """A million draws: within five standard deviations of their mean."""
    k = np.random.default_rng(1).poisson(mean, 1_000_000)
    deviance = (xlogy(k, k / mean) - k + mean) / 2
    expected = deviance_scatter(np.array([mean]))[0]
    assert abs(deviance.mean() - expected) < 5 * deviance.std() / 1000


def test_the_truth_is_at_the_noise_and_its_errors_are_those_of_the_functions(truth, small_scan):
    judgement = judged(truth, small_scan)
    frames = np.flatnonzero(small_scan.held_out_mask(10))
    assert judgement.frames == len(frames) and judgement.uncovered == 0 and judgement.unseen
    error = frame_error(truth, small_scan.counts, frames, small_scan.mask)
    assert judgement.amplitude.error == pytest.approx(error, rel=1e-9)
    noise = shot_noise_error(truth.expected_counts(frames)[:, small_scan.mask])
    assert judgement.amplitude.shot_noise == pytest.approx(noise, rel=1e-9)
    # 15 frames of 576 pixels: the error scatters by about sqrt(2 / 8640) = 1.5 % of itself.
    for errors in (judgement.amplitude, judgement.deviance):
        assert errors.error == pytest.approx(errors.shot_noise, rel=0.1)
        assert errors.mean_frame > 3 * errors.shot_noise
        assert errors.explained == pytest.approx(1, abs=0.05)
    assert verdict(judgement).kind == "at the noise"
    assert verdict(judgement).is_image


def test_the_mean_frame_explains_nothing(truth, small_scan):
    """The mean of the other frames as a background, and no probe: the judge's zero."""
    held_out = small_scan.held_out_mask(10)
    background = small_scan.counts[~held_out].mean(axis=0).astype("float32")
    mean = replace(truth, probe=1e-6 * truth.probe, background=background)
    judgement = judged(mean, small_scan)
    assert judgement.amplitude.error == pytest.approx(judgement.amplitude.mean_frame, rel=1e-3)
    assert judgement.deviance.error == pytest.approx(judgement.deviance.mean_frame, rel=1e-3)
    assert judgement.deciding.explained == pytest.approx(0, abs=0.01)


def test_wrong_positions_give_no_image(truth, small_scan):
    wrong = replace(truth, positions_px=truth.positions_px[:, ::-1])
    judgement = judged(wrong, small_scan)
    assert judgement.deciding.explained < 0
    assert verdict(judgement).kind == "no image"
    assert "no better than the mean of the other frames" in verdict(judgement).sentence


def test_frames_that_no_other_frame_covers_are_left_out_and_counted(truth, small_scan):
    frames = np.flatnonzero(small_scan.held_out_mask(10))
    alone = frames[3]
    y, x = np.rint(truth.positions_px[alone]).astype(int)
    coverage = truth.coverage.copy()
    coverage[y - 8 : y + 8, x - 8 : x + 8] = 0
    holed = replace(truth, coverage=coverage)
    assert illumination_covered(holed, np.array([alone]))[0] < 0.5
    judgement = judged(holed, small_scan)
    assert judgement.uncovered >= 1
    assert judgement.frames + judgement.uncovered == len(frames)
    assert judged(replace(truth, coverage=0 * coverage), small_scan) is None
    # Frames that the image is made of are covered by themselves.
    assert judged(replace(truth, coverage=0 * coverage), small_scan, unseen=False).frames == len(frames)


def judgement_of(error, noise, mean_frame, sparse=False):
    errors, others = Errors(error, noise, mean_frame), Errors(1.0, 1.0, 1.0)
    pair = dict(amplitude=others, deviance=errors) if sparse else dict(amplitude=errors, deviance=others)
    return Judgement(frames=10, uncovered=0, unseen=True, sparse=sparse, **pair)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("errors", "ratio", "kind"),
    [
        ((0.42, 0.02, 0.245), None, "no image"),  # another toolkit's demo scan, by a network
        ((0.0114, 0.004, 0.0146), 2.8, "no image"),  # a rotation of the scan ignored
        ((0.0040, 0.004, 0.0146), 1.0, "at the noise"),
        ((0.0047, 0.004, 0.0146), 1.0, "at the noise"),
        ((0.00651, 0.00543, 0.0086), 1.15, "disagrees"),  # crystal of little contrast: its lattice stretched by 12 %
        ((0.031, 0.0076, 0.245), 16.0, "disagrees"),
        ((0.0138, 0.004, 0.0146), 1.05, "disagrees"),  # few photons: agrees with the frames that it is made of
        ((0.06923, 0.06771, 0.06929), 1.02, "undecided"),  # cells of hardly any contrast, measured
        ((0.06923, 0.06771, 0.06929), 1.4, "no image"),
        ((0.30, 0.33, 0.32), 1.0, "undecided"),
        ((0.34, 0.33, 0.32), 1.0, "no image"),
    ],
)
def test_verdicts(errors, ratio, kind, sparse):
    """By what people met: of the three errors, and the residuals of the frames that the image is made of."""
    assert verdict(judgement_of(*errors, sparse), ratio).kind == kind
    assert ("deviance" in verdict(judgement_of(*errors, sparse), ratio).sentence) == sparse


def test_near_the_noise_with_little_contrast_the_misfit_tells():
    """1.2 times the shot noise with two thirds explained: the image's own noise, or a model that is wrong."""
    near = judgement_of(0.00651, 0.00543, 0.0086)
    assert verdict(replace(near, own=0.95), 1.15).kind == "at the noise"
    assert verdict(replace(near, own=1.158), 1.15).kind == "disagrees"


def test_an_image_that_follows_the_noise_of_its_own_frames_cannot_be_told_by_them():
    overfitted = replace(judgement_of(0.0047, 0.0072, 0.044), unseen=False)
    assert verdict(overfitted, 0.5).kind == "undecided"
    assert verdict(replace(overfitted, unseen=True), 0.5).kind == "at the noise"


def test_frames_that_overlap_too_little_for_others_to_tell_have_to_agree_with_their_own_image():
    """Lines under a flat disc at 21 % overlap, 13 dB where none has 10: 1.1 times the noise, and residuals 1.56."""
    own = replace(judgement_of(0.00391, 0.00354, 0.038, sparse=True), unseen=False)
    wrong, right = verdict(own, 1.56), verdict(own, 0.85)
    assert (wrong.kind, right.kind) == ("disagrees", "at the noise")
    assert "overlap too little for others to tell" in wrong.sentence
    assert "overlap too little for others to" in right.sentence


def test_frames_at_the_rim_do_not_judge_where_others_are_covered(truth, small_scan):
    """A few percent of a frame's light beside the image are many times the shot noise of bright frames."""
    coverage = truth.coverage.copy()
    coverage[:11] = 0
    rimmed = replace(truth, coverage=coverage)
    frames = np.arange(0, len(small_scan), 2)
    fractions = illumination_covered(rimmed, frames)
    well = int((fractions >= 0.99).sum())
    assert 5 <= well < (fractions >= 0.9).sum()
    others = np.arange(1, len(small_scan), 2)
    judged_by = lambda enough: judge(rimmed, small_scan.counts, frames, others, small_scan.mask, enough=enough).frames
    assert judged_by(well) == well
    assert judged_by(well + 1) == (fractions >= 0.9).sum()


@pytest.mark.parametrize("peak", [0.3, 3.0, 30.0])
def test_the_noise_of_frames_with_a_dark_field_is_that_of_drawn_counts(peak):
    """A disc in a field of 1e-4 of its counts. What is added to the dark must not count as light: it made the noise
    3 to 8 % too large, more than a weak sample adds."""
    rng = np.random.default_rng(0)
    y, x = np.indices((64, 64)) - 32
    disc = peak * ((np.hypot(y, x) < 12) + 1e-4)
    waves = [1 + 0.2 * np.sin(x / 3 + rng.normal()) * np.cos(y / 4 + rng.normal()) for _ in range(200)]
    expected = (disc * np.stack(waves)).reshape(200, -1)
    mean, draws = expected.mean(axis=0), []
    for _ in range(4):
        sums = _Sums(dark=1e-3 * min(mean.mean(), 1.0))
        sums.add(expected, rng.poisson(expected).astype(float))
        draws.append(sums.deviance())
        noise = sums.deviance_noise(mean) / sums.expected
    # Four draws scatter; their mean has half of that, and six of these are beyond chance.
    assert noise == pytest.approx(np.mean(draws), abs=6 * max(np.std(draws, ddof=1) / 2, 2e-4 * noise))


def test_few_counts_are_judged_by_their_deviance(truth, small_scan):
    assert not judged(truth, small_scan, sparse_below=0.0).sparse
    rare = np.random.default_rng(0).binomial(small_scan.counts.astype(int), 1e-3)
    judgement = judged(truth, replace(small_scan, counts=rare, object=None))
    assert judgement.sparse
    assert judgement.deciding == judgement.deviance
