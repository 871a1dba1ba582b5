"""A TIFF stack with a CSV of positions beside it; and objects as two TIFF images, of amplitude and phase.

- ``scan.tif`` (P, N, N) counts, ``scan.csv`` with one row a frame, under the names ``y_px, x_px`` in any order; or
  ``y_m, x_m`` (also nm, um, mm), for which the user gives the pixel size. Without names it is y, x in pixels.
- ``image_amplitude.tif``, ``image_phase.tif``: float32, radians; pixels per cm where the size of one is known.
"""

import csv
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats._container import DEFAULT, ReadOptions, checked, require_allowed, why
from ptycho.formats._format import Access, Format
from ptycho.formats._metres import UNITS, assembled, in_pixels, object_pixel
from ptycho.io import BadFile

Array = np.ndarray

SUFFIXES = (".tif", ".tiff")
IMAGES = ("amplitude", "phase")
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def recognises_scan(path: Path) -> bool:
    """A TIFF with a CSV of its name, or the CSV."""
    stack = _stack(path)
    return stack is not None and stack.with_suffix(".csv").is_file()


def recognises_product(path: Path) -> bool:
    """One of the images of an object, with the other."""
    return all(image is not None and image.is_file() and _is_tiff(image) for image in _images(path))


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the stack and the positions."""
    stack = _stack(path)
    if stack is None:
        raise BadFile(f"{path} is no TIFF, and there is none of its name; give the stack of frames")
    counts = checked(stack, "the stack", _load(stack, options), 3, "uif")
    beside = stack.with_suffix(".csv")
    values, unit, notes = _positions(beside)
    pixel = None
    if unit != "px":
        pixel = object_pixel(beside, options, None, counts.shape[-1], None, "the pixel size")
        values = in_pixels(beside, f"y_{unit}", values, pixel, options, UNITS[unit])
    pixel = pixel or options.pixel_size_m
    return assembled(path, counts, values, notes=notes, pixel_size_m=pixel, options=options)


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read amplitude and phase."""
    images = [_load(image, options) for image in _images(path) if image is not None and image.is_file()]
    if len(images) != 2 or images[0].shape != images[1].shape:
        raise BadFile(f"{path} has no other image of its size; give *_amplitude.tif and *_phase.tif of one object")
    amplitude, phase = (checked(path, name, image, 2, "uif") for name, image in zip(IMAGES, images))
    return Product(object=amplitude * np.exp(1j * phase), pixel_size_m=options.pixel_size_m, source=str(path))


def write_scan(scan: Scan, path: Path) -> None:
    """Write the stack in the dtype of the counts, and the positions to every digit."""
    import tifffile

    scan.require_far_field("TIFF stacks", "write HDF5 or NPZ")
    tifffile.imwrite(path, scan.counts, photometric="minisblack", compression="zlib", predictor=False)
    with path.with_suffix(".csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["y_px", "x_px"])
        rows.writerows([repr(float(y)), repr(float(x))] for y, x in scan.positions)


def write_product(product: Product, path: Path) -> None:
    """Write the two images."""
    import tifffile

    size = product.pixel_size_m
    # Pixels per centimetre
    scale: dict[str, Any] = (
        {} if size is None else dict(resolution=(1e-2 / size, 1e-2 / size), resolutionunit="CENTIMETER")
    )
    for name, image in zip(IMAGES, (np.abs(product.object), np.angle(product.object))):
        file = path.with_name(f"{path.stem}_{name}.tif")
        tifffile.imwrite(file, image.astype(np.float32), photometric="minisblack", **scale)


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def _stack(path: Path) -> Path | None:
    """The TIFF itself, or that beside a CSV."""
    candidates = [path] if path.suffix.lower() != ".csv" else [path.with_suffix(suffix) for suffix in SUFFIXES]
    return next((file for file in candidates if file.is_file() and _is_tiff(file)), None)


def _images(path: Path) -> list[Path | None]:
    """The two images of an object, one of which this is."""
    kind = next((name for name in IMAGES if path.stem.endswith(f"_{name}")), None)
    if kind is None:
        return [None, None]
    return [path.with_name(f"{path.stem.removesuffix(kind)}{name}{path.suffix}") for name in IMAGES]


def _load(path: Path, options: ReadOptions) -> Array:
    import tifffile

    log = logging.getLogger("tifffile")  # it logs every damage; the error below is enough
    was, log.disabled = log.disabled, True
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            size = series.dtype.itemsize * math.prod(series.shape) if series.dtype is not None else 0
            stored = path.stat().st_size
            require_allowed(path, "the stack", size, stored, options)
            if math.prod(series.keyframe.chunked) > stored:  # tifffile would look for each of them
                raise BadFile(f"{path} is a damaged TIFF: it has more strips than bytes; write it anew")
            return np.asarray(series.asarray(maxworkers=1))
    except BadFile:
        raise
    except Exception as error:  # a decoder of damaged bytes raises whatever it meets
        raise BadFile(f"{path} is a damaged TIFF, or of an unknown packing ({why(error)}); write it anew") from error
    finally:
        log.disabled = was


def _positions(path: Path) -> tuple[Array, str, tuple[str, ...]]:
    """``(positions, unit, notes)``, positions (P, 2) as (y, x)."""
    if not path.is_file():
        raise BadFile(f"there is no {path} with the positions; write one row y_px, x_px for each frame")
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8-sig").splitlines()) if row]
    except (UnicodeError, csv.Error) as error:
        raise BadFile(f"{path} is no CSV in UTF-8 ({error}); write it again") from error
    names = [name.strip().lower() for name in rows[0]] if rows else []
    columns = {name.partition("_")[0]: i for i, name in enumerate(names) if name[:1] in "xy" and "_" in name}
    unit = names[columns["y"]].partition("_")[2] if "y" in columns else "px"
    named = {"x", "y"} <= set(columns)
    if unit not in {"px", "m", "mm", "um", "nm"} or (named and names[columns["x"]] != f"x_{unit}"):
        raise BadFile(f"{path} has columns {', '.join(names)!r}; expected y_px and x_px, or both in m, mm, um or nm")
    order = (columns["y"], columns["x"]) if named else (0, 1)
    try:
        # ``named`` is 0 or 1: the row of names is left out.
        values = np.array([[float(row[i]) for i in order] for row in rows[named:]])
    except (ValueError, IndexError) as error:
        raise BadFile(f"{path} has a row without two numbers ({error}); expected y_px, x_px of each frame") from error
    note = "The positions have no names: they were taken as y, x in pixels."
    return values.reshape(-1, 2), unit, () if named else (note,)


FORMAT = Format(
    name="tiff",
    suffixes=SUFFIXES,
    needs="*.tif of frames and *.csv of positions (y_px, x_px); or as a result *_amplitude.tif and *_phase.tif",
    scans=Access(recognises_scan, read_scan, write_scan),
    pairs=True,
    products=Access(recognises_product, read_product, write_product),
    lacks=("probe", "mask", "object", "beam", "pixel_size_m", "notes"),
)
