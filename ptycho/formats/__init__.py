"""Scan files: `read_scan`, `write_scan`; results of other programs: `read_product`, `write_product`; `convert`.

One module per format. Each has ``NAME``, ``SUFFIXES`` (what is written goes by), ``NEEDS`` (the keys that make a file
one of its kind, for error messages), ``recognises(path) -> bool`` (by content) and ``read(path, options) -> Scan``; one
that can be written also has ``write(scan, path)`` and ``LACKS``, the fields of a scan it has no place for. For results
it is ``recognises_product``, ``read_product`` and ``write_product``. A new format is a new module, and its name in
`FORMATS`, or in `PRODUCTS` if it holds results alone.

A reader converts into the conventions of `ptycho.data.scan.Scan`, and says what it had to assume or leave out in
`Scan.notes`. No reader unpickles anything, and whatever is wrong with a file ends as a `BadFile`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.diagnostics.repair import mended
from ptycho.formats import (
    cxi,
    emd,
    empad,
    fold_slice,
    hdf5,
    hxn,
    nexus,
    npz,
    ptychodus,
    ptychopinn,
    ptychoshelves,
    ptyd,
    ptylab,
    ptyr,
    reconstruction,
    tiff,
    tike,
)  # fmt: skip
from ptycho.formats._container import DEFAULT, ReadOptions, forget_unpacked, npz_keys
from ptycho.formats._hdf5 import hdf5_keys
from ptycho.formats._metres import MADE_UP, physical
from ptycho.io import BadFile, replaced

__all__ = ["BadFile", "ReadOptions", "convert", "losses", "read_product", "read_scan", "write_product", "write_scan"]

FORMATS: tuple[Any, ...] = (
    hdf5, tike, npz, ptychopinn, nexus, cxi, ptyd, ptychodus, fold_slice, ptychoshelves, ptylab, hxn, emd, empad, tiff,
)  # fmt: skip
PRODUCTS: tuple[Any, ...] = (reconstruction, ptyr)
"""Formats of results alone; some of `FORMATS` hold results too."""
FIELDS = {
    "probe": "the probe",
    "mask": "the mask",
    "object": "the true object",
    "beam": "energy and distance",
    "pixel_size_m": "the pixel size",
    "notes": "the notes",
}
"""What `losses` calls the fields of a scan."""


def read_scan(path: str | Path, format: str | None = None, options: ReadOptions = DEFAULT) -> Scan:
    """Read a scan; the format is found by the content of the file, or named.

    Raises FileNotFoundError if there is no file, BadFile (a ValueError) if no format recognises it or its content is
    bad.
    """
    return _read("recognises", "read", path, format, options)


def read_product(path: str | Path, format: str | None = None, options: ReadOptions = DEFAULT) -> Product:
    """Read the result of a program; errors are those of `read_scan`."""
    return _read("recognises_product", "read_product", path, format, options)


def _read(recognises: str, read: str, path: str | Path, format: str | None, options: ReadOptions) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = None if format is None else _named(format, read)
    try:
        with np.errstate(all="ignore"):  # what overflows in a damaged file is found by the checks
            return getattr(module or _recognising(path, recognises), read)(path, options)
    except BadFile:
        raise
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error}); check that you may, and that the disk is whole") from error
    except ValueError as error:  # what Scan or Product have against the arrays
        raise BadFile(f"{path}: {error}") from error
    finally:
        forget_unpacked()


def write_scan(scan: Scan, path: str | Path, format: str | None = None) -> Path:
    """Write a scan and return its path; the format is named, or the first whose suffix the path has.

    The file appears whole or not at all (`ptycho.io.replaced`). Raises ValueError for an unknown format or suffix,
    FileNotFoundError if the folder does not exist.
    """
    return _write("write", scan, path, format)


def write_product(product: Product, path: str | Path, format: str | None = None) -> Path:
    """Write the result of a program, as `write_scan` does a scan."""
    return _write("write_product", product, path, format)


def _write(write: str, content: Scan | Product, path: str | Path, format: str | None) -> Path:
    path = Path(path)
    module = _by_suffix(path, write) if format is None else _named(format, write)
    with replaced(path) as partial:
        getattr(module, write)(content, partial)
    return path


def convert(
    source: str | Path,
    target: str | Path,
    format: str | None = None,
    options: ReadOptions = DEFAULT,
    crop: int | None = None,
    bin: int = 1,
    mend: bool = False,
) -> tuple[str, ...]:
    """Read a scan, or else a result, and write it in another format; sentences on what was assumed, lost or made up.

    A scan may be mended (`ptycho.diagnostics.repair`), cropped to a smaller detector, and binned (`Scan.cropped`,
    `Scan.binned`), in this order.
    """
    source, target = Path(source), Path(target)
    if source.is_file() and any(m.recognises(source) for m in _able("recognises")):
        scan = read_scan(source, options=options)
        scan = (mended(scan) if mend else scan).cropped(crop or scan.N).binned(bin)
        write_scan(scan, target, format)
        return (*scan.notes, *losses(scan, target, format))
    if source.is_file() and any(m.recognises_product(source) for m in _able("recognises_product")):
        if crop is not None or bin != 1 or mend:
            raise ValueError(f"{source} is a result, without frames; leave --mend, --crop and --bin out")
        product = read_product(source, options=options)
        write_product(product, target, format)
        return product.notes
    read_scan(source, options=options)  # which says why not
    raise AssertionError("a file that no format recognises was read")


def losses(scan: Scan, path: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Sentences on what a file of the scan in a format does not hold, and what is made up in it."""
    module = _by_suffix(Path(path), "write") if format is None else _named(format, "write")
    there = {name for name in FIELDS if not _is_missing(getattr(scan, name))}
    lacks = [FIELDS[name] for name in getattr(module, "LACKS", ()) if name in there]
    kept = [name for name in lacks if getattr(module, "OWN_GROUP", False) and name != "the notes"]
    lost = [name for name in lacks if name not in kept]
    sentences = []
    if lost:
        sentences.append(f"Files of {module.NAME} have no place for {' and '.join(lost)}: lost.")
    if kept:
        only = "a group 'ptycho', which other programs do not read"
        sentences.append(f"Files of {module.NAME} have no place for {' and '.join(kept)}: kept in {only}.")
    if made_up := physical(scan).made_up if getattr(module, "METRES", False) else ():
        values = ", ".join(f"{name} {MADE_UP[name]:g} {'eV' if name == 'energy' else 'm'}" for name in made_up)
        sentences.append(f"The scan does not know what files of {module.NAME} need, so it was made up: {values}.")
    return tuple(sentences)


