"""What the formats in metres share: units, the object pixel, the quantities they need, the fields they lack.

A scan in pixels alone has no energy, distance or pixel size, which a file in metres needs. They are then made up, which
`losses` reports, and marked in the file, so that reading it back gives none. HDF5 files keep the fields that the format
has no place for in a group ``ptycho``, which other programs do not read.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from ptycho.config import STEP_UNITS
from ptycho.data.beam import ELEMENTARY_CHARGE_C, Beam
from ptycho.data.frames import Counts
from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._detector import NO_CORRECTIONS, Corrections, corrected
from ptycho.formats._hdf5 import Hdf5
from ptycho.formats._placing import paired
from ptycho.io import BadFile

if TYPE_CHECKING:
    import h5py

Array = np.ndarray
MADE_UP = {"energy": 1e4, "distance": 1.0, "pixel size": 1e-9}
"""eV, m and m, where a scan does not know them."""
GROUP = "ptycho"
UNITS = {name: metres for name, metres in STEP_UNITS.items() if name != "px"} | {
    "cm": 1e-2, "Å": STEP_UNITS["A"], "angstrom": STEP_UNITS["A"],
    "eV": 1.0, "keV": 1e3, "MeV": 1e6, "J": 1 / ELEMENTARY_CHARGE_C,
}  # fmt: skip
"""Metres, or electron volts."""
SPELLINGS = {
    "meter": "m", "metre": "m", "centi": "cm", "milli": "mm", "micro": "um", "nano": "nm", "pico": "pm",
    "micron": "um", "mkm": "um", "mum": "um", "mu": "um", "u": "um", "μ": "um", "ang": "angstrom",
    "angström": "angstrom", "joule": "J", "electronvolt": "eV", "kiloelectronvolt": "keV",
    "megaelectronvolt": "MeV",
}  # fmt: skip
"""Other names of these, in lower case."""


def known_unit(text: str) -> str | None:
    """The name in `UNITS` of a unit in any spelling; None for one that is not known.

    Upper and lower case are one, but for MeV: "MM" on a stage is no megametre. meV is none that a beam has.
    """
    # One form of both micro signs and of both angstrom signs
    name = unicodedata.normalize("NFKC", text).strip().strip("[]()").strip().replace("\\mu", "μ")
    if name in UNITS:
        return name
    if name == "meV":
        return None
    name = re.sub(r"[\s_-]", "", name).lower()
    name = re.sub("(meter|metre)s?$", "m", name) if name not in ("meter", "metre") else "m"
    folded = {key.lower(): key for key in UNITS} | SPELLINGS
    for form in (
        name,
        name.removesuffix("s"),
        name.removesuffix("m") if len(name) > 3 else name,
        name.replace("μ", "u"),
    ):
        if form in folded:
            return folded[form]
    return None


def unit(file: Hdf5, key: str, default: float = 1.0) -> float:
    """The factor of the attribute ``units`` of a data set to m or eV; BadFile for an unknown one."""
    units = file.attribute_text(key, "units")
    if not units:
        return default
    name = known_unit(units)
    if name is None:
        raise BadFile(f"{file.path} has {key!r} in units {units!r}; write m, mm, um or nm, or eV, keV or J")
    return UNITS[name]


def object_pixel(
    path: Path, options: ReadOptions, beam: Beam | None, N: int, detector_pixel_m: float | None, needed: str
) -> float:
    """Side of an object pixel, from the user or else from the file; BadFile that lists what is needed."""
    size = options.pixel_size_m
    if size is None and beam is not None and detector_pixel_m:
        size = beam.object_pixel_m(N, abs(detector_pixel_m))
    if size is None or not (np.isfinite(size) and size > 0):
        raise BadFile(
            f"{path} has positions in metres, but not all of {needed}; give --pixel-size-nm, or what is missing by "
            "--energy-ev and --distance-m"
        )
    return size


def beam_of(
    path: Path,
    energy_eV: float | None,
    distance_m: float | None = None,
    particle: str = "photon",
    wavelength_m: float | None = None,
) -> Beam | None:
    """The beam by its energy or else its wavelength, None where neither is known; BadFile for impossible values."""
    try:
        if energy_eV is None and wavelength_m is not None:
            energy_eV = Beam.of_wavelength(wavelength_m, particle).energy_eV  # type: ignore[arg-type]
        if energy_eV is None:
            return None
        return Beam(energy_eV=energy_eV, distance_m=distance_m and abs(distance_m), particle=particle)  # type: ignore[arg-type]
    except ValueError as error:
        raise BadFile(f"{path}: {error}; correct the file") from error


def in_pixels(
    path: Path,
    key: str,
    values: Array,
    pixel_m: float | tuple[float, ...],
    options: ReadOptions = DEFAULT,
    unit_m: float = 1.0,
) -> Array:
    """Positions (P, 2) as (y, x) in object pixels, of values in ``unit_m`` or in the unit that the user tells.

    Raises BadFile for another shape.
    """
    if values.ndim != 2 or values.shape[1] != 2:
        raise BadFile(f"{path} has {key!r} of shape {values.shape}; expected one pair for each frame")
    factor = position_unit_m(options)
    if factor is not None and np.isnan(factor):
        return values.astype(np.float64)
    return values.astype(np.float64) * (unit_m if factor is None else factor) / np.asarray(pixel_m, np.float64)


def placed_counts(
    path: Path,
    counts: Counts,
    positions: Array,
    mask: Array | None,
    pixel_m: float | None,
    options: ReadOptions,
    absent: Array | None = None,
    detector: Corrections = NO_CORRECTIONS,
) -> tuple[Counts, Array, Array | None, tuple[str, ...]]:
    """``(counts, positions, mask, notes)`` of a file in object pixels: `paired`, and `corrected`."""
    factor = position_unit_m(options)
    if factor is not None and not np.isnan(factor):
        if pixel_m is None:
            raise BadFile(f"{path} does not say how large an object pixel is: give --pixel-size-nm too")
        positions = positions.astype(np.float64) * factor / pixel_m
    counts, positions, placed = paired(path, counts, positions, options, absent)
    counts, mask, cleaned = corrected(counts, mask, detector, options)
    return counts, positions, mask, (*placed, *cleaned)


def position_unit_m(options: ReadOptions) -> float | None:
    """Metres of the unit that the user tells for positions; NaN: object pixels. None: the file's unit holds."""
    name = options.given.position_unit
    if name is None:
        return None
    if name in ("px", "pixel", "pixels"):
        return float("nan")
    known = known_unit(name)
    if known is None or "V" in known or known == "J":
        raise BadFile(f"positions are in {name!r}, as told; expected m, mm, um, nm, A, pm or px")
    return UNITS[known]


