"""Opening HDF5 files of unknown origin: no link leads out of their folder or in circles, and sizes are checked."""

import os
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ptycho.data.frames import Counts, StoredFrames, chunks
from ptycho.formats._container import (
    DEFAULT,
    REAL,
    ReadOptions,
    bytes_of,
    checked,
    number_of,
    require_allowed,
    why,
    wrong_kind,
)
from ptycho.hdf5_guard import require_bounded_tables, start_walker
from ptycho.io import BadFile

Array = np.ndarray
Value = TypeVar("Value")
LINKS = 32
"""Links from one to the next; more are circular."""


def is_hdf5(path: Path) -> bool:
    """Whether the file starts as HDF5 does, damaged or not."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n" or (path.suffix != ".npz" and _has_user_block(path))


def _has_user_block(path: Path) -> bool:
    """MATLAB and others put 512 bytes or more before the HDF5 itself."""
    import h5py

    return bool(h5py.is_hdf5(path))


def hdf5_keys(path: Path) -> tuple[str, ...]:
    """Paths of the data sets in an HDF5 file; empty for any other file."""
    return tuple(key for key, _ in _visited(path, lambda item: None))


def hdf5_datasets(path: Path) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Path, shape and dtype of each data set in an HDF5 file; empty for any other file."""
    return tuple((key, *facts) for key, facts in _visited(path, lambda item: (item.shape or (), _dtype_of(item))))


def _dtype_of(dataset: Any) -> str:
    try:
        return str(dataset.dtype)
    except (TypeError, ValueError):  # one that numpy does not have
        return "unknown"


