"""Frames that are read when they are asked for: a scan larger than memory, and views of one that is not."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from ptycho.arrays import Array, Float, Int, Shaped
from ptycho.io import BadFile

Function = Callable[..., np.ndarray]
Step = tuple[Function, tuple[Any, ...]]
"""A function of frames (B, N, N), and its further arguments."""
Cache = dict[tuple[str, tuple[Step, ...]], np.ndarray]
"""Values computed for all frames of a source, by name and by the steps they were mapped through before."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class StoredFrames:
    """Frames (P, N, N) that stay in a file or an array, mapped through some functions; indexing reads them.

    It goes where an array of counts goes, `Scan.counts` above all; ``np.asarray`` reads everything. `picked` and
    `mapped` give views that read nothing. Values computed for all frames of a file (`cached`) are kept for all its
    views. A process that gets one by pickle opens the file itself, or, where the frames are in memory, gets a copy of
    those of this view.
    """

    ndim = 3
    _steps: tuple[Step, ...]

    def __init__(self, source: "Source") -> None:
        self._source, self._steps = source, ()
        # One frame of zeros goes through every mapping: it tells shape and dtype, and nothing is read.
        self._frame = np.zeros((1, *source.shape[1:]), source.dtype)
        self.rows = np.arange(source.shape[0])
        """(P,) int64: indices of these frames in the source."""

    @classmethod
    def of_file(cls, path: str | Path, key: str) -> "StoredFrames":
        """Those of a data set (P, N, N), or (rows, columns, N, N) row by row, of an HDF5 file that must not change."""
        return cls(_File(Path(path).resolve(), key))

    @classmethod
    def of(cls, frames: "Counts") -> "StoredFrames":
        """Those of an array (P, N, N) in memory; stored ones as they are."""
        return frames if isinstance(frames, StoredFrames) else cls(_Memory(frames))

    @classmethod
    def joined(cls, stacks: Sequence["StoredFrames"]) -> "StoredFrames":
        """One after the other, all of the same size, in a dtype that holds them all; a single stack as it is."""
        dtype = np.result_type(*(stack.dtype for stack in stacks))
        same = [stack if stack.dtype == dtype else stack.mapped(np.ndarray.astype, dtype) for stack in stacks]
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

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):
            frames, within = self[index[0]], index[1:]
            return frames[within] if frames.ndim == 2 else frames[(slice(None), *within)]
        if np.ndim(index) == 0 and not isinstance(index, slice):
            return self._read(self.rows[[index]])[0]
        return self._read(self.rows[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        frames = self._read(self.rows)
        return frames if dtype is None else frames.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"StoredFrames({self.shape}, {self.dtype}, {self._source})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self._source, _Memory):
            return np.array, (np.asarray(self),)
        return super().__reduce_ex__(protocol)

    def picked(self, index: Any) -> "StoredFrames":
        """The frames that an index of the first axis picks, unread."""
        return self._like(self.rows[index])

    def mapped(self, function: Function, *arguments: Any) -> "StoredFrames":
        """The frames, unread, as ``function(frames, *arguments)`` of any (B, N, N), each independent of the others.

        ``function`` belongs to a module, so that it can be pickled, and ``arguments`` can be hashed.
        """
        frames = self._like(self.rows)
        frames._steps, frames._frame = (*self._steps, (function, arguments)), function(self._frame, *arguments)
        return frames

    def cached(self, name: str, compute: Callable[["StoredFrames"], np.ndarray]) -> np.ndarray:
        """``compute(frames)`` (P, ...), a value per frame; it is computed once for all frames of a file."""
        cache = self._source.cache
        if cache is None:
            return compute(self)
        key = (name, self._steps)
        if key not in cache:
            cache[key] = compute(self._like(np.arange(self._source.shape[0])))
        return cache[key][self.rows]

    def _like(self, rows: Int[Array, " P"]) -> "StoredFrames":
        frames = object.__new__(StoredFrames)
        frames._source, frames._steps, frames._frame, frames.rows = self._source, self._steps, self._frame, rows
        return frames

    def _read(self, rows: Int[Array, " P"]) -> np.ndarray:
        frames = self._source.read(rows)
        for function, arguments in self._steps:
            frames = function(frames, *arguments)
        return frames


Counts = np.ndarray | StoredFrames
"""Frames that are in memory, or are read when they are asked for."""


def chunks(counts: Counts, pixels: int = 2**18) -> Iterator[Shaped[Array, "B N N"]]:
    """Consecutive frames of (P, N, N), views of those in memory, in chunks of at most so many pixels, or of one frame.

    The default is 2 MB as float64, which stays in the cache of a core.
    """
    size = max(1, pixels // max(1, counts.size // len(counts)))
    return (counts[i : i + size] for i in range(0, len(counts), size))


class Workers:
    """Threads that prepare results ahead of the one that uses them. They start when needed, and end with this object.

    Those of one object serve all its maps: TensorFlow keeps about 1 kB for every thread that ever called it, which adds
    up where each epoch of each fit has its own.
    """

    def __init__(self, count: int) -> None:
        self.count, self._pool = count, ThreadPoolExecutor(count)

    def ahead(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``map(function, items)``, in order; one more than ``count`` results are prepared ahead, not all."""
        coming: deque[Future[Result]] = deque()
        try:
            for item in items:
                coming.append(self._pool.submit(function, item))
                if len(coming) > self.count:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            # Where nobody asks for the rest, no more of it is begun.
            for result in coming:
                result.cancel()


def mapped(frames: Counts, function: Function, *arguments: Any) -> Counts:
    """``function(frames, *arguments)``: at once of an array, when they are read of stored frames."""
    return frames.mapped(function, *arguments) if isinstance(frames, StoredFrames) else function(frames, *arguments)


def picked(frames: Counts, index: Int[Array, " K"]) -> Counts:
    """``frames[index]``: at once of an array, when they are read of stored frames; all frames come back as they are."""
    if np.array_equal(index, np.arange(len(frames))):
        return frames
    return frames.picked(index) if isinstance(frames, StoredFrames) else frames[index]


def mean_pattern(counts: Counts) -> Float[Array, "N N"]:
    """Mean over all frames (P, N, N) in float64, without a float copy of the stack."""
    total = np.zeros(counts.shape[1:], np.float64)
    for chunk in chunks(counts):
        total += chunk.sum(axis=0, dtype=np.float64)
    return total / len(counts)


@runtime_checkable
class Source(Protocol):
    """Where frames (P, N, N) come from."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def cache(self) -> Cache | None:
        """Values computed for all frames; None where computing them again costs less."""

    def read(self, rows: Int[Array, " B"]) -> Shaped[Array, "B N N"]:
        """Frames by index, in the order asked for: a copy."""
        ...


class _Memory:
    cache, files = None, ()

    def __init__(self, frames: np.ndarray) -> None:
        self.frames, self.shape, self.dtype = frames, frames.shape, frames.dtype

    def __repr__(self) -> str:
        return "in memory"

    def read(self, rows: Int[Array, " B"]) -> Shaped[Array, "B N N"]:
        return self.frames[rows]


class _Joined:
    def __init__(self, stacks: tuple[StoredFrames, ...]) -> None:
        self.stacks: tuple[StoredFrames, ...] = stacks
        self.cache: Cache = {}
        self.files = tuple(dict.fromkeys(file for stack in stacks for file in stack.files))
        self.ends = np.cumsum([len(stack) for stack in stacks])
        self.shape, self.dtype = (int(self.ends[-1]), *stacks[0].shape[1:]), stacks[0].dtype

    def __repr__(self) -> str:
        return ", ".join(str(stack._source) for stack in self.stacks)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict(cache={})  # as of a file

    def read(self, rows: Int[Array, " B"]) -> Shaped[Array, "B N N"]:
        frames = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.ends, rows, side="right")
        for number in np.unique(owner):
            chosen, stack = owner == number, self.stacks[number]
            frames[chosen] = stack[rows[chosen] - (self.ends[number] - len(stack))]
        return frames


class _File:
    """One data set, opened when it is first read. h5py has one lock for all files; this one is for its own."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.cache: Cache = {}
        self._lock, self._data = threading.Lock(), self._opened()
        *counted, height, width = self._data.shape
        self._columns = counted[-1]
        """Frames in a row of a raster; all of them where there is none."""
        self.shape = (int(np.prod(counted)), height, width)
        # In the byte order of this machine, whatever the file has
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
        # Without the cache: it is of all frames, and most processes that get a few of them do not ask.
        return {name: getattr(self, name) for name in ("path", "key", "shape", "dtype", "_columns")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.cache, self._lock, self._data = {}, threading.Lock(), None

    def read(self, rows: Int[Array, " B"]) -> Shaped[Array, "B N N"]:
        """Runs of frames that follow one another in the file are read in one go. BadFile for damaged ones."""
        frames = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        # A run ends where the next frame does not follow, or is in a new row of a raster.
        breaks = (np.diff(ascending) != 1) | (ascending[1:] % self._columns == 0)
        runs = np.split(order, np.flatnonzero(breaks) + 1) if len(rows) else []
        with self._lock:
            self._data = self._opened() if self._data is None else self._data
            for run in runs:
                try:
                    self._read_run(frames, run, int(rows[run[0]]))
                except Exception as error:  # HDF5 on damaged bytes raises whatever it meets
                    reason = str(error) or type(error).__name__
                    raise BadFile(f"{self.path} has a damaged {self.key!r} ({reason}); copy the file again") from error
        return frames

    def _read_run(self, frames: np.ndarray, run: Int[Array, " run"], first: int) -> None:
        source: tuple[Any, ...] = (slice(first, first + len(run)),)
        if self._data.ndim == 4:
            column = first % self._columns
            source = (first // self._columns, slice(column, column + len(run)))
        # Asked for in their order: HDF5 writes into the result, without a copy.
        if (np.diff(run) == 1).all():
            self._data.read_direct(frames, source, np.s_[int(run[0]) : int(run[0]) + len(run)])
        else:
            frames[run] = self._data[source]
