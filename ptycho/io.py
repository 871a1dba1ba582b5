"""Files that appear complete or not at all, and the error for those that cannot be used."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BadFile(ValueError):
    """The content of a file cannot be used: one line that names the file, the key and the remedy."""

    def __init__(self, text: str) -> None:
        one_line = " ".join(str(text).split())
        super().__init__(one_line.encode("utf-8", "backslashreplace").decode())


@contextmanager
def replaced(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to instead of ``path``, in a temporary folder; on success its files move beside ``path``.

    Each is flushed to the disk first, and replaces an old one in one step: whenever the process is killed, the old file
    or the new one is there. Of several files that of the name of ``path`` moves last. Raises FileNotFoundError if the
    folder of ``path`` does not exist.
    """
    path = Path(path)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
