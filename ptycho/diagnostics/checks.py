"""What `ptycho doctor` says of a scan: checks that pass, warn or fail, each with what was found and what to do.

A check warns where an image comes out worse, and fails where it comes out wrong.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from ptycho.data.scan import Scan, illumination
from ptycho.diagnostics import statistics as doctor
from ptycho.diagnostics.orientation import NAMES, orientation_errors

Array = np.ndarray
Verdict = Literal["pass", "warn", "fail"]

OFF_CENTRE_PX = 2.0
EMPTY_SHARE = 0.1
"""A frame with less of the median counts is empty."""
OUTLIER_SIGMAS, OUTLIER_SHARE = 8.0, 0.2
"""An outlier is so many robust standard deviations, and such a share of the median, away from the median."""
EDGE_SHARE = 0.05
"""Light of the probe within a sixteenth of its window's sides that is too much."""
EDGE_BRIGHTNESS = 0.3
"""Mean of a pattern's edge over that of the whole that says that it goes on beyond."""
LEAST_OVERLAP, SMALLEST_OVERLAP, MOST_OVERLAP = 0.3, -1.0, 0.995
"""Below the first a scan is hard to solve; beyond the others its positions are in another unit."""

FEWEST_FRAMES = 16
CLEAR_MARGIN = 0.1
"""An orientation that fits better than the frames as they are by less is not believed."""
MEND = "ptycho convert IN OUT --mend"
"""What does it: `ptycho.diagnostics.repair`."""


