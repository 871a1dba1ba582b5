"""Frames that are read when they are asked for: a scan larger than memory, and views of one that is not."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ptycho.io import BadFile

Array = np.ndarray
Step = tuple[Callable[..., Array], tuple[Any, ...]]
Item = TypeVar("Item")
Found = TypeVar("Found")


class StoredFrames:
    """Frames (P, N, N) as a file or an array holds them, seen through some steps; indexing the first axis reads them.

    It goes where an array of counts goes, `Scan.counts` above all; ``np.asarray`` reads everything. Frames picked by
    `picked`, and seen `through` a function, stay where they are as well. What has been found out about all frames of a
    file is kept for all views of it. Another process that gets one (by pickle) opens the file itself, or gets the
    frames that this is a view of, of an array in memory.
    """

    ndim = 3

    def __init__(self, source: "Source"):
        self._source, self._steps = source, ()
        self._frame = np.zeros((1, *source.shape[1:]), source.dtype)
        self.rows = np.arange(source.shape[0])
        """(P,) int64: which frames of the source these are."""

    @classmethod
    def of_file(cls, path: str | Path, key: str) -> "StoredFrames":
        """Those of a data set (P, N, N), or (rows, columns, N, N) row by row, of an HDF5 file that must not change."""
        return cls(_File(Path(path).resolve(), key))

    @classmethod
    def of(cls, frames: "Counts") -> "StoredFrames":
        """Those of an array (P, N, N) in memory; stored ones as they are."""
        return frames if isinstance(frames, StoredFrames) else cls(_Memory(frames))

    @classmethod
    def joined(cls, parts: Sequence["StoredFrames"]) -> "StoredFrames":
        """One after the other, all of the same size, in a dtype that holds them all; a single part as it is."""
        dtype = np.result_type(*(part.dtype for part in parts))
        same = [part if part.dtype == dtype else part.through(np.ndarray.astype, dtype) for part in parts]
        return same[0] if len(same) == 1 else cls(_Joined(tuple(same)))

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.rows), *self._frame.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self._frame.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that hold the frames; none of an array in memory."""
        return self._source.files

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Array:
        if isinstance(index, tuple):
            frames, within = self[index[0]], index[1:]
            return frames[within] if frames.ndim == 2 else frames[(slice(None), *within)]
        if np.ndim(index) == 0 and not isinstance(index, slice):
            return self._read(self.rows[[index]])[0]
        return self._read(self.rows[index])

    def __iter__(self) -> Iterator[Array]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = self._read(self.rows)
        return found if dtype is None else found.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"StoredFrames({self.shape}, {self.dtype}, {self._source})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self._source, _Memory):
            return np.array, (np.asarray(self),)
        return super().__reduce_ex__(protocol)

    def picked(self, index: Any) -> "StoredFrames":
        """The frames that an index of the first axis picks, unread."""
        return self._like(self.rows[index])

    def through(self, step: Callable[..., Array], *arguments: Any) -> "StoredFrames":
        """The frames, unread, as ``step(frames, *arguments)`` makes them of any (B, N, N), each on its own.

        ``step`` is a function of a module, and ``arguments`` can be hashed.
        """
        found = self._like(self.rows)
        found._steps, found._frame = (*self._steps, (step, arguments)), step(self._frame, *arguments)
        return found

    def once(self, name: str, find: Callable[["StoredFrames"], Array]) -> Array:
        """What ``find`` tells of each of these frames ``(P, ...)``; of all in a file, seen so, it is found once."""
        known = self._source.known
        if known is None:
            return find(self)
        key = (name, self._steps)
        if key not in known:
            known[key] = find(self._like(np.arange(self._source.shape[0])))
        return known[key][self.rows]

    def _like(self, rows: Array) -> "StoredFrames":
        found = object.__new__(StoredFrames)
        found._source, found._steps, found._frame, found.rows = self._source, self._steps, self._frame, rows
        return found

    def _read(self, rows: Array) -> Array:
        found = self._source.read(rows)
        for step, arguments in self._steps:
            found = step(found, *arguments)
        return found

    _steps: tuple[Step, ...]


Counts = Array | StoredFrames
"""Frames that are there, or are read when they are asked for."""
CHUNK_PIXELS = 2**18
"""Pixels looked at in one go: 2 MB as float64."""


