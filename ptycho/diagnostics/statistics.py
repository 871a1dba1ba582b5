"""What is wrong with a scan: pure functions that readers and ``ptycho info`` share. Light, like `Scan`.

The mistakes looked for here are the ones that give a wrong image without an error: zero frequency at the
corner, amplitudes taken for counts, a probe in arbitrary units, dead and hot pixels.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ptycho.config import NearField
from ptycho.data.beam import Beam
from ptycho.data.frames import Counts, chunks, mean_pattern, seen_through
from ptycho.data.scan import Scan, illumination, vacuum_pattern

Array = np.ndarray

SAMPLE = 64
"""Frames looked at, evenly spread over the scan, where a sample is enough."""


def sampled(counts: Counts, sample: int = SAMPLE) -> Array:
    """At most ``sample`` frames of (P, N, N), evenly spread from the first to the last; native dtype."""
    picked = np.unique(np.linspace(0, len(counts) - 1, min(sample, len(counts))).round().astype(int))
    return counts[picked]


def zero_frequency(counts: Counts, mask: Array | None = None, sample: int = SAMPLE) -> Literal["centre", "corner"]:
    """Where the zero frequency of frames (P, N, N) is: at pixel ``N // 2`` or at pixel 0.

    Far-field patterns fall off from the zero frequency on. Compares the mean distance ``|y| + |x|`` of the
    signal from the centre with that from the corner (cyclic); a uniform background counts for neither. The
    square root of the mean pattern is the signal, so that one hot pixel does not decide. A tie is ``centre``.
    """
    signal = np.sqrt(np.maximum(sampled(counts, sample).mean(axis=0, dtype=np.float64), 0))
    if mask is not None:
        signal = signal * mask
    N = counts.shape[-1]
    from_corner = np.abs(np.fft.fftfreq(N))
    from_centre = np.fft.fftshift(from_corner)
    nearer_centre = (from_corner - from_centre)[:, None] + (from_corner - from_centre)
    return "centre" if (signal * nearer_centre).sum() >= -1e-9 * signal.sum() else "corner"


def centred(frames: Array) -> Array:
    """Move the zero frequency of (..., N, N) from pixel 0 to pixel ``N // 2``, odd N too: a copy."""
    return np.fft.fftshift(frames, axes=(-2, -1))


def centred_scan(scan: Scan) -> Scan:
    """The scan with zero frequency at ``N // 2`` in frames and mask; a note says if it had to be moved."""
    if zero_frequency(scan.counts, scan.mask) == "centre":
        return scan
    note = "The zero frequency was at the corner of the frames and was moved to the centre."
    return replace(scan, counts=seen_through(scan.counts, centred), mask=centred(scan.mask), notes=(*scan.notes, note))


def warned_of_corner(scan: Scan) -> Scan:
    """The scan as it is, with a note if its zero frequency seems not to be where it should be."""
    note = (
        "The signal is strongest towards the corners of the frames; if the zero frequency is at pixel 0, "
        "move it to the centre (ptycho.diagnostics.statistics.centred)."
    )
    if scan.near_field or note in scan.notes or zero_frequency(scan.counts, scan.mask) == "centre":
        return scan
    return replace(scan, notes=(*scan.notes, note))


@dataclass(frozen=True, kw_only=True)
class CountStatistics:
    """What a sample of frames says about whether they are counts."""

    integer_share: float
    """Share of the values that are whole numbers."""
    square_integer_share: float
    """Share of the values above 0 whose square is a whole number, within their precision."""
    maximum: float
    variance_over_mean: float
    """Median over the brighter pixels; 1 or more for counts, as the sample only adds to Poisson noise."""
    verdict: Literal["counts", "amplitude", "unclear"]
    sentence: str


