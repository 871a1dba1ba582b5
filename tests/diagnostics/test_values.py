"""What is no count is masked, clipped or named, and sound frames come back as they are."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho.data.frames import StoredFrames
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import centre_offset, examine
from ptycho.diagnostics.repair import prepared, repaired
from ptycho.diagnostics.statistics import guessed_probe, zero_frequency
from ptycho.diagnostics.values import detector_gain, pedestal, sound
from tests.diagnostics.scans import scan_of

CORNER = np.zeros((32, 32), bool)
CORNER[1:3], CORNER[:, 30] = True, True


def counts_of(dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    return np.asarray(scan_of(seed=seed).counts).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64"])
def test_sound_counts_come_back_as_they_are(dtype: str) -> None:
    counts = np.minimum(counts_of(), 200).astype(dtype)
    result = sound(counts)
    assert result.counts is counts and result.mask.all() and result.notes == ()


@pytest.mark.parametrize(
    "dtype, value",
    [
        ("uint32", 2**32 - 1),
        ("uint16", 65535),
        ("uint32", 65535),
        ("int32", 2**31 - 1),
        ("float32", 2.0**32),
        ("int32", -1),
        ("int16", -2),
        ("float32", -1),
        ("float32", np.nan),
        ("float64", np.inf),
    ],
)
def test_marks_of_bad_pixels_become_mask(dtype: str, value: float) -> None:
    counts = counts_of(dtype)
    counts[:, CORNER] = value
    result = sound(counts)
    np.testing.assert_array_equal(result.mask, ~CORNER)
    np.testing.assert_array_equal(result.counts[:, ~CORNER], counts_of(dtype)[:, ~CORNER])
    assert not np.asarray(result.counts)[:, CORNER].any()
    assert len(result.notes) == 1 and f"{CORNER.sum()} pixels" in result.notes[0] and "masked" in result.notes[0]


@pytest.mark.parametrize("value", [-1, 2**31 - 1, -(2**20)])
def test_under_the_mask_of_the_file_anything_may_stand(value: int) -> None:
    counts = counts_of("int32")
    counts[:, CORNER] = value
    result = sound(counts, ~CORNER)
    np.testing.assert_array_equal(result.mask, ~CORNER)
    assert not result.counts[:, CORNER].any() and result.notes == ()


def test_a_mark_in_some_frames_masks_its_pixel() -> None:
    counts = counts_of("uint32")
    counts[[3, 17], 5, 6] = 2**32 - 1
    assert np.argwhere(~sound(counts).mask).tolist() == [[5, 6]]


def test_a_saturated_detector_is_not_taken_for_marks() -> None:
    counts = np.minimum(counts_of("int64") * 6, 255).astype(np.uint8)
    often = (counts == 255).mean(axis=0)
    assert (often > 0.5).any() and sound(counts).mask[often < 1].all()


def test_read_noise_below_zero_is_clipped_and_said() -> None:
    rng = np.random.default_rng(0)
    raw = np.rint(counts_of("float32") * 12 + rng.normal(0, 5, (40, 32, 32)))
    for dtype in ("float32", "int16"):
        result = sound(raw.astype(dtype))
        np.testing.assert_array_equal(result.counts, np.maximum(raw, 0))
        assert result.mask.all() and "below 0 (down to -" in result.notes[0] and "read noise" in result.notes[0]


def test_counts_that_wrapped_round_become_zero() -> None:
    rng = np.random.default_rng(0)
    raw = np.rint(counts_of("float32") * 12 + rng.normal(0, 5, (40, 32, 32))).astype(np.int64)
    result = sound(raw.astype(np.uint16))
    np.testing.assert_array_equal(result.counts, np.maximum(raw, 0))
    assert "wrapped round in uint16" in result.notes[0]


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
def test_bright_counts_that_wrapped_below_zero_are_turned_up_again(dtype: str) -> None:
    rng = np.random.default_rng(0)
    counts = counts_of("float64")
    raw = np.rint(counts * (50000 / counts.max()) + rng.normal(0, 5, (40, 32, 32)))
    assert (raw > 32767).any() and (raw < 0).any()
    result = sound(raw.astype(np.int64).astype(np.int16).astype(dtype))
    np.testing.assert_array_equal(result.counts, np.maximum(raw, 0))
    assert result.mask.all() and "65536 was added" in result.notes[0] and "read noise" in result.notes[1]


def test_strong_read_noise_is_not_taken_for_counts_that_wrapped() -> None:
    raw = np.rint(np.random.default_rng(0).normal(0, 30, (40, 32, 32))).clip(-127, 127)
    assert raw.min() < -64 and raw.max() > 64
    np.testing.assert_array_equal(sound(raw).counts, np.maximum(raw, 0))


def test_pixels_that_may_have_wrapped_twice_are_masked() -> None:
    counts = counts_of("float64")
    raw = np.rint(counts * (90000 / counts.max())).astype(np.int64)
    result = sound(raw.astype(np.int16))
    lost = (raw > 0.9 * 65536).any(axis=0)
    assert lost.any() and not result.mask[lost].any() and "twice" in result.notes[0]
    kept = (raw < 32768).all(axis=0)
    assert result.mask[kept].all()
    np.testing.assert_array_equal(result.counts[:, kept], raw[:, kept])


def test_wrapped_counts_beside_bright_ones_are_refused() -> None:
    rng = np.random.default_rng(0)
    raw = np.rint(rng.normal(0, 5, (40, 32, 32))).astype(np.int64)
    raw[:, 10:22, 10:22] = rng.integers(1000, 60000, (40, 12, 12))
    with pytest.raises(ValueError, match=r"wrapped round.* in a signed dtype"):
        sound(raw.astype(np.uint16))


def test_a_beam_that_is_off_in_some_frames_has_not_wrapped() -> None:
    counts = np.random.default_rng(0).poisson(60000, (40, 32, 32)).clip(max=65535).astype(np.uint16)
    counts[::3] = 0
    np.testing.assert_array_equal(sound(counts).counts, counts)


def test_a_frame_of_nan_is_empty_and_scattered_nan_is_refused() -> None:
    counts = counts_of("float32")
    counts[7] = np.nan
    result = sound(counts)
    assert result.mask.all() and not result.counts[7].any() and result.counts[6].any()
    counts = counts_of("float32")
    counts[np.random.default_rng(0).random(counts.shape) < 0.02] = np.nan
    with pytest.raises(ValueError, match="scattered"):
        sound(counts)


def test_frames_in_a_file_are_cleaned_as_they_are_read(tmp_path: Path) -> None:
    for dtype, value in (("uint32", 2**32 - 1), ("int32", -1), ("float32", np.nan)):
        counts = counts_of(dtype)
        counts[:, CORNER] = value
        with h5py.File(tmp_path / f"{dtype}.h5", "w") as file:
            file["counts"] = counts
        result = sound(StoredFrames.of_file(tmp_path / f"{dtype}.h5", "counts"))
        assert isinstance(result.counts, StoredFrames)
        np.testing.assert_array_equal(result.mask, ~CORNER)
        scan = Scan(counts=result.counts, mask=result.mask, positions=np.eye(40, 2), probe=np.ones((32, 32)))
        np.testing.assert_array_equal(scan.counts, np.where(CORNER, 0, counts_of(dtype)))


@pytest.mark.parametrize("where", [(0, 0), (2, 3), (31, 31), (0, 17)])
def test_one_hot_pixel_decides_nothing(where: tuple[int, int]) -> None:
    healthy = scan_of(N=32)
    counts = healthy.counts.astype(np.uint32)
    counts[:, *where] = 10**8
    hot = replace(healthy, counts=counts)
    assert zero_frequency(counts) == "centre"
    assert zero_frequency(np.fft.ifftshift(counts, axes=(1, 2))) == "corner"
    np.testing.assert_allclose(
        centre_offset(hot.mean_pattern, hot.mask), centre_offset(healthy.mean_pattern, healthy.mask), atol=0.1
    )
    guess, sound_guess = (guessed_probe(scan.counts) for scan in (hot, healthy))
    assert np.linalg.norm(guess - sound_guess) < 0.02 * np.linalg.norm(sound_guess)
    bad = {check.name for check in examine(hot, orientation=False) if check.verdict != "pass"}
    assert bad - {check.name for check in examine(healthy, orientation=False) if check.verdict != "pass"} <= {
        "hot pixels",
        "saturation",
    }
    ready = prepared(hot)
    assert np.argwhere(~ready.mask).tolist() == [list(where)] and "1 dead or hot pixel" in ready.notes[-1]
    np.testing.assert_array_equal(ready.counts[:, ready.mask], healthy.counts[:, ready.mask])


def test_a_pedestal_is_told_from_a_background_and_subtracted() -> None:
    rng = np.random.default_rng(0)
    healthy = scan_of(photons=300.0)
    assert pedestal(healthy) is None
    assert pedestal(replace(healthy, counts=healthy.counts + rng.poisson(500, healthy.counts.shape))) is None
    raised = replace(healthy, counts=healthy.counts * 12 + rng.normal(500, 0.5, healthy.counts.shape))
    level = pedestal(raised)
    assert level == pytest.approx(500, abs=6)
    check = next(check for check in examine(raised, orientation=False) if check.name == "values")
    assert check.verdict == "fail" and "--mend" in check.remedy
    for scan in (prepared(raised), repaired(raised)):
        assert any("pedestal" in note for note in scan.notes)
        assert scan.mean_counts == pytest.approx(12 * healthy.mean_counts, rel=0.1)


def test_a_pedestal_of_counts_that_are_not_whole_is_not_rounded() -> None:
    healthy = scan_of(photons=300.0)
    raised = replace(healthy, counts=healthy.counts + 41.67)
    excess = prepared(raised).counts - healthy.counts
    # What the dimmest pixels count is taken with the pedestal; rounding alone would be 0.33.
    dimmest = np.quantile(healthy.mean_pattern, 0.02)
    np.testing.assert_allclose(excess[healthy.counts > dimmest + 1], -dimmest, atol=0.01)


@pytest.mark.parametrize("gain", [1.0, 1.96, 30.0])
def test_a_gain_is_told_by_the_scatter_of_frames_that_hardly_differ(gain) -> None:
    """Cells under the electron microscope: photons of one pattern, counted several times each."""
    rng = np.random.default_rng(0)
    strong = scan_of(P=120)
    photons = rng.poisson(strong.mean_pattern, strong.counts.shape)
    weak = replace(strong, counts=(gain * photons).astype("float32"), probe_known=False)
    found = detector_gain(weak)
    ready = prepared(weak)
    if gain == 1:
        assert found is None
        np.testing.assert_array_equal(ready.counts, weak.counts)
        return
    # Half of 12 bins of 85 pixels: a variance of 120 frames is off by sqrt(2 / 120), 1.8 % of the mean of 510.
    assert found == pytest.approx(gain, rel=0.03)
    assert "divided by that gain" in ready.notes[-1] and "--gain 1" in ready.notes[-1]
    np.testing.assert_allclose(ready.counts, photons * np.float32(gain / found), rtol=1e-5)
    check = next(check for check in examine(ready, orientation=False) if check.name == "values")
    assert check.verdict == "pass" and "gain" in check.finding
    for left in (prepared(weak, gain_told=True), prepared(replace(weak, probe_known=True))):
        np.testing.assert_array_equal(left.counts, weak.counts)


@pytest.mark.parametrize("changes", [dict(), dict(photons=300.0), dict(P=63)])
def test_what_a_sample_does_to_the_scatter_is_no_gain(changes) -> None:
    strong = scan_of(**(dict(P=120) | changes))
    assert detector_gain(strong) is None
    if "P" in changes:  # and of so few frames nothing is said
        assert (
            detector_gain(replace(strong, counts=2 * np.random.default_rng(0).poisson(5, strong.counts.shape))) is None
        )


def test_a_run_leaves_empty_frames_out_also_where_most_are_empty() -> None:
    healthy = scan_of()
    counts = healthy.counts.copy()
    counts[np.arange(40) % 3 > 0] = 0
    ready = prepared(replace(healthy, counts=counts))
    np.testing.assert_array_equal(ready.counts, healthy.counts[::3])
    np.testing.assert_array_equal(ready.positions, healthy.positions[::3])
    assert ready.notes == ("Prepared: 26 empty frames were left out.",)
    assert prepared(healthy) is healthy
