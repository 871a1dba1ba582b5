"""What `ptycho doctor` finds and can be repaired without asking: ``ptycho convert --mend``."""

from dataclasses import replace

import numpy as np

from ptycho.arrays import Array, Shaped
from ptycho.data.frames import mapped
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import Limits, centre_offset, empty_frames, examine_orientation
from ptycho.diagnostics.geometry import with_geometry
from ptycho.diagnostics.pixels import proposed_mask
from ptycho.diagnostics.statistics import centred_scan, looks_like_counts, squared


def repaired(scan: Scan) -> Scan:
    """The scan, as a view, without the faults that the checks find; each repair becomes a sentence in `Scan.notes`.

    Amplitudes are squared, the zero frequency is moved to the centre, unusable pixels are masked, empty frames left
    out, frames turned as they fit the positions, and a probe whose power contradicts the counts becomes a guess.
    Positions, and what a detector did not record, cannot be repaired.
    """
    scan = _squared(scan)
    scan = scan if scan.near_field else centred_scan(scan)
    # In this order: bad pixels would decide where the centre is, and all faults would decide the orientation.
    for step in (_masked, _moved, _without_empty_frames, _with_guessed_probe, _turned):
        scan = step(scan)
    return scan


def _noted(scan: Scan, note: str) -> Scan:
    return replace(scan, notes=(*scan.notes, f"Repaired: {note}."))


def _squared(scan: Scan) -> Scan:
    if looks_like_counts(scan.counts).verdict != "amplitude":
        return scan
    return _noted(replace(scan, counts=squared(scan.counts)), "the frames were amplitudes and were squared")


def _masked(scan: Scan) -> Scan:
    good = proposed_mask(scan)
    bad = int((scan.mask & ~good).sum())
    if not bad:
        return scan
    return _noted(replace(scan, mask=good), f"{bad} dead, hot or saturated pixels and gaps were masked")


def _moved(scan: Scan) -> Scan:
    if scan.near_field is not None:
        return scan
    # By whole pixels: counts are not interpolated.
    y, x = (-round(offset) for offset in centre_offset(scan.mean_pattern, scan.mask))
    if np.hypot(y, x) <= Limits.off_centre_px:
        return scan
    scan = replace(scan, counts=mapped(scan.counts, moved, y, x), mask=moved(scan.mask[None], y, x)[0])
    return _noted(scan, f"the frames were moved by ({y}, {x}) pixels (y, x)")


def moved(frames: Shaped[Array, "B N N"], y: int, x: int) -> Shaped[Array, "B N N"]:
    """Frames with their content at larger indices by integer pixels, 0 (False) where there is none."""
    result = np.zeros_like(frames)
    N = frames.shape[-1]
    # out[y0 + s] = in[y0]: a positive shift cuts the end of the source and the start of the target.
    target, source = ([slice(max(s, 0), N + min(s, 0)) for s in (sign * y, sign * x)] for sign in (1, -1))
    result[:, *target] = frames[:, *source]
    return result


def _without_empty_frames(scan: Scan) -> Scan:
    empty = empty_frames(scan)
    if not len(empty):
        return scan
    return _noted(scan.subset(np.setdiff1d(np.arange(len(scan)), empty)), f"{len(empty)} empty frames were left out")


def _with_guessed_probe(scan: Scan) -> Scan:
    if scan.check_dose() is None:
        return scan
    scan = replace(scan, probe_known=False)
    return _noted(scan, "the probe does not have the power of the counts and is taken as a guess")


def _turned(scan: Scan) -> Scan:
    geometry = examine_orientation(scan)
    if geometry is None or not geometry.wrong:
        return scan
    return _noted(replace(with_geometry(scan, geometry), notes=scan.notes), f"{geometry.sentence}")