def chunks(counts: Counts) -> Iterator[Array]:
    """Consecutive frames of (P, N, N), `CHUNK_PIXELS` pixels or one frame at most; views of those in memory."""
    size = max(1, CHUNK_PIXELS // max(1, counts.size // len(counts)))
    return (counts[i : i + size] for i in range(0, len(counts), size))


def ahead(function: Callable[[Item], Found], items: Sequence[Item], workers: int) -> Iterator[Found]:
    """A function of each of some items, in their order; as many as there are workers are made ready ahead, not all."""
    with ThreadPoolExecutor(workers) as pool:
        coming: deque[Future[Found]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > workers:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def seen_through(frames: Counts, step: Callable[..., Array], *arguments: Any) -> Counts:
    """``step(frames, *arguments)``: now of an array, when they are read of stored frames."""
    return frames.through(step, *arguments) if isinstance(frames, StoredFrames) else step(frames, *arguments)


def mean_pattern(counts: Counts) -> Array:
    """(N, N) float64: mean over all frames (P, N, N), without a float copy of the stack."""
    total = np.zeros(counts.shape[1:], np.float64)
    for chunk in chunks(counts):
        total += chunk.sum(axis=0, dtype=np.float64)
    return total / len(counts)


class Source(Protocol):
    """Where frames (P, N, N) come from."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def known(self) -> dict[Any, Array] | None:
        """What has been found out about all of them, by name; None where looking again costs less."""

    def read(self, rows: Array) -> Array:
        """Frames by number, in the order asked for: a copy."""
        ...


class _Memory:
    known, files = None, ()

    def __init__(self, frames: Array):
        self.frames, self.shape, self.dtype = frames, frames.shape, frames.dtype

    def __repr__(self) -> str:
        return "in memory"

    def read(self, rows: Array) -> Array:
        return self.frames[rows]


class _Joined:
    def __init__(self, parts: tuple[StoredFrames, ...]):
        self.parts, self.known = parts, dict[Any, Array]()
        self.files = tuple(dict.fromkeys(file for part in parts for file in part.files))
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape, self.dtype = (int(self.ends[-1]), *parts[0].shape[1:]), parts[0].dtype

    def __repr__(self) -> str:
        return ", ".join(str(part._source) for part in self.parts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict(known={})  # as of a file

    def read(self, rows: Array) -> Array:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.ends, rows, side="right")
        for number in np.unique(which):
            here, part = which == number, self.parts[number]
            found[here] = part[rows[here] - (self.ends[number] - len(part))]
        return found


class _File:
    """One data set, opened when it is first read; h5py has one lock for all files, and so has this for its own."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.known: dict[Any, Array] = {}
        self._lock, self._data = threading.Lock(), self._opened()
        *counted, height, width = self._data.shape
        self._columns = counted[-1]
        """Frames that lie in one row of a raster; all of them where there is none."""
        self.shape = (int(np.prod(counted)), height, width)
        self.dtype = self._data.dtype.newbyteorder("=")

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def __repr__(self) -> str:
        return repr(f"{self.path}:{self.key}")

    def _opened(self) -> Any:
        import h5py
        import hdf5plugin  # noqa: F401  (as in `ptycho.formats._hdf5`)

        return h5py.File(self.path, "r")[self.key]

    def __getstate__(self) -> dict[str, Any]:
        # Not what is known: that is of all frames, and most of those who get a few of them do not ask.
        return {name: getattr(self, name) for name in ("path", "key", "shape", "dtype", "_columns")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.known, self._lock, self._data = {}, threading.Lock(), None

    def read(self, rows: Array) -> Array:
        """Those that follow one another in the file in one go. BadFile for damaged ones."""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        breaks = (np.diff(ascending) != 1) | (ascending[1:] % self._columns == 0)
        runs = np.split(order, np.flatnonzero(breaks) + 1) if len(rows) else []
        with self._lock:
            self._data = self._opened() if self._data is None else self._data
            for run in runs:
                try:
                    self._read_run(found, run, int(rows[run[0]]))
                except Exception as error:  # HDF5 on damaged bytes raises whatever it meets
                    what = str(error) or type(error).__name__
                    raise BadFile(f"{self.path} has a damaged {self.key!r} ({what}); copy the file again") from error
        return found

    def _read_run(self, found: Array, run: Array, first: int) -> None:
        there: tuple[Any, ...] = (slice(first, first + len(run)),)
        if self._data.ndim == 4:
            column = first % self._columns
            there = (first // self._columns, slice(column, column + len(run)))
        if (np.diff(run) == 1).all():
            self._data.read_direct(found, there, np.s_[int(run[0]) : int(run[0]) + len(run)])
        else:
            found[run] = self._data[there]
