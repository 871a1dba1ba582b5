"""What `ptycho doctor` finds and can be mended without asking: ``ptycho convert --mend``."""

from dataclasses import replace

import numpy as np

from ptycho.data.frames import seen_through
from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics as doctor
from ptycho.diagnostics.checks import OFF_CENTRE_PX, centre_offset, empty_frames, examine_orientation
from ptycho.diagnostics.orientation import NAMES, turned

Array = np.ndarray


def repaired(scan: Scan) -> Scan:
    """The scan, as a view, with what the doctor finds set right; `Scan.notes` says what was done.

    Amplitudes are squared, the zero frequency is moved to the centre, pixels of no use are masked, empty frames left
    out, frames turned as they fit the positions, and a probe of another power than the counts becomes a guess.
    Positions, and what a detector did not record, cannot be mended.
    """
    scan = _squared(scan)
    scan = scan if scan.near_field else doctor.centred_scan(scan)
    for step in (_masked, _moved, _without_empty_frames, _guessed, _turned):
        scan = step(scan)
    return scan


def _noted(scan: Scan, note: str, **changes) -> Scan:
    return replace(scan, notes=(*scan.notes, f"Repaired: {note}."), **changes)


def _squared(scan: Scan) -> Scan:
    if doctor.looks_like_counts(scan.counts).verdict != "amplitude":
        return scan
    return _noted(scan, "the frames were amplitudes and were squared", counts=doctor.squared(scan.counts))


def _masked(scan: Scan) -> Scan:
    good = doctor.proposed_mask(scan)
    more = int((scan.mask & ~good).sum())
    return _noted(scan, f"{more} dead, hot or saturated pixels and gaps were masked", mask=good) if more else scan


def _moved(scan: Scan) -> Scan:
    if scan.near_field is not None:
        return scan
    y, x = (-round(offset) for offset in centre_offset(scan.mean_pattern, scan.mask))
    if np.hypot(y, x) <= OFF_CENTRE_PX:
        return scan
    return _noted(
        scan,
        f"the frames were moved by ({y}, {x}) pixels (y, x)",
        counts=seen_through(scan.counts, moved, y, x),
        mask=moved(scan.mask[None], y, x)[0],
    )


def moved(frames: Array, y: int, x: int) -> Array:
    """Frames (B, N, N) with their content at larger indices by whole pixels, 0 where there is none."""
    found = np.zeros_like(frames)
    N = frames.shape[-1]
    to, of = ([slice(max(s, 0), N + min(s, 0)) for s in (sign * y, sign * x)] for sign in (1, -1))
    found[:, *to] = frames[:, *of]
    return found


def _without_empty_frames(scan: Scan) -> Scan:
    empty = empty_frames(scan)
    if not len(empty):
        return scan
    return _noted(scan.subset(np.setdiff1d(np.arange(len(scan)), empty)), f"{len(empty)} empty frames were left out")


def _guessed(scan: Scan) -> Scan:
    if scan.check_dose() is None:
        return scan
    return _noted(scan, "the probe does not have the power of the counts and is taken as a guess", probe_known=False)


def _turned(scan: Scan) -> Scan:
    found = examine_orientation(scan)
    if found is None or not found.wrong:
        return scan
    return _noted(
        scan,
        f"the frames were {NAMES[found.best]}",
        counts=seen_through(scan.counts, turned, found.best),
        mask=turned(scan.mask, found.best),
    )
