"""Damaged tables of HDF5 files end a child process, and nothing else."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho import hdf5_guard
from ptycho.hdf5_guard import require_bounded_tables
from ptycho.io import BadFile


def small_file(path: Path, text: str = "counts") -> Path:
    with h5py.File(path, "w") as file:
        file["group/counts"] = np.arange(6)
        file["group/unit"] = text
        file["group"].attrs["unit"] = text
        file["group/again"] = h5py.SoftLink("/")
        file["group/also"] = file["group"]
    return path


def endless(path: Path) -> Path:
    """The heap of texts ends in free space of no size: HDF5 1.14 reads it for ever."""
    content = bytearray(small_file(path).read_bytes())
    at = content.index(b"GCOL") + 16
    while any(content[at : at + 2]):
        at += 16 + -(-int.from_bytes(content[at + 8 : at + 16], "little") // 8) * 8
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)
    return path


def test_a_sound_file_with_circles_passes_and_is_not_walked_through_twice(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a.h5")
    require_bounded_tables(path)
    hits = hdf5_guard._problem.cache_info().hits
    require_bounded_tables(path)
    assert hdf5_guard._problem.cache_info().hits == hits + 1


def test_what_has_no_end_is_refused_and_the_next_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_guard, "SECONDS", 1)
    with pytest.raises(BadFile, match=r"a\.h5 has damaged tables: HDF5 needs more than 1 s"):
        require_bounded_tables(endless(tmp_path / "a.h5"))
    require_bounded_tables(small_file(tmp_path / "b.h5"))


def test_a_file_is_looked_at_again_after_it_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_guard, "SECONDS", 1)
    path = small_file(tmp_path / "a.h5")
    require_bounded_tables(path)
    endless(path)
    os.utime(path, (1, 1))
    with pytest.raises(BadFile):
        require_bounded_tables(path)


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less than its cache of tables takes HDF5 opens no file."""
    path = small_file(tmp_path / "a.h5")
    monkeypatch.setattr(hdf5_guard, "BYTES", 10_000 - path.stat().st_size)
    with pytest.raises(BadFile, match=r"a\.h5 has damaged tables: HDF5 needs more than 5 s or 0 MB"):
        require_bounded_tables(path)


def test_a_child_that_was_killed_is_started_again(tmp_path: Path) -> None:
    require_bounded_tables(small_file(tmp_path / "a.h5"))
    hdf5_guard._walker()._process.kill()
    require_bounded_tables(small_file(tmp_path / "b.h5"))
