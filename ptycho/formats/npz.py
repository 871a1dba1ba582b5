"""Plain NPZ in the conventions of `Scan`: the simplest way to bring data that no format covers.

Keys ``counts`` (P, N, N), ``positions_px`` (P, 2) as (y, x), ``probe`` (M, N, N) or (N, N); optional ``mask``
(N, N), True = use, ``object`` (H, W), ``pixel_size_m``, ``probe_known``, ``notes``; for the near field
``near_field_distance_px``, ``near_field_wavelength_px`` and ``near_field_kind`` (see `ptycho.config.NearField`); for
the beam ``energy_eV``, ``particle`` (photon, electron) and ``distance_m`` (see `ptycho.data.beam.Beam`), or
``wavelength_m``, or the ``voltage_V`` of electrons. ``diffraction`` may stand for ``counts``, and ``probe_init`` for a
probe that is a guess.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.config import NearField
from ptycho.data.beam import Beam
from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics
from ptycho.formats._container import (
    DEFAULT,
    REAL,
    ReadOptions,
    load_npz,
    npz_keys,
    number,
    number_of,
    optional,
    required,
)
from ptycho.formats._format import Access, Format
from ptycho.formats._metres import beam_of, placed_counts
from ptycho.io import BadFile

NEAR_FIELD = {f"near_field_{field.name}": field.name for field in fields(NearField)}
"""What a file calls the settings of a `NearField`, here and in HDF5."""
BEAM = ("energy_eV", "particle", "distance_m", "voltage_V", "wavelength_m")
FRAMES, PROBES = ("counts", "diffraction"), ("probe", "probe_init")
KEYS = (*FRAMES, "positions_px", *PROBES, "mask", "object", "pixel_size_m", "probe_known", "notes", *NEAR_FIELD, *BEAM)


def recognises_scan(path: Path) -> bool:
    """The three keys that make a scan are there, under any of their names."""
    keys = set(npz_keys(path))
    return "positions_px" in keys and not keys.isdisjoint(FRAMES) and not keys.isdisjoint(PROBES)


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file; counts keep the dtype they are stored in."""
    arrays, _ = load_npz(path, KEYS, options)
    known = number(arrays, "probe_known", path)
    guess = "probe" not in arrays and "probe_init" in arrays
    stack = required(arrays, "diffraction" if "diffraction" in arrays else "counts", path, (3, 4), REAL)
    pixel = options.pixel_size_m or number(arrays, "pixel_size_m", path)
    counts, positions, mask, notes = placed_counts(
        path,
        stack.reshape(-1, *stack.shape[-2:]),
        required(arrays, "positions_px", path, 2, REAL),
        as_bool(optional(arrays, "mask", path, 2, REAL)),
        pixel,
        options,
    )
    scan = Scan(
        counts=counts,
        positions=positions,
        probe=required(arrays, "probe_init" if guess else "probe", path, (2, 3)),
        mask=mask,
        object=optional(arrays, "object", path),
        pixel_size_m=pixel,
        beam=beam_from(path, arrays),
        # Stated, or else by the name of the probe
        probe_known=not guess if known is None else bool(known),
        near_field=near_field_of(arrays, path),
        source=str(path),
        notes=(*(str(note) for note in np.atleast_1d(arrays.get("notes", ()))), *notes),
    )
    return statistics.warned_of_corner(scan)


def write_scan(scan: Scan, path: Path) -> None:
    """Write everything of the scan except ``source``, compressed."""
    arrays = {
        "counts": scan.counts,
        "positions_px": scan.positions,
        "probe": scan.probe,
        "mask": scan.mask,
        "probe_known": np.array(scan.probe_known),
    }
    if scan.notes:
        arrays["notes"] = np.array(scan.notes)
    values = near_field_values(scan) | beam_values(scan)
    arrays |= optional_arrays(scan) | {name: np.array(value) for name, value in values.items()}
    with path.open("wb") as file:  # a path without the suffix would be given one
        np.savez_compressed(file, allow_pickle=False, **arrays)


def optional_arrays(scan: Scan) -> dict[str, np.ndarray]:
    """Those of ``object`` and ``pixel_size_m`` that the scan has."""
    pairs = {"object": scan.object, "pixel_size_m": scan.pixel_size_m}
    return {name: np.asarray(value) for name, value in pairs.items() if value is not None}


def near_field_values(scan: Scan) -> dict[str, float | str]:
    """The settings of a scan's near field by their names in a file; none for the far field."""
    near = scan.near_field
    return {} if near is None else {name: getattr(near, field) for name, field in NEAR_FIELD.items()}


def beam_values(scan: Scan) -> dict[str, float | str]:
    """The beam of a scan by the names that a file has for it; empty where it is not known."""
    pairs = {} if scan.beam is None else {field.name: getattr(scan.beam, field.name) for field in fields(Beam)}
    return {name: value for name, value in pairs.items() if value is not None}


def beam_from(path: Path, values: Mapping[str, Any]) -> Beam | None:
    """Inverse of `beam_values`, given all values of a file, or by ``voltage_V`` of electrons, or ``wavelength_m``."""
    given = {name: np.asarray(values[name]) for name in BEAM if values.get(name) is not None}
    particle = str(given.pop("particle", "electron" if "voltage_V" in given else "photon"))
    numbers = {name: number_of(path, name, value) for name, value in given.items()}
    energy = numbers.get("energy_eV", numbers.get("voltage_V"))
    return beam_of(path, energy, numbers.get("distance_m"), particle, numbers.get("wavelength_m"))


def near_field_of(values: Mapping[str, Any], path: Path) -> NearField | None:
    """Inverse of `near_field_values`, given all values of a file: scalars or arrays ().

    Raises BadFile where only some of them are present: the scan would be taken for one of the far field.
    """
    present = {field: np.asarray(values[name]) for name, field in NEAR_FIELD.items() if name in values}
    if not present:
        return None
    if absent := sorted({"distance_px", "wavelength_px"} - set(present)):
        raise BadFile(f"{path} has a near field without its {' and '.join(absent)}; add it")
    kind = {"kind": str(present.pop("kind"))} if "kind" in present else {}
    return NearField.from_dict({field: number_of(path, field, value) for field, value in present.items()} | kind)


def as_bool(mask: np.ndarray | None) -> np.ndarray | None:
    """A mask kept as bool or as integers, of a format where not 0 means use."""
    return None if mask is None else mask != 0


FORMAT = Format(
    name="npz",
    suffixes=(".npz",),
    needs="NPZ: counts or diffraction, positions_px, probe or probe_init",
    scans=Access(recognises_scan, read_scan, write_scan),
    pairs=True,
)
