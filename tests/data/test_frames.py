"""Frames that stay in their file: the same scan, unread."""

import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho.config import ModelConfig, TrainingConfig
from ptycho.data.frames import StoredFrames, Workers
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import examine
from ptycho.diagnostics.describe import describe
from ptycho.formats import read_scan, write_scan
from ptycho.formats._container import ReadOptions
from ptycho.io import BadFile
from ptycho.network.build import build_model
from ptycho.reconstruction import reconstruct
from ptycho.refinement.refine import RefineConfig, refine
from ptycho.training.train import train
from tests import test_fuzz
from tests.formats import test_cxi, test_other_formats, test_ptychodus, test_ptypy
from tests.formats.scans import assert_same, scan_of

SMALL = ReadOptions(in_memory_bytes=1000)


@pytest.fixture(scope="module")
def path(small_scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "scan.h5"
    write_scan(small_scan, path)
    return path


@pytest.fixture
def stored(path: Path) -> Scan:
    scan = read_scan(path, options=SMALL)
    assert isinstance(scan.counts, StoredFrames)
    return scan


@pytest.mark.parametrize(
    "index",
    [0, -1, np.int64(7), slice(None), slice(20, 3, -2), [5, 4, 4, 9], np.arange(144) % 3 == 0, np.array([], int)],
)
def test_indexing_reads_what_an_array_gives(stored: Scan, small_scan: Scan, index) -> None:
    found = stored.counts[index]
    np.testing.assert_array_equal(found, small_scan.counts[index])
    assert found.dtype == small_scan.counts.dtype


def test_runs_of_frames_are_read_in_any_order(stored: Scan, small_scan: Scan) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = rng.integers(0, 144, 40) if rng.random() < 0.5 else np.roll(np.arange(144), rng.integers(144))
        np.testing.assert_array_equal(stored.counts[rows], small_scan.counts[rows])


def test_it_looks_like_an_array(stored: Scan, small_scan: Scan) -> None:
    counts, wanted = stored.counts, small_scan.counts
    for name in ("shape", "dtype", "size", "nbytes", "ndim"):
        assert getattr(counts, name) == getattr(wanted, name)
    assert len(counts) == len(wanted)
    np.testing.assert_array_equal(np.asarray(counts), wanted)
    np.testing.assert_array_equal(np.stack(list(counts)), wanted)
    with pytest.raises(IndexError):
        counts[144]


def test_subsets_and_what_is_known_stay_unread(stored: Scan, small_scan: Scan, monkeypatch) -> None:
    np.testing.assert_array_equal(stored.frame_counts, small_scan.frame_counts)
    part = stored.subset(np.arange(144) % 2 == 1).subset(slice(None, None, 3)).with_probe(2 * stored.probe)
    monkeypatch.setattr(type(stored.counts._source), "read", lambda *_: pytest.fail("the file was read"))
    np.testing.assert_array_equal(part.frame_counts, small_scan.frame_counts[1::2][::3])
    assert isinstance(part.counts, StoredFrames)
    monkeypatch.undo()
    np.testing.assert_array_equal(part.counts[:], small_scan.counts[1::2][::3])


def test_a_scan_goes_to_another_process_without_its_frames(stored: Scan, small_scan: Scan) -> None:
    sent = pickle.dumps(stored.counts.picked(slice(3, 9)))
    assert len(sent) < small_scan.counts[0].nbytes * 6
    np.testing.assert_array_equal(pickle.loads(sent)[:], small_scan.counts[3:9])


def test_zero_frequency_is_moved_as_frames_are_read(small_scan: Scan, tmp_path: Path) -> None:
    from ptycho.formats import cxi

    corner = replace(small_scan, counts=np.fft.ifftshift(small_scan.counts, axes=(1, 2)), object=None)
    cxi.write_scan(corner, tmp_path / "scan.cxi")
    found, wanted = (read_scan(tmp_path / "scan.cxi", options=options) for options in (SMALL, ReadOptions()))
    assert isinstance(found.counts, StoredFrames) and not isinstance(wanted.counts, StoredFrames)
    np.testing.assert_array_equal(found.counts[4:8], small_scan.counts[4:8])
    np.testing.assert_array_equal(found.frame_counts, wanted.frame_counts)
    assert found.notes == wanted.notes


def test_bad_values_in_a_file_are_found(small_scan: Scan, tmp_path: Path) -> None:
    write_scan(replace(small_scan, counts=small_scan.counts.astype("float32")), tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        file["counts"][100, 3, 4] = np.nan
    again = read_scan(tmp_path / "scan.h5", options=SMALL)
    assert np.argwhere(~again.mask).tolist() == [[3, 4]] and "NaN" in again.notes[-1]
    np.testing.assert_array_equal(again.counts[100, again.mask], small_scan.counts[100, again.mask])


def test_checks_information_and_copies_are_the_same(stored: Scan, small_scan: Scan, path: Path, tmp_path: Path) -> None:
    whole = read_scan(path)
    assert examine(stored) == examine(whole)
    assert describe(stored) == describe(whole)
    write_scan(stored, tmp_path / "again.h5")
    np.testing.assert_array_equal(read_scan(tmp_path / "again.h5").counts, small_scan.counts)


def test_training_reconstruction_and_refinement_are_the_same(stored: Scan, path: Path) -> None:
    images, losses = [], []
    for scan in (stored, read_scan(path)):
        model = build_model(ModelConfig(N=24, gridsize=3, stages=1, width=4), scan.probe)
        losses.append([entry["loss"] for entry in train(model, scan, TrainingConfig(epochs=2))])
        network = reconstruct(model, scan)
        images.append((network.object, refine(scan, RefineConfig(epochs=6), start=network).result.object))
    assert losses[0] == losses[1]
    for one, other in zip(*images, strict=True):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------- every format of HDF5


def ptyd(folder: Path) -> Path:
    """Chunks of frames in turn, their dtypes different, weights that vary, the frames of one in another file."""
    scan = scan_of()
    weights = (np.random.default_rng(0).random((15, 16, 16)) > 0.02).astype(np.uint8)
    parts = [
        test_ptypy.chunk(scan, frames, data=scan.counts[frames].astype(dtype), weights=weights[frames])
        for frames, dtype in ((slice(1, None, 3), "uint8"), (slice(0, None, 3), "uint16"), (slice(2, None, 3), "uint8"))
    ]
    path = test_ptypy.ptyd_file(folder / "a.ptyd", test_ptypy.meta(scan), *parts)
    with h5py.File(path, "r+") as file, h5py.File(folder / "b.h5", "w") as other:
        other["frames"] = file["chunks/1/data"][()]
        del file["chunks/1/data"]
        file["chunks/1/data"] = h5py.ExternalLink("b.h5", "/frames")
    return path


def ptychodus(folder: Path) -> Path:
    """Positions in another order than the patterns, and fewer."""
    scan, points = scan_of(), np.array([9, 4, 7, *range(10, 15), 0, 1, 2, 3])
    path = test_ptychodus.pair(folder, scan, "hdf5")
    return test_ptychodus.write(path, test_ptychodus.product(scan.subset(points), points))


def ptylab(code: int) -> Callable[[Path], Path]:
    values = test_other_formats.ptylab_values(scan_of(), orientation=[code])
    return lambda folder: test_other_formats.hdf5(folder / "a.hdf5", values)


def hxn(folder: Path) -> Path:
    """Amplitudes with the zero frequency at the corner."""
    scan = scan_of()
    frames = np.sqrt(np.fft.ifftshift(scan.counts, axes=(1, 2)).astype("f4"))
    values = {"diffamp": frames, "points": scan.positions.T[::-1], "lambda_nm": 0.1, "z_m": 1.0, "ccd_pixel_um": 50.0}
    return test_other_formats.hdf5(folder / "a.h5", values)


STORED: dict[str, Callable[[Path], Path]] = {
    "hdf5": test_fuzz.VALID["hdf5 written"],
    "cxi": test_fuzz.VALID["cxi"],
    "nexus": lambda folder: test_cxi.nexus_file(folder / "a.nxs", scan_of()),
    "nexus, raster": lambda folder: test_cxi.nexus_file(folder / "a.nxs", scan_of(), raster=True),
    "ptyd": ptyd,
    "ptyd written": test_fuzz.VALID["ptyd written"],
    "ptychodus": ptychodus,
    "fold_slice": test_fuzz.fold_slice,
    "ptychoshelves": test_fuzz.prepared,
    **{f"ptylab, orientation {code}": ptylab(code) for code in range(8)},
    "hxn": hxn,
    "emd": lambda folder: test_fuzz.emd(folder),
}


@pytest.mark.parametrize("name", STORED)
def test_every_format_of_hdf5_leaves_large_frames_in_its_file(name: str, tmp_path: Path) -> None:
    """As far as the scan in memory, bit for bit; also of frames in any order, cropped or binned."""
    path, told = STORED[name](tmp_path), ReadOptions(pixel_size_m=9e-9)
    whole, left = (read_scan(path, options=replace(told, in_memory_bytes=size)) for size in (2**30, 0))
    assert isinstance(left.counts, StoredFrames) and isinstance(whole.counts, np.ndarray)
    assert_same(left, whole)
    assert path in left.counts.files or path.name.endswith("para.hdf5")  # whose frames are in the other
    assert all(file.parent == path.parent for file in left.counts.files)
    assert left.notes == whole.notes and left.counts.dtype == whole.counts.dtype
    np.testing.assert_array_equal(left.frame_counts, whole.frame_counts)
    order = np.random.default_rng(0).permutation(len(whole))
    sent = pickle.loads(pickle.dumps(left.counts.picked(order)))
    np.testing.assert_array_equal(sent[1:], whole.counts[order][1:])
    for view in (lambda scan: scan.cropped(8), lambda scan: scan.binned(2)):
        np.testing.assert_array_equal(view(left).counts, view(whole).counts)


def test_frames_that_are_damaged_are_named_when_they_are_read(small_scan: Scan, tmp_path: Path) -> None:
    """Opening looks at the first frames only."""
    path = write_scan(small_scan, tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        chunk = file["counts"].id.get_chunk_info(100)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"scan\.h5 has a damaged '/counts' .*copy the file again"):
        read_scan(path, options=SMALL).frame_counts  # noqa: B018


def test_results_are_prepared_ahead_in_order_by_the_same_threads():
    workers, threads, begun = Workers(2), set(), []

    def square(item: int) -> int:
        threads.add(threading.get_ident())
        begun.append(item)
        return item**2

    for _ in range(20):
        assert list(workers.ahead(square, range(10))) == [item**2 for item in range(10)]
    assert len(threads) <= 2
    begun.clear()
    assert next(workers.ahead(square, range(1000))) == 0
    # Of those that were asked for ahead some may have begun; the rest never does.
    assert len(begun) <= 3


def test_a_fit_calls_tensorflow_from_as_many_threads_as_it_has_workers(
    small_scan: Scan, monkeypatch: pytest.MonkeyPatch
):
    # TensorFlow keeps about 1 kB for every thread that ever called it.
    started = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), start(thread))[1])
    refine(small_scan, RefineConfig(epochs=6))
    assert 1 <= len(started) <= 6, [thread.name for thread in started]
    begun, deadline = list(started), time.monotonic() + 20
    while any(thread.is_alive() for thread in begun) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [thread.name for thread in begun if thread.is_alive()]
