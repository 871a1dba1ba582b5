"""Frames alone, as scripts save them: one array of 3 or 4 axes in NPY, NPZ, HDF5 or MATLAB, the last two of a frame.

``(rows, columns, h, w)`` or ``(P, h, w)``; MATLAB's have the frame first, ``(h, w, ...)``, which the totals of the
frames tell. Numbers beside the array, in HDF5 also attributes, count by their name and the unit at its end:
``step_A``, ``voltage_kV``, ``energy_eV``, ``semi_angle_mrad``, ``defocus_A``, ``detector_pixel_mrad``,
``rotation_deg``, ``distance_m``. The user gives the rest (`ptycho.config.ReadConfig`). Files that another format knows
are not read here. Read only.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.arrays import Array, Real
from ptycho.config import DETECTOR_UNITS, STEP_UNITS
from ptycho.data.frames import Counts, StoredFrames
from ptycho.data.scan import Scan
from ptycho.formats import _matlab
from ptycho.formats._container import DEFAULT, REAL, ReadOptions, checked, load_npz, npz_keys, npz_ndim, why
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_keys, is_hdf5
from ptycho.formats._metres import beam_of
from ptycho.formats._raster import RasterFacts, electron_beam, raster_scan
from ptycho.io import BadFile

Numbers = dict[str, float]
NDIM = (3, 4)


def recognises_scan(path: Path) -> bool:
    """There is an array of 3 or 4 axes, and no positions: files that list these are of another format."""
    if _is_npy(path):
        return True
    if _matlab.is_matlab(path):
        return bool(_matlab.variables(path))
    if is_hdf5(path):
        return bool(_hdf5_stacks(path)) and not _lists_positions(hdf5_keys(path))
    return any(npz_ndim(path, key) in NDIM for key in npz_keys(path)) and not _lists_positions(npz_keys(path))


def _lists_positions(keys: Iterable[str]) -> bool:
    return any(key.rsplit("/", 1)[-1].startswith("position") for key in keys)


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the largest of the arrays, or the one that the user names."""
    numbers: Numbers = {}
    if _is_npy(path):
        frames = _npy(path, options)
    elif _matlab.is_matlab(path):
        frames, numbers = _of_matlab(path, options)
    elif is_hdf5(path):
        return _of_hdf5(path, options)
    else:
        frames, numbers = _of_npz(path, options)
    return _scan(path, frames, numbers, options)


def _scan(path: Path, frames: Any, numbers: Numbers, options: ReadOptions) -> Scan:
    """The scan of an array of 3 or 4 axes."""
    shape = tuple(frames.shape[:-2]) if frames.ndim == 4 else None
    flat: Counts = frames if frames.ndim == 3 else frames.reshape(-1, *frames.shape[-2:])
    if isinstance(frames, np.memmap):  # larger than what is read into memory
        flat = StoredFrames.of(flat)
    return raster_scan(path, flat, facts_of(path, numbers, shape), options)


def facts_of(path: Path, numbers: Mapping[str, float], shape: tuple[int, ...] | None) -> RasterFacts:
    """What numbers state of a scan, by their names with units."""
    value = lambda pattern, units: _named(numbers, pattern, units)
    step = value(r"(scan_?)?step(_size)?", {unit: size for unit, size in STEP_UNITS.items() if unit != "px"})
    voltage = value(r"(acceleration_|accelerating_|high_)?voltage", {"kV": 1e3, "V": 1.0})
    energy = value(r"(beam_|photon_)?energy", {"eV": 1.0, "keV": 1e3})
    angle = value(r"(convergence_)?semi_?angle", {"mrad": 1.0, "rad": 1e3})
    defocus = value(r"defocus", {"m": 1.0, "nm": 1e-9, "A": 1e-10})
    distance = value(r"(detector_|sample_detector_)?distance|camera_length", {"m": 1.0, "mm": 1e-3})
    rotation = value(r"(scan_)?rotation", {"deg": 1.0, "rad": float(np.rad2deg(1))})
    beam, notes = electron_beam(path, voltage) if voltage else (beam_of(path, energy, distance), ())
    spelt = {unit.replace("1/", "inv_"): unit for unit in DETECTOR_UNITS}
    pixels = ((name, unit) for name, unit in spelt.items() if value(r"(detector|det)_pixel", {name: 1.0}))
    pixel = next(((value(r"(detector|det)_pixel", {name: 1.0}) or 0.0, unit) for name, unit in pixels), None)
    return RasterFacts(
        shape=None if shape is None else (int(shape[0]), int(shape[1])),
        step_m=None if step is None else (step, step),
        detector_pixel=pixel,
        beam=beam,
        rotation_deg=rotation,
        semiangle_mrad=angle,
        defocus_m=defocus,
        notes=notes,
    )


