"""Opening NPZ files (also inside bz2) without running anything in them, and the checks that every reader shares.

Whatever is wrong with a file ends as a `BadFile`: one line with file, key and remedy.
"""

import bz2
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from ptycho.config import ReadConfig
from ptycho.data.beam import Beam
from ptycho.io import BadFile

Array = np.ndarray
REAL, COMPLEX = "uif", "uifc"
"""Kinds of numpy dtypes that counts may have, and that waves may have."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the user knows about a file, and allows its reader."""

    pixel_size_m: float | None = None
    """Side of an object pixel, for files in metres that do not state theirs; wins over the file's."""
    given: ReadConfig = field(default_factory=ReadConfig)
    """What the user knows of the scan; wins over the file."""
    trusted: bool = False
    """Follow links out of the folder of the file, and unpack any size."""
    in_memory_bytes: int = 2**30
    """Larger stacks of frames stay in the file, where the format allows it (HDF5)."""
    unpacked_bytes: int = 2**28
    """What unpacks to more, and to more than ``expansion`` times its file, is taken for a bomb."""
    expansion: int = 250
    """Sparse counts reach 100."""

    @classmethod
    def of(cls, given: ReadConfig, **permissions: Any) -> Self:
        """What the user knows, and what the reader is allowed (the other fields)."""
        size = given.pixel_size_nm
        return cls(pixel_size_m=None if size is None else size * 1e-9, given=given, **permissions)

    def beam(self, stated: Beam | None) -> Beam | None:
        """The beam that a file states, with the energy and the distance that the user gives."""
        given = self.given
        energy, particle = given.energy_ev, "photon"
        if given.voltage_kv is not None:
            energy, particle = given.voltage_kv * 1e3, "electron"
        distance = given.distance_m or (stated.distance_m if stated else None) or given.near_field_m
        if energy is not None:
            return Beam(energy_eV=energy, particle=particle, distance_m=distance)  # type: ignore[arg-type]
        return None if stated is None else replace(stated, distance_m=distance)

    def allowed_bytes(self, stored: int) -> int:
        """What so many bytes of a file that is not trusted may unpack to."""
        return max(self.unpacked_bytes, self.expansion * stored)


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
    header = npz_header(path, key)
    return -1 if header is None else len(header[0])


def npz_header(path: Path, key: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and dtype of an array in an NPZ file; None if there is no such array, or a damaged one."""
    try:
        with zipfile.ZipFile(_opened(path)) as archive, archive.open(f"{key}.npy") as file:
            return _header(file)
    except BadFile:
        raise
    except Exception:  # reading the array says what is wrong with it
        return None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in the NPY format."""
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = headers[version](file)  # version 3 has field names that no array here has
    return shape, dtype


def _opened(path: Path, options: ReadOptions = DEFAULT) -> Path | io.BytesIO:
    """For zipfile: the path, or what bz2, known by its first three bytes, unpacks to."""
    with path.open("rb") as file:
        packed = file.read(3) == b"BZh"
    if not packed:
        return path
    status = path.stat()
    limit = -1 if options.trusted else options.allowed_bytes(status.st_size)
    return io.BytesIO(_unpacked(path, status.st_mtime_ns, limit))


# Every format asks for the keys of the file, and unpacking bz2 is the slowest step of reading.
@lru_cache(maxsize=1)
def _unpacked(path: Path, modified_ns: int, limit: int) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    try:
        # It stops at the limit: a bomb is never unpacked as a whole.
        content = unpacker.decompress(path.read_bytes(), limit)
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} is a damaged bz2 file ({error}); copy or download it again") from error
    if not unpacker.eof and limit >= 0 and len(content) >= limit:
        raise BadFile(f"{path} unpacks to more than {limit / 1e6:.0f} MB; unpack it by hand if it may be trusted")
    if not unpacker.eof:
        raise BadFile(f"{path} is a damaged bz2 file (it ends early); copy or download it again")
    return content


def forget_unpacked() -> None:
    """Free the last file inside bz2; `read_scan` does so when it is done."""
    _unpacked.cache_clear()


def load_npz(
    path: Path, names: Iterable[str], options: ReadOptions = DEFAULT
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """``(arrays, refused)``: those of ``names`` that the file has, and those that are pickles.

    A pickle can run any program when it is opened, so none is: it is named in ``refused`` instead.
    """
    arrays, refused = {}, []
    content = _opened(path, options)
    size = len(content.getbuffer()) if isinstance(content, io.BytesIO) else path.stat().st_size
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
    """One array; None for a pickle. Its size is checked first: is it allowed, and as its header says?"""
    declared = archive.getinfo(member).file_size
    require_allowed(path, key, declared, size, options)
    try:
        with archive.open(member) as file:
            shape, dtype = _header(file)
            if dtype.hasobject:
                return None
            # An array that promises more than there is would be allocated before its reading fails.
            promised = bytes_of(shape, dtype)
            if promised != declared - file.tell():
                raise ValueError(f"its header promises {promised} bytes, there are {declared - file.tell()}")
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


def require_allowed(path: Path, key: str, unpacked: int, stored: int, options: ReadOptions) -> None:
    if not options.trusted and unpacked > options.allowed_bytes(stored):
        raise BadFile(
            f"{path} has {key!r} of {unpacked / 1e6:.0f} MB in {stored / 1e6:.3g} MB of file, which may be a bomb; "
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
    """An array that the format needs, or BadFile that names it and the arrays there are."""
    if name not in arrays:
        present = ", ".join(arrays) or "none of the keys of the format"
        raise BadFile(f"{path} has no {name!r} that can be read without unpickling; it has {present}")
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
        axes = " or ".join(map(str, allowed))
        raise BadFile(f"{path} has {key!r} of shape {array.shape}; expected {axes} axes")
    if allowed is not None and array.size == 0:
        raise BadFile(f"{path} has {key!r} of shape {array.shape}, which holds nothing; expected at least one frame")
    return array


def wrong_kind(path: Path, key: str, dtype: np.dtype, kinds: str) -> BadFile:
    numbers = "real numbers (of complex waves the squared modulus)" if kinds == REAL else "real or complex numbers"
    return BadFile(f"{path} has {key!r} of dtype {dtype}; expected {numbers}")
