"""EMD 1.0 of py4DSTEM: groups whose attribute ``emd_group_type`` tells what they are.

The data cube is a group of type ``array`` with ``data`` (Rx, Ry, Qx, Qy) and ``dim0`` to ``dim3``: the coordinates
along each axis (or the first two) with ``units``: A or nm, and A^-1 or nm^-1; ``R_pixel_size``, ``Q_pixel_units`` and
so on in ``metadatabundle/calibration`` of the root win; its ``QR_rotation`` (radians), ``QR_flip`` (frames
transposed), ``qx0_mean``, ``qy0_mean`` and ``probe_semiangle`` (pixels) are applied. x is the *first* axis: rows.
Results are the arrays ``reconstruction_object`` and ``reconstruction_probe``. Read only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, is_hdf5
from ptycho.formats._metres import UNITS
from ptycho.formats._raster import RasterFacts, electron_beam, raster_scan
from ptycho.io import BadFile

Array = np.ndarray

LENGTHS = {name: UNITS[name] for name in ("A", "Å", "angstrom", "nm", "pm", "um", "m")}


def recognises_scan(path: Path) -> bool:
    """There is an array of four axes."""
    return _array(path, _has_four_axes) is not None


def recognises_product(path: Path) -> bool:
    """There is an array of the name that py4DSTEM gives to results."""
    return _array(path, _is_object) is not None


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the first array of four axes: a raster scan."""
    key = _array(path, _has_four_axes)
    if key is None:
        raise BadFile(f"{path} has no group with emd_group_type 'array' and 'data' of four axes; save a DataCube")
    with Hdf5(path, options) as file:
        counts = file.frames(f"{key}/data", raster=True)
        rows, columns, *_ = file.find(f"{key}/data").shape
        steps = [_calibrated(file, key, "RRQQ"[axis]) or _step(file, f"{key}/dim{axis}") for axis in range(4)]
        calibration = _calibration(key)
        facts = RasterFacts(
            shape=(rows, columns),
            step_m=step_m(steps[:2]),
            detector_pixel=detector_pixel(*steps[3]),
            **geometry(file.path, lambda name: _number(file, f"{calibration}/{name}")),
        )
    return raster_scan(path, counts, facts, options)


def step_m(steps: list[tuple[float, str]]) -> tuple[float, float] | None:
    """From row to row, and from column to column; None where it is in pixels."""
    (y, y_unit), (x, x_unit) = steps
    return (y * LENGTHS[y_unit], x * LENGTHS[x_unit]) if {y_unit, x_unit} <= set(LENGTHS) else None


def detector_pixel(step: float, unit: str) -> tuple[float, str] | None:
    """A step of reciprocal space in the units of `ptycho.config.ReadConfig`; None where it is in pixels."""
    if unit in ("mrad", "rad"):
        return step, unit
    length = unit.removesuffix("^-1").removesuffix("⁻¹").removeprefix("1/").strip()
    return (step / LENGTHS[length], "1/m") if length != unit and length in LENGTHS else None


def _number(file: Hdf5, key: str) -> float | None:
    return file.number(key) if file.has(key) else None


def geometry(path: Path, number: Callable[[str], float | None]) -> dict[str, Any]:
    """What the numbers of a calibration state of scan, detector and lens, as arguments of `RasterFacts`."""
    radians, degrees = number("QR_rotation"), number("QR_rotation_degrees")
    # x is the first axis: rows.
    origin = number("qx0_mean"), number("qy0_mean")
    beam, notes = electron_beam(path, number("energy") or number("accelerating_voltage"))
    return dict(
        rotation_deg=degrees if radians is None else float(np.rad2deg(radians)),
        transposed=bool(number("QR_flip")),
        origin_px=None if None in origin else origin,
        aperture_px=number("probe_semiangle"),
        beam=beam,
        notes=notes,
    )


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read the object, of several slices the first, and the probe if there is one."""
    key = _array(path, _is_object)
    if key is None:
        raise BadFile(f"{path} has no array 'reconstruction_object'; save the result with its object")
    with Hdf5(path, options) as file:
        image = file.array(f"{key}/data", ndim=(2, 3), kinds=COMPLEX)
        probe_key = f"{key.removesuffix('object')}probe/data"
        probe = file.array(probe_key, ndim=(2, 3), kinds=COMPLEX) if file.has(probe_key) else None
        step, unit = _step(file, f"{key}/dim{image.ndim - 1}")
    notes = (f"The object has {len(image)} slices; this is the first.",) if image.ndim == 3 and len(image) > 1 else ()
    return Product(
        object=image if image.ndim == 2 else image[0],
        probe=probe,
        pixel_size_m=options.pixel_size_m or (step * LENGTHS[unit] if unit in LENGTHS else None),
        source=str(path),
        notes=notes,
    )


def _array(path: Path, condition: Callable[[Hdf5, str], bool], levels: int = 6) -> str | None:
    """The first group of type ``array`` that meets a condition, by name, level by level down to so many."""
    if not is_hdf5(path):
        return None
    with Hdf5(path) as file:
        level = [""]
        for _ in range(levels):
            level = [f"{key}/{name}" for key in level for name in file.names(key)]
            level = [key for key in level if file.attribute(key, "emd_group_type") is not None]
            for key in level:
                if file.attribute_text(key, "emd_group_type") == "array" and condition(file, key):
                    return key
    return None


def _has_four_axes(file: Hdf5, key: str) -> bool:
    return getattr(file.find(f"{key}/data"), "ndim", -1) == 4


def _is_object(file: Hdf5, key: str) -> bool:
    return key.endswith("/reconstruction_object")


def _calibration(key: str) -> str:
    """The group of the root's calibration."""
    return f"{key.split('/')[1]}/metadatabundle/calibration"


def _calibrated(file: Hdf5, key: str, space: str) -> tuple[float, str] | None:
    """``(step, units)`` of real (R) or reciprocal (Q) space by the calibration of the root; None without one."""
    prefix = f"{_calibration(key)}/{space}_pixel_"
    step, unit = file.number(f"{prefix}size"), file.text(f"{prefix}units")
    return None if not step or not unit or unit == "pixels" else (abs(step), unit)


def _step(file: Hdf5, key: str) -> tuple[float, str]:
    """``(step, units)`` of an axis; (1, 'pixels') for none."""
    values = file.get(key, 1) if file.has(key) else None
    if values is None or len(values) < 2:
        return 1.0, "pixels"
    step = float(values[1] - values[0])
    if not (np.isfinite(step) and step > 0):
        raise BadFile(f"{file.path} has {key!r} that does not grow; expected evenly spaced coordinates")
    return step, (file.attribute_text(key, "units") or "pixels").strip()


FORMAT = Format(
    name="emd",
    suffixes=(".emd", ".h5"),
    needs="HDF5: a group with emd_group_type = array, its data (Rx, Ry, Qx, Qy) and dim0 to dim3",
    scans=Access(recognises_scan, read_scan),
    products=Access(recognises_product, read_product),
    raster=True,
)
