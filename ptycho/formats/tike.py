"""NPZ of the arrays that tike (BSD-3, github.com/AdvancedPhotonSource/tike) works on, as its test data.

``data`` (1, P, N, N) counts, zero frequency at the corner; ``scan`` (1, P, 2) pixels, (row, col) of the
smallest corner of the probe grid; ``probe`` (1, 1, 1, M, N, N) in arbitrary units, or smaller than the frames. The
leading axis is a view (angle) and may be missing. Often packed with bz2. The same arrays of a simulation are called
``diffraction`` and ``positions_px``, with the true ``object`` (1, H, W); then the probe is the true one too. Read only.
"""

from pathlib import Path

import numpy as np

from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics
from ptycho.formats._container import DEFAULT, REAL, ReadOptions, load_npz, npz_keys, npz_ndim, required
from ptycho.formats._format import Access, Format
from ptycho.formats._metres import placed_counts
from ptycho.io import BadFile


def recognises_scan(path: Path) -> bool:
    """The three arrays are there by their names, or by plain names with a probe of as many axes as tike's."""
    keys = set(npz_keys(path))
    return {"data", "scan", "probe"} <= keys or (
        {"diffraction", "positions_px", "probe"} <= keys and npz_ndim(path, "probe") >= 5
    )


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file; counts stored as floats become the smallest integers that hold them exactly."""
    arrays, _ = load_npz(path, ("data", "scan", "diffraction", "positions_px", "probe", "object"), options)
    frames, corners_key = ("data", "scan") if "data" in arrays else ("diffraction", "positions_px")
    counts = statistics.compact(_one_view(required(arrays, frames, path, kinds=REAL), 3, frames, path))
    corners = _one_view(required(arrays, corners_key, path, kinds=REAL), 2, corners_key, path)
    counts, corners, mask, notes = placed_counts(path, counts, corners, None, options.pixel_size_m, options)
    probe = _one_view(required(arrays, "probe", path), 3, "probe", path)
    within = probe.shape[-1]
    if within < counts.shape[-1]:  # the wave that leaves a small probe grid is padded before it is propagated
        # Pixel n // 2 of the small probe becomes N // 2 of the padded one, for n and N odd or even.
        padding = counts.shape[-1] // 2 - within // 2, counts.shape[-1] - counts.shape[-1] // 2 - within + within // 2
        probe = np.pad(probe, ((0, 0), padding, padding))
    truth = "object" in arrays and frames == "diffraction"
    guess = "The scale of the probe is arbitrary: it is rescaled to the counts and refined with the object."
    scan = Scan(
        counts=counts,
        # First pixel of the (unpadded) probe to its pixel n // 2
        positions=corners.astype(np.float64) + within // 2,
        probe=probe,
        object=_one_view(required(arrays, "object", path), 2, "object", path) if truth else None,
        probe_known=truth,
        mask=mask,
        source=str(path),
        notes=notes if truth else (*notes, guess),
    )
    return statistics.centred_scan(scan)


def _one_view(array: np.ndarray, ndim: int, name: str, path: Path) -> np.ndarray:
    """The array without its leading axes, all of which must have length 1."""
    leading = array.shape[: max(0, array.ndim - ndim)]
    if any(length != 1 for length in leading):
        raise BadFile(
            f"{path} has {name!r} of shape {array.shape}; expected leading axes of length 1: give one view "
            "(angle) in a file, and no varying probe"
        )
    return array.reshape(array.shape[len(leading) :])


FORMAT = Format(
    name="tike",
    suffixes=(".npz", ".npz.bz2"),
    needs="NPZ: data, scan, probe, or diffraction, positions_px and a probe of 5 axes",
    scans=Access(recognises_scan, read_scan),
    pairs=True,
)
