"""The checks of `ptycho doctor`: each passes, warns or fails, with its finding and a remedy.

A check warns where the image comes out worse, and fails where it comes out wrong. What the frames do not tell is
undecided.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from ptycho.arrays import Array, Bool, Int, Real
from ptycho.config import STEP_UNITS
from ptycho.data.scan import Scan, illumination
from ptycho.diagnostics.geometry import Geometry, find_geometry
from ptycho.diagnostics.near_field import in_near_field, missing
from ptycho.diagnostics.pixels import bad_pixels, gaps, listed, saturation, unsound_pixels
from ptycho.diagnostics.sidebands import find_sidebands
from ptycho.diagnostics.statistics import looks_like_counts, without_spikes, zero_frequency
from ptycho.diagnostics.values import pedestal

Verdict = Literal["pass", "warn", "fail", "undecided"]

REPAIR = "ptycho convert IN OUT --mend"
"""The command that repairs it: `ptycho.diagnostics.repair`."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a check stops passing. Chosen so that no sound scan is warned of, and every planted fault is found: the
    241 scans of `benchmarks.doctor`."""

    off_centre_px: float = 2.0
    """Distance of the zero frequency from pixel ``N // 2``."""
    empty_fraction: float = 0.1
    """A frame with less of the median counts is empty."""
    outlier_sigmas: float = 8.0
    """A frame whose counts are off the median by more robust standard deviations is an outlier ..."""
    outlier_fraction: float = 0.2
    """... if they are off by this fraction of the median, too: a stable beam has tiny deviations."""
    repeated_fraction: float = 0.05
    """Frames that share the position of another."""
    edge_power: float = 0.05
    """Power of the probe within a sixteenth of its window's sides, as a fraction."""
    edge_brightness: float = 0.3
    """Mean of a pattern's edge over that of all its pixels; above, the pattern goes on beyond the frame."""
    overlap: float = 0.3
    """Below this linear overlap a scan is hard to solve."""
    impossible_overlap: tuple[float, float] = (-1.0, 0.995)
    """Beyond these, positions are in another unit."""
    orientation_frames: int = 16
    """Fewer frames do not tell their orientation."""
    orientation_margin: float = 0.1
    """An orientation has to fit better than the frames as they are by this fraction of the error."""


class Check(NamedTuple):
    """A row of the doctor's table."""

    name: str
    verdict: Verdict
    finding: str
    remedy: str = ""

    @property
    def found(self) -> str:
        """The finding, by its former name, for one release."""
        return self.finding

    def to_json(self) -> dict[str, str]:
        """What ``ptycho doctor --json`` prints; ``found`` is the former name of ``finding``."""
        return {**self._asdict(), "found": self.finding}


def examine(scan: Scan, orientation: bool = True, limits: Limits | None = None) -> list[Check]:
    """All checks of a scan, in the order in which to repair what they find; the orientation takes seconds."""
    limits = limits or Limits()
    # Pixels that do not count photons decide nothing but the checks that look for them.
    good = usable(scan)
    near, (pixels, frames) = in_near_field(good), (_pixels(scan), _frames(good, limits))
    if near is not None:
        share = f"{100 * near.agreeing:.0f} % of neighbouring frames"
        finding = f"near field: {share} show the same features, moved with the positions"
        return [_values(scan), *pixels, *frames, Check("propagation", "fail", finding, missing(good, near))]
    checks = [
        _values(scan),
        Check("propagation", "pass", "far field" if scan.near_field is None else "near field"),
        *_zero_frequency(good, limits),
        *pixels,
        *frames,
        *_positions(scan, limits),
        *_probe(good, limits),
    ]
    # Any other fault would decide the search for the orientation.
    failed = any(check.verdict == "fail" for check in checks)
    return [*checks, *(_orientation(scan, limits) if orientation and not failed else ())]


def usable(scan: Scan) -> Scan:
    """The scan without dead and hot pixels and gaps."""
    bad = scan.mask & unsound_pixels(scan)
    return replace(scan, mask=scan.mask & ~bad) if bad.any() and (scan.mask & ~bad).any() else scan


