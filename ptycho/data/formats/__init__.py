"""Scan files: `read_scan` and `write_scan`.

One module per format. Each has ``NAME``, ``SUFFIXES`` (what `write_scan` goes by), ``NEEDS`` (the keys that
make a file one of its kind, for error messages), ``recognises(path) -> bool`` (by content) and ``read(path)
-> Scan``; one that can be written also has ``write(scan, path)``. A new format is a new module, and its name
in `FORMATS`.

A reader converts into the conventions of `ptycho.data.scan.Scan`, and says what it had to assume or leave out
in `Scan.notes`. No reader unpickles anything.
"""

import os
from pathlib import Path
from typing import Any

from ptycho.data.formats import hdf5, npz, ptychopinn, tike
from ptycho.data.formats._container import forget_unpacked, hdf5_keys, npz_keys
from ptycho.data.scan import Scan

FORMATS: tuple[Any, ...] = (hdf5, npz, ptychopinn, tike)


def read_scan(path: str | Path, format: str | None = None) -> Scan:
    """Read a scan; the format is found by the content of the file, or named.

    Raises FileNotFoundError if there is no file, ValueError if no format recognises it or its content is bad.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        module = _recognising(path) if format is None else _named(format)
        return module.read(path)
    finally:
        forget_unpacked()


def write_scan(scan: Scan, path: str | Path, format: str | None = None) -> Path:
    """Write a scan and return its path; the format is named, or the first whose suffix the path has.

    The file is written beside its place and then moved there, so a failure leaves no half a file. Raises
    ValueError for an unknown format or suffix, FileNotFoundError if the folder does not exist.
    """
    path = Path(path)
    module = _by_suffix(path) if format is None else _named(format)
    if not hasattr(module, "write"):
        raise ValueError(f"format {format!r} can be read only; formats to write are {', '.join(_writable())}")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        module.write(scan, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _recognising(path: Path) -> Any:
    for module in FORMATS:
        if module.recognises(path):
            return module
    raise ValueError(_unrecognised(path))


def _named(name: str) -> Any:
    for module in FORMATS:
        if name == module.NAME:
            return module
    raise ValueError(f"there is no format {name!r}; formats are {', '.join(m.NAME for m in FORMATS)}")


def _writable() -> list[str]:
    return [module.NAME for module in FORMATS if hasattr(module, "write")]


def _by_suffix(path: Path) -> Any:
    for module in FORMATS:
        if hasattr(module, "write") and path.suffix.lower() in module.SUFFIXES:
            return module
    known = "; ".join(f"{m.NAME}: {', '.join(m.SUFFIXES)}" for m in FORMATS if hasattr(m, "write"))
    raise ValueError(f"no format is written to files named like {path.name!r}; give one of {known}, or a format")


def _unrecognised(path: Path) -> str:
    keys = hdf5_keys(path) or npz_keys(path)
    found = f"it has the keys {', '.join(keys[:40])}" if keys else "it is neither HDF5 nor NPZ with any array"
    known = "; ".join(f"{module.NAME} ({module.NEEDS})" for module in FORMATS)
    return f"no format recognises {path}: {found}. Known formats and the keys they need: {known}"
