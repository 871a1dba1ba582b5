"""Plain NPZ in the conventions of `Scan`: the simplest way to bring data that no format covers.

Keys ``counts`` (P, N, N), ``positions_px`` (P, 2) as (y, x), ``probe`` (M, N, N) or (N, N); optional ``mask``
(N, N), True = use, ``object`` (H, W), ``pixel_size_m``, ``probe_known``, ``notes``; for the near field
``near_field_distance_px``, ``near_field_wavelength_px`` and ``near_field_kind`` (see `ptycho.config.NearField`).
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.config import NearField
from ptycho.data import doctor
from ptycho.data.formats._container import load_npz, npz_keys, required
from ptycho.data.scan import Scan

NAME = "npz"
SUFFIXES = (".npz",)
NEEDS = "NPZ: counts, positions_px, probe"
NEAR_FIELD = {f"near_field_{field.name}": field.name for field in fields(NearField)}
"""What a file calls the settings of a `NearField`, here and in HDF5."""
KEYS = ("counts", "positions_px", "probe", "mask", "object", "pixel_size_m", "probe_known", "notes", *NEAR_FIELD)


def recognises(path: Path) -> bool:
    """The three keys that make a scan are there."""
    return {"counts", "positions_px", "probe"} <= set(npz_keys(path))


def read(path: Path) -> Scan:
    """Read the file; counts keep the dtype they are stored in."""
    arrays, _ = load_npz(path, KEYS)
    scan = Scan(
        counts=required(arrays, "counts", path),
        positions=required(arrays, "positions_px", path),
        probe=required(arrays, "probe", path),
        mask=as_bool(arrays.get("mask")),
        object=arrays.get("object"),
        pixel_size_m=float(arrays["pixel_size_m"].item()) if "pixel_size_m" in arrays else None,
        probe_known=bool(arrays.get("probe_known", True)),
        near_field=near_field_of(arrays, path),
        source=str(path),
        notes=tuple(np.atleast_1d(arrays.get("notes", ()))),
    )
    return doctor.warned_of_corner(scan)


def write(scan: Scan, path: Path) -> None:
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
    arrays |= optional_arrays(scan) | {name: np.array(value) for name, value in near_field_values(scan).items()}
    with path.open("wb") as file:  # a path without the suffix would be given one
        np.savez_compressed(file, allow_pickle=False, **arrays)


def optional_arrays(scan: Scan) -> dict[str, np.ndarray]:
    """Those of ``object`` and ``pixel_size_m`` that the scan has."""
    pairs = {"object": scan.object, "pixel_size_m": scan.pixel_size_m}
    return {name: np.asarray(value) for name, value in pairs.items() if value is not None}


def near_field_values(scan: Scan) -> dict[str, Any]:
    """The settings of a scan's near field by their names in a file; none for the far field."""
    near = scan.near_field
    return {} if near is None else {name: getattr(near, field) for name, field in NEAR_FIELD.items()}


def near_field_of(values: Mapping[str, Any], path: Path) -> NearField | None:
    """Inverse of `near_field_values`, among other values of a file: scalars or arrays ().

    Raises ValueError where only some of them are there: the scan would be taken for one of the far field.
    """
    found = {field: np.asarray(values[name]).item() for name, field in NEAR_FIELD.items() if name in values}
    if not found:
        return None
    if missing := sorted({"distance_px", "wavelength_px"} - set(found)):
        raise ValueError(f"{path} has a near field without its {' and '.join(missing)}")
    return NearField.from_dict(found)


def as_bool(mask: np.ndarray | None) -> np.ndarray | None:
    """A mask whose format says True (not 0) = use, kept as bool or as integers."""
    return None if mask is None else mask != 0
