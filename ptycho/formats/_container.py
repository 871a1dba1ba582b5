"""Opening NPZ files (also inside bz2) without running anything in them; what every reader shares.

Whatever is wrong with a file ends as a `BadFile`: one line with file, key and remedy.
"""

import bz2
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.io import BadFile

Array = np.ndarray
REAL, COMPLEX = "uif", "uifc"
"""Kinds of numpy dtypes that counts may have, and that waves may have."""
ALWAYS_ALLOWED_BYTES = 2**28
EXPANSION = 250
"""What unpacks to more than 256 MB and more than 250 times its file is taken for a bomb; sparse counts reach 100."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a reader may be told, or allowed."""

    pixel_size_m: float | None = None
    """Side of an object pixel, for files in metres that do not tell theirs; wins over the file's."""
    trusted: bool = False
    """Follow links out of the folder of the file, and unpack any size."""
    in_memory_bytes: int = 2**30
    """Frames that take more stay in the file, for the formats that can leave them there (HDF5)."""


DEFAULT = ReadOptions()


def npz_keys(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an NPZ file, also inside bz2; empty for any other file. Loads no array."""
    try:
        with zipfile.ZipFile(_opened(path)) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except BadFile:
        raise
    except Exception:  # the directory of a damaged archive can be anything: not an archive
        return ()


def npz_ndim(path: Path, key: str) -> int:
    """Number of axes of an array in an NPZ file, by its header; -1 if there is no such array, or a damaged one."""
    try:
        with zipfile.ZipFile(_opened(path)) as archive, archive.open(f"{key}.npy") as file:
            return len(_header(file)[0])
    except BadFile:
        raise
    except Exception:  # reading the array says what is wrong with it
        return -1


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in the NPY format."""
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = headers[version](file)  # version 3 has field names that no array here has
    return shape, dtype


def _opened(path: Path, trusted: bool = False) -> Any:
    """Something zipfile can read: the path, or what bz2 unpacks to (its first three bytes tell)."""
    with path.open("rb") as file:
        packed = file.read(3) == b"BZh"
    status = path.stat()
    return io.BytesIO(_unpacked(path, status.st_mtime_ns, status.st_size, trusted)) if packed else path


# Each format that might recognise a file asks for its keys, and unpacking bz2 is the slowest part of reading.
@lru_cache(maxsize=1)
def _unpacked(path: Path, modified_ns: int, size: int, trusted: bool) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    most = -1 if trusted else max(ALWAYS_ALLOWED_BYTES, EXPANSION * size)
    try:
        content = unpacker.decompress(path.read_bytes(), most)
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} is a damaged bz2 file ({error}); copy or download it again") from error
    if not unpacker.eof and most >= 0 and len(content) >= most:
        raise BadFile(f"{path} unpacks to more than {most / 1e6:.0f} MB; unpack it by hand if it may be trusted")
    if not unpacker.eof:
        raise BadFile(f"{path} is a damaged bz2 file (it ends early); copy or download it again")
    return content


def forget_unpacked() -> None:
    """Free what was kept of the last file inside bz2; `read_scan` does so when it is done."""
    _unpacked.cache_clear()


def load_npz(
    path: Path, names: Iterable[str], options: ReadOptions = DEFAULT
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """``(arrays, refused)``: those of ``names`` that the file has, and those that are pickles.

    A pickle can run any program when it is opened, so none is: it is named in ``refused`` instead.
    """
    arrays, refused = {}, []
    content = _opened(path, options.trusted)
    size = path.stat().st_size if content is path else len(content.getbuffer())
    try:
        archive = zipfile.ZipFile(content)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BadFile(f"{path} is no NPZ file, or a damaged one ({error}); copy it again") from error
    with archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for name in (name for name in names if name in members):
            array = _member(path, archive, name, members[name], size, options)
            if array is None:
                refused.append(name)
            else:
                arrays[name] = array
    return arrays, tuple(refused)


def _member(
    path: Path, archive: zipfile.ZipFile, key: str, member: str, size: int, options: ReadOptions
) -> Array | None:
    """One array; None for a pickle. Its size is allowed, and in the archive the same as in its header, or it stays."""
    declared = archive.getinfo(member).file_size
    require_allowed(path, key, declared, size, options)
    try:
        with archive.open(member) as file:
            shape, dtype = _header(file)
            if dtype.hasobject:
                return None
            wanted = bytes_of(shape, dtype)
            if wanted != declared - file.tell():
                raise ValueError(f"its header promises {wanted} bytes, there are {declared - file.tell()}")
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # the end: compares the checksum
        return array
    except BadFile:
        raise
    except Exception as error:  # a decoder of damaged bytes raises whatever it meets
        raise BadFile(f"{path} has a damaged {key!r} ({why(error)}); copy the file again") from error


def bytes_of(shape: tuple[int, ...], dtype: np.dtype) -> int:
    size = dtype.itemsize
    for length in shape:
        size *= int(length)
    return size


def require_allowed(path: Path, key: str, wanted: int, size: int, options: ReadOptions) -> None:
    if not options.trusted and wanted > max(ALWAYS_ALLOWED_BYTES, EXPANSION * size):
        raise BadFile(
            f"{path} has {key!r} of {wanted / 1e6:.0f} MB in {size / 1e6:.3g} MB of file, which may be a bomb; "
            "convert it with --trusted if it is not"
        )


def why(error: Exception) -> str:
    return str(error) or type(error).__name__


def required(
    arrays: Mapping[str, Array],
    name: str,
    path: Path,
    ndim: int | tuple[int, ...] | None = None,
    kinds: str = COMPLEX,
) -> Array:
    """An array that the format cannot do without, or BadFile that names it and what there is."""
    if name not in arrays:
        there = ", ".join(arrays) or "none of the keys of the format"
        raise BadFile(f"{path} has no {name!r} that can be read without unpickling; it has {there}")
    return checked(path, name, arrays[name], ndim, kinds)


def optional(
    arrays: Mapping[str, Array],
    name: str,
    path: Path,
    ndim: int | tuple[int, ...] | None = None,
    kinds: str = COMPLEX,
) -> Array | None:
    """As `required`, but None if the array is not there."""
    return required(arrays, name, path, ndim, kinds) if name in arrays else None


def number(arrays: Mapping[str, Array], name: str, path: Path) -> float | None:
    """One finite real number, also one of an array of length 1; None if there is none."""
    return number_of(path, name, arrays[name]) if name in arrays else None


def number_of(path: Path, name: str, value: Array) -> float:
    if value.size != 1 or value.dtype.kind not in REAL + "b" or not np.isfinite(value).all():
        raise BadFile(f"{path} has {name!r}, but it is no finite number; correct or delete it")
    return float(value.ravel()[0])


def checked(path: Path, key: str, array: Array, ndim: int | tuple[int, ...] | None, kinds: str) -> Array:
    """The array, of one of the kinds of dtype and numbers of axes, or BadFile."""
    if array.dtype.kind not in kinds + "b":
        raise wrong_kind(path, key, array.dtype, kinds)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and array.ndim not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise BadFile(f"{path} has {key!r} of shape {array.shape}; expected {wanted} axes")
    if allowed is not None and array.size == 0:
        raise BadFile(f"{path} has {key!r} of shape {array.shape}, which holds nothing; expected one frame at least")
    return array


def wrong_kind(path: Path, key: str, dtype: np.dtype, kinds: str) -> BadFile:
    wanted = "real numbers (of complex waves the squared modulus)" if kinds == REAL else "real or complex numbers"
    return BadFile(f"{path} has {key!r} of dtype {dtype}; expected {wanted}")
