"""Where results go: looked at before anything is computed, and a folder for one run at a time."""

import os
import shutil
from pathlib import Path

import typer

from ptycho.io import PARTIAL

LOCK = ".lock"
"""In a folder that a run writes to; the system frees it when the process ends, however it does."""


def output_folder(context: typer.Context, folder: Path | None) -> Path | None:
    """Make a folder for a run and hold it until the command ends; typer.BadParameter where that is not possible.

    A folder that the command made and left empty goes again.
    """
    if folder is None or context.resilient_parsing:
        return folder
    from filelock import FileLock, Timeout

    writable_folder(context, folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, blocking=False)
        lock.acquire()
        if not (folder / LOCK).exists():  # the other run ended in between, and its file is gone
            raise Timeout(str(folder / LOCK))
    except Timeout:
        raise typer.BadParameter(f"another run is writing to {folder}: wait for its end, or choose another") from None
    except OSError as error:
        raise typer.BadParameter(f"{folder}: {error.strerror}") from None
    for left in folder.rglob(f".*{PARTIAL}"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)

    def release() -> None:
        if os.name == "posix":  # elsewhere the system keeps a file that is open
            (folder / LOCK).unlink(missing_ok=True)
            if made and not any(folder.iterdir()):
                folder.rmdir()
        lock.release()

    context.call_on_close(release)
    return folder


def writable_folder(context: typer.Context, folder: Path | None) -> Path | None:
    """A folder that is there and can be written to, or can be made; else typer.BadParameter."""
    if folder is None or context.resilient_parsing:
        return folder
    _can_be_made(folder)
    if folder.exists() and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is a file; results go to a folder")
    return folder


def writable_file(context: typer.Context, path: Path | None) -> Path | None:
    """A path where a file can be written; else typer.BadParameter: a folder, a device, a folder that is not there."""
    if path is None or context.resilient_parsing:
        return path
    _can_be_made(path)
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} is no file that could be replaced")
    return path


def _can_be_made(path: Path) -> None:
    """Whether the system lets a file or folder be made where its nearest folder is."""
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name too long, a file in the place of a folder
        raise typer.BadParameter(f"{path}: {error.strerror}") from None
    there = path if path.is_dir() else next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise typer.BadParameter(f"{there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{there} cannot be written to")
