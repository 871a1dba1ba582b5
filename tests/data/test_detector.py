"""Cropping, binning and masking: views that hold what numpy gives, and that the physics predicts in the new pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho.config import NearField
from ptycho.data.detector import bin_contrast, bin_offset_px, binned_probe, coarser
from ptycho.data.frames import StoredFrames
from ptycho.data.scan import Scan
from ptycho.formats import convert, read_scan, write_scan
from ptycho.formats._container import ReadOptions
from tests.formats.scans import CHUNK_PIXELS, misfit, scan_of

FILE = ReadOptions(in_memory_bytes=0)


def both(scan: Scan, folder: Path) -> list[Scan]:
    """The scan in memory, and in its file."""
    stored = read_scan(write_scan(scan, folder / "scan.h5"), options=FILE)
    assert isinstance(stored.counts, StoredFrames)
    return [scan, stored]


def random_scan(N: int, P: int) -> Scan:
    """Counts that fall off from the zero frequency; the probe has no symmetry."""
    rng = np.random.default_rng(0)
    probe = rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))
    y, x = np.indices((N, N)) - N // 2
    counts = rng.poisson(np.broadcast_to(20 * np.exp(-(y**2 + x**2) / (0.1 * N**2)), (P, N, N)))
    return Scan(counts=counts.astype("uint16"), positions=rng.uniform(0, 99, (P, 2)), probe=probe)


@pytest.mark.parametrize("N, side", [(16, 12), (16, 9), (15, 10), (15, 7), (16, 16)])
def test_cropping_keeps_the_middle_of_the_detector(N: int, side: int, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((N, N)) > 0.1
    for scan in both(scan_of(N, mask=mask, pixel_size_m=1e-8), tmp_path):
        part, first = scan.cropped(side), N // 2 - side // 2
        inner = slice(first, first + side)
        np.testing.assert_array_equal(part.counts[3:5], scan.counts[3:5][:, inner, inner])
        np.testing.assert_array_equal(part.mask, mask[inner, inner])
        assert part.counts.dtype == np.uint16 and side == part.N
        assert part.pixel_size_m == pytest.approx(1e-8 * N / side)
        np.testing.assert_allclose(part.positions, scan.positions * side / N)


@pytest.mark.parametrize("N, k", [(16, 2), (16, 4), (16, 3), (15, 3), (15, 2), (14, 2)])
def test_binning_adds_pixels_up_around_the_zero_frequency(N: int, k: int, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((N, N)) > 0.1
    n = N // k
    first = N // 2 - n * k // 2
    for scan in both(scan_of(N, mask=mask, pixel_size_m=1e-8), tmp_path):
        part, counts = scan.binned(k), np.asarray(scan.counts)
        assert isinstance(part.counts, StoredFrames) and part.counts.shape == (15, n, n)
        for y, x in np.ndindex(n, n):
            rows, columns = (slice(first + j * k, first + j * k + k) for j in (y, x))
            np.testing.assert_array_equal(part.counts[:, y, x], counts[:, rows, columns].sum(axis=(1, 2)))
            assert part.mask[y, x] == mask[rows, columns].all()
        scale = n * k / N
        assert part.pixel_size_m == pytest.approx(1e-8 / scale)
        np.testing.assert_allclose(part.positions, scan.positions * scale, rtol=1e-14)


def test_sums_keep_the_dtype_while_it_holds_them(tmp_path: Path) -> None:
    """Judged by the largest count, in memory as in a file."""
    for dtype, largest, wanted in (
        ("uint8", 63, "uint8"),
        ("uint8", 64, "uint16"),
        ("uint16", 16384, "uint32"),
        ("int16", 8191, "int16"),
        ("int16", 8192, "int32"),
        ("float32", 1e6, "float32"),
    ):
        counts = np.zeros((15, 16, 16), dtype)
        counts[7, 8:10, 8:10] = largest
        for scan in both(scan_of(counts=counts), tmp_path):
            part = scan.binned(2)
            assert part.counts.dtype == wanted
            assert part.counts[7, 4, 4] == 4 * largest  # beyond the narrower dtype where it is wider


def test_views_read_no_more_than_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one looks whether there is any light, a chunk at most; sums of integers have asked for the largest."""
    whole = random_scan(32, 600)
    _, stored = both(whole, tmp_path)
    stored.binned(2)
    rows: list[int] = []
    read = type(stored.counts._source).read
    monkeypatch.setattr(type(stored.counts._source), "read", lambda s, r: (rows.append(len(r)), read(s, r))[1])
    part = stored.cropped(24).subset(np.arange(600) % 2 == 1)
    assert sum(rows) <= 3 * CHUNK_PIXELS // 24**2 and isinstance(part.counts, StoredFrames)
    rows.clear()
    part = stored.binned(2).subset(slice(10, 500))
    assert sum(rows) <= 2 * CHUNK_PIXELS // 16**2
    rows.clear()
    found = part.counts[3:5]
    assert rows == [2]
    np.testing.assert_array_equal(found, whole.binned(2).counts[13:15])


