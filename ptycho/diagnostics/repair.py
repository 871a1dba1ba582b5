"""What `ptycho doctor` finds and can be repaired without asking: ``ptycho convert --mend``."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ptycho.arrays import Array, Shaped
from ptycho.data.frames import mapped
from ptycho.data.scan import Scan, vacuum_pattern
from ptycho.diagnostics.checks import (
    Check,
    Limits,
    centre_offset,
    empty_frames,
    examine,
    examine_orientation,
    orientation_check,
)
from ptycho.diagnostics.geometry import other_side, with_geometry
from ptycho.diagnostics.pixels import proposed_mask, unsound_pixels
from ptycho.diagnostics.statistics import centred_scan, evenly_spread, looks_like_counts, squared
from ptycho.diagnostics.values import detector_gain, divided_by_gain, pedestal, without_pedestal


def repaired(scan: Scan) -> Scan:
    """The scan, as a view, without the faults that the checks find; each repair becomes a sentence in `Scan.notes`.

    Amplitudes are squared, the zero frequency is moved to the centre, unusable pixels are masked, empty frames left
    out, frames turned as they fit the positions, and a probe whose power contradicts the counts becomes a guess.
    Positions, and what a detector did not record, cannot be repaired.
    """
    # In this order: bad pixels would decide where the centre is, and all faults would decide the orientation.
    steps = (_squared, _lowered, _masked, _centred, _moved, _without_empty_frames, _with_guessed_probe, _turned)
    for step in steps:
        scan = step(scan)
    return scan


def prepared(scan: Scan, most_frames: int = 1024, *, gain_told: bool = False) -> Scan:
    """The scan as a run takes it: without what no fit should see; each change becomes a sentence in `Scan.notes`.

    A pedestal is subtracted, dead and hot pixels and gaps are masked, as at most ``most_frames`` of the frames show
    them, and frames without light are left out. Unless it was told, a gain is taken out where the frames tell it and
    the probe is a guess. Nothing is moved or turned.
    """
    scan = _lowered(scan)
    sample = scan if len(scan) <= most_frames else scan.subset(evenly_spread(len(scan), most_frames))
    bad = scan.mask & unsound_pixels(sample)
    if bad.any() and (scan.mask & ~bad).any():
        scan = replace(scan, mask=scan.mask & ~bad)
        scan = _noted(scan, f"{bad.sum()} dead or hot pixels and gaps are masked", "Prepared")
    if not gain_told and not scan.probe_known:
        scan = _in_photons(scan)
    return _without_frames(scan, 0.01, "Prepared")


SET_RIGHT = "Set right"
"""What the notes of `set_right` begin with."""


def set_right(scan: Scan) -> tuple[Scan, list[Check]]:
    """The scan with its frames centred, and positions and frames as they lie against each other, and its checks.

    What a run does unasked, after `prepared`: where these contradict each other clearly, and nothing else is wrong that
    would decide them. Notes say what was done; the last check is that of the orientation.
    """
    if scan.near_field is None:
        scan = _moved(scan, SET_RIGHT)
    checks = examine(scan, orientation=False)
    if any(check.verdict == "fail" for check in checks):
        return scan, checks
    geometry = examine_orientation(scan)
    if geometry is None:
        return scan, checks
    if geometry.other_side:
        scan = scan.with_probe(other_side(scan.probe), known=False)
        scan = _noted(
            scan,
            "the guessed probe is on the other side of its focus: frames fit better with its conjugate",
            "Prepared",
        )
    if geometry.probe is not None:
        scan = scan.with_probe(geometry.probe, known=False)
        scan = _noted(scan, f"the guessed probe has focus and astigmatism as {geometry.told_by}", "Prepared")
    if geometry.wrong:
        worse = geometry.told_by or f"the error was {100 * geometry.gain:.0f} % larger before"
        return _noted(with_geometry(scan, geometry), f"{geometry.sentence} ({worse})", SET_RIGHT), checks
    return scan, [*checks, orientation_check(geometry)]


def was_set_right(notes: Iterable[str]) -> bool:
    """Whether `set_right` changed the scan of these notes."""
    return any(note.startswith(SET_RIGHT) for note in notes)


def _noted(scan: Scan, note: str, what: str = "Repaired") -> Scan:
    return replace(scan, notes=(*scan.notes, f"{what}: {note}."))


def _lowered(scan: Scan) -> Scan:
    level = pedestal(scan)
    if level is None:
        return scan
    if level >= 20 and scan.counts.dtype.kind in "iu":
        level = float(round(level))  # integers stay integers
    scan = replace(scan, counts=without_pedestal(scan.counts, level))
    return _noted(scan, f"all counts stood on a pedestal of {level:.4g}, which was subtracted")


def _in_photons(scan: Scan) -> Scan:
    gain = detector_gain(scan)
    if gain is None:
        return scan
    note = f"counts vary {gain:.3g} times as much as photons do, in dim and bright pixels alike: they were divided by"
    note += " that gain (--gain 1 leaves them)"
    return _noted(replace(scan, counts=divided_by_gain(scan.counts, gain)), note, "Prepared")


def _centred(scan: Scan) -> Scan:
    return scan if scan.near_field else centred_scan(scan)


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


def _moved(scan: Scan, what: str = "Repaired") -> Scan:
    if scan.near_field is not None:
        return scan
    # By whole pixels: counts are not interpolated.
    y, x = (-round(offset) for offset in centre_offset(scan.mean_pattern, scan.mask))
    if np.hypot(y, x) <= Limits.off_centre_px:
        return scan
    probe = scan.probe
    if not scan.probe_known and _is_off(scan, y, x):
        ramp = np.add.outer(*(shift * (np.arange(scan.N) - scan.N // 2) / scan.N for shift in (y, x)))
        probe = (probe * np.exp(2j * np.pi * ramp)).astype(np.complex64)
    scan = replace(scan, counts=mapped(scan.counts, moved, y, x), mask=moved(scan.mask[None], y, x)[0], probe=probe)
    return _noted(scan, f"the frames were moved by ({y}, {x}) pixels (y, x)", what)


def _is_off(scan: Scan, y: int, x: int) -> bool:
    """Whether the guessed probe, as one made of the frames, is off the centre as they are, by ``(-y, -x)`` pixels."""
    offset = centre_offset(vacuum_pattern(scan.probe, None), np.ones_like(scan.mask))
    return bool(np.hypot(offset[0] + y, offset[1] + x) < np.hypot(*offset))


def moved(frames: Shaped[Array, "B N N"], y: int, x: int) -> Shaped[Array, "B N N"]:
    """Frames with their content at larger indices by integer pixels, 0 (False) where there is none."""
    result = np.zeros_like(frames)
    N = frames.shape[-1]
    # out[y0 + s] = in[y0]: a positive shift cuts the end of the source and the start of the target.
    target, source = ([slice(max(s, 0), N + min(s, 0)) for s in (sign * y, sign * x)] for sign in (1, -1))
    result[:, *target] = frames[:, *source]
    return result


def _without_empty_frames(scan: Scan) -> Scan:
    return _without_frames(scan, Limits.empty_fraction)


def _without_frames(scan: Scan, fraction: float, what: str = "Repaired") -> Scan:
    """Without frames of less than a fraction of the usual counts."""
    empty = empty_frames(scan, fraction)
    if not len(empty):
        return scan
    rest = scan.subset(np.setdiff1d(np.arange(len(scan)), empty))
    return _noted(rest, f"{len(empty)} empty frames were left out", what)


def _with_guessed_probe(scan: Scan) -> Scan:
    if scan.check_dose() is None:
        return scan
    scan = replace(scan, probe_known=False)
    return _noted(scan, "the probe does not have the power of the counts and is taken as a guess")


def _turned(scan: Scan) -> Scan:
    geometry = examine_orientation(scan)
    if geometry is None or not geometry.wrong:
        return scan
    return _noted(with_geometry(scan, geometry), geometry.sentence)
