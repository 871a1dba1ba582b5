"""The doctor finds what was put into the data on purpose, and nothing in healthy data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho.config import NearField
from ptycho.data.frames import mean_pattern
from ptycho.data.scan import Scan, vacuum_pattern
from ptycho.diagnostics import statistics
from tests.diagnostics.scans import disc_probe, scan_of


@pytest.mark.parametrize("N", [31, 32])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_corner_and_centre_are_told_apart_and_centring_is_exact(N: int, dtype: type) -> None:
    counts = scan_of(N, photons=3e3).counts.astype(dtype)
    assert statistics.zero_frequency(counts) == "centre"
    corner = np.fft.ifftshift(counts, axes=(1, 2))
    assert statistics.zero_frequency(corner) == "corner"
    back = statistics.centred(corner)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, counts)


@pytest.mark.parametrize("N", [7, 8])
def test_centred_moves_pixel_0_to_the_centre(N: int) -> None:
    frames = np.zeros((2, N, N), np.uint8)
    frames[:, 0, 0] = 9
    assert (statistics.centred(frames)[:, N // 2, N // 2] == 9).all()


@given(st.integers(0, 10_000), st.sampled_from([15, 16]))
def test_a_uniform_background_does_not_move_the_zero_frequency(background: int, N: int) -> None:
    counts = np.full((3, N, N), background, np.int64)
    assert statistics.zero_frequency(counts) == "centre"  # a tie
    counts[:, 0, 0] += 50
    assert statistics.zero_frequency(counts) == "corner"


def test_a_hot_pixel_or_a_mask_does_not_decide() -> None:
    scan = scan_of()
    counts = scan.counts.astype(np.int64)
    counts[:, 0, 0] = counts.sum(axis=(1, 2))  # as many counts as all others together
    assert statistics.zero_frequency(counts) == "centre"
    counts[:, 0, 0] = 10**9
    mask = np.ones((32, 32), bool)
    mask[0, 0] = False
    assert statistics.zero_frequency(counts) == "centre"
    assert statistics.zero_frequency(counts, mask) == "centre"


def test_an_annulus_of_light_is_centred_too() -> None:
    """A zone plate with a central stop sends a ring to the detector, dark in the middle."""
    N = 64
    y, x = np.indices((N, N)) - N // 2
    ring = np.abs(np.hypot(y, x) - 0.35 * N) < 2
    counts = np.repeat(100 * ring[None], 3, axis=0)
    assert statistics.zero_frequency(counts) == "centre"
    assert statistics.zero_frequency(np.fft.ifftshift(counts, axes=(1, 2))) == "corner"


def test_centred_scan_moves_mask_and_frames_together_and_says_so() -> None:
    scan = scan_of(31)
    mask = np.ones((31, 31), bool)
    mask[3, 20] = False
    corner = scan_of(31, counts=np.fft.ifftshift(scan.counts, axes=(1, 2)), mask=np.fft.ifftshift(mask), notes=("a",))
    moved = statistics.centred_scan(corner)
    np.testing.assert_array_equal(moved.counts, scan.counts)
    np.testing.assert_array_equal(moved.mask, mask)
    assert moved.notes[0] == "a" and "corner" in moved.notes[1]
    assert statistics.centred_scan(moved) is moved


def test_a_warning_of_the_corner_is_given_once() -> None:
    scan = scan_of()
    assert statistics.warned_of_corner(scan) is scan
    warned = statistics.warned_of_corner(scan_of(counts=np.fft.ifftshift(scan.counts, axes=(1, 2))))
    assert len(warned.notes) == 1 and "corners" in warned.notes[0]
    assert statistics.warned_of_corner(warned) is warned


COUNTS = scan_of(photons=5e3).counts


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64"])
def test_counts_are_counts_in_every_dtype(dtype: str) -> None:
    found = statistics.looks_like_counts(COUNTS.astype(dtype))
    assert found == statistics.looks_like_counts(COUNTS)
    assert (
        found.verdict == "counts" and found.integer_fraction == 1 and found.maximum == statistics.sampled(COUNTS).max()
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_square_roots_of_counts_are_amplitudes(dtype: type) -> None:
    found = statistics.looks_like_counts(np.sqrt(COUNTS.astype(dtype)))
    assert found.verdict == "amplitude" and found.square_integer_fraction == 1 and found.integer_fraction < 1


@pytest.mark.parametrize("scale", [1 / 37.7, 0.1, 3.3])
def test_normalised_values_are_unclear(scale: float) -> None:
    """Sparse data too: zeros are whole numbers and squares of them, and prove nothing."""
    amplitudes = (np.sqrt(COUNTS) * scale).astype(np.float32)
    assert (amplitudes == 0).mean() > 0.1
    assert statistics.looks_like_counts(amplitudes).verdict == "unclear"


def test_zeros_prove_nothing_about_amplitudes() -> None:
    frames = np.zeros((4, 32, 32), np.float32)
    frames[:, 15:18, 15:18] = np.linspace(0.31, 0.87, 9).reshape(3, 3)  # 99.1 % zeros
    assert statistics.looks_like_counts(frames).verdict == "unclear"


def test_variance_over_mean_is_1_for_poisson_and_quarter_for_its_root() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(400.0, (64, 48, 48))
    # A variance from 64 frames scatters by sqrt(2 / 63) = 18 %, the median of 1152 pixels by 1.25 / 34 of
    # that, 0.7 %, and it lies 1 % below the mean of its chi-squared distribution: 4 % is four sigma and more.
    assert statistics.looks_like_counts(counts).variance_over_mean == pytest.approx(1, abs=0.04)
    roots = statistics.looks_like_counts(np.sqrt(counts))
    assert roots.variance_over_mean == pytest.approx(0.25 / 20, rel=0.04)
    rounded = statistics.looks_like_counts(np.rint(np.sqrt(counts)))
    assert rounded.verdict == "counts" and "rounded amplitudes" in rounded.sentence


def test_sampled_frames_span_the_scan() -> None:
    counts = np.arange(100)[:, None, None] * np.ones((1, 2, 2))
    picked = statistics.sampled(counts, 5)[:, 0, 0]
    assert picked[0] == 0 and picked[-1] == 99 and len(picked) == 5 and np.ptp(np.diff(picked)) <= 1
    assert len(statistics.sampled(counts[:3], 5)) == 3


@pytest.mark.parametrize(
    "largest, before, after",
    [
        (255, "float32", "uint8"),
        (256, "float32", "uint16"),
        (65535, "float64", "uint16"),
        (65536, "float64", "uint32"),
        (65536, "float32", "float32"),  # uint32 saves nothing
        (2**32, "float64", "float64"),
        (200, "int64", "uint8"),
        (200, "uint8", "uint8"),
        (2.5, "float32", "float32"),
        (np.inf, "float32", "float32"),
    ],
)
def test_compact_is_exact_and_no_larger_than_needed(largest: float, before: str, after: str) -> None:
    counts = np.zeros((3, 4, 4), before)
    counts[1, 2, 3] = largest
    small = statistics.compact(counts)
    assert small.dtype == after
    np.testing.assert_array_equal(small, counts)


def test_compact_leaves_bad_values_to_be_found_later() -> None:
    for bad in (np.nan, -1.0):
        counts = np.array([[[1.0, bad]]])
        assert statistics.compact(counts) is counts


def test_rescaled_probe_sends_the_measured_counts_to_the_used_pixels() -> None:
    scan = scan_of()
    mask = np.random.default_rng(2).uniform(size=(32, 32)) < 0.7
    guess = scan_of(probe=scan.probe * np.float32(0.013), mask=mask, probe_known=False)
    rescaled, factor = statistics.rescale_probe(guess)
    assert not rescaled.probe_known
    assert vacuum_pattern(rescaled.probe)[mask].sum() == pytest.approx(guess.mean_counts, rel=1e-6)  # complex64
    np.testing.assert_allclose(rescaled.probe, guess.probe * factor, rtol=1e-6)
    assert statistics.rescale_probe(rescaled)[1] == pytest.approx(1, rel=1e-6)


def test_rescaling_follows_the_dose() -> None:
    """Counts times k give a probe times sqrt(k)."""
    scan = scan_of(probe_known=False)
    brighter = scan_of(counts=scan.counts * 9, probe_known=False)
    assert statistics.rescale_probe(brighter)[1] == pytest.approx(3 * statistics.rescale_probe(scan)[1], rel=1e-6)


def test_a_known_probe_is_not_touched() -> None:
    scan = scan_of(photons=7)  # the counts are Poisson, so they disagree a little
    same, factor = statistics.rescale_probe(scan)
    assert same is scan and factor == 1


def test_a_probe_without_light_on_used_pixels_cannot_be_rescaled() -> None:
    N = 8
    mask = np.zeros((N, N), bool)
    mask[1, 1] = True
    spot = Scan(
        counts=np.ones((2, N, N)),
        positions=np.eye(2),
        probe=np.zeros((N, N)) + np.cos(np.pi * np.arange(N)),  # all its light at (N // 2, 0)
        mask=mask,
        probe_known=False,
    )
    with pytest.raises(ValueError, match=r"Scan\.probe sends no photons .* mask is True where"):
        statistics.rescale_probe(spot)


def test_mean_pattern_is_the_mean_in_every_dtype() -> None:
    counts = np.full((2000, 16, 16), 250, np.uint8)
    np.testing.assert_array_equal(mean_pattern(counts), np.full((16, 16), 250.0))


def test_a_guess_in_the_near_field_is_brought_to_the_counts_that_are_used() -> None:
    """The probe lights the middle, where the mask is: in the far field most of its light would fall elsewhere."""
    mask = disc_probe(32, 8)[0] != 0
    near = NearField(distance_px=1.0, wavelength_px=0.1)
    scan = scan_of(near_field=near, mask=mask, probe=3e-4 * disc_probe(32, 8), probe_known=False)
    rescaled, _ = statistics.rescale_probe(scan)
    assert vacuum_pattern(rescaled.probe, scan.transfer)[mask].sum() == pytest.approx(scan.mean_counts, rel=1e-5)
    assert rescaled.photons < 1.2 * scan.mean_counts
