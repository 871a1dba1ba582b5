"""Values in a file that are no counts: NaN, sentinels, what stands under the mask, read noise below 0, wrapped counts,
and a pedestal under all of them.

A detector marks a pixel that does not work by NaN, by -1 or -2, or by the largest value of its dtype. Such pixels are
masked. Small negative values are read noise around a dark that was subtracted: they become 0. What was done is told.
"""

from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array, Bool, Float, Int, Real
from ptycho.data.frames import Counts, StoredFrames, chunks, mapped
from ptycho.data.scan import Scan
from ptycho.diagnostics.statistics import evenly_spread, sampled

SENTINELS = (2.0**16 - 1, 2.0**31 - 1, 2.0**31, 2.0**32 - 1, 2.0**32, 2.0**64)
"""Largest values of unsigned and signed integers, and these rounded to float32: they survive a change of dtype."""


class Sound(NamedTuple):
    """Frames that are counts in every used pixel."""

    counts: Counts
    mask: Bool[Array, "N N"]
    notes: tuple[str, ...]


def sound(counts: Counts, mask: Bool[Array, "N N"] | None = None) -> Sound:
    """Frames (P, N, N), (P > 0, N > 0), as counts of 0 or more, and the mask without the pixels that do not count.

    Unsigned integers that stay in a file are judged by a sample of them: nothing else is read. Frames and mask come
    back as they are where nothing is wrong with them.

    Raises:
        ValueError: NaN is scattered over the frames, or counts wrapped round and cannot be told from bright ones.
    """
    used = np.ones(counts.shape[1:], bool) if mask is None else mask
    sampling = isinstance(counts, StoredFrames) and counts.dtype.kind == "u"
    frames = sampled(counts) if sampling else counts
    if not _is_suspicious(frames):
        return Sound(counts, used, ())
    survey = _survey(frames, used)
    if not survey.frames:
        return Sound(counts, used, ())  # no frame holds counts: `Scan` says what it holds
    bits = _wrapped_above(survey, used)
    if bits:
        return _unwrapped(counts, used, bits)
    peak = float(survey.high[used].max(initial=0.0))
    wrapped = _wrapped(frames, used)
    wild = [value for value in survey.at if value > 4 * max(peak, 1.0)] if wrapped is None else []
    no_numbers = used & (survey.invalid > 0)
    _require_few(survey, used, no_numbers)
    bad, notes = no_numbers.copy(), []
    if no_numbers.any():
        notes.append(f"{no_numbers.sum()} pixels hold NaN or infinity in some frame: masked.")
    for value, times in survey.at.items() if wrapped is None else ():
        marked = used & ~bad & ((times > 0) if value in wild else (times == survey.frames) & (times > 0))
        if marked.any():
            notes.append(f"{marked.sum()} pixels hold {value:.10g}, which stands for no count: masked.")
        bad |= marked
    negative, sentence = _negative(survey, used & ~bad)
    bad |= negative
    if wrapped is not None:
        sentence = (
            f"Values from {wrapped:.0f} on are negative ones that wrapped round in {counts.dtype} when a dark was "
            "subtracted: taken as 0."
        )
    notes += [sentence] if sentence else []
    above = wrapped - 1 if wrapped is not None else min(wild) - 1 if wild else None
    zeroed = (bad | ~used) & ((survey.low < 0) | (survey.invalid > 0) | (_highest(survey) > 4 * max(peak, 1.0)))
    # A copy of the frames only where a value changes
    changes = zeroed.any() or above is not None or survey.below.any() or survey.invalid.any()
    result = mapped(counts, _only_counts, zeroed.tobytes(), above) if changes else counts
    if isinstance(result, StoredFrames) and not sampling:
        result.cached("valid", _valid)
    return Sound(result, used & ~bad, tuple(notes))


def _is_suspicious(frames: Counts) -> bool:
    """Whether any value is negative, no number, a sentinel, or so close to the limit that it may have wrapped round."""
    dtype = frames.dtype
    close = 0.99 * np.iinfo(dtype).max if dtype.kind in "ui" else np.inf
    for chunk in chunks(frames):
        largest = chunk.max()
        # NaN fails both comparisons.
        if not (chunk.min() >= 0 and largest < min(close, SENTINELS[-1])) or float(largest) in SENTINELS:
            return True
    return False