def looks_like_counts(counts: Counts, sample: int = SAMPLE) -> CountStatistics:
    """Judge frames (P, N, N) by their statistics: photon counts, their square roots (amplitudes), or unclear.

    Whole numbers are counts; values whose squares are whole numbers are amplitudes of counts. Anything else
    is unclear: normalised, background-subtracted, or noise-free.
    """
    values = sampled(counts, sample).astype(np.float64)
    precision = np.finfo(counts.dtype).eps if counts.dtype.kind == "f" else 0.0
    whole, square_whole = _whole(values, 0.0), _whole(values[values > 0] ** 2, 4 * precision)
    maximum, spread = float(values.max()), _variance_over_mean(values)
    facts = f"{100 * whole:.0f} % of the values are whole numbers, the largest is {maximum:.4g}"
    facts += f", variance/mean is {spread:.2g}"
    verdict: Literal["counts", "amplitude", "unclear"] = "unclear"
    if whole == 1:
        verdict = "counts"
        sentence = f"These are photon counts: {facts}."
        if spread < 0.5:
            sentence = f"These may be photon counts, or rounded amplitudes (counts vary more): {facts}."
    elif square_whole > 0.99:
        verdict = "amplitude"
        sentence = f"These are amplitudes, square roots of photon counts: the squares are whole numbers; {facts}."
    else:
        sentence = f"These are neither whole numbers nor square roots of whole numbers: {facts}."
    return CountStatistics(
        integer_share=whole,
        square_integer_share=square_whole,
        maximum=maximum,
        variance_over_mean=spread,
        verdict=verdict,
        sentence=sentence,
    )


def _whole(values: Array, precision: float) -> float:
    """Share of whole numbers within a relative precision, 0.1 at most; 1 when there is nothing to judge."""
    tolerance = np.minimum(precision * values, 0.1)
    return float((np.abs(values - np.rint(values)) <= tolerance).mean()) if values.size else 1.0


def _variance_over_mean(values: Array) -> float:
    mean = values.mean(axis=0)
    if len(values) < 2 or not (mean > 0).any():
        return float("nan")
    bright = mean >= np.median(mean[mean > 0])
    return float(np.median(values.var(axis=0, ddof=1)[bright] / mean[bright]))


def compact(counts: Counts) -> Counts:
    """The same numbers in the smallest unsigned integer dtype that holds them exactly, else unchanged.

    A quarter to half of the memory for counts that a file keeps as floats. Looks at every value, in chunks.
    """
    if not all(_whole_or_integer(chunk) and chunk.min() >= 0 for chunk in chunks(counts)):
        return counts
    largest = max(chunk.max() for chunk in chunks(counts))
    for dtype in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(dtype).max:
            smaller = np.dtype(dtype).itemsize < counts.dtype.itemsize
            return seen_through(counts, np.ndarray.astype, dtype) if smaller else counts
    return counts


def _whole_or_integer(chunk: Array) -> bool:
    return chunk.dtype.kind != "f" or bool((chunk == np.rint(chunk)).all())


def squared(amplitudes: Counts) -> Counts:
    """Counts of amplitudes, cast before squaring (integers would overflow); whole numbers as integers."""
    whole = looks_like_counts(amplitudes).verdict == "amplitude"
    return compact(seen_through(amplitudes, _squared, whole))


def _squared(amplitudes: Array, whole: bool) -> Array:
    counts = np.square(amplitudes, dtype=np.float32)
    return np.rint(counts, out=counts) if whole else counts


def guessed_probe(counts: Counts, mask: Array | None = None) -> Array:
    """(1, N, N) complex64: a probe in focus with the mean pattern of frames (P, N, N), zero frequency at ``N // 2``.

    The mean amplitude of a scan is that of the probe as far as the sample is weak; its phase nobody has seen.
    """
    amplitude = np.sqrt(np.maximum(mean_pattern(counts), 0)) * (1 if mask is None else mask)
    wave = np.fft.ifft2(np.fft.ifftshift(amplitude), norm="ortho")
    return np.fft.fftshift(wave)[None].astype(np.complex64)


def rescale_probe(scan: Scan) -> tuple[Scan, float]:
    """Give a guessed probe the measured dose: ``(scan, factor)`` with the probe multiplied by ``factor``.

    Afterwards the empty sample's pattern holds `Scan.mean_counts` over the used pixels. A known probe is
    returned as it is, bit for bit, with factor 1.
    """
    if scan.probe_known:
        return scan, 1.0
    empty = float(vacuum_pattern(scan.probe, scan.transfer)[scan.mask].sum())
    if empty <= 1e-12 * scan.photons:  # zero, but for rounding
        raise ValueError(
            "Scan.probe sends no light to the used pixels through an empty sample; check that the mask is "
            "True where a pixel is used, or give another probe"
        )
    factor = float(np.sqrt(scan.mean_counts / empty))
    return scan.with_probe(scan.probe.astype(np.complex128) * factor, known=False), factor


