"""What one file format is: a record of its name, its keys, and the functions that read and write it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats._container import ReadOptions

Content = TypeVar("Content", Scan, Product)


@dataclass(frozen=True)
class Access(Generic[Content]):
    """How a format holds scans, or the results of a program."""

    recognises: Callable[[Path], bool]
    """Whether a file, of any kind, is of this format, judged by its content."""
    read: Callable[[Path, ReadOptions], Content]
    """Raises BadFile, OSError, or ValueError where `Scan` or `Product` refuse the values."""
    write: Callable[[Content, Path], None] | None = None
    """None: the format is read only. Files beside the path may be written too."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file."""

    name: str
    """What ``--format`` calls it."""
    suffixes: tuple[str, ...]
    """Names of files to write end with one of these; files to read may have any name."""
    needs: str
    """The keys that make a file one of its kind, for error messages."""
    scans: Access[Scan] | None = None
    products: Access[Product] | None = None
    lacks: tuple[str, ...] = ()
    """Fields of a `Scan` that the format has no place for."""
    keeps_lacking: bool = False
    """Those, but not the notes, are kept all the same in a group ``ptycho``, which other programs do not read."""
    raster: bool = False
    """The reader itself applies what the user gives (`ReadOptions.given`), the shape and step of a raster too."""
    pairs: bool = False
    """The reader itself pairs frames and positions, as the user says (`ptycho.formats._placing`)."""
    in_metres: bool = False
    """Files need energy, distance and pixel size, which are made up where a scan does not know them."""
    folders: bool = False
    """What it reads may be a folder, as a Zarr store is."""