class Survey(NamedTuple):
    """What the pixels hold, frame by frame; without frames more than half of which is no count."""

    frames: int
    invalid: Int[Array, "N N"]
    """Frames in which a pixel is NaN or infinite."""
    at: dict[float, Int[Array, "N N"]]
    """Frames in which it has a sentinel, by the sentinel, the largest first."""
    below: Int[Array, "N N"]
    """Frames in which it is below 0."""
    low: Float[Array, "N N"]
    high: Float[Array, "N N"]
    """Least and largest value that is a number and no sentinel; 0 where there is none."""
    negative: float
    positive: float
    """Sums over used pixels, both above 0."""
    integers: bool


def _survey(frames: Counts, used: Bool[Array, "N N"]) -> Survey:
    shape, dtype = frames.shape[1:], frames.dtype
    limit = float(np.iinfo(dtype).max) if dtype.kind in "ui" else np.inf
    sentinels = sorted({value for value in (limit, *SENTINELS) if value <= limit and np.isfinite(value)})[::-1]
    at = {value: np.zeros(shape, int) for value in sentinels}
    invalid, below = np.zeros(shape, int), np.zeros(shape, int)
    low, high = np.zeros(shape), np.zeros(shape)
    count, negative, positive, integers = 0, 0.0, 0.0, True
    for chunk in chunks(frames):
        values = chunk.astype(np.float64)
        finite = np.isfinite(values)
        marked = np.isin(values, sentinels)
        whole = (finite & ~marked)[:, used].mean(axis=1) >= 0.5
        values, finite, marked = values[whole], finite[whole], marked[whole]
        count += len(values)
        invalid += (~finite).sum(axis=0)
        for value, times in at.items():
            times += (values == value).sum(axis=0)
        plain = np.where(finite & ~marked, values, 0.0)
        below += (plain < 0).sum(axis=0)
        low, high = np.minimum(low, plain.min(axis=0, initial=0.0)), np.maximum(high, plain.max(axis=0, initial=0.0))
        negative -= float(plain[:, used].clip(max=0).sum())
        positive += float(plain[:, used].clip(min=0).sum())
        integers = integers and bool((plain == np.rint(plain)).all())
    return Survey(count, invalid, at, below, low, high, negative, positive, integers)


def _highest(survey: Survey) -> Float[Array, "N N"]:
    """Largest value, sentinels included."""
    values = [np.where(times > 0, value, 0.0) for value, times in survey.at.items()]
    return np.max([survey.high, *values], axis=0)


def _require_few(survey: Survey, used: Bool[Array, "N N"], bad: Bool[Array, "N N"], most: float = 0.2) -> None:
    """ValueError where so many of the used pixels are NaN at times, but few of them in any one frame."""
    if bad.sum() > most * used.sum() and survey.invalid[bad].mean() < 0.1 * survey.frames:
        raise ValueError(
            f"NaN or infinity is scattered over the frames: {bad.sum()} pixels hold it in some frame, so that a mask "
            "would leave too few; set these values to what the detector counted"
        )


def _negative(survey: Survey, used: Bool[Array, "N N"]) -> tuple[Bool[Array, "N N"], str]:
    """Pixels whose negative values are sentinels, and a sentence on those or on read noise."""
    below = used & (survey.below > 0)
    if not below.any():
        return below, ""
    # Read noise is above 0 in some of so many frames.
    always = below & (survey.below == survey.frames) & (survey.frames >= 16)
    rest = below & ~always
    # -1 and -2 in few pixels are marks; read noise is below 0 in all dark pixels.
    few = survey.integers and rest.sum() <= 0.02 * used.sum() and survey.low[rest].min(initial=0.0) >= -2
    sentinel = always | rest if few else always
    sentences = []
    if sentinel.any():
        lowest = survey.low[sentinel].min()
        sentences.append(f"{sentinel.sum()} pixels hold values below 0 (down to {lowest:.4g}) for no count: masked.")
    if (rest & ~sentinel).any():
        # The sums are over all pixels: those of the sentinels count little beside read noise.
        lowest = survey.low[rest].min()
        share = survey.below[rest].sum() / max(survey.frames * used.sum(), 1)
        amount = 100 * survey.negative / max(survey.positive, 1e-30)
        sentences.append(
            f"{100 * share:.2g} % of the values were below 0 (down to {lowest:.4g}, together {amount:.2g} % of the "
            "counts), as read noise is after a dark was subtracted: taken as 0."
            + (" That is much: check the dark that was subtracted." if amount > 25 else "")
        )
    return sentinel, " ".join(sentences)