def bad_pixels(scan: Scan) -> tuple[Array, Array]:
    """``(dead, hot)``, each (N, N) bool, among the used pixels.

    Dead: never a count between two neighbours of 20 or more each (by chance once in 5e8); beside one alone it may be
    the edge of the light.
    Hot: 10 times its brightest neighbour and 100 counts in all at least, and not the zero frequency, where an
    undiffracted beam may be one pixel wide.
    """
    from scipy import ndimage

    total = scan.mean_pattern * len(scan) * scan.mask
    padded = np.pad(total, 1)
    rows = np.minimum(padded[:-2, 1:-1], padded[2:, 1:-1])
    expected = np.maximum(rows, np.minimum(padded[1:-1, :-2], padded[1:-1, 2:]))
    brightest = ndimage.maximum_filter(total, footprint=~np.eye(9, dtype=bool)[4].reshape(3, 3), mode="constant")
    dead = scan.mask & (total == 0) & (expected >= 20)
    hot = (total >= 100) & (total > 10 * brightest)
    if scan.near_field is None:
        hot[scan.N // 2, scan.N // 2] = False
    return dead, hot


def gaps(scan: Scan) -> tuple[Array, Array]:
    """Rows and columns of the frames, by their numbers, that lie between the modules of a detector.

    None of their used pixels ever counted, though the lines on both sides of them did, 20 times at least: by chance
    once in 5e8.
    """
    total = scan.mean_pattern * len(scan) * scan.mask
    return _dark_lines(total.sum(axis=1), scan.mask.any(axis=1)), _dark_lines(total.sum(axis=0), scan.mask.any(axis=0))


def _dark_lines(total: Array, used: Array) -> Array:
    lines = np.flatnonzero(used)
    dark = total[lines] < 0.5  # a sum of means over all frames, times their number
    runs = np.split(np.arange(len(lines)), np.flatnonzero(np.diff(dark)) + 1)
    bounded = [run for run in runs[1:-1] if dark[run[0]] and min(total[lines[[run[0] - 1, run[-1] + 1]]]) >= 20]
    return lines[np.concatenate(bounded)] if bounded else lines[:0]


def without_gaps(scan: Scan) -> Array:
    """(N, N) bool: the scan's mask without `gaps`."""
    good, (rows, columns) = scan.mask.copy(), gaps(scan)
    good[rows], good[:, columns] = False, False
    return good


def proposed_mask(scan: Scan) -> Array:
    """(N, N) bool: the scan's mask without dead, hot and saturated pixels and gaps."""
    dead, hot = bad_pixels(scan)
    good = without_gaps(scan) & ~dead & ~hot
    if saturation(scan) is not None:
        largest = max(float(chunk[:, scan.mask].max()) for chunk in chunks(scan.counts))
        for chunk in chunks(scan.counts):
            good &= ~(chunk == largest).any(axis=0)
    return good


def saturation(scan: Scan) -> str | None:
    """A sentence if the detector seems to have counted no further than the largest count of the scan, else None.

    Shot noise does not stop at one value: of unlimited counts fewer are the very largest than lie within one standard
    deviation, its square root, below it. A limit gathers there all that is beyond. More than 10 pixels, and more than
    one in 1e4 of those of half the largest count or more, have to be at it. Looks at every used pixel, in chunks.
    """
    largest = max(float(chunk[:, scan.mask].max()) for chunk in chunks(scan.counts))
    if largest <= 0:
        return None
    at = near = half = 0
    for chunk in chunks(scan.counts):
        values = chunk[:, scan.mask]
        at += int(np.count_nonzero(values == largest))
        near += int(np.count_nonzero((values >= largest - max(1.0, largest**0.5)) & (values < largest)))
        half += int(np.count_nonzero(values >= largest / 2))
    if at <= 10 or at <= 1e-4 * half or at <= near:
        return None
    return (
        f"{at} pixels hold exactly the largest count {largest:.6g}, and only {near} come near it: the detector seems "
        "saturated there; leave those pixels out by the mask"
    )


def describe(scan: Scan, checked: bool = False) -> list[tuple[str, str]]:
    """Rows (name, value) of everything worth knowing before a reconstruction, measured on the scan itself.

    Without what its checks say (`ptycho.diagnostics.checks.examine`) where it is ``checked``.
    """
    detector = _about_detector(scan) + ([] if checked else _suspicions(scan))
    return [*_about_frames(scan, checked), *detector, *_about_positions(scan), *_about_probe(scan, checked)]


def _about_frames(scan: Scan, checked: bool) -> list[tuple[str, str]]:
    zeros = 1 - sum(np.count_nonzero(chunk) for chunk in chunks(scan.counts)) / scan.counts.size
    frame = scan.frame_counts
    return [
        ("frames", f"{len(scan)}"),
        ("frame size", f"{scan.N} x {scan.N} pixels, {scan.counts.dtype}, {scan.counts.nbytes / 1e6:.1f} MB"),
        ("counts per frame", f"{scan.mean_counts:.4g} (from {frame.min():.4g} to {frame.max():.4g})"),
        ("largest count", f"{max(float(chunk.max()) for chunk in chunks(scan.counts)):.6g}"),
        ("zeros", f"{100 * zeros:.1f} %"),
        *([] if checked else [("statistics", looks_like_counts(scan.counts).sentence)]),
    ]


def _about_detector(scan: Scan) -> list[tuple[str, str]]:
    return [
        ("propagation", _way(scan.near_field)),
        *([] if scan.beam is None else [("beam", _energy(scan.beam))]),
        ("masked pixels", f"{100 * (1 - scan.mask.mean()):.1f} %"),
    ]


def _suspicions(scan: Scan) -> list[tuple[str, str]]:
    """What is wrong with frames by the look of them, or is not."""
    dead, hot = bad_pixels(scan)
    place = zero_frequency(scan.counts, scan.mask)
    where = f"pixel {scan.N // 2}, the centre" if place == "centre" else "the corner by the look of it: shift it"
    return [
        *([] if scan.near_field else [("zero frequency", where)]),
        ("dead pixels", _pixels(dead)),
        ("hot pixels", _pixels(hot)),
        ("saturation", saturation(scan) or "none"),
    ]


def _way(near: NearField | None) -> str:
    """From the sample to the detector."""
    if near is None:
        return "far field"
    return f"near field ({near.kind}), {near.distance_px:g} pixels at a wavelength of {near.wavelength_px:g} pixels"


def _energy(beam: Beam) -> str:
    far = "" if beam.distance_m is None else f", detector at {beam.distance_m:.4g} m"
    return f"{beam.particle}s of {beam.energy_eV / 1e3:.5g} keV, wavelength {beam.wavelength_m * 1e12:.4g} pm{far}"


def _pixels(found: Array) -> str:
    """How many, and where the first few are."""
    places = [f"({y}, {x})" for y, x in np.argwhere(found)[:4]]
    more = ", ..." if found.sum() > 4 else ""
    return f"{found.sum()}" + (f": {', '.join(places)}{more}" if places else "")


def _about_positions(scan: Scan) -> list[tuple[str, str]]:
    height, width = np.ptp(scan.positions, axis=0)
    size = "" if scan.pixel_size_m is None else f" of {scan.pixel_size_m * 1e9:.4g} nm"
    return [
        ("field of positions", f"{height:.1f} x {width:.1f} object pixels{size} (y, x)"),
        ("step", f"{scan.step_px:.2f} pixels"),
        ("overlap", f"{100 * scan.overlap:.0f} % of a probe {scan.probe_diameter_px:.1f} pixels wide"),
    ]


def _about_probe(scan: Scan, checked: bool) -> list[tuple[str, str]]:
    powers = [float(illumination(mode[None]).sum()) for mode in scan.probe]
    shares = "" if len(powers) == 1 else f" ({', '.join(f'{100 * p / sum(powers):.0f} %' for p in powers)})"
    known = f"known, {scan.photons:.4g} photons a frame"
    usual = "consistent" if scan.probe_known else "nothing to check"
    guess = f"a guess, sum |probe|^2 is {scan.photons:.4g} (rescaled to the counts before use)"
    return [
        ("probe", known if scan.probe_known else guess),
        ("probe modes", f"{scan.modes}{shares}"),
        *([] if checked else [("dose check", scan.check_dose() or usual)]),
        ("true object", "none" if scan.object is None else "{} x {} pixels".format(*scan.object.shape)),
    ]
