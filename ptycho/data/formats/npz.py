"""Plain NPZ in the conventions of `Scan`: the simplest way to bring data that no format covers.

Keys ``counts`` (P, N, N), ``positions_px`` (P, 2) as (y, x), ``probe`` (M, N, N) or (N, N); optional ``mask``
(N, N), True = use, ``object`` (H, W), ``pixel_size_m``, ``probe_known``, ``notes``.
"""

from pathlib import Path

import numpy as np

from ptycho.data import doctor
from ptycho.data.formats._container import load_npz, npz_keys, required
from ptycho.data.scan import Scan

NAME = "npz"
SUFFIXES = (".npz",)
NEEDS = "NPZ: counts, positions_px, probe"
KEYS = ("counts", "positions_px", "probe", "mask", "object", "pixel_size_m", "probe_known", "notes")


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
    arrays |= optional_arrays(scan)
    with path.open("wb") as file:  # a path without the suffix would be given one
        np.savez_compressed(file, allow_pickle=False, **arrays)


def optional_arrays(scan: Scan) -> dict[str, np.ndarray]:
    """Those of ``object`` and ``pixel_size_m`` that the scan has."""
    pairs = {"object": scan.object, "pixel_size_m": scan.pixel_size_m}
    return {name: np.asarray(value) for name, value in pairs.items() if value is not None}


def as_bool(mask: np.ndarray | None) -> np.ndarray | None:
    """A mask whose format says True (not 0) = use, kept as bool or as integers."""
    return None if mask is None else mask != 0