def assembled(
    path: Path,
    counts: Counts,
    positions: Array,
    *,
    probe: Array | None = None,
    probe_known: bool = False,
    mask: Array | None = None,
    notes: Iterable[str] = (),
    object: Array | None = None,
    beam: Beam | None = None,
    pixel_size_m: float | None = None,
    options: ReadOptions = DEFAULT,
    absent: Array | None = None,
    detector: Corrections = NO_CORRECTIONS,
) -> Scan:
    """The scan of a file, its zero frequency moved to the centre; a missing probe is guessed from the frames.

    Frames and positions are `paired`; what the ``detector`` adds to the counts is taken away (`corrected`), and pixels
    that do not count are masked (`sound`).
    """
    known = replace(
        options, given=replace(options.given, position_unit=None)
    )  # it was taken into account where positions became pixels
    counts, positions, mask, more = placed_counts(path, counts, positions, mask, None, known, absent, detector)
    notes = (*notes, *more)
    centred: Callable[[Scan], Scan] = (lambda scan: scan) if options.given.near else statistics.centred_scan
    if probe is None:
        probe, probe_known = np.ones(counts.shape[-2:], np.complex64), False
        # A provisional probe: the guess needs frames and mask with their zero frequency in the centre.
        scan = centred(Scan(counts=counts, positions=positions, probe=probe, mask=mask))
        probe = statistics.guessed_probe(scan.counts, scan.mask)
        notes = (*notes, "The file holds no probe: one was guessed from the mean of its frames.")
    elif not probe_known:
        notes = (
            *notes,
            "The scale of the probe is not known: it is rescaled to the counts and refined with the object.",
        )
    scan = Scan(
        counts=counts,
        positions=positions,
        probe=probe,
        probe_known=probe_known,
        mask=mask,
        object=object,
        beam=beam,
        pixel_size_m=pixel_size_m,
        notes=notes,
        source=str(path),
    )
    return centred(scan)