def test_views_of_memory_copy_nothing() -> None:
    scan = random_scan(64, 200)
    for part in (scan.cropped(32), scan.subset(slice(3, 9))):
        assert np.shares_memory(part.counts, scan.counts)
    for part in (scan.binned(2), scan.subset([5, 3]), scan.subset(np.arange(200) % 2 == 0).cropped(32)):
        assert isinstance(part.counts, StoredFrames) and part.counts._source.frames is scan.counts


def test_what_cannot_be_cropped_or_binned_is_said() -> None:
    scan = scan_of()
    for bad, message in (
        (lambda: scan.cropped(17), "cannot be cropped to 17; expected 2 to 16"),
        (lambda: scan.cropped(1), "expected 2 to 16"),
        (lambda: scan.binned(9), "9 x 9 of 16 x 16 pixels cannot be one; expected 1 to 8"),
        (lambda: scan.binned(0), "expected 1 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()
    near = replace(scan, near_field=NearField(distance_px=3.0, wavelength_px=0.1))
    assert near.cropped(16).binned(1) is near
    for view in (lambda: near.cropped(8), lambda: near.binned(2)):
        with pytest.raises(ValueError, match="for the far field only"):
            view()


# ------------------------------------------------------------------------------------------------ the physics


def far_field(waves: np.ndarray, frequencies: np.ndarray, N: int) -> np.ndarray:
    """``|F|^2`` of (n, n), its middle at ``n // 2``, at any frequencies of a window of N pixels, term by term."""
    n = len(waves)
    wave = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(n) - n // 2) / N)
    return np.abs(wave @ waves @ wave.T / N) ** 2


@pytest.mark.parametrize("N, side", [(16, 12), (16, 9), (15, 10), (15, 8)])
def test_a_cropped_probe_sends_the_same_light_to_the_pixels_that_are_left(N: int, side: int) -> None:
    """Without a sample, for a probe without any symmetry."""
    rng = np.random.default_rng(0)
    probe = rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N))
    part = scan_of(N, probe=probe).cropped(side)
    for mode, wanted in zip(part.probe, probe, strict=True):
        pixels = np.arange(side) - side // 2
        np.testing.assert_allclose(far_field(mode, pixels, side), far_field(wanted, pixels, N), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("N, k", [(32, 2), (30, 2), (33, 3), (30, 3), (36, 4)])
def test_a_binned_probe_is_seen_in_the_middle_of_each_bin(N: int, k: int) -> None:
    """``k^2`` times the pattern of the fine probe at the bins' middles, also where these are no pixels."""
    rng, n = np.random.default_rng(0), N // k
    first = N // 2 - n // 2
    probe = np.zeros((1, N, N), np.complex64)
    probe[0, first : first + n, first : first + n] = rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n))
    middles = k * (np.arange(n) - n // 2) + bin_offset_px(N, k)
    found = far_field(binned_probe(probe, k)[0], np.arange(n) - n // 2, n)
    np.testing.assert_allclose(found, k**2 * far_field(probe[0], middles, N), rtol=1e-5, atol=1e-5)


def measured(photons: float) -> Scan:
    """40 frames of 64 pixels at fractions of a pixel, of an object and probe whose patterns lie within 32 pixels."""
    from ptycho.config import SimulationConfig
    from ptycho.simulation.simulate import simulate

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :180] / 8.0
    sample = np.exp(-0.2 * np.sin(y) ** 2 + 1j * np.sin(x + 0.1 * y**1.5))
    y, x = np.indices((64, 64)) - 32
    probe = np.exp(-(y**2 + x**2) / (2 * 2.5**2) + 0.02j * (y**2 + x**2) + 0.05j * x)
    probe *= np.sqrt(photons / (np.abs(probe) ** 2).sum())
    return simulate(SimulationConfig(N=64), object=sample, probe=probe, positions=rng.uniform(40, 130, (40, 2)))


def predicted(scan: Scan, probe: Any = None, positions: Any = None) -> float:
    """How far the counts are from those that the true object gives, in standard deviations of shot noise."""
    from ptycho.simulation.simulate import expected_batches

    probe, positions = (scan.probe if probe is None else probe), (scan.positions if positions is None else positions)
    model = np.concatenate(list(expected_batches(scan.object, probe, positions)))
    return misfit(np.asarray(scan.counts, float), model.astype(float))


@pytest.mark.parametrize("side", [48, 45, 32])
def test_the_physics_predicts_cropped_counts_in_the_larger_pixels(side: int) -> None:
    """The true object, its positions and the probe in the new pixels, at 1e6 photons."""
    scan = measured(1e6)
    part = scan.cropped(side)
    assert abs(predicted(scan)) < 5 and abs(predicted(part)) < 5
    assert predicted(part, positions=scan.positions) > 1000 and predicted(part, positions=part.positions + 0.1) > 10


@pytest.mark.parametrize("k", [2, 3])
def test_the_physics_predicts_binned_counts(k: int) -> None:
    """As the sum that they are, of ``k^2`` modes that differ by a ramp of phase; as one mode where photons are few."""
    scan = measured(1e6)
    part, N = scan.binned(k), 64 // k * k
    x = np.arange(part.N) - part.N // 2
    ramps = np.exp(-2j * np.pi * (np.arange(k) - (k - 1) / 2)[:, None] * x / N) / np.sqrt(k)
    modes = part.probe[0] * ramps[:, None, :, None] * ramps[None, :, None, :]
    assert abs(predicted(part, probe=modes.reshape(-1, part.N, part.N))) < 5
    assert predicted(part) > 50  # what the note says of the contrast, seen at so many photons
    few = measured(1e3 if k == 2 else 200)
    assert abs(predicted(few.binned(k))) < 5


def test_the_contrast_that_bins_leave() -> None:
    """Of two points of the probe that are a distance apart, by the sum over the fine pixels of each bin."""
    distance = 9
    pair = np.zeros((64, 64))
    pair[32, 32], pair[32 + distance, 32] = 1, 1
    fringes = np.fft.fftshift(np.abs(np.fft.fft2(pair)) ** 2).reshape(16, 4, 16, 4).sum(axis=(1, 3))
    # Sampled at 16 places of 64 / 9 periods the extremes are missed; the first Fourier coefficient is not.
    phase = np.exp(2j * np.pi * distance * 4 * np.arange(16) / 64)
    found = 2 * abs((fringes[:, 0] * phase).sum()) / fringes[:, 0].sum()
    assert found == pytest.approx(bin_contrast(64, 4, distance), rel=1e-6)


@pytest.mark.parametrize("shape", [(32, 48), (35, 41)])
def test_a_coarser_object_is_the_same_function_of_the_place(shape: tuple[int, int]) -> None:
    """Pixel j of the new ones lies at j N / n of the old. What the mirrored edge bends decays within a few pixels."""
    y, x = np.indices(shape)
    wave = lambda y, x: np.exp(1j * (0.05 * y + 0.08 * x))
    found = coarser(wave(y, x), 16, 12)
    assert found.shape == tuple(-(-side * 12 // 16) for side in shape)
    y, x = np.indices(found.shape) * 16 / 12
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(found[inner], wave(y, x)[inner], atol=3e-3)


def test_convert_crops_and_bins(tmp_path: Path) -> None:
    scan = random_scan(32, 20)
    write_scan(scan, tmp_path / "scan.h5")
    said = convert(tmp_path / "scan.h5", tmp_path / "small.cxi", crop=24, bin=2)
    assert any("from 32 to 24 pixels" in sentence for sentence in said)
    again = read_scan(tmp_path / "small.cxi")
    wanted = scan.cropped(24).binned(2)
    np.testing.assert_array_equal(again.counts, wanted.counts)
    np.testing.assert_allclose(again.positions, wanted.positions, atol=1e-9)
    np.testing.assert_allclose(again.probe, wanted.probe, rtol=1e-6)


def test_a_view_goes_to_another_process_with_what_it_shows_only(tmp_path: Path) -> None:
    import pickle

    for scan in both(random_scan(32, 300), tmp_path):
        part = scan.binned(2).subset([7, 3, 200]).counts
        sent = pickle.dumps(part)
        assert len(sent) < 20_000  # 300 frames are 600 kB
        np.testing.assert_array_equal(pickle.loads(sent)[:], part)