def _is_missing(value: Any) -> bool:
    """Nothing, or a mask that masks nothing."""
    if isinstance(value, np.ndarray):
        return value.dtype == bool and bool(value.all())
    return value is None or value == ()


def _able(what: str) -> list[Any]:
    return [module for module in (*FORMATS, *PRODUCTS) if hasattr(module, what)]


def _recognising(path: Path, recognises: str) -> Any:
    for module in _able(recognises):
        if getattr(module, recognises)(path):
            return module
    raise BadFile(_unrecognised(path))


def _named(name: str, what: str) -> Any:
    able = _able(what)
    for module in (*FORMATS, *PRODUCTS):
        if name == module.NAME:
            if module in able:
                return module
            kind = "results" if what.endswith("product") else "scans"
            raise ValueError(
                f"format {name!r} has no way to {what.split('_')[0]} {kind}; formats that have are "
                f"{', '.join(m.NAME for m in able)}"
            )
    raise ValueError(f"there is no format {name!r}; formats are {', '.join(m.NAME for m in (*FORMATS, *PRODUCTS))}")


def _by_suffix(path: Path, write: str) -> Any:
    """The module with the longest of its suffixes that the name ends with."""
    name = path.name.lower()
    fits = [(len(suffix), m) for m in _able(write) for suffix in m.SUFFIXES if name.endswith(suffix)]
    if fits:
        return max(fits, key=lambda fit: fit[0])[1]
    known = "; ".join(f"{m.NAME}: {', '.join(m.SUFFIXES)}" for m in _able(write))
    raise ValueError(f"no format is written to files named like {path.name!r}; give one of {known}, or a format")


def _unrecognised(path: Path) -> str:
    for module in _able("recognises_product"):
        if module.recognises_product(path):
            return (
                f"{path} is a result of the format {module.NAME} and holds no frames; give a scan, or a result to "
                f"'ptycho convert'. The format needs {module.NEEDS}"
            )
    keys = hdf5_keys(path) or npz_keys(path)
    found = f"it has the keys {', '.join(keys[:40])}" if keys else "it is neither HDF5 nor NPZ with any array"
    known = "; ".join(f"{module.NAME} ({module.NEEDS})" for module in FORMATS)
    return f"no format recognises {path}: {found}. Known formats and the keys they need: {known}"
