"""The factor of the uncertainty, from simulated scans with a network that does something."""

import numpy as np
import pytest

from ptycho.config import ModelConfig, TrainingConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import band_coverage
from ptycho.evaluation.calibration import bootstrap, calibration
from ptycho.network.build import build_model
from ptycho.reconstruction import reconstruct
from ptycho.training.train import train

VIEWS = 4


@pytest.fixture(scope="module")
def model(small_scan):
    network = build_model(ModelConfig(N=small_scan.N, stages=1, width=4, gridsize=2), small_scan.probe)
    train(network, small_scan, TrainingConfig(epochs=3))
    return network


def share(rehearsal, factor: float) -> float:
    sigma = factor * rehearsal.uncertainty
    return band_coverage(rehearsal.object, rehearsal.truth, sigma, rehearsal.where)["within_1_sigma"]


def test_the_factor_makes_the_band_right_and_holds_for_another_sample(model, small_scan):
    """On its own simulation by construction, to one pixel of some hundred. On another sample errors are correlated over
    some 5 x 5 pixels and more at the edges of what the sample shows; of about 1000 lit pixels 40 are independent, and
    a share of 0.632 in each of the two scatters by 0.08: together 0.11, and 3 of these."""
    first = bootstrap(model, small_scan, symmetries=VIEWS, seed=0)
    factor = calibration(model, small_scan, symmetries=VIEWS, seed=0)
    assert factor == pytest.approx(first.factor, rel=1e-3)
    pixels = first.where.sum()
    assert pixels > 500
    assert abs(share(first, first.factor) - 0.632) < 1e-3 + 1 / pixels
    other = bootstrap(model, small_scan, symmetries=VIEWS, seed=1)
    assert np.abs(other.truth - first.truth).max() > 0.1
    assert abs(share(other, factor) - 0.632) < 0.33


def test_a_result_lends_the_rehearsal_its_contrast_and_itself(model, small_scan):
    """The contrast within what 20 cells show at random: a factor of exp(0.5) is twice sqrt(1 / 20)."""
    result = reconstruct(model, small_scan, symmetries=VIEWS)
    lit = result.object[result.coverage > 0.1 * np.median(result.coverage)]
    alike = bootstrap(model, small_scan, result, symmetries=VIEWS)
    for kind in (np.abs, np.angle):
        wanted = kind(lit / lit.mean()).std()
        found = kind(alike.truth[alike.where] / alike.truth[alike.where].mean()).std()
        assert abs(np.log(found / wanted)) < 0.5
    again = bootstrap(model, small_scan, result, again=True, symmetries=VIEWS)
    (height, width), whole = again.truth.shape, result.object.shape
    apart = min(
        np.abs(result.object[y : y + height, x : x + width] - again.truth).max()
        for y in range(whole[0] - height + 1)
        for x in range(whole[1] - width + 1)
    )
    assert apart < 1e-6  # somewhere the truth of the rehearsal is the result, pixel by pixel
    both = calibration(model, small_scan, result, symmetries=VIEWS)
    assert both == pytest.approx(np.sqrt(alike.factor * again.factor), rel=1e-3)


def test_without_views_the_factor_is_over_shot_noise_alone(model, small_scan):
    """A network after three epochs is far from what its photons allow."""
    assert calibration(model, small_scan, symmetries=1) > 1


def test_a_large_scan_is_rehearsed_on_a_compact_block(model, small_scan):
    from ptycho.evaluation.calibration import _like

    y, x = np.mgrid[:40, :40].reshape(2, -1) * 3.0
    counts = np.ones((1600, small_scan.N, small_scan.N), "uint8")
    mask = np.ones((small_scan.N, small_scan.N), bool)
    mask[0] = False
    scan = Scan(counts=counts, positions=np.stack([y, x], axis=1), probe=small_scan.probe, mask=mask)
    block = _like(scan, None, False, small_scan.probe, 0, most_frames=1024)
    assert len(block) == 1024
    # The 32 x 32 nearest to the middle of 40 x 40, 3 px apart.
    np.testing.assert_allclose(np.ptp(block.positions, axis=0), 31 * 3.0)
    np.testing.assert_array_equal(block.mask, mask)
    assert block.counts.sum() > 0