# ---------------------------------------------------------------------------------------------------------- writing


class Physical(NamedTuple):
    """What files in metres need."""

    beam: Beam
    distance_m: float
    pixel_m: float
    detector_pixel_m: float
    made_up: tuple[str, ...]


def physical(content: Scan | Product) -> Physical:
    """As the scan, or the product with a probe, knows it, and made up as far as it does not."""
    assert content.probe is not None
    N = content.probe.shape[-1]
    beam = content.beam or Beam(energy_eV=MADE_UP["energy"])
    distance = beam.distance_m or MADE_UP["distance"]
    pixel = content.pixel_size_m or MADE_UP["pixel size"]
    known = {"energy": content.beam, "distance": beam.distance_m, "pixel size": content.pixel_size_m}
    made_up = tuple(name for name, value in known.items() if value is None)
    # Object pixel = wavelength distance / (N detector pixel), solved for the detector pixel
    return Physical(beam, distance, pixel, beam.wavelength_m * distance / (N * pixel), made_up)


class Kept(TypedDict, total=False):
    """What the group ``ptycho`` of a file keeps, as arguments of `assembled`."""

    probe: Array | None
    probe_known: bool
    mask: Array | None
    object: Array
    beam: Beam | None
    pixel_size_m: float | None


def write_kept(file: "h5py.File", scan: Scan, lacks: Iterable[str]) -> None:
    """Write the group ``ptycho``: the fields that the format lacks, and which quantities are made up."""
    group = file.create_group(GROUP)
    group.attrs["made_up"] = ",".join(physical(scan).made_up)
    group.attrs["probe_known"] = scan.probe_known
    group.attrs["particle"] = physical(scan).beam.particle
    for name in lacks:
        value = getattr(scan, name)
        if isinstance(value, np.ndarray):
            group.create_dataset(name, data=value, compression="gzip")


def particle(file: Hdf5) -> str:
    """The particle that `write_kept` noted; photons otherwise."""
    return file.attribute_text(GROUP, "particle") or "photon"


def read_kept(file: Hdf5, beam: Beam | None, pixel_m: float) -> Kept:
    """What `write_kept` wrote, with beam and pixel size as far as they are not made up."""
    made_up = (file.attribute_text(GROUP, "made_up") or "").split(",")
    if beam is not None:
        distance = None if "distance" in made_up else beam.distance_m
        kind = particle(file)
        beam = None if "energy" in made_up else beam_of(file.path, beam.energy_eV, distance, kind)
    kept = Kept(
        probe_known=bool(file.attribute_number(GROUP, "probe_known") or 0),
        beam=beam,
        pixel_size_m=None if "pixel size" in made_up else pixel_m,
    )
    if file.has(f"{GROUP}/probe"):
        kept["probe"] = file.array(f"{GROUP}/probe", ndim=3, kinds=COMPLEX)
    if file.has(f"{GROUP}/object"):
        kept["object"] = file.array(f"{GROUP}/object", ndim=2, kinds=COMPLEX)
    if file.has(f"{GROUP}/mask"):
        kept["mask"] = file.array(f"{GROUP}/mask", ndim=2) != 0
    return kept
