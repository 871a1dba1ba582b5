"""Frames that stay in their file: a scan larger than memory reads what is asked for, when it is asked for."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


class StoredFrames:
    """Frames (P, N, N) of an HDF5 file, in the dtype they are stored in; indexing the first axis reads them.

    It goes where an array of counts goes, `Scan.counts` above all; ``np.asarray`` reads everything. Frames picked by
    `picked` stay in the file as well. What has been found out about all frames is kept for all that are picked from
    them. Another process that gets one (by pickle) opens the file itself, when it reads.

    Args:
        path: the file, which must not change meanwhile.
        key: the data set in it.
    """

    ndim = 3

    def __init__(self, path: str | Path, key: str):
        self._file, self._corner = _File(Path(path).resolve(), key), False
        self.rows = np.arange(self._file.shape[0])
        """(P,) int64: which frames of the file these are."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.rows), *self._file.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self._file.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Array:
        if np.ndim(index) == 0 and not isinstance(index, slice):
            return self._read(self.rows[[index]])[0]
        return self._read(self.rows[index])

    def __iter__(self) -> Iterator[Array]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = self._read(self.rows)
        return found if dtype is None else found.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"StoredFrames({self.shape}, {self.dtype}, {str(self._file.path)!r})"

    def picked(self, index: Any) -> "StoredFrames":
        """The frames that an index of the first axis picks, unread."""
        return self._like(self.rows[index], self._corner)

    def centred(self) -> "StoredFrames":
        """The frames, unread, with pixel (0, 0) of the file's at ``N // 2``."""
        return self._like(self.rows, True)

    def once(self, name: str, find: Callable[["StoredFrames"], Array]) -> Array:
        """What ``find`` tells of each of all the frames in the file ``(P, ...)``, found once; here, of these frames."""
        name = f"{name} {self._corner}"
        if name not in self._file.known:
            self._file.known[name] = find(self._like(np.arange(self._file.shape[0]), self._corner))
        return self._file.known[name][self.rows]

    def _like(self, rows: Array, corner: bool) -> "StoredFrames":
        found = object.__new__(StoredFrames)
        found._file, found._corner, found.rows = self._file, corner, rows
        return found

    def _read(self, rows: Array) -> Array:
        found = self._file.read(rows)
        return np.fft.fftshift(found, axes=(-2, -1)) if self._corner else found


Counts = Array | StoredFrames
"""Frames in memory, or in their file."""


class _File:
    """One data set, opened when it is first read; h5py has one lock for all files, and so has this for its own."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.known: dict[str, Array] = {}
        self._lock, self._data = threading.Lock(), self._opened()
        self.shape: tuple[int, int, int] = self._data.shape
        self.dtype = self._data.dtype.newbyteorder("=")

    def _opened(self) -> Any:
        import h5py
        import hdf5plugin  # noqa: F401  (as in `ptycho.data.formats._hdf5`)

        return h5py.File(self.path, "r")[self.key]

    def __getstate__(self) -> dict[str, Any]:
        # Not what is known: that is of all frames, and most of those who get a few of them do not ask.
        return dict(path=self.path, key=self.key, shape=self.shape, dtype=self.dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.known, self._lock, self._data = {}, threading.Lock(), None

    def read(self, rows: Array) -> Array:
        """Frames by number, in the order asked for: those that follow one another in the file in one go."""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(rows[order]) != 1) + 1) if len(rows) else []
        with self._lock:
            self._data = self._opened() if self._data is None else self._data
            for run in runs:
                first = int(rows[run[0]])
                if (np.diff(run) == 1).all():
                    self._data.read_direct(
                        found, np.s_[first : first + len(run)], np.s_[int(run[0]) : int(run[0]) + len(run)]
                    )
                else:
                    found[run] = self._data[first : first + len(run)]
        return found