def _named(numbers: Mapping[str, float], pattern: str, units: Mapping[str, float]) -> float | None:
    """The first number of such a name that ends in one of the units, in the first of these."""
    for name, number in numbers.items():
        match = re.fullmatch(rf"(?:{pattern})_({'|'.join(units)})", name.rsplit("/", 1)[-1])
        if match and np.isfinite(number):
            return number * units[match[match.lastindex or 0]]
    return None


# ---------------------------------------------------------------------------------------------------------------- NPY


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _npy(path: Path, options: ReadOptions) -> Any:
    """The array, mapped from the file where it is large."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever it meets
        raise BadFile(
            f"{path} is a damaged NPY file, or one of objects ({why(error)}); save the numbers anew"
        ) from error
    return checked(path, path.name, array if array.nbytes > options.in_memory_bytes else np.array(array), NDIM, REAL)


# ---------------------------------------------------------------------------------------------------------------- NPZ


def _of_npz(path: Path, options: ReadOptions) -> tuple[Any, Numbers]:
    keys = npz_keys(path)
    key = _chosen(path, {key: npz_ndim(path, key) for key in keys}, options)
    arrays, _ = load_npz(path, [name for name in keys if name == key or npz_ndim(path, name) == 0], options)
    return checked(path, key, arrays.pop(key), NDIM, REAL), _numbers(arrays.items())


def _chosen(path: Path, ndims: Mapping[str, int], options: ReadOptions) -> str:
    """The array that the user names, or else the only one of 4 axes, or of 3."""
    stacks = [key for key, ndim in ndims.items() if ndim in NDIM]
    if (named := options.given.dataset) is not None:
        if named.strip("/") not in [key.strip("/") for key in ndims]:
            raise BadFile(f"{path} has no {named!r}; give --dataset, one of {', '.join(stacks)}")
        return named
    best = [key for key in stacks if ndims[key] == 4] or stacks
    if len(best) != 1:
        raise BadFile(f"{path} has several arrays that may be frames: give --dataset, one of {', '.join(best)}")
    return best[0]


def _numbers(items: Iterable[tuple[str, Any]]) -> Numbers:
    """Those that are one real number."""
    arrays = ((name, np.asarray(value)) for name, value in items)
    return {name: float(a.ravel()[0]) for name, a in arrays if a.size == 1 and a.dtype.kind in REAL}


# --------------------------------------------------------------------------------------------------------------- HDF5


def _hdf5_stacks(path: Path) -> dict[str, int]:
    """Axes of the arrays of frames in the file, by their key."""
    with Hdf5(path) as file:
        ndims = {key: getattr(file.find(key, outside=False), "ndim", 0) for key in hdf5_keys(path)}
    return {key: ndim for key, ndim in ndims.items() if ndim in NDIM}


def _of_hdf5(path: Path, options: ReadOptions) -> Scan:
    key = _chosen(path, _hdf5_stacks(path), options)
    with Hdf5(path, options) as file:
        shape = file.find(key).shape
        frames = file.frames(key, raster=True)
        scalars = [name for name in hdf5_keys(path) if getattr(file.find(name), "shape", None) in ((), (1,))]
        numbers = _numbers((name, file.get(name)) for name in scalars if file.find(name).dtype.kind in REAL)
        for group in ("/", key):
            numbers |= _numbers((name, file.attribute(group, name)) for name in file.find(group).attrs)
    return raster_scan(path, frames, facts_of(path, numbers, shape[:2] if len(shape) == 4 else None), options)


# ------------------------------------------------------------------------------------------------------------- MATLAB


def _of_matlab(path: Path, options: ReadOptions) -> tuple[Any, Numbers]:
    arrays = _matlab.load(path, _matlab.variables(path), options)
    key = _chosen(path, {name: array.ndim for name, array in arrays.items()}, options)
    array = checked(path, key, arrays.pop(key), NDIM, REAL)
    return frames_last(array), _numbers(arrays.items())


def frames_last(array: Real[Array, "..."]) -> Real[Array, "..."]:
    """An array of 3 or 4 axes whose frames may come first, with them last.

    Totals of frames vary little along a scan, totals of pixels vary much over a frame.
    """
    ahead = (0, 1)
    behind = (array.ndim - 2, array.ndim - 1)
    totals = [array.sum(axis=axes, dtype=np.float64) for axes in (ahead, behind)]
    first, last = (float(total.std() / max(abs(float(total.mean())), 1e-30)) for total in totals)
    # Summed over the frame's own axes, what is left varies least.
    return np.moveaxis(array, ahead, (-2, -1)) if first < last else array


FORMAT = Format(
    name="array",
    suffixes=(".npy",),
    needs="NPY, NPZ, HDF5 or MATLAB: one array (rows, columns, h, w) or (P, h, w) of frames",
    scans=Access(recognises_scan, read_scan),
    raster=True,
)
