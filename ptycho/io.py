"""Files that appear complete or not at all, and the error for those that cannot be used."""

import glob
import io
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

PARTIAL = ".partial"
"""How the names of folders end in which files are written."""

DEAD_AFTER_S = 24 * 3600.0
"""Age from which such a folder is that of a process that was killed."""

MOST_JSON_BYTES = 2**26
"""What no settings and no history of a run come near."""


class BadFile(ValueError):
    """The content of a file cannot be used: one line that names the file, the key and the remedy."""

    LENGTH = 1200
    """Characters: what a library says of a damaged file may quote all of it. Begin and end, with the remedy, stay."""

    def __init__(self, text: str) -> None:
        one_line = " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()
        if len(one_line) > self.LENGTH:
            one_line = f"{one_line[: self.LENGTH - 300]} ... {one_line[-250:]}"
        super().__init__(one_line)


@contextmanager
def replaced(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to instead of ``path``, in a temporary folder; on success its files move beside ``path``.

    Each is flushed to the disk first, and replaces an old one in one step: whenever the process is killed, the old file
    or the new one is there. Of several files that of the name of ``path`` moves last. Raises FileNotFoundError if the
    folder of ``path`` does not exist, and BadFile if ``path`` is a device, a pipe or a folder. A link stays: what it
    points to is replaced. What a killed process left of the same file goes after a day (`DEAD_AFTER_S`).
    """
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise BadFile(f"{path} is no file that could be replaced: write to another path")
    prefix = f".{path.name[:50]}."  # the system allows names of 255 bytes
    for stale in path.parent.glob(f"{glob.escape(prefix)}*{PARTIAL}"):
        if time.time() - stale.lstat().st_mtime > DEAD_AFTER_S:
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=PARTIAL, dir=path.parent))
    try:
        yield folder / path.name
        written = sorted(folder.iterdir(), key=lambda file: (file.name == path.name, file.name))
        for file in written:
            _flush(file)
        for file in written:
            file.replace(path.with_name(file.name))
        _flush(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all (`replaced`)."""
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file in UTF-8 holds; BadFile where it is none, or larger than `MOST_JSON_BYTES`."""
    path = Path(path)
    if not path.is_file():  # opening a pipe would block
        raise BadFile(f"{path} is no file")
    if path.stat().st_size > MOST_JSON_BYTES:
        raise BadFile(f"{path} has {path.stat().st_size:.3g} bytes; no settings or history is so long")
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is damaged, or no JSON in UTF-8 ({error})") from error


@contextmanager
def opened_zip(path: str | os.PathLike, expansion: float = 1.0) -> Iterator[zipfile.ZipFile]:
    """A zip archive to read; BadFile where it would unpack to more than ``expansion`` times its own bytes."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > expansion * Path(path).stat().st_size:
            raise BadFile(f"{path} claims to unpack to {claimed:.3g} bytes, more than ptycho packs into such a file")
        yield archive


@contextmanager
def hdf5_file(path: str | os.PathLike, *, new: bool = True) -> "Iterator[h5py.File]":
    """An HDF5 file to write to. Raises OSError where the disk does not take it, after the file was closed.

    The library alone crashes in closing a file that it could not write (HDF5 1.14, segmentation fault): here it writes
    through a file that keeps the error.
    """
    import h5py

    with _Disk(path, "w+b" if new else "r+b") as disk:
        try:
            with h5py.File(disk, "w" if new else "r+") as file:
                yield file
        finally:
            if disk.error is not None:
                raise disk.error


class DamagedCheckpoint(BadFile):
    """What an earlier process left to go on from cannot be read."""


def require_room(folder: str | os.PathLike, size: int) -> None:
    """Raise OSError where the disk does not take a file of so many bytes in ``folder``.

    For libraries that write HDF5 themselves, and crash where they cannot: before they begin.
    """
    try:
        with tempfile.TemporaryFile(dir=str(folder)) as trial:
            for first in range(0, size, 2**20):
                trial.write(bytes(min(2**20, size - first)))
            trial.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


class _Disk(io.FileIO):
    """A file that keeps the first error of writing in place of raising it."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