def _wrapped(frames: Counts, used: Bool[Array, "N N"], sample: int = 64) -> float | None:
    """The value from which on counts are negative ones that wrapped round, None where none are.

    A dark pixel jumps between near 0 and near the limit of its dtype at random, with nothing between, while a bright
    one that is dark in some frames does so in all pixels alike.
    """
    if frames.dtype.kind != "u":
        return None
    limit = float(np.iinfo(frames.dtype).max)
    values = sampled(frames, sample)[:, used].astype(np.float64)
    top, low = values > 0.75 * limit, values < 0.25 * limit
    jumping = top.any(axis=0) & low.any(axis=0)
    if jumping.sum() < max(10.0, 0.005 * used.sum()):
        return None
    share = top[:, jumping].mean(axis=1)
    at_random = np.mean((share > 0.005) & (share < 0.995)) > 0.9
    near = values[top]
    # Noise around 0 has -1 (the limit itself) about as often as -2, -3, ...
    noise = (near >= limit - 3).any() and (near == limit).mean() < 0.5
    if not (at_random and noise):
        return None
    if (~top & ~low).sum() > 0.01 * top.sum():
        raise ValueError(
            f"{jumping.sum()} pixels jump between 0 and {limit:.0f}: negative counts seem to have wrapped round in "
            f"{frames.dtype} when a dark was subtracted, and bright ones cannot be told from them; subtract the dark "
            "in a signed dtype"
        )
    return float(0.75 * limit // 1 + 1)


def _wrapped_above(survey: Survey, used: Bool[Array, "N N"]) -> int:
    """The bits of a signed integer in which bright counts wrapped round and came out below 0; 0 where none did.

    Read noise is never below 0 by half the range of 16 bits (of 8 bits it may be), and a mark does not turn bright in
    other frames.
    """
    low, high = survey.low[used], survey.high[used]
    for bits in (16, 32) if survey.integers else ():
        limit = 2 ** (bits - 1)
        within = low.min(initial=0.0) >= -limit and high.max(initial=0.0) < limit
        if within and ((low <= -limit / 2) & (high >= limit / 2)).any():
            return bits
    return 0


def _unwrapped(counts: Counts, used: Bool[Array, "N N"], bits: int) -> Sound:
    """Frames whose bright counts are above 0 again, and the mask without the pixels that may have wrapped round twice.

    ``2^bits`` is added below an eighth of the negative range: read noise does not come down there.
    """
    unwrapped = mapped(counts, _turned_up, bits)
    brightest = np.max([chunk.max(axis=0) for chunk in chunks(unwrapped)], axis=0)
    twice = used & (brightest >= 0.9 * 2**bits)
    if twice.any():
        from scipy import ndimage

        # Whoever wraps twice may look dim: what lies among bright pixels counts as bright.
        twice = used & ndimage.binary_fill_holes(brightest >= 2 ** (bits - 1))
    rest = sound(unwrapped, used & ~twice)
    lost = f" {twice.sum()} pixels are so bright that they may have wrapped round twice: masked." if twice.any() else ""
    note = f"Counts above {2 ** (bits - 1) - 1} had wrapped round and were below 0: {2**bits} was added to them.{lost}"
    return Sound(rest.counts, rest.mask, (note, *rest.notes))


def _turned_up(frames: Real[Array, "B N N"], bits: int) -> Real[Array, "B N N"]:
    wide = frames.astype(np.int64 if bits == 32 else np.int32)
    wide[wide < -(2 ** (bits - 4))] += 2**bits
    return wide


def _only_counts(frames: Real[Array, "B N N"], zeroed: bytes, above: float | None) -> Real[Array, "B N N"]:
    """Frames with 0 in some pixels, for NaN, for values below 0 and ``above`` some; in frames of NaN everywhere."""
    frames = frames.copy()
    if frames.dtype.kind == "f":
        invalid = ~np.isfinite(frames)
        frames[invalid] = 0
        frames[invalid.mean(axis=(1, 2)) > 0.5] = 0
    frames[:, np.frombuffer(zeroed, bool).reshape(frames.shape[1:])] = 0
    if above is not None:
        frames[frames > above] = 0
    return np.maximum(frames, 0, out=frames)


def _valid(frames: StoredFrames) -> Bool[Array, " P"]:
    return np.ones(len(frames), bool)


def pedestal(scan: Scan, least_frames: int = 8, sample: int = 64) -> float | None:
    """The level on which all counts stand, as of a detector whose dark was not subtracted; None where there is none.

    The dimmest pixels tell: a mean of n counts varies by n, their variance; a pedestal varies by the read noise.
    """
    frames = scan.counts[evenly_spread(len(scan), sample)][:, scan.mask].astype(np.float64)
    if len(frames) < least_frames:
        return None
    frames = frames[frames.sum(axis=1) > 0]
    mean = frames.mean(axis=0) if len(frames) >= least_frames else np.zeros(1)
    level = float(np.quantile(mean, 0.02))
    dim = mean <= np.quantile(mean, 0.25)
    if level <= 1 or float(frames[:, dim].min()) <= 0.5 * level:
        return None
    variance = float(np.median(frames[:, dim].var(axis=0, ddof=1)))
    return level if variance < 0.3 * level else None


def detector_gain(
    scan: Scan,
    *,
    least_frames: int = 64,
    sample: int = 256,
    bins: int = 12,
    least_counts: float = 50.0,
    least: float = 1.4,
    alike: float = 0.8,
    least_range: float = 8.0,
) -> float | None:
    """Counts that the detector gives for a photon, where the scatter of the frames tells; None where it does not.

    Of n photons a pixel counts ``k = g n``, of variance ``g^2 n``: variance over mean is g in dim and bright pixels
    alike. A sample that changes what falls on a pixel adds to that, more so in bright pixels (Janesick, Photon
    Transfer, SPIE 2007).

    Args:
        scan: P frames.
        least_frames: with fewer, nothing is said.
        sample: frames that are looked at.
        bins: pixels of like mean are taken together; so many quantiles.
        least_counts: in a bin; those with fewer are left out.
        least: from which on a gain is told from the scatter that samples add.
        alike: least over largest ratio of all bins.
        least_range: of the means of the bins, largest over least.
    """
    frames = scan.counts[evenly_spread(len(scan), sample)][:, scan.mask].astype(np.float64)
    if len(frames) < least_frames:
        return None
    mean, variance = frames.mean(axis=0), frames.var(axis=0, ddof=1)
    alike_pixels = np.array_split(np.argsort(mean), bins)
    alike_pixels = [pixels for pixels in alike_pixels if mean[pixels].sum() * len(frames) >= least_counts]
    means = np.array([mean[pixels].mean() for pixels in alike_pixels])
    if len(means) < 2 or means.max() < least_range * means.min():
        return None
    ratios = np.array([variance[pixels].sum() / mean[pixels].sum() for pixels in alike_pixels])
    if ratios.min() < least or ratios.min() < alike * ratios.max():
        return None
    return float(np.median(ratios[: (len(ratios) + 1) // 2]))  # the sample adds least in dim pixels


def divided_by_gain(counts: Counts, gain: float) -> Counts:
    """Photons: counts over a gain; float32."""
    return mapped(counts, _divided, gain)


def _divided(frames: Real[Array, "B N N"], gain: float) -> Float[Array, "B N N"]:
    return frames.astype(np.float32) / np.float32(gain)


def without_pedestal(counts: Counts, level: float) -> Counts:
    """Counts less a level, 0 where they are below; float32, unless the level is an integer."""
    return mapped(counts, _lowered, level)


def _lowered(frames: Real[Array, "B N N"], level: float) -> Real[Array, "B N N"]:
    if frames.dtype.kind == "u" and level == int(level):
        return np.maximum(frames, frames.dtype.type(level)) - frames.dtype.type(level)
    return np.maximum(frames.astype(np.float32) - np.float32(level), 0)
