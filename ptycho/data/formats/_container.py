"""Opening files without running anything in them: NPZ (also inside bz2), and the names inside HDF5."""

import bz2
import io
import zipfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


def npz_keys(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an NPZ file, also inside bz2; empty for any other file. Loads no array."""
    try:
        with zipfile.ZipFile(_opened(path)) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, EOFError):
        return ()


def _opened(path: Path) -> Any:
    """Something zipfile can read: the path, or what bz2 unpacks to (its first three bytes tell)."""
    with path.open("rb") as file:
        packed = file.read(3) == b"BZh"
    status = path.stat()
    return io.BytesIO(_unpacked(path, status.st_mtime_ns, status.st_size)) if packed else path


# Each format that might recognise a file asks for its keys, and unpacking bz2 is the slowest part of reading.
@lru_cache(maxsize=1)
def _unpacked(path: Path, modified_ns: int, size: int) -> bytes:
    try:
        return bz2.decompress(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is a damaged bz2 file ({error}); copy or download it again") from error


def forget_unpacked() -> None:
    """Free what was kept of the last file inside bz2; `read_scan` does so when it is done."""
    _unpacked.cache_clear()


def load_npz(path: Path, names: Iterable[str]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """``(arrays, refused)``: those of ``names`` that the file has, and those that are pickles.

    A pickle can run any program when it is opened, so none is: it is named in ``refused`` instead.
    """
    arrays, refused = {}, []
    with np.load(_opened(path), allow_pickle=False) as archive:
        for name in (name for name in names if name in archive.files):
            try:
                arrays[name] = archive[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                refused.append(name)
    return arrays, tuple(refused)


def hdf5_keys(path: Path) -> tuple[str, ...]:
    """Paths of the data sets in an HDF5 file; empty for any other file."""
    import h5py

    if not h5py.is_hdf5(path):
        return ()
    found: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return tuple(found)


def required(arrays: Mapping[str, Array], name: str, path: Path) -> Array:
    """An array that the format cannot do without, or ValueError that names it and what there is."""
    if name not in arrays:
        there = ", ".join(arrays) or "none of the keys of the format"
        raise ValueError(f"{path} has no {name!r} that can be read without unpickling; it has {there}")
    return arrays[name]