def require_sound(checks: Sequence[Check]) -> None:
    """Raise ValueError where a check of a scan fails: its image would be wrong."""
    if failed := sentences(checks, "fail"):
        raise ValueError(
            f"the scan would give a wrong image: {'; '.join(failed)}. `ptycho doctor` says more; --force goes on"
        )


def sentences(checks: Iterable[Check], verdict: Verdict) -> list[str]:
    """A sentence for each check of a verdict."""
    return [f"{check.name}: {check.finding} ({check.remedy})" for check in checks if check.verdict == verdict]


def _check(name: str, bad: bool, finding: str, remedy: str, verdict: Verdict = "warn") -> Check:
    return Check(name, verdict, finding, remedy) if bad else Check(name, "pass", finding)


def _values(scan: Scan) -> Check:
    statistics, level = looks_like_counts(scan.counts), pedestal(scan)
    if level is not None and statistics.verdict != "amplitude":
        finding = f"all counts stand on about {level:.4g}, which varies less than counts do: a dark not subtracted"
        return Check("values", "fail", finding, f"subtract it: {REPAIR}")
    if statistics.verdict == "amplitude":
        return Check("values", "fail", statistics.sentence, f"square them: {REPAIR}")
    rounded = statistics.verdict == "counts" and statistics.variance_over_mean < 0.5
    doubtful = rounded or statistics.verdict == "unclear"
    return _check("values", doubtful, statistics.sentence, "give the counts as recorded")


def _zero_frequency(scan: Scan, limits: Limits) -> Iterator[Check]:
    if scan.near_field is not None:
        return
    if zero_frequency(scan.counts, scan.mask) == "corner":
        yield Check("zero frequency", "fail", "the signal is strongest at the corners", f"move it: {REPAIR}")
        return
    offsets = centre_offset(scan.mean_pattern, scan.mask)
    y, x = (round(offset, 1) + 0.0 for offset in offsets)  # no -0.0
    finding = f"{np.hypot(y, x):.1f} pixels from the centre, ({y:.1f}, {x:.1f}) (y, x)"
    off_centre = bool(np.hypot(y, x) > limits.off_centre_px)
    yield _check("zero frequency", off_centre, finding, f"move them: {REPAIR}")


