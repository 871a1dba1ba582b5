"""Frames that stay in their file: the same scan, unread."""

import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho.config import ModelConfig, TrainingConfig
from ptycho.data import doctor
from ptycho.data.checks import examine
from ptycho.data.formats import read_scan, write_scan
from ptycho.data.formats._container import ReadOptions
from ptycho.data.scan import Scan
from ptycho.data.stored import StoredFrames
from ptycho.files import BadFile
from ptycho.network.build import build_model
from ptycho.reconstruction import reconstruct
from ptycho.reconstruction.refine.fit import RefineConfig, refine
from ptycho.training import train

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
    monkeypatch.setattr(type(stored.counts._file), "read", lambda *_: pytest.fail("the file was read"))
    part = stored.subset(np.arange(144) % 2 == 1).subset(slice(None, None, 3)).with_probe(2 * stored.probe)
    np.testing.assert_array_equal(part.frame_counts, small_scan.frame_counts[1::2][::3])
    assert isinstance(part.counts, StoredFrames)
    monkeypatch.undo()
    np.testing.assert_array_equal(part.counts[:], small_scan.counts[1::2][::3])


def test_a_scan_goes_to_another_process_without_its_frames(stored: Scan, small_scan: Scan) -> None:
    sent = pickle.dumps(stored.counts.picked(slice(3, 9)))
    assert len(sent) < small_scan.counts[0].nbytes * 6
    np.testing.assert_array_equal(pickle.loads(sent)[:], small_scan.counts[3:9])


def test_zero_frequency_is_moved_as_frames_are_read(small_scan: Scan, tmp_path: Path) -> None:
    from ptycho.data.formats import cxi

    corner = replace(small_scan, counts=np.fft.ifftshift(small_scan.counts, axes=(1, 2)), object=None)
    cxi.write(corner, tmp_path / "scan.cxi")
    found, wanted = (read_scan(tmp_path / "scan.cxi", options=options) for options in (SMALL, ReadOptions()))
    assert isinstance(found.counts, StoredFrames) and not isinstance(wanted.counts, StoredFrames)
    np.testing.assert_array_equal(found.counts[4:8], small_scan.counts[4:8])
    np.testing.assert_array_equal(found.frame_counts, wanted.frame_counts)
    assert found.notes == wanted.notes


def test_bad_values_in_a_file_are_found(small_scan: Scan, tmp_path: Path) -> None:
    write_scan(replace(small_scan, counts=small_scan.counts.astype("float32")), tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        file["counts"][100, 3, 4] = np.nan
    with pytest.raises(BadFile, match=r"nan in frame 100 at pixel \(3, 4\)"):
        read_scan(tmp_path / "scan.h5", options=SMALL)


def test_checks_information_and_copies_are_the_same(stored: Scan, small_scan: Scan, path: Path, tmp_path: Path) -> None:
    whole = read_scan(path)
    assert examine(stored) == examine(whole)
    assert doctor.describe(stored) == doctor.describe(whole)
    write_scan(stored, tmp_path / "again.h5")
    np.testing.assert_array_equal(read_scan(tmp_path / "again.h5").counts, small_scan.counts)


def test_training_reconstruction_and_refinement_are_the_same(stored: Scan, path: Path) -> None:
    images, losses = [], []
    for scan in (stored, read_scan(path)):
        model = build_model(ModelConfig(N=24, gridsize=3, stages=2, width=4), scan.probe)
        losses.append([entry["loss"] for entry in train(model, scan, TrainingConfig(epochs=2))])
        network = reconstruct(model, scan)
        images.append((network.object, refine(scan, RefineConfig(epochs=6), start=network).result.object))
    assert losses[0] == losses[1]
    for one, other in zip(*images, strict=True):
        np.testing.assert_array_equal(one, other)
