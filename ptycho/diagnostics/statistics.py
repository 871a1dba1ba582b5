"""Statistics that tell what frames hold: counts or amplitudes, and where their zero frequency is. Pure functions.

The mistakes looked for are those that give a wrong image without an error: zero frequency at the corner, amplitudes
taken for counts, a probe in arbitrary units. Readers call these functions, so they need numpy only.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Float, Int, Real
from ptycho.data.frames import Counts, chunks, mapped, mean_pattern
from ptycho.data.scan import Scan, vacuum_pattern

Kind = Literal["counts", "amplitude", "unclear"]


def evenly_spread(frames: int, most: int = 64) -> Int[Array, " sample"]:
    """Indices of at most so many of P frames, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, frames - 1, min(most, frames)).round().astype(int))


def sampled(counts: Counts, sample: int = 64) -> Real[Array, "sample h w"]:
    """At most ``sample`` frames of (P, h, w), evenly spread over the scan; native dtype."""
    return counts[evenly_spread(len(counts), sample)]


def zero_frequency(
    counts: Counts, mask: Bool[Array, "N N"] | None = None, sample: int = 64
) -> Literal["centre", "corner"]:
    """Where the zero frequency of frames (P, N, N) is: at pixel ``N // 2`` or at pixel 0.

    Far-field patterns fall off with frequency. Compares the mean distance ``|y| + |x|`` of the signal from the centre
    with that from the corner (cyclic), to which a uniform background adds nothing. The signal is the square root of
    the mean pattern `without_spikes`, so that no hot pixel decides. A tie is ``centre``.
    """
    signal = np.sqrt(without_spikes(sampled(counts, sample).mean(axis=0, dtype=np.float64), mask))
    N = counts.shape[-1]
    from_corner = np.abs(np.fft.fftfreq(N))
    from_centre = np.fft.fftshift(from_corner)
    # sum of signal (d_corner - d_centre), where both distances separate into y and x
    nearer_centre = (from_corner - from_centre)[:, None] + (from_corner - from_centre)
    return "centre" if (signal * nearer_centre).sum() >= -1e-9 * signal.sum() else "corner"


def without_spikes(mean: Real[Array, "N N"], mask: Bool[Array, "N N"] | None = None, most: float = 4.0) -> Array:
    """A mean pattern, 0 where masked, no pixel above ``most`` times the sixth largest of the 5 x 5 pixels around it.

    Hot pixels, also a row or a column of them, become as dim as what surrounds them; a beam of few pixels stays the
    brightest. Where counts are too rare for that, each pixel that counted is as good as any other.
    """
    from scipy.ndimage import rank_filter

    pattern = np.maximum(mean, 0) * (1 if mask is None else mask)
    limited = np.minimum(pattern, most * rank_filter(pattern, rank=-6, size=5, mode="wrap"))
    return limited if limited.any() else (pattern > 0).astype(np.float64)


def bright_disc(pattern: Float[Array, "N N"]) -> Bool[Array, "N N"]:
    """Pixels of an aperture: more than half of the median of those above a tenth of the brightest."""
    return pattern > 0.5 * np.median(pattern[pattern > 0.1 * pattern.max()])


def centred(frames: Array) -> Array:
    """Move the zero frequency of (..., N, N) from pixel 0 to pixel ``N // 2``, for odd N too: a copy."""
    return np.fft.fftshift(frames, axes=(-2, -1))


def centred_scan(scan: Scan) -> Scan:
    """The scan with zero frequency at ``N // 2`` in frames and mask; a note says if it had to be moved."""
    if zero_frequency(scan.counts, scan.mask) == "centre":
        return scan
    note = "The zero frequency was at the corner of the frames and was moved to the centre."
    return replace(scan, counts=mapped(scan.counts, centred), mask=centred(scan.mask), notes=(*scan.notes, note))


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
    """Whether frames are counts, by a sample of them."""

    integer_fraction: float
    """Fraction of the values that are integers."""
    square_integer_fraction: float
    """Fraction of the values above 0 whose square is an integer, within their precision."""
    maximum: float
    variance_over_mean: float
    """Median over the brighter pixels; 1 or more for counts, as the sample only adds to Poisson noise."""
    verdict: Kind
    sentence: str


def looks_like_counts(counts: Counts, sample: int = 64, rounded_below: float = 0.5) -> CountStatistics:
    """Judge frames (P, N, N) by their statistics: photon counts, their square roots (amplitudes), or unclear.

    Integers are counts; values whose squares are integers are amplitudes of counts; multiples of one value that scatter
    as photons do, or more, in dim pixels too are counts over a gain. Anything else is unclear: normalised,
    background-subtracted, or noise-free. Integers whose variance over mean is ``rounded_below`` may be
    rounded amplitudes, for which it is 1/4 at most.
    """
    values = sampled(counts, sample).astype(np.float64)
    precision = float(np.finfo(counts.dtype).eps) if counts.dtype.kind == "f" else 0.0
    integers = _integer_fraction(values, 0.0)
    # A root rounded to a relative eps has a square that is off by 2 eps; twice that is allowed.
    square_integers = _integer_fraction(values[values > 0] ** 2, 4 * precision)
    maximum, ratio = float(values.max()), _variance_over_mean(values)
    facts = f"{100 * integers:.0f} % of the values are whole numbers, the largest is {maximum:.4g}"
    facts += f", variance/mean is {ratio:.2g}"
    verdict: Kind = "unclear"
    sentence = f"These are neither whole numbers nor square roots of whole numbers: {facts}."
    if integers == 1:
        verdict = "counts"
        sentence = f"These are photon counts: {facts}."
        if ratio < rounded_below:
            sentence = f"These may be photon counts, or rounded amplitudes (counts vary more): {facts}."
    elif square_integers > 0.99:
        verdict = "amplitude"
        sentence = f"These are amplitudes, square roots of photon counts: the squares are whole numbers; {facts}."
    elif (step := quantum(values, below=1.0)) and _variance_over_mean(values, dim=True) >= rounded_below:
        verdict = "counts"
        sentence = f"These are photon counts over a gain: all are multiples of {step:.4g}; {facts}."
    return CountStatistics(
        integer_fraction=integers,
        square_integer_fraction=square_integers,
        maximum=maximum,
        variance_over_mean=ratio,
        verdict=verdict,
        sentence=sentence,
    )


