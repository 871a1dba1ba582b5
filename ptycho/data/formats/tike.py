"""NPZ of the arrays that tike (BSD-3, github.com/AdvancedPhotonSource/tike) works on, as its test data.

``data`` (1, P, N, N) counts, zero frequency at the corner; ``scan`` (1, P, 2) pixels, (row, col) of the
smallest corner of the probe grid; ``probe`` (1, 1, 1, M, N, N) in arbitrary units. The leading axis is a view
(angle) and may be missing. Often packed with bz2. Read only.
"""

from pathlib import Path

import numpy as np

from ptycho.data import doctor
from ptycho.data.formats._container import load_npz, npz_keys, required
from ptycho.data.scan import Scan

NAME = "tike"
SUFFIXES = (".npz", ".npz.bz2")
NEEDS = "NPZ: data, scan, probe"


def recognises(path: Path) -> bool:
    """The three arrays are there by their names."""
    return {"data", "scan", "probe"} <= set(npz_keys(path))


def read(path: Path) -> Scan:
    """Read the file; counts stored as floats become the smallest integers that hold them exactly."""
    arrays, _ = load_npz(path, ("data", "scan", "probe"))
    counts = doctor.compact(_one_view(required(arrays, "data", path), 3, "data", path))
    corners = _one_view(required(arrays, "scan", path), 2, "scan", path)
    scan = Scan(
        counts=counts,
        positions=corners.astype(np.float64) + counts.shape[-1] // 2,
        probe=_one_view(required(arrays, "probe", path), 3, "probe", path),
        probe_known=False,
        source=str(path),
        notes=("The scale of the probe is arbitrary: it is rescaled to the counts and sought along with the object.",),
    )
    return doctor.centred_scan(scan)


def _one_view(array: np.ndarray, ndim: int, name: str, path: Path) -> np.ndarray:
    """The array without its leading axes, all of which must have length 1."""
    leading = array.shape[: max(0, array.ndim - ndim)]
    if any(length != 1 for length in leading):
        raise ValueError(
            f"{path} has {name!r} of shape {array.shape}; expected leading axes of length 1: give one view "
            "(angle) in a file, and no varying probe"
        )
    return array.reshape(array.shape[len(leading) :])