def centre_offset(mean: Real[Array, "N N"], mask: Bool[Array, "N N"]) -> tuple[float, float]:
    """(y, x) of the point of symmetry of a mean pattern, from pixel ``N // 2``, in fractions of a pixel.

    A pattern is nearly symmetric, ``a(2 c - k) = a(k)`` about its centre c, so that its amplitude convolved with
    itself has its maximum at ``2 c``, found to sub-pixels by a parabola. Masked pixels take the value of the nearest
    pixel in use, as dark gaps would move the maximum.
    """
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    # A hot pixel would be taken for the beam.
    amplitude = np.sqrt(without_spikes(mean, mask))[tuple(nearest)]
    N = len(amplitude)
    # (a * a)(s) = F^-1[(F a)^2] = sum_k a(k) a(s - k), cyclic, has its maximum at s = 2 c.
    convolution = np.fft.ifft2(np.fft.fft2(amplitude) ** 2).real
    peak = np.unravel_index(int(convolution.argmax()), convolution.shape)
    offsets = []
    for axis in (0, 1):
        through_peak = convolution.take(int(peak[1 - axis]), axis=1 - axis)
        before, top, after = np.roll(through_peak, 1 - int(peak[axis]))[:3]
        curvature = before - 2 * top + after
        # Vertex of the parabola through the maximum and its neighbours
        vertex = 0.5 * (before - after) / curvature if curvature else 0.0
        twice = peak[axis] + vertex - 2 * (N // 2)
        # 2 c is known up to N: brought to [-N / 2, N / 2), then halved
        offsets.append(float((twice + N / 2) % N - N / 2) / 2)
    return offsets[0], offsets[1]


def _pixels(scan: Scan) -> Iterator[Check]:
    saturated = saturation(scan)
    yield _check("saturation", saturated is not None, saturated or "none", f"mask those pixels: {REPAIR}")
    for name, bad in zip(("dead pixels", "hot pixels"), bad_pixels(scan)):
        yield _check(name, bool(bad.any()), listed(bad), f"mask them: {REPAIR}")
    between_modules = [f"{len(index)} {name}" for name, index in zip(("rows", "columns"), gaps(scan)) if len(index)]
    yield _check("gaps", bool(between_modules), " and ".join(between_modules) or "none", f"mask them: {REPAIR}")


def _frames(scan: Scan, limits: Limits) -> Iterator[Check]:
    counts, empty = scan.frame_counts, empty_frames(scan, limits.empty_fraction)
    median = float(np.median(counts))
    yield _check("empty frames", bool(len(empty)), _listed(empty), f"leave them out: {REPAIR}")
    deviation = 1.4826 * float(np.median(np.abs(counts - median)))  # the standard deviation, of normal numbers
    allowed = np.maximum(limits.outlier_sigmas * deviation, limits.outlier_fraction * median)
    outliers = np.setdiff1d(np.flatnonzero(np.abs(counts - median) > allowed), empty)
    yield _check("outlier frames", bool(len(outliers)), _listed(outliers), "look at them; leave them out: scan.subset")


def empty_frames(scan: Scan, empty_fraction: float = Limits.empty_fraction) -> Int[Array, " empty"]:
    """Indices of the frames with less than this fraction of the median counts."""
    counts = scan.frame_counts
    # Most frames may be empty: the median is that of frames with any count.
    return np.flatnonzero(counts < empty_fraction * np.median(counts[counts > 0]))


def _listed(frames: Int[Array, " bad"], most: int = 5) -> str:
    """The number of frames, and the first few of their indices."""
    first = ", ".join(map(str, frames[:most]))
    return f"{len(frames)}" + (f": {first}{', ...' if len(frames) > most else ''}" if first else "")


def _positions(scan: Scan, limits: Limits) -> Iterator[Check]:
    extents = np.ptp(scan.positions, axis=0)
    constant = bool(extents.min() < 1e-3 * extents.max()) and len(scan) > 8
    finding = f"{extents[0]:.4g} x {extents[1]:.4g} pixels (y, x)"
    yield _check("extent of positions", constant, finding, "give both coordinates: one is constant", "fail")
    repeated = len(scan) - len(np.unique(scan.positions, axis=0))
    remedy = "check that each frame has its own position"
    too_many = repeated > limits.repeated_fraction * len(scan)
    yield _check("repeated positions", too_many, f"{repeated} of {len(scan)}", remedy)
    overlap, (smallest, largest) = scan.overlap, limits.impossible_overlap
    share = f"{100 * overlap:.1f} %" if overlap >= 0 else "none"
    finding = f"{share} (step {scan.step_px:.3g}, probe {scan.probe_diameter_px:.3g} pixels)"
    # No two frames of a step beyond the window have a pixel in common, whatever the probe.
    if overlap > largest or (overlap < smallest and scan.probe_known) or scan.step_px > scan.N:
        yield Check("overlap", "fail", finding, unit_remedy(scan))
        return
    guess = "" if scan.probe_known else "; the probe is a guess, and narrower than the true one if that is defocused"
    remedy = f"scan in smaller steps, or check the pixel size{guess}"
    yield _check("overlap", overlap < limits.overlap, finding, remedy)


POSITION_UNITS = {name: STEP_UNITS[name] for name in ("mm", "um", "nm", "A")}
"""Metres of each unit that positions may be in where a file does not tell."""


def unit_remedy(scan: Scan) -> str:
    """What to do about positions in a unit that cannot be true: the unit that would make them plausible."""
    if scan.pixel_size_m is None:
        return "positions are in object pixels: divide metres by the pixel size"
    step, usual = scan.step_px, scan.N / 8
    # Values v of a unit u that were read as metres: v / pixel instead of u v / pixel; or pixels read as metres
    factors = {**POSITION_UNITS, "px": scan.pixel_size_m}
    plausible = {name: step * factor for name, factor in factors.items() if 0.5 <= step * factor <= scan.N / 2}
    if plausible:
        name = min(plausible, key=lambda name: abs(np.log(plausible[name] / usual)))
        return (
            f"the positions seem to be in {name}, which makes steps of {plausible[name]:.3g} pixels: "
            f"--position-unit {name}"
        )
    for factor in (1e3, 1e6, 1e9):
        if 0.5 <= step * factor <= scan.N / 2:
            return (
                f"steps {factor:g} times as large would be plausible: tell the unit of the positions (--position-unit) "
                "or the energy (--energy-ev)"
            )
    return "tell the unit of the positions (--position-unit), or the side of an object pixel (--pixel-size-nm)"


def _probe(scan: Scan, limits: Limits) -> Iterator[Check]:
    intensity, edge, mean = illumination(scan.probe), _edge(scan.N), scan.mean_pattern
    power = float(intensity[edge].sum() / intensity.sum())
    finding = f"{100 * power:.1f} % of its power at the edge of its window"
    remedy = "take larger frames: pad or bin less, move the detector"
    yield _check("probe in its window", power > limits.edge_power, finding, remedy)
    # In the near field the detector sees the probe itself: nothing has to fall off towards the edge.
    if scan.near_field is None:
        rim = edge & scan.mask
        brightness = float(mean[rim].mean() / max(mean[scan.mask].mean(), 1e-30)) if rim.any() else 0.0
        finding = f"the edge of the frames has {100 * brightness:.1f} % of their mean brightness"
        remedy = "take larger frames, or subtract a background"
        yield _check("pattern in its frame", brightness > limits.edge_brightness, finding, remedy)
    dose = scan.check_dose()
    finding = "consistent with the counts" if scan.probe_known else "a guess: rescaled to the counts"
    remedy = f"tell the gain of the detector (--gain), or mark the probe as a guess: {REPAIR}"
    yield _check("probe power", dose is not None, dose or finding, remedy, "fail")


def examine_orientation(scan: Scan, limits: Limits | None = None) -> Geometry | None:
    """`find_geometry` by these limits, of a 4D-STEM scan `find_sidebands` where they tell. Any other fault would decide
    the search: repair it before."""
    limits = limits or Limits()
    if len(scan) < limits.orientation_frames:
        return None
    scan = usable(scan)
    if scan.is_4dstem and not scan.probe_known and (told := find_sidebands(scan)) is not None:
        return told.geometry
    return find_geometry(scan, margin=limits.orientation_margin)


def _orientation(scan: Scan, limits: Limits) -> Iterator[Check]:
    geometry = examine_orientation(scan, limits)
    if geometry is not None:
        yield orientation_check(geometry)


def orientation_check(geometry: Geometry) -> Check:
    """What the doctor says of the map under which the frames of a scan fit each other best."""
    name = "orientation of frames"
    if not geometry.decided:
        finding = f"the frames do not tell: other orientations fit them as well, within {100 * geometry.margin:.0f} %"
        remedy = "compare images with --orientation 0 to 7 and --scan-rotation-deg, or fit a probe first"
        return Check(name, "undecided", finding, remedy)
    other = geometry.told_by or f"another orientation's error is {100 * geometry.margin:.0f} % larger"
    finding = f"best: {geometry.sentence}; {other}"
    if geometry.told_by:
        remedy = f"{geometry.sentence} is how they lie, {geometry.told_by}: {REPAIR}"
    else:
        remedy = f"{geometry.sentence} fit better than as they are, by {100 * geometry.gain:.0f} %: {REPAIR}"
    return _check(name, geometry.wrong, finding, remedy, "fail")


def _edge(N: int) -> Bool[Array, "N N"]:
    """Within a sixteenth of the sides."""
    edge, width = np.ones((N, N), bool), max(1, N // 16)
    edge[width:-width, width:-width] = False
    return edge
