"""What the formats in metres share: units, the object pixel, what they cannot do without, what they have no place for.

A scan in pixels alone has no energy, distance or pixel size; a file in metres needs them. Then they are made up, said
to be by `losses`, and marked in the file, so that reading it back gives none. HDF5 files keep what the format has no
place for in a group ``ptycho``, which other programs do not see.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho.data.beam import Beam
from ptycho.data.frames import Counts
from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics
from ptycho.formats._container import REAL, ReadOptions
from ptycho.formats._hdf5 import Hdf5
from ptycho.io import BadFile

Array = np.ndarray
MADE_UP = {"energy": 1e4, "distance": 1.0, "pixel size": 1e-9}
"""eV, m and m, where a scan does not know them."""
OWN = "ptycho"
UNITS = {
    "m": 1.0, "meter": 1.0, "metre": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6,
    "nm": 1e-9, "pm": 1e-12, "A": 1e-10, "Å": 1e-10, "angstrom": 1e-10,
    "eV": 1.0, "keV": 1e3, "kev": 1e3, "MeV": 1e6, "J": 1 / 1.602176634e-19,
}  # fmt: skip
"""Metres, or electron volts."""


def unit(file: Hdf5, key: str, default: float = 1.0) -> float:
    """The factor of the attribute ``units`` of a data set to m or eV; BadFile for an unknown one."""
    said = file.attribute_text(key, "units")
    if not said:
        return default
    name = said.strip().removesuffix("s") if said.strip() not in UNITS else said.strip()
    if name not in UNITS:
        raise BadFile(f"{file.path} has {key!r} in units {said!r}; write m, mm, um or nm, or eV, keV or J")
    return UNITS[name]


def quantity(file: Hdf5, *keys: str, default: float = 1.0) -> float | None:
    """A number in m or eV by its units; None if there is none of the keys."""
    key = file.first(*keys)
    value = None if key is None else file.number(key)
    return None if key is None or value is None else value * unit(file, key, default)


def object_pixel(
    path: Path, options: ReadOptions, beam: Beam | None, N: int, detector_pixel_m: float | None, needed: str
) -> float:
    """Side of an object pixel as told by the user, or by the file; BadFile that says what is needed."""
    found = options.pixel_size_m
    if found is None and beam is not None and detector_pixel_m:
        found = beam.object_pixel_m(N, abs(detector_pixel_m))
    if found is None or not (np.isfinite(found) and found > 0):
        raise BadFile(f"{path} has positions in metres, but not all of {needed}; give --pixel-size-nm")
    return found


def beam_of(
    path: Path, energy_eV: float | None, distance_m: float | None = None, particle: str = "photon", wavelength_m=None
) -> Beam | None:
    """The beam by its energy or else its wavelength, None where neither is known; BadFile for impossible numbers."""
    try:
        if energy_eV is None and wavelength_m is not None:
            energy_eV = Beam.of_wavelength(wavelength_m, particle).energy_eV  # type: ignore[arg-type]
        if energy_eV is None:
            return None
        return Beam(energy_eV=energy_eV, distance_m=distance_m and abs(distance_m), particle=particle)  # type: ignore[arg-type]
    except ValueError as error:
        raise BadFile(f"{path}: {error}; correct the file") from error


def in_pixels(path: Path, key: str, metres: Array, pixel_m: float | tuple[float, ...]) -> Array:
    """Positions (P, 2) of (y, x) over the pixel; BadFile where one is no number or they are not a pair each."""
    if metres.ndim != 2 or metres.shape[1] != 2:
        raise BadFile(f"{path} has {key!r} of shape {metres.shape}; expected one pair for each frame")
    return metres.astype(np.float64) / np.asarray(pixel_m, np.float64)


def assembled(
    path: Path,
    counts: Counts,
    positions: Array,
    *,
    probe: Array | None = None,
    probe_known: bool = False,
    mask: Array | None = None,
    notes: Iterable[str] = (),
    **more: Any,
) -> Scan:
    """The scan of a file, its zero frequency moved to the centre; without a probe one is guessed from the frames."""
    if counts.shape[0] != positions.shape[0]:
        raise BadFile(
            f"{path} has {counts.shape[0]} frames and {positions.shape[0]} positions; leave out those without the other"
        )
    notes = tuple(notes)
    if probe is None:
        probe, probe_known = np.ones(counts.shape[-2:], np.complex64), False
        scan = statistics.centred_scan(Scan(counts=counts, positions=positions, probe=probe, mask=mask))
        probe = statistics.guessed_probe(scan.counts, scan.mask)
        notes = (*notes, "The file holds no probe: one was guessed from the mean of its frames.")
    elif not probe_known:
        notes = (
            *notes,
            "The scale of the probe is not known: it is rescaled to the counts and sought with the object.",
        )
    scan = Scan(
        counts=counts,
        positions=positions,
        probe=probe,
        probe_known=probe_known,
        mask=mask,
        notes=notes,
        source=str(path),
        **more,
    )
    return statistics.centred_scan(scan)


# ---------------------------------------------------------------------------------------------------------- writing


class Physical(NamedTuple):
    """What files in metres cannot do without."""

    beam: Beam
    distance_m: float
    pixel_m: float
    detector_pixel_m: float
    made_up: tuple[str, ...]


def physical(scan: Any) -> Physical:
    """As the scan (or product, of a probe) knows it, and made up as far as it does not."""
    N = scan.probe.shape[-1]
    beam = scan.beam or Beam(energy_eV=MADE_UP["energy"])
    distance = beam.distance_m or MADE_UP["distance"]
    pixel = scan.pixel_size_m or MADE_UP["pixel size"]
    known = {"energy": scan.beam is not None, "distance": beam.distance_m is not None, "pixel size": scan.pixel_size_m}
    made_up = tuple(name for name, there in known.items() if not there)
    return Physical(beam, distance, pixel, beam.wavelength_m * distance / (N * pixel), made_up)


def write_own(file: Any, scan: Scan, lacks: Iterable[str]) -> None:
    """The group ``ptycho``: what the format lacks, and which of its numbers are made up."""
    group = file.create_group(OWN)
    group.attrs["made_up"] = ",".join(physical(scan).made_up)
    group.attrs["probe_known"] = scan.probe_known
    group.attrs["particle"] = physical(scan).beam.particle
    for name in lacks:
        value = getattr(scan, name)
        if isinstance(value, np.ndarray):
            group.create_dataset(name, data=value, compression="gzip")


def particle(file: Hdf5) -> str:
    """What `write_own` says that energies are of: photons, unless told otherwise."""
    return file.attribute_text(OWN, "particle") or "photon"


def read_own(file: Hdf5, beam: Beam | None, pixel_m: float) -> dict[str, Any]:
    """What `write_own` left, as arguments of `assembled`, with beam and pixel size as far as they are not made up."""
    made_up = (file.attribute_text(OWN, "made_up") or "").split(",")
    if beam is not None:
        distance = None if "distance" in made_up else beam.distance_m
        kind = particle(file)
        beam = None if "energy" in made_up else beam_of(file.path, beam.energy_eV, distance, kind)
    found: dict[str, Any] = {
        "probe_known": bool(file.attribute_number(OWN, "probe_known") or 0),
        "beam": beam,
        "pixel_size_m": None if "pixel size" in made_up else pixel_m,
    }
    for name, ndim, kinds in (("probe", 3, "uifc"), ("object", 2, "uifc"), ("mask", 2, REAL)):
        if file.has(f"{OWN}/{name}"):
            found[name] = file.array(f"{OWN}/{name}", ndim=ndim, kinds=kinds)
    if "mask" in found:
        found["mask"] = found["mask"] != 0
    return found
