"""MATLAB files: v7 and older by scipy, v7.3 (which is HDF5, axes reversed) by h5py; arrays as MATLAB sees them."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.formats._container import (
    COMPLEX,
    ReadOptions,
    checked,
    number_of,
    why,
)
from ptycho.formats._hdf5 import Hdf5, hdf5_has, is_hdf5
from ptycho.io import BadFile

Array = np.ndarray


def is_matlab(path: Path) -> bool:
    """Whether the file starts as those of MATLAB 5 or newer do, HDF5 included."""
    with path.open("rb") as file:
        return file.read(10) == b"MATLAB 5.0" or (file.seek(0) == 0 and file.read(10) == b"MATLAB 7.3")


def variables(path: Path) -> tuple[str, ...]:
    """Names of the variables of a MATLAB file; none for any other file, or a damaged one."""
    if not is_matlab(path):
        return ()
    if is_hdf5(path):
        with Hdf5(path) as file:
            return file.names("/")
    from scipy.io import whosmat

    try:
        return tuple(name for name, _, _ in whosmat(path))
    except Exception:  # loading says what is wrong
        return ()


def has(path: Path, *names: str) -> bool:
    """Whether a MATLAB file has all these variables."""
    return hdf5_has(path, *names) if is_matlab(path) and is_hdf5(path) else set(names) <= set(variables(path))


def load(path: Path, names: tuple[str, ...], options: ReadOptions) -> dict[str, Array]:
    """Those of the variables, and fields of structures as ``name.field``, that are numbers; axes as in MATLAB."""
    if is_hdf5(path):
        with Hdf5(path, options) as file:
            arrays = {name: file.get(name.replace(".", "/"), kinds=COMPLEX) for name in names}
        # HDF5 has the axes in reverse: transposing all of them restores MATLAB's.
        return {name: value.T for name, value in arrays.items() if value is not None}
    if not options.trusted:
        _require_no_bomb(path, options)
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=[name.split(".")[0] for name in names], struct_as_record=True)
    except Exception as error:  # a decoder of damaged bytes raises whatever it meets
        raise BadFile(f"{path} is a damaged MATLAB file ({why(error)}); copy it again") from error
    values = {name: _field(content, name.split(".")) for name in names}
    return {
        name: checked(path, name, np.asarray(value), None, COMPLEX)
        for name, value in values.items()
        if value is not None
    }


def _field(content: Any, names: list[str]) -> Any:
    """A variable, or the field of a 1 x 1 structure within; None if there is none."""
    for name in names:
        fields = content if isinstance(content, dict) else (content.dtype.names or ()) if content.size == 1 else ()
        if name not in fields:
            return None
        content = content[name] if isinstance(content, dict) else content.ravel()[0][name]
    return content


def _require_no_bomb(path: Path, options: ReadOptions) -> None:
    """Unpack the compressed elements of a MATLAB 5 file once without keeping them, and refuse what grows too much.

    A header of 128 bytes ends with the byte order; each element starts with its type, miCOMPRESSED = 15, and length.
    """
    compressed = 15
    left = options.allowed_bytes(path.stat().st_size)
    with path.open("rb") as file:
        number = np.dtype("<u4" if file.read(128)[126:] == b"IM" else ">u4")
        while len(tag := file.read(8)) == 8:
            kind, length = np.frombuffer(tag, number)
            if kind != compressed:
                file.seek(int(length), 1)
                continue
            unpacker, end = zlib.decompressobj(), file.tell() + int(length)
            while packed := unpacker.unconsumed_tail or file.read(min(2**16, end - file.tell())):
                try:
                    left -= len(unpacker.decompress(packed, 2**24))
                except zlib.error as error:
                    raise BadFile(f"{path} is a damaged MATLAB file ({error}); copy it again") from error
                if left < 0:
                    raise BadFile(f"{path} unpacks to too much and may be a bomb; convert it with --trusted if not")


def scalar(path: Path, values: dict[str, Array], name: str) -> float | None:
    """The first of a variable's numbers (pixels come as a pair of equal ones), or None."""
    return number_of(path, name, values[name].ravel()[:1]) if name in values else None