def quantum(values: Real[Array, "..."], below: float = 0.5, tolerance: float = 0.02) -> float | None:
    """The step of which all values are multiples, where it is under ``below``: counts over a gain, or normalised.

    None where there is none, or the values are integers.
    """
    if values.dtype.kind != "f":
        return None
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values) or (step := float(values.min())) >= below:
        return None
    multiples = values / step
    whole = np.abs(multiples - np.rint(multiples)) <= tolerance
    # Many different multiples: a few values could be multiples of the smallest by chance.
    return step if whole.all() and len(np.unique(np.rint(multiples))) > 8 else None


def _integer_fraction(values: Float[Array, "..."], precision: float) -> float:
    """Fraction of integers within a relative precision, 0.1 at most; 1 where there are no values."""
    tolerance = np.minimum(precision * values, 0.1)
    return float((np.abs(values - np.rint(values)) <= tolerance).mean()) if values.size else 1.0


def _variance_over_mean(values: Float[Array, "sample N N"], dim: bool = False) -> float:
    """The median over the brighter half of the pixels, or over the dimmer one, where a sample adds least."""
    mean = values.mean(axis=0)
    if len(values) < 2 or not (mean > 0).any():
        return float("nan")
    middle = np.median(mean[mean > 0])
    pixels = (mean > 0) & (mean <= middle) if dim else mean >= middle
    return float(np.median(values.var(axis=0, ddof=1)[pixels] / mean[pixels]))


def compact(counts: Counts) -> Counts:
    """The same numbers in the smallest unsigned integer dtype that holds them exactly, else unchanged.

    Saves half to three quarters of the memory of counts that a file keeps as floats. Reads every value, in chunks.
    """
    if not all(_is_integer(chunk) and chunk.min() >= 0 for chunk in chunks(counts)):
        return counts
    largest = max(chunk.max() for chunk in chunks(counts))
    for dtype in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(dtype).max:
            smaller = np.dtype(dtype).itemsize < counts.dtype.itemsize
            return mapped(counts, np.ndarray.astype, dtype) if smaller else counts
    return counts


def _is_integer(chunk: Real[Array, "..."]) -> bool:
    return chunk.dtype.kind != "f" or bool((chunk == np.rint(chunk)).all())


def squared(amplitudes: Counts) -> Counts:
    """Counts of amplitudes, cast before squaring (integers would overflow); squares of integers as integers."""
    rounded = looks_like_counts(amplitudes).verdict == "amplitude"
    return compact(mapped(amplitudes, _squared, rounded))


def _squared(amplitudes: Real[Array, "B N N"], rounded: bool) -> Float[Array, "B N N"]:
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and numbers that are none are masked
        counts = np.square(amplitudes, dtype=np.float32)
    return np.rint(counts, out=counts) if rounded else counts


def guessed_probe(counts: Counts, mask: Bool[Array, "N N"] | None = None) -> Complex[Array, "1 N N"]:
    """A probe in focus with the mean pattern of frames (P, N, N), zero frequency at ``N // 2``; complex64.

    The mean amplitude of a scan is that of the probe as far as the sample is weak; the phase is not measured. Only
    near the zero frequency, where the beam may be one pixel wide, may a pixel outshine those around it.
    """
    mean = mean_pattern(counts) * (1 if mask is None else mask)
    limited, N = without_spikes(mean, mask), counts.shape[-1]
    beam = slice(max(N // 2 - 2, 0), N // 2 + 3)
    limited[beam, beam] = np.maximum(mean[beam, beam], 0)
    amplitude = np.sqrt(limited)
    # In focus all frequencies are in phase: the probe is the inverse DFT of the amplitudes.
    wave = np.fft.ifft2(np.fft.ifftshift(amplitude), norm="ortho")
    return np.fft.fftshift(wave)[None].astype(np.complex64)


def rescale_probe(scan: Scan) -> tuple[Scan, float]:
    """Give a guessed probe the measured dose: ``(scan, factor)`` with the probe multiplied by ``factor``.

    Afterwards the pattern without a sample holds `Scan.mean_counts` over the used pixels. A known probe is returned
    as it is, bit for bit, with factor 1.
    """
    if scan.probe_known:
        return scan, 1.0
    vacuum = float(vacuum_pattern(scan.probe, scan.transfer)[scan.mask].sum())
    if vacuum <= 1e-12 * scan.photons:  # zero, but for rounding
        raise ValueError(
            "Scan.probe sends no photons to the used pixels without a sample; check that the mask is True where a "
            "pixel is used, or give another probe"
        )
    # Photons go with |P|^2.
    factor = float(np.sqrt(scan.mean_counts / vacuum))
    return scan.with_probe(scan.probe.astype(np.complex128) * factor, known=False), factor


def scatter_of_mean(scan: Scan) -> float:
    """What shot noise leaves of the misfit of a frame, were all frames the mean one."""
    from keras import ops

    from ptycho.physics.noise import root_scatter

    return float(ops.convert_to_numpy(root_scatter(scan.mean_pattern[scan.mask].astype("float32"))).sum())


def mean_over_error(values: Float[Array, " K"]) -> float:
    """The mean of paired differences over its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() / max(error, 1e-30))
