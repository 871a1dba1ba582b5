"""NeXus (``.nxs``): NXcxi_ptycho and relatives, groups known by their NX_class and, without one, by their usual names.

- NXentry > NXinstrument > NXdetector: ``data`` (P, N, N), or (rows, columns, N, N) of a raster, ``distance``,
  ``x_pixel_size``, ``y_pixel_size``, ``mask`` or ``pixel_mask``, dark and flat field. Or the frames are the signal of
  an NXdata, also in numbered pieces (``data_000001``, ...).
- Energy of the photons: NXbeam ``incident_beam_energy`` or ``energy``, or NXmonochromator ``energy``; the energy of the
  NXsource is the *machine's*.
- Positions: ``translation`` (P, 3) of the detector, of NXdata or of NXsample, as in CXI; NXtransformations ``x`` and
  ``y`` along the attribute ``vector`` of each; or NXpositioner or NXdata ``x`` and ``y``. They have any number of axes,
  one value for a frame, or are the rows and columns of a raster.

Units are attributes, in any spelling. Where there is none, a value that cannot be in m or eV is taken for the unit in
which it can be, with a note. Read only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptycho.data.beam import ELEMENTARY_CHARGE_C, Beam
from ptycho.data.frames import Counts, StoredFrames
from ptycho.data.scan import Scan
from ptycho.formats import cxi
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._detector import MASKS, corrections
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has, is_hdf5
from ptycho.formats._metres import assembled, beam_of, in_pixels, object_pixel, position_unit_m, unit
from ptycho.io import BadFile

Array = np.ndarray

ENERGIES = ("incident_beam_energy", "incident_energy", "energy")
WAVELENGTHS = ("incident_wavelength", "wavelength")
MOTORS = ("{}", "sample_{}", "{}_sample", "stage_{}", "motor_{}", "s{}", "sam{}", "{}_value", "{}_set", "lab{}")
"""What the two motors, x and y, of a scan are called."""


class Places(NamedTuple):
    """Groups of an entry, by NX_class or by their usual names; those that are not there may be named too."""

    entry: str
    detectors: tuple[str, ...]
    beams: tuple[str, ...]
    """NXbeam, then NXmonochromator."""
    data: tuple[str, ...]
    samples: tuple[str, ...]


def recognises_scan(path: Path) -> bool:
    """The definition names ptychography, or the energy is where only NeXus has it, or classes tell frames and
    positions."""
    if not is_hdf5(path):
        return False
    with Hdf5(path) as file:
        if hdf5_has(path, "entry_1/instrument_1"):
            definition = file.text("entry_1/definition") or ""
            literal = ("entry_1/instrument_1/beam_1", "entry_1/sample_1/transformations")
            if "ptycho" in definition.lower() or any(map(file.has, literal)):
                return True
        places = _places(file)
        if places is None or file.has("cxi_version") or _nx_class(file, places.entry) != "NXentry":
            return False
        return bool(_frame_keys(file, places)) and _position_keys(file, places) is not None


def _children(file: Hdf5, group: str, nx_class: str, *usual: str) -> tuple[str, ...]:
    """Groups of a class in a group; else those with the usual names."""
    keys = [f"{group}/{name}".lstrip("/") for name in file.names(group or "/")]
    of_class = [key for key in keys if _nx_class(file, key) == nx_class]
    return tuple(of_class) or tuple(key for key in (f"{group}/{name}".lstrip("/") for name in usual) if file.has(key))


def _nx_class(file: Hdf5, key: str) -> str:
    """Of a group of this file; none of what a link leads to that is not there."""
    import h5py

    if isinstance(file.find(key, outside=False), (h5py.ExternalLink, h5py.Dataset, type(None))):
        return ""
    return file.attribute_text(key, "NX_class") or ""


def _places(file: Hdf5) -> Places | None:
    """Those of the first entry with a detector or data."""
    for entry in _children(file, "", "NXentry", "entry_1", "entry", "entry1"):
        instruments = _children(file, entry, "NXinstrument", "instrument_1", "instrument")
        samples = _children(file, entry, "NXsample", "sample_1", "sample")
        detectors = [key for i in instruments for key in _children(file, i, "NXdetector", "detector_1", "detector")]
        groups = (*instruments, *samples, entry)
        beams = [key for group in groups for key in _children(file, group, "NXbeam", "beam_1", "beam")]
        beams += [key for i in instruments for key in _children(file, i, "NXmonochromator", "monochromator")]
        data = _children(file, entry, "NXdata", "data_1", "data")
        if detectors or data:
            return Places(entry, tuple(detectors), tuple(beams), data, samples)
    return None


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file; the frames of a raster are numbered row by row."""
    with Hdf5(path, options) as file:
        places = _places(file)
        keys = () if places is None else _frame_keys(file, places)
        if places is None or not keys:
            raise BadFile(f"{path} has no frames in an NXdetector or NXdata (entry_1/instrument_1/detector_1/data)")
        counts = _frames(file, keys)
        absent, notes = file.absent, list(file.notes)
        frames, N = len(counts) if absent is None else len(absent), counts.shape[-1]
        detector = next((key for key in places.detectors if keys[0].startswith(f"{key}/")), None)
        detector = detector or next(iter(places.detectors), keys[0].rpartition("/")[0])
        basis, _ = cxi.geometry(file, detector)
        key, moved, factor = _moved(file, places, frames)
        positions_m = cxi.on_detector(path, key, moved, basis)
        distance = _length(file, f"{detector}/distance", notes, metres_below=100.0, otherwise="mm")
        # One side is enough where pixels are square.
        y, x = (
            _length(file, f"{detector}/{axis}_pixel_size", notes, metres_below=1e-3, otherwise="mm or um")
            for axis in "yx"
        )
        sides = (y or x, x or y)
        told = position_unit_m(options)
        step_m = _step(positions_m) * (factor if told is None else told)
        beam = _beam(file, places, distance, lambda beam: _step_px(beam, sides[0], N, step_m), notes)
        beam = options.beam(beam)
        needed = "beam_1/incident_beam_energy, detector_1/distance and x_pixel_size"
        pixel = tuple(object_pixel(path, options, beam, N, side, needed) for side in sides)
        mask, mask_notes = cxi.usable(file, detector, MASKS)
        notes += [*mask_notes, *_off_centre(file, detector, N)]
        applied = corrections(file, detector, counts.shape[1:])
    positions = in_pixels(path, key, positions_m, pixel, options, factor)
    return assembled(
        path, counts, positions, mask=mask, notes=notes, beam=beam, pixel_size_m=pixel[1],
        options=options, absent=absent, detector=applied,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- frames


def _frame_keys(file: Hdf5, places: Places) -> tuple[str, ...]:
    """The data set of the frames, or its numbered pieces in their order."""
    groups = (*places.detectors, *places.data, f"{places.entry}/data")
    for group in groups:
        signal = file.attribute_text(group, "signal") if file.has(group) else None
        for name in ("data", *([signal] if signal else []), "frames", "image"):
            if _axes(file, f"{group}/{name}") in (3, 4):
                return (f"{group}/{name}",)
        names = file.names(group) if file.has(group) else ()
        numbered = [
            f"{group}/{n}" for n in sorted(names) if n.startswith("data_") and n.removeprefix("data_").isdecimal()
        ]
        if numbered and _axes(file, numbered[0]) == 3:
            return tuple(numbered)
    return ()


def _axes(file: Hdf5, key: str) -> int:
    """Axes of a data set; 0 for anything else, and for a link that leads nowhere."""
    try:
        return getattr(file.find(key), "ndim", 0) or 0
    except BadFile:
        return 0


def _frames(file: Hdf5, keys: tuple[str, ...]) -> Counts:
    if len(keys) == 1:
        return file.frames(keys[0], raster=True)
    stacks = [StoredFrames.of(file.frames(key, left=True)) for key in keys]
    joined = StoredFrames.joined(stacks)
    return joined if joined.nbytes > file.options.in_memory_bytes else np.asarray(joined)


# ------------------------------------------------------------------------------------------------------ positions


def _position_keys(file: Hdf5, places: Places) -> tuple[str, ...] | None:
    """``(translation,)``, or ``(x, y)``; None where there are none."""
    translations = [f"{group}/translation" for group in (*places.detectors, *places.data)]
    for sample in places.samples:
        translations += [f"{sample}/{name}/translation" for name in ("geometry_1", "geometry")]
    translation = file.first(*translations)
    if translation is not None:
        return (translation,)
    groups: list[str] = []
    for sample in places.samples:
        groups += [*_children(file, sample, "NXtransformations", "transformations"), sample]
        groups += _children(file, sample, "NXpositioner", "positioner", "positioners")
    instruments = {detector.rpartition("/")[0] for detector in places.detectors}
    groups += [*places.data, *sorted(instruments), f"{places.entry}/positioners", places.entry]
    for group in groups:
        found = [
            next((key for name in MOTORS if (key := _values_at(file, f"{group}/{name.format(axis)}"))), None)
            for axis in "xy"
        ]
        if None not in found:
            return tuple(key for key in found if key)
    return None


def _values_at(file: Hdf5, key: str) -> str | None:
    """A data set, or the values of an NXpositioner."""
    return next((name for name in (key, f"{key}/value", f"{key}/data") if _axes(file, name) >= 1), None)


def _moved(file: Hdf5, places: Places, frames: int) -> tuple[str, Array, float]:
    """The key of the moves of the sample, these (P, 3), and metres of their unit."""
    keys = _position_keys(file, places)
    if keys is None:
        where = f"{(places.samples or (places.entry,))[0]}/transformations/x and y"
        raise BadFile(f"{file.path} has no positions in 'translation' or '{where}'; add them")
    if len(keys) == 1:
        return keys[0], file.array(keys[0], ndim=2), unit(file, keys[0])
    units = [unit(file, key) for key in keys]
    values = [file.array(key).ravel() * (factor / units[0]) for key, factor in zip(keys, units, strict=True)]
    x, y = values
    if len(x) != len(y):
        # Rows and columns of a raster
        if len(x) * len(y) != frames:
            raise BadFile(
                f"{file.path} has {keys[1]!r} of {len(y)} values and {keys[0]!r} of {len(x)} for {frames} frames; "
                "expected one of each for a frame"
            )
        x, y = np.tile(x, len(y)), np.repeat(y, len(x))
    total = np.zeros((len(x), 3))
    for key, value, usual in zip(keys, (x, y), np.eye(3), strict=False):
        vector = file.attribute_array(key, "vector")
        vector = usual if vector is None else vector
        if vector.shape != (3,):
            raise BadFile(f"{file.path} has '{key}@vector' {vector}; expected x, y, z")
        # (P, 3): the sample moves by the sum of both axes, each along its vector.
        total = total + value[:, None] * vector
    return keys[0].rpartition("/")[0], total, units[0]


# --------------------------------------------------------------------------------------------------------- optics


def _length(file: Hdf5, key: str, notes: list[str], metres_below: float, otherwise: str) -> float | None:
    """Metres; of a length without a unit that is too large for that, mm, or um where that is too large as well."""
    value = file.number(key) if file.has(key) else None
    if value is None or file.attribute_text(key, "units"):
        return None if value is None else value * unit(file, key)
    if abs(value) < metres_below:
        return value
    name = "um" if "um" in otherwise and abs(value) >= 1 else "mm"
    notes.append(f"'{key}' is {value:g} without a unit: taken for {name}.")
    return value * {"mm": 1e-3, "um": 1e-6}[name]


def _beam(
    file: Hdf5, places: Places, distance_m: float | None, step_px: Callable[[Beam], float], notes: list[str]
) -> Beam | None:
    """The photons' beam; an energy without a unit is eV, or keV where only that makes steps of a plausible size."""
    key = file.first(*(f"{group}/{name}" for group in places.beams for name in ENERGIES))
    waves = file.first(*(f"{group}/{name}" for group in places.beams for name in WAVELENGTHS))
    value = None if key is None else file.number(key)
    if key is None or value is None:
        wavelength = None if waves is None else file.number(waves)
        wavelength = None if wavelength is None or waves is None else wavelength * unit(file, waves)
        return beam_of(file.path, None, distance_m, wavelength_m=wavelength)
    if file.attribute_text(key, "units"):
        return beam_of(file.path, value * unit(file, key), distance_m)
    if 0 < value < 1e-10:
        notes.append(f"'{key}' is {value:g} without a unit: taken for joules.")
        return beam_of(file.path, value / ELEMENTARY_CHARGE_C, distance_m)
    beam = beam_of(file.path, value, distance_m)
    if beam is not None and value < 100 and step_px(beam) < 0.1:
        notes.append(f"'{key}' is {value:g} without a unit: taken for keV.")
        return beam_of(file.path, value * 1e3, distance_m)
    return beam


def _step(positions: Array) -> float:
    """Median distance to the nearest other position; NaN where there are no two."""
    from scipy.spatial import cKDTree

    distinct = np.unique(positions[np.isfinite(positions).all(axis=1)], axis=0)
    return float(np.median(cKDTree(distinct).query(distinct, k=2)[0][:, 1])) if len(distinct) > 1 else float("nan")


def _step_px(beam: Beam, side_m: float | None, N: int, step_m: float) -> float:
    """Step in object pixels; NaN where it is not known."""
    pixel = beam.object_pixel_m(N, abs(side_m)) if side_m else None
    return step_m / pixel if pixel else float("nan")


def _off_centre(file: Hdf5, detector: str, N: int) -> tuple[str, ...]:
    """A note where the file puts the beam elsewhere than at the centre of the frames."""
    centre = [file.number(f"{detector}/beam_center_{axis}") for axis in "yx"]
    if None in centre or all(abs(p - N // 2) <= 1 for p in centre if p is not None):
        return ()
    return (f"The file puts the beam at pixel ({centre[0]:g}, {centre[1]:g}) (y, x); the frames were not moved.",)


FORMAT = Format(
    name="nexus",
    suffixes=(".nxs",),
    needs="HDF5: NXdetector data and translation or transformations; entry_1/definition = NXptycho or beam_1",
    scans=Access(recognises_scan, read_scan),
    pairs=True,
)
