"""Scan files: `read_scan`, `write_scan`; results of other programs: `read_product`, `write_product`; `convert`.

One module per format, which ends in its record (`Format`); a new format is a new module and its line in `FORMATS`.

A reader converts to the conventions of `ptycho.data.scan.Scan`, and `Scan.notes` lists what it had to assume or leave
out. No reader unpickles anything, and whatever is wrong with a file ends as a `BadFile`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.diagnostics.repair import repaired
from ptycho.formats import (
    array,
    cxi,
    dectris,
    emd,
    empad,
    fold_slice,
    hdf5,
    hxn,
    mib,
    microscopy,
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
)
from ptycho.formats._container import DEFAULT, ReadOptions, forget_unpacked, npz_header, npz_keys
from ptycho.formats._format import Access, Content, Format
from ptycho.formats._hdf5 import hdf5_datasets, hdf5_keys
from ptycho.formats._metres import MADE_UP, physical
from ptycho.formats._near_field import in_near_field
from ptycho.formats._raster import with_given
from ptycho.io import BadFile, replaced

__all__ = [
    "Access",
    "BadFile",
    "Format",
    "ReadOptions",
    "convert",
    "datasets",
    "losses",
    "read_product",
    "read_scan",
    "write_product",
    "write_scan",
]

FORMATS: tuple[Format, ...] = (
    hdf5.FORMAT,
    tike.FORMAT,
    npz.FORMAT,
    ptychopinn.FORMAT,
    nexus.FORMAT,  # before CXI, whose keys it has too
    cxi.FORMAT,
    ptyd.FORMAT,
    ptychodus.FORMAT,
    fold_slice.FORMAT,
    ptychoshelves.FORMAT,
    ptylab.FORMAT,
    hxn.FORMAT,
    emd.FORMAT,
    dectris.FORMAT,
    empad.FORMAT,
    tiff.FORMAT,
    reconstruction.FORMAT,
    ptyr.FORMAT,
    mib.FORMAT,
    microscopy.FORMAT,  # after EMD and EMPAD, whose suffixes it has too
    array.FORMAT,  # after all others: it takes any array of frames
)
"""The first that recognises a file reads it; of those with the same suffix the first writes."""
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
    """Read a scan, in the format that is named or the one that recognises the content of the file.

    Raises FileNotFoundError if there is no file, BadFile (a ValueError) if no format recognises it or its content is
    bad.
    """
    return _read(_scans, path, format, options)


def read_product(path: str | Path, format: str | None = None, options: ReadOptions = DEFAULT) -> Product:
    """Read the result of a program; errors are those of `read_scan`."""
    return _read(_products, path, format, options)


def write_scan(scan: Scan, path: str | Path, format: str | None = None) -> Path:
    """Write a scan and return its path, in the format that is named or the one whose suffix the path has.

    The file appears complete or not at all (`ptycho.io.replaced`). Raises ValueError for an unknown format or suffix,
    FileNotFoundError if the folder does not exist.
    """
    return _write(_scans, scan, Path(path), format)


def write_product(product: Product, path: str | Path, format: str | None = None) -> Path:
    """Write the result of a program, as `write_scan` does a scan."""
    return _write(_products, product, Path(path), format)


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

    With ``mend`` a scan is repaired (`ptycho.diagnostics.repair`), then cropped to a smaller detector, then binned
    (`Scan.cropped`, `Scan.binned`).
    """
    source, target = Path(source), Path(target)
    if source.is_file() and not _recognising(_scans, source) and _recognising(_products, source):
        if crop is not None or bin != 1 or mend:
            raise ValueError(f"{source} is a result, without frames; leave --mend, --crop and --bin out")
        product = read_product(source, options=options)
        write_product(product, target, format)
        return product.notes
    scan = read_scan(source, options=options)
    scan = (repaired(scan) if mend else scan).cropped(crop or scan.N).binned(bin)
    write_scan(scan, target, format)
    return (*scan.notes, *losses(scan, target, format))


def datasets(path: str | Path) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Name, shape and dtype of each array in an HDF5 or NPZ file, whatever it is for; none of any other file."""
    path = Path(path)
    headers = ((key, npz_header(path, key)) for key in npz_keys(path))
    listed = hdf5_datasets(path) or tuple((key, (), "") if h is None else (key, h[0], str(h[1])) for key, h in headers)
    forget_unpacked()
    return listed


def losses(scan: Scan, path: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Sentences on what a file of the scan in a format does not hold, and what is made up in it."""
    chosen = _to_write(_scans, Path(path), format)
    lacking = [name for name in chosen.lacks if _has(scan, name)]
    kept = [FIELDS[name] for name in lacking if chosen.keeps_lacking and name != "notes"]
    lost = [FIELDS[name] for name in lacking if FIELDS[name] not in kept]
    sentences = []
    if lost:
        sentences.append(f"Files of {chosen.name} have no place for {' and '.join(lost)}: lost.")
    if kept:
        group = "a group 'ptycho', which other programs do not read"
        sentences.append(f"Files of {chosen.name} have no place for {' and '.join(kept)}: kept in {group}.")
    if made_up := physical(scan).made_up if chosen.in_metres else ():
        values = ", ".join(f"{name} {MADE_UP[name]:g} {'eV' if name == 'energy' else 'm'}" for name in made_up)
        sentences.append(f"The scan does not know what files of {chosen.name} need, so it was made up: {values}.")
    return tuple(sentences)