class Check(NamedTuple):
    """One line of the doctor's table."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(scan: Scan, orientation: bool = True) -> list[Check]:
    """All checks of a scan, in the order in which to mend what they find; the orientation takes longest, seconds."""
    checks = (_values(scan), *_zero_frequency(scan), *_pixels(scan), *_frames(scan), *_positions(scan), *_probe(scan))
    failed = any(check.verdict == "fail" for check in checks)
    return [*checks, *(_orientation(scan) if orientation and not failed else ())]


def require_sound(scan: Scan) -> list[Check]:
    """All checks of a scan (`examine`).

    Raises:
        ValueError: a check fails: the image would be wrong.
    """
    checks = examine(scan)
    if failed := sentences(checks, "fail"):
        raise ValueError(
            f"the scan would give a wrong image: {'; '.join(failed)}. `ptycho doctor` says more; --force goes on"
        )
    return checks


def sentences(checks: Iterable[Check], verdict: Verdict) -> list[str]:
    """A sentence for each check of a verdict."""
    return [f"{check.name}: {check.found} ({check.remedy})" for check in checks if check.verdict == verdict]


def _check(name: str, bad: bool, found: str, remedy: str, verdict: Verdict = "warn") -> Check:
    return Check(name, verdict, found, remedy) if bad else Check(name, "pass", found)


def _values(scan: Scan) -> Check:
    said = doctor.looks_like_counts(scan.counts)
    if said.verdict == "amplitude":
        return Check("values", "fail", said.sentence, f"square them: {MEND}")
    rounded = said.verdict == "counts" and said.variance_over_mean < 0.5
    return _check("values", rounded or said.verdict == "unclear", said.sentence, "give the counts as recorded")


def _zero_frequency(scan: Scan) -> Iterator[Check]:
    if scan.near_field is not None:
        return
    if doctor.zero_frequency(scan.counts, scan.mask) == "corner":
        yield Check("zero frequency", "fail", "the signal is strongest at the corners", f"move it: {MEND}")
        return
    offsets = centre_offset(scan.mean_pattern, doctor.without_gaps(scan))
    y, x = (round(offset, 1) + 0.0 for offset in offsets)  # no -0.0
    found = f"{np.hypot(y, x):.1f} pixels from the centre, ({y:.1f}, {x:.1f}) (y, x)"
    yield _check("zero frequency", bool(np.hypot(y, x) > OFF_CENTRE_PX), found, f"move them: {MEND}")


def centre_offset(mean: Array, mask: Array) -> tuple[float, float]:
    """(y, x) of the point of symmetry of a mean pattern (N, N), from pixel ``N // 2``, in fractions of a pixel.

    A pattern is about symmetric, so that its amplitude turned by 180 degrees fits best when moved by twice the offset:
    the maximum of the convolution with itself, by parabolas. A pixel that is not used has the value of the nearest that
    is, as dark gaps would move the maximum.
    """
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    amplitude = np.sqrt(np.maximum(mean, 0))[tuple(nearest)]
    N = len(amplitude)
    fit = np.fft.ifft2(np.fft.fft2(amplitude) ** 2).real
    peak = np.unravel_index(int(fit.argmax()), fit.shape)
    offsets = []
    for axis in (0, 1):
        line = np.roll(fit.take(int(peak[1 - axis]), axis=1 - axis), 1 - int(peak[axis]))
        bend = line[0] - 2 * line[1] + line[2]
        place = peak[axis] + (0.5 * (line[0] - line[2]) / bend if bend else 0.0) - 2 * (N // 2)
        offsets.append(float((place + N / 2) % N - N / 2) / 2)
    return offsets[0], offsets[1]


def _pixels(scan: Scan) -> Iterator[Check]:
    saturated = doctor.saturation(scan)
    yield _check("saturation", saturated is not None, saturated or "none", f"mask those pixels: {MEND}")
    for name, found in zip(("dead pixels", "hot pixels"), doctor.bad_pixels(scan)):
        places = ", ".join(f"({y}, {x})" for y, x in np.argwhere(found)[:4])
        more = ", ..." if found.sum() > 4 else ""
        yield _check(name, bool(found.any()), f"{found.sum()} {places}{more}".strip(), f"mask them: {MEND}")
    lines = [f"{len(found)} {name}" for name, found in zip(("rows", "columns"), doctor.gaps(scan)) if len(found)]
    yield _check("gaps", bool(lines), " and ".join(lines) or "none", f"mask them: {MEND}")


def _frames(scan: Scan) -> Iterator[Check]:
    counts, empty = scan.frame_counts, empty_frames(scan)
    usual = float(np.median(counts))
    yield _check("empty frames", bool(len(empty)), _named(empty), f"leave them out: {MEND}")
    spread = 1.4826 * float(np.median(np.abs(counts - usual)))  # a standard deviation, of normal numbers
    away = np.abs(counts - usual) > np.maximum(OUTLIER_SIGMAS * spread, OUTLIER_SHARE * usual)
    outliers = np.setdiff1d(np.flatnonzero(away), empty)
    yield _check("outlier frames", bool(len(outliers)), _named(outliers), "look at them; leave them out: scan.subset")


def empty_frames(scan: Scan) -> Array:
    """Numbers of the frames with next to no counts."""
    return np.flatnonzero(scan.frame_counts < EMPTY_SHARE * np.median(scan.frame_counts))


def _named(frames: Array) -> str:
    return f"{len(frames)}" + (
        f": {', '.join(map(str, frames[:5]))}{', ...' if len(frames) > 5 else ''}" if len(frames) else ""
    )


def _positions(scan: Scan) -> Iterator[Check]:
    extents = np.ptp(scan.positions, axis=0)
    still = bool(extents.min() < 1e-3 * extents.max()) and len(scan) > 8
    found = f"{extents[0]:.4g} x {extents[1]:.4g} pixels (y, x)"
    yield _check("extent of positions", still, found, "give both coordinates: one is constant", "fail")
    repeated = len(scan) - len(np.unique(scan.positions, axis=0))
    found = f"{repeated} of {len(scan)}"
    yield _check("repeated positions", repeated > 0.05 * len(scan), found, "check that each frame has its own position")
    overlap = scan.overlap
    found = f"{100 * overlap:.1f} % (step {scan.step_px:.3g}, probe {scan.probe_diameter_px:.3g} pixels)"
    if overlap > MOST_OVERLAP or (overlap < SMALLEST_OVERLAP and scan.probe_known):
        yield Check("overlap", "fail", found, "positions are in object pixels: divide metres by the pixel size")
        return
    guess = "" if scan.probe_known else "; the probe is a guess, and wider than it where it is out of focus"
    remedy = f"scan in smaller steps, or check the pixel size{guess}"
    yield _check("overlap", overlap < LEAST_OVERLAP, found, remedy)


def _probe(scan: Scan) -> Iterator[Check]:
    light, edge, mean = illumination(scan.probe), _edge(scan.N), scan.mean_pattern
    share = float(light[edge].sum() / light.sum())
    found = f"{100 * share:.1f} % of its light at the edge of its window"
    yield _check(
        "probe in its window", share > EDGE_SHARE, found, "take larger frames: pad or bin less, move the detector"
    )
    if scan.near_field is None:
        bright = (
            float(mean[edge & scan.mask].mean() / max(mean[scan.mask].mean(), 1e-30)) if (edge & scan.mask).any() else 0
        )
        found = f"the edge of the frames has {100 * bright:.1f} % of their mean brightness"
        yield _check(
            "pattern in its frame", bright > EDGE_BRIGHTNESS, found, "take larger frames, or subtract a background"
        )
    dose = scan.check_dose()
    usual = "consistent with the counts" if scan.probe_known else "a guess: rescaled to the counts"
    yield _check("probe power", dose is not None, dose or usual, f"take the probe for a guess: {MEND}", "fail")


class Orientation(NamedTuple):
    """How frames fit the positions best, by a code of `NAMES`."""

    best: int
    second: int
    margin: float
    """By which the error of the second is larger."""
    wrong: bool
    """The frames as they are fit clearly worse."""


def examine_orientation(scan: Scan) -> Orientation | None:
    """None in the near field or of a few frames; where something else is wrong, that would decide: mend it before."""
    if scan.near_field is not None or len(scan) < FEWEST_FRAMES:
        return None
    errors = orientation_errors(scan)
    best, second = (int(code) for code in np.argsort(errors)[:2])
    margin, clear = (float(errors[code] / max(errors[best], 1e-30) - 1) for code in (second, 0))
    return Orientation(best, second, margin, best != 0 and clear > CLEAR_MARGIN)


def _orientation(scan: Scan) -> Iterator[Check]:
    said = examine_orientation(scan)
    if said is None:
        return
    best, second = NAMES[said.best], NAMES[said.second]
    found = f"best: {best}; runner-up: {second}, its error {100 * said.margin:.0f} % larger"
    remedy = f"frames {best} fit the positions better than as they are: {MEND}"
    yield _check("orientation of frames", said.wrong, found, remedy, "fail")


def _edge(N: int) -> Array:
    """(N, N) bool: within a sixteenth of the sides."""
    edge, width = np.ones((N, N), bool), max(1, N // 16)
    edge[width:-width, width:-width] = False
    return edge
