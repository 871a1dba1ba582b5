"""Dead, hot and saturated pixels are found where they were planted, and nowhere else."""

import numpy as np
import pytest

from ptycho.data.scan import Scan
from ptycho.diagnostics.describe import describe
from ptycho.diagnostics.pixels import bad_pixels, saturation
from tests.diagnostics.scans import scan_of


def test_dead_and_hot_pixels_are_found_and_nothing_else() -> None:
    healthy = scan_of()
    dead, hot = bad_pixels(healthy)
    assert not dead.any() and not hot.any()
    counts = healthy.counts.copy()
    counts[:, 15, 18] = 0  # where the light is
    counts[:, 2, 29] = 3000
    dead, hot = bad_pixels(scan_of(counts=counts))
    assert np.argwhere(dead).tolist() == [[15, 18]] and np.argwhere(hot).tolist() == [[2, 29]]
    mask = np.ones((32, 32), bool)
    mask[15, 18] = mask[2, 29] = False
    dead, hot = bad_pixels(scan_of(counts=counts, mask=mask))
    assert not dead.any() and not hot.any()


@pytest.mark.parametrize(
    "total, neighbours, dead, hot",
    [
        (0, 25, True, False),
        (0, 15, False, False),  # no counts there by chance
        (5000, 20, False, True),
        (180, 20, False, False),  # as sharp as a pattern may be
        (95, 5, False, False),  # too few to be sure
    ],
)
def test_limits_of_dead_and_hot(total: int, neighbours: int, dead: bool, hot: bool) -> None:
    counts = np.full((5, 9, 9), neighbours // 5)
    counts[:, 2, 6] = total // 5
    found = bad_pixels(Scan(counts=counts, positions=np.eye(5, 2), probe=np.ones((9, 9))))
    assert [bool(where[2, 6]) for where in found] == [dead, hot]
    assert sum(where.sum() for where in found) == dead + hot


def test_an_undiffracted_beam_is_not_a_hot_pixel() -> None:
    counts = np.full((5, 9, 9), 20)
    counts[:, 4, 4] = 10**6
    assert not bad_pixels(Scan(counts=counts, positions=np.eye(5, 2), probe=np.ones((9, 9))))[1].any()


def scan_with(counts: np.ndarray) -> Scan:
    positions = np.random.default_rng(0).uniform(0, 30, (len(counts), 2))
    return Scan(counts=counts, positions=positions, probe=np.ones(counts.shape[1:], complex))


@pytest.mark.parametrize("mean", [0.05, 0.5, 5.0, 500.0, 2e4])
def test_shot_noise_is_not_saturation(mean: float) -> None:
    """However sparse: the largest of few counts comes often, but the one below it more often still."""
    for seed in range(5):
        counts = np.random.default_rng(seed).poisson(mean, (100, 32, 32)).astype(np.uint16)
        assert saturation(scan_with(counts)) is None


def test_a_limit_of_the_detector_is_found_with_its_value() -> None:
    """Light falls off from the middle: 9 pixels expect more than the limit of 255."""
    distance = np.hypot(*(np.mgrid[:32, :32] - 16))
    expected = 2000 * np.exp(-distance)
    counts = np.random.default_rng(0).poisson(expected, (100, 32, 32))
    assert saturation(scan_with(counts.astype(np.uint16))) is None
    clipped = scan_with(np.minimum(counts, 255).astype(np.uint8))
    sentence = saturation(clipped)
    assert sentence is not None and "exactly the largest count 255" in sentence
    assert dict(describe(clipped))["saturation"] == sentence
    mask = expected < 100
    assert saturation(Scan(**{**vars_of(clipped), "mask": mask})) is None


def vars_of(scan: Scan) -> dict:
    return dict(counts=scan.counts, positions=scan.positions, probe=scan.probe)