def _has(scan: Scan, name: str) -> bool:
    """Whether a field of the scan says anything; a mask that masks nothing does not."""
    value = getattr(scan, name)
    return not value.all() if name == "mask" else isinstance(value, np.ndarray) or bool(value)


Selector = Callable[[Format], Access[Content] | None]


def _scans(format: Format) -> Access[Scan] | None:
    return format.scans


def _products(format: Format) -> Access[Product] | None:
    return format.products


def _read(select: Selector[Content], path: str | Path, name: str | None, options: ReadOptions) -> Content:
    path = Path(path)
    if not (path.is_file() or path.is_dir()):  # opening a pipe would block
        raise FileNotFoundError(f"there is no file {path}")
    format = None if name is None else _named(select, "read", name)
    try:
        with np.errstate(all="ignore"):  # the checks find what overflows in a damaged file
            format = format or _recognising(select, path)
            access = None if format is None else select(format)
            if format is None or access is None:
                raise BadFile(_unrecognised(path))
            content = access.read(path, options)
        # A scan stays one: mypy does not see it.
        return _with_given(content, format, options) if isinstance(content, Scan) else content  # type: ignore[return-value]
    except BadFile:
        raise
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error}); check its permissions, and the disk") from error
    except ValueError as error:  # what Scan or Product have against the arrays
        raise BadFile(f"{path}: {error}") from error
    finally:
        forget_unpacked()


def _with_given(scan: Scan, format: Format, options: ReadOptions) -> Scan:
    """A scan with what the user gives, which it keeps for the record of a run."""
    if not options.given.stated():
        return scan
    scan = scan if format.raster else with_given(scan, options, format.pairs)
    return replace(in_near_field(scan, options), reading=options.given)


def _write(select: Selector[Content], content: Content, path: Path, name: str | None) -> Path:
    access = select(_to_write(select, path, name))
    assert access is not None and access.write is not None
    with replaced(path) as partial:
        access.write(content, partial)
    return path


def _recognising(select: Selector[Content], path: Path) -> Format | None:
    """The first format that recognises a file. Arrays alone are no frames where a format knows them for a result."""
    in_folder = path.is_dir()
    recognises = lambda format, access: (
        access is not None and (format.folders or not in_folder) and access.recognises(path)
    )
    format = next((format for format in FORMATS if recognises(format, select(format))), None)
    is_result = format is array.FORMAT and any(recognises(other, other.products) for other in FORMATS)
    return None if is_result else format


def _able(select: Selector[Content], verb: str) -> list[Format]:
    """The formats that read, or also write."""
    pairs = ((format, select(format)) for format in FORMATS)
    return [format for format, access in pairs if access and (verb == "read" or access.write)]


def _named(select: Selector[Content], verb: str, name: str) -> Format:
    able = _able(select, verb)
    for format in able:
        if format.name == name:
            return format
    if any(format.name == name for format in FORMATS):
        kind = "scans" if select is _scans else "results"
        names = ", ".join(format.name for format in able)
        raise ValueError(f"format {name!r} cannot {verb} {kind}; formats that can are {names}")
    raise ValueError(f"there is no format {name!r}; formats are {', '.join(format.name for format in FORMATS)}")


def _to_write(select: Selector[Content], path: Path, name: str | None) -> Format:
    """The format of this name, or that with the longest suffix that the path ends with."""
    if name is not None:
        return _named(select, "write", name)
    able = _able(select, "write")
    fits = [(len(suffix), f) for f in able for suffix in f.suffixes if path.name.lower().endswith(suffix)]
    if fits:
        return max(fits, key=lambda fit: fit[0])[1]
    known = "; ".join(f"{f.name}: {', '.join(f.suffixes)}" for f in able)
    raise ValueError(f"no format is written to files named like {path.name!r}; give one of {known}, or a format")


def _unrecognised(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, and no Zarr store of HyperSpy (.zspy): name the file in it that holds the frames"
    for format in FORMATS:
        if format.products and format.products.recognises(path):
            return (
                f"{path} is a result of the format {format.name} and holds no frames; give a scan, or a result to "
                f"'ptycho convert'. The format needs {format.needs}"
            )
    keys = hdf5_keys(path) or npz_keys(path)
    content = f"it has the keys {', '.join(keys[:12])}" if keys else "it is neither HDF5 nor NPZ with any array"
    known = ", ".join(format.name for format in FORMATS if format.scans)
    return f"no format recognises {path}: {content}. Formats are {known} (docs/howto/formats.md says what each needs)"