def _visited(path: Path, describe: Callable[[Any], Value]) -> list[tuple[str, Value]]:
    """Path and description of each data set in an HDF5 file."""
    if not is_hdf5(path):
        return []
    import h5py

    listed: list[tuple[str, Value]] = []

    def keep(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            listed.append((_readable(key), describe(item)))

    with Hdf5(path) as file:
        file.guarded("/", lambda: file.file.visititems(keep))
    return listed


def hdf5_has(path: Path, *keys: str) -> bool:
    """Whether the file is HDF5 with all these groups or data sets; a link out of the file counts unopened."""
    if not is_hdf5(path):
        return False
    with Hdf5(path) as file:
        return all(file.has(key) for key in keys)


class Hdf5:
    """An HDF5 file read key by key: links are followed by hand, and every failure is a `BadFile`."""

    def __init__(self, path: Path, options: ReadOptions = DEFAULT) -> None:
        self.path, self.options = path, options
        self.absent: Array | None = None
        """(P,): frames that the data set read last promises and its files do not hold; None: all are there."""
        self.notes: tuple[str, ...] = ()
        """Sentences on what is absent."""
        self._open_files = ExitStack()
        self._opened_before: dict[Path, Any] = {}

    def __enter__(self) -> "Hdf5":
        self.file = self._opened(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.close()

    def _opened(self, path: Path) -> Any:
        if path in self._opened_before:
            return self._opened_before[path]
        start_walker()  # which takes its time while h5py is imported
        import h5py
        import hdf5plugin  # noqa: F401  (importing it lets h5py open bitshuffle, LZ4, Blosc and Zstd)

        if not self.options.trusted:
            require_bounded_tables(path)
        try:
            file = self._opened_before[path] = self._open_files.enter_context(h5py.File(path, "r"))
            return file
        except Exception as error:
            raise BadFile(f"{path} is no HDF5 file, or a damaged one ({why(error)}); copy it again") from error

    def guarded(self, key: str, read: Callable[[], Value]) -> Value:
        """``read()``, its failures named by the key: HDF5 on damaged bytes raises whatever it meets."""
        try:
            return read()
        except BadFile:
            raise
        except Exception as error:
            raise BadFile(f"{self.path} has a damaged {key!r} ({why(error)}); copy the file again") from error

    # ----------------------------------------------------------------------------------------------------- links

    def find(self, key: str, outside: bool = True) -> Any:
        """The h5py object at a key, or None. With ``outside=False`` the first link out of the file, unopened."""
        return self.guarded(key, lambda: self._find(self.file, key, outside))

    def _find(self, file: Any, key: str, outside: bool = True) -> Any:
        import h5py

        item, names, links = file, deque(_names(key)), 0
        while names:
            name = names.popleft()
            link = item.get(name, getlink=True) if isinstance(item, h5py.Group) else None
            if link is None:
                return None
            if isinstance(link, h5py.HardLink):
                item = item[name]
                continue
            links += 1
            if links > LINKS:
                raise BadFile(f"{self.path} has circular links at {key!r}; link it to the data itself")
            if isinstance(link, h5py.ExternalLink):
                if not outside:
                    return link
                item = self._opened(self.inside(item.file, link.filename, key))
            elif link.path.startswith("/"):
                item = item.file
            # The link's path takes the place of its name; what is left of the key follows.
            names.extendleft(reversed(_names(link.path)))
        return item

    def inside(self, file: Any, name: str, key: str) -> Path:
        """The file that a link names, from the folder of the linking file; BadFile outside the folder of our own."""
        target = (Path(file.filename).parent / name).resolve()
        if not self.options.trusted and not target.is_relative_to(self.path.parent.resolve()):
            raise BadFile(
                f"{self.path} links {key!r} to {name}, outside its folder; copy that file beside it, or convert it "
                "with --trusted"
            )
        if not target.is_file():
            raise BadFile(f"{self.path} links {key!r} to {name}, which is not there; copy that file beside it")
        return target

    def has(self, key: str) -> bool:
        return self.find(key, outside=False) is not None

    def names(self, key: str) -> tuple[str, ...]:
        """Names in a group, numbers in the order of their value; none if there is no such group."""
        import h5py

        group = self.find(key)
        names = self.guarded(key, lambda: [_readable(name) for name in group]) if isinstance(group, h5py.Group) else []
        return tuple(sorted(names, key=lambda name: (not name.isdecimal(), len(name) if name.isdecimal() else 0, name)))

    # ---------------------------------------------------------------------------------------------------- values

    def first(self, *keys: str) -> str | None:
        """The first of the keys that there is."""
        return next((key for key in keys if self.has(key)), None)

    def get(self, key: str, ndim: int | tuple[int, ...] | None = None, kinds: str = REAL) -> Array | None:
        """The array at a key, of such a dtype and number of axes, or BadFile; None if there is none."""
        dataset = self.find(key)
        return None if dataset is None else checked(self.path, key, self._read(dataset, key, kinds), ndim, kinds)

    def array(self, *keys: str, ndim: int | tuple[int, ...] | None = None, kinds: str = REAL) -> Array:
        """As `get`, of the first of the keys that there is; BadFile if there is none."""
        key = self.first(*keys)
        values = None if key is None else self.get(key, ndim, kinds)
        if values is None:
            raise BadFile(f"{self.path} has no {' or '.join(map(repr, keys))}; add it, or name another format")
        return values

    def _read(self, dataset: Any, key: str, kinds: str) -> Array:
        import h5py

        if not isinstance(dataset, h5py.Dataset):
            raise BadFile(f"{self.path} has {key!r}, but it is no data set; expected an array")
        return self.guarded(key, lambda: self._read_checked(dataset, key, kinds))

    def _read_checked(self, dataset: Any, key: str, kinds: str) -> Array:
        self._require_readable(dataset, key, kinds)
        values, names = dataset[()], dataset.dtype.names
        # Complex numbers as compounds of real and imaginary part, whatever the names
        return values[names[0]] + 1j * values[names[1]] if names else np.asarray(values)

    def _require_readable(self, dataset: Any, key: str, kinds: str) -> None:
        """Raise BadFile for values of another kind, of more bytes than the file can hold, or in an unknown packing."""
        if dataset.shape is None:
            raise BadFile(f"{self.path} has an empty {key!r}; write the values")
        dtype = dataset.dtype
        pair = dtype.names in (("real", "imag"), ("r", "i"))
        if dtype.hasobject or not (pair or dtype.kind in kinds + "b"):
            raise wrong_kind(self.path, key, dtype, kinds)
        size = sum(os.path.getsize(name) for name in self._files(dataset, key))
        require_allowed(self.path, key, bytes_of(dataset.shape, dtype), size, self.options)
        require_allowed(self.path, f"chunks of {key}", _bytes_of_chunks(dataset), size, self.options)
        self._require_filters(dataset, key)

    def _files(self, dataset: Any, key: str, depth: int = 0) -> set[str]:
        """The HDF5 files that hold the values, through virtual data sets of virtual ones; all of them may be read.

        HDF5 follows these by itself, so their targets are checked before.
        """
        import h5py

        if dataset.external and not self.options.trusted:
            raise BadFile(f"{self.path} keeps {key!r} in other files; convert it with --trusted if they may be read")
        files = {dataset.file.filename}
        if dataset.is_virtual and depth > LINKS:
            raise BadFile(f"{self.path} has circular virtual data at {key!r}; write the data themselves")
        for source in dataset.virtual_sources() if dataset.is_virtual else ():
            same_file = source.file_name == "."
            if not same_file and self.absent is not None and self._virtual_file(dataset, source, key) is None:
                continue  # its frames are left out
            file = dataset.file if same_file else self._opened(self.inside(dataset.file, source.file_name, key))
            target = self._find(file, source.dset_name)
            if not isinstance(target, h5py.Dataset):
                raise BadFile(f"{self.path} takes {key!r} from {source.dset_name}, which is not there; write it anew")
            files |= self._files(target, key, depth + 1)
        return files

    def _require_filters(self, dataset: Any, key: str) -> None:
        import h5py

        packing = dataset.id.get_create_plist()
        for i in range(packing.get_nfilters()):
            code, _, _, name = packing.get_filter(i)
            if not h5py.h5z.filter_avail(code):
                label = name.decode("utf-8", "backslashreplace") or "no name"
                raise BadFile(
                    f"{self.path} has {key!r} packed by HDF5 filter {code} ({label}), which is not installed: "
                    "update hdf5plugin, or unpack the file with h5repack where it was made"
                )

    def frames(self, *keys: str, raster: bool = False, left: bool | None = None) -> Counts:
        """Counts ``(P, N, N)``, with ``raster`` also of ``(rows, columns, N, N)``, as `array` gives them.

        They are left in the file if ``left``, by default where they are more than the options say.
        """
        key, ndims = self.first(*keys), (3, 4) if raster else (3,)
        dataset: Any = None if key is None else self.find(key)
        has_frames = getattr(dataset, "ndim", 0) in ndims and dataset.size
        self.absent, self.notes = None, ()
        stacks: list[StoredFrames] = []
        if key is not None and has_frames and dataset.is_virtual:
            stacks = self.guarded(key, lambda: self._look_for_gaps(dataset, str(key)))
        left = has_frames and (dataset.nbytes > self.options.in_memory_bytes if left is None else left)
        counts: Counts
        if key is not None and has_frames and (left or stacks):
            self.guarded(key, lambda: self._require_readable(dataset, str(key), REAL))
            stored = lambda: StoredFrames.of_file(dataset.file.filename, dataset.name)
            counts = StoredFrames.joined(stacks) if stacks else self.guarded(key, stored)
            counts = counts if left else np.asarray(counts)
        else:
            frames = self.array(*keys, ndim=ndims)
            counts = frames.reshape(-1, *frames.shape[-2:])
        if self.absent is None or stacks:
            return counts
        there = np.flatnonzero(~self.absent)
        return counts.picked(there) if isinstance(counts, StoredFrames) else counts[there]

    def _look_for_gaps(self, dataset: Any, key: str) -> list[StoredFrames]:
        """Find the frames of a virtual data set that are in no file, as of a scan that was aborted.

        HDF5 fills them with 0, but does not read a source that is shorter than what is mapped: where there is one, the
        frames come from the sources, which are given back. A frame is there if the files hold all of its pixels.
        """
        *counted, height, width = dataset.shape
        axes, per_row = len(counted), int(np.prod(counted[1:]))
        held = np.zeros(counted, np.int64)
        lacking: list[str] = []
        stacks: list[tuple[int, StoredFrames]] = []
        short = False
        for source in dataset.virtual_sources():
            first, last = (np.array(bounds) for bounds in source.vspace.get_select_bounds())
            extent = last - first + 1
            target = self._source_data(dataset, key, source)
            selects_all = source.src_space.get_select_type() == 3  # H5S_SEL_ALL
            begin = 0 if selects_all else int(source.src_space.get_select_bounds()[0][0])
            rows = int(extent[0])
            if target is None:
                lacking.append(f"{source.file_name} is not there")
                continue
            if target.ndim == dataset.ndim and target.shape[0] - begin < rows:
                lacking.append(f"{source.file_name} has {target.shape[0]} of {begin + rows} frames")
                short, rows = True, max(0, target.shape[0] - begin)
            block = [slice(int(a), int(a + n)) for a, n in zip(first[:axes], (rows, *extent[1:axes]), strict=True)]
            held[tuple(block)] += int(np.prod(extent[axes:]))
            if target.ndim == dataset.ndim and target.shape[1:] == dataset.shape[1:] and rows:
                index = np.arange(begin * per_row, (begin + rows) * per_row)
                stacks.append((int(first[0]), StoredFrames.of_file(target.file.filename, target.name).picked(index)))
        absent = (held < height * width).ravel()
        if absent.all():
            raise BadFile(f"{self.path} takes {key!r} from files that hold none of it: {'; '.join(lacking[:3])}")
        if absent.any():
            reason = "; ".join(lacking[:3]) or "no file is named for them"
            self.absent = absent
            self.notes = (f"{absent.sum()} of {len(absent)} frames are not there and left out: {reason}.",)
        ordered = [stack for _, stack in sorted(stacks, key=lambda pair: pair[0])] if short else []
        if short and sum(map(len, ordered)) != (~absent).sum():
            raise BadFile(f"{self.path} takes parts of frames for {key!r} from short files: {'; '.join(lacking[:3])}")
        return ordered

    def _source_data(self, dataset: Any, key: str, source: Any) -> Any:
        """The data that a virtual data set takes; None where there are none."""
        import h5py

        if source.file_name == ".":
            target = self._find(dataset.file, source.dset_name)
        else:
            path = self._virtual_file(dataset, source, key)
            target = None if path is None else self._find(self._opened(path), source.dset_name)
        return target if isinstance(target, h5py.Dataset) else None

    def _virtual_file(self, dataset: Any, source: Any, key: str) -> Path | None:
        """The file of a source, None where it is not there; BadFile outside the folder of our own."""
        if not (Path(dataset.file.filename).parent / source.file_name).is_file():
            return None
        return self.inside(dataset.file, source.file_name, key)

    def number(self, *keys: str) -> float | None:
        """One finite real number, also one of an array of length 1; None if there is none or it says ``'None'``."""
        key = self.first(*keys)
        if key is None or self.text(key) == "None":
            return None
        return number_of(self.path, key, self.array(key))

    def attribute(self, key: str, name: str) -> Any:
        """An attribute as h5py gives it; None if there is none."""
        item = self.find(key)
        return None if item is None else self.guarded(f"{key}@{name}", lambda: self._attribute(item, key, name))

    def _attribute(self, item: Any, key: str, name: str) -> Any:
        if name not in item.attrs:
            return None
        if not _is_safe(item.attrs.get_id(name).dtype):
            raise BadFile(f"{self.path} has '{key}@{name}' of a kind that is not read; write text or numbers")
        return item.attrs[name]

    def attribute_array(self, key: str, name: str) -> Array | None:
        """An attribute of real numbers; None if there is none."""
        value = self.attribute(key, name)
        return None if value is None else checked(self.path, f"{key}@{name}", np.asarray(value), None, REAL)

    def attribute_number(self, key: str, name: str) -> float | None:
        value = self.attribute(key, name)
        return None if value is None else number_of(self.path, f"{key}@{name}", np.asarray(value))

    def attribute_text(self, key: str, name: str) -> str | None:
        value = self.attribute(key, name)
        return None if value is None else self._text(f"{key}@{name}", value)

    def attribute_texts(self, key: str, name: str) -> tuple[str, ...]:
        """The strings of an attribute; none if there is none."""
        value = self.attribute(key, name)
        return () if value is None else tuple(self._text(f"{key}@{name}", v) for v in np.atleast_1d(value).ravel())

    def text(self, key: str) -> str | None:
        """One string; None if there is none."""
        import h5py

        dataset = self.find(key)
        if not isinstance(dataset, h5py.Dataset):
            return None
        dtype = self.guarded(key, lambda: dataset.dtype)
        if dtype.kind not in "OS" or not _is_safe(dtype):
            return None
        return self._text(key, self.guarded(key, lambda: dataset[()]))

    def _text(self, key: str, value: Any) -> str:
        value = np.asarray(value).ravel()
        value = value[0] if len(value) == 1 else ""
        try:
            return value.decode() if isinstance(value, bytes) else str(value).encode().decode()
        except UnicodeError as error:
            raise BadFile(f"{self.path} has {key!r}, which is not UTF-8; correct or delete it") from error


def write_frames(file: Any, key: str, counts: Counts) -> None:
    """Frames in their native dtype, one chunk each, packed by gzip: any HDF5 reads them."""
    one = (1, *counts.shape[1:])
    # Shuffle: bytes of equal significance together, so that small counts pack well
    packed = dict(chunks=one, compression="gzip", compression_opts=1, shuffle=True)
    data = file.create_dataset(key, counts.shape, counts.dtype, **packed)
    first = 0
    for chunk in chunks(counts):
        data[first : first + len(chunk)] = chunk
        first += len(chunk)


def _bytes_of_chunks(dataset: Any, bytes_each: int = 400) -> int:
    """What HDF5 1.14 keeps of the chunks themselves in memory as it reads them: measured with 3e7 of them."""
    if not dataset.chunks:
        return 0
    return bytes_each * int(np.prod([-(-n // c) for n, c in zip(dataset.shape, dataset.chunks)], dtype=float))


def _is_safe(dtype: np.dtype) -> bool:
    """False for sequences and references, which no format needs and which crash HDF5 where they point nowhere."""
    import h5py

    return not dtype.hasobject or h5py.check_string_dtype(dtype) is not None


def _readable(name: str | bytes) -> str:
    """A name as text; h5py gives those that are not UTF-8 as bytes."""
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name


def _names(key: str) -> list[str]:
    return [name for name in key.split("/") if name not in ("", ".")]
