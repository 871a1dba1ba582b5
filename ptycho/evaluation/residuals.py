"""How well an estimate predicts the counts of frames, and how well anything could.

The estimate says what the detector is expected to count (`Reconstruction.expected_batches`), with everything that it
holds: probe modes, background, blur, slices, near field. Counts c scatter about their mean e by a known law, so their
distance from it can be judged without a known object:

    frame error      sum (s sqrt(e) - sqrt(c))^2 / sum c, of amplitudes, with the best scale s;   `shot_noise_error`
    residual ratio   sum (c - e)^2 / sum e of one frame;                                          1 for the truth

in which the last column is what shot noise alone leaves.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from ptycho.arrays import Array, Bool, Float, Int, Num
from ptycho.data.reconstruction import Reconstruction

SUMMED_BELOW = 64.0
"""Mean count below which the scatter of amplitudes is summed; above, its series is good to 1e-5 of itself."""


def frame_error(
    estimate: Reconstruction,
    counts: Num[Array, "P n n"],
    frames: Iterable[int] | Int[Array, " F"],
    mask: Bool[Array, "n n"] | None = None,
) -> float:
    """``sum (s sqrt(e) - sqrt(c))^2 / sum c`` over the given frames, with the best scale ``s`` for all of them.

    ``counts`` are those of all frames of the scan and may stay in their file (`StoredFrames`): no more than a few MB
    of it are read at a time. ``mask`` is True where a pixel is used.

    The least value that noise allows is `shot_noise_error`.
    Raises ValueError without frames, without photons, and where the shapes do not fit.
    """
    chosen = np.fromiter(frames, int)
    used_pixels = _checked(estimate, counts, mask)
    if not len(chosen):
        raise ValueError("the frames to compare with are none, or hold no photon")
    # With a = sqrt(e) and b = sqrt(c) the best scale is s = a.b / a.a, which leaves b.b - (a.b)^2 / a.a.
    overlap = power = total = 0.0
    for _, expected, measured in batches(estimate, counts, chosen, used_pixels):
        # a.b, a.a and b.b
        overlap += float(np.sqrt(expected * measured).sum())
        power += float(expected.sum())
        total += float(measured.sum())
    if not total > 0:
        raise ValueError("the frames to compare with are none, or hold no photon")
    # A dark estimate leaves all of b.b: an error of 1.
    return (total - overlap**2 / power) / total if power > 0 else 1.0


class FrameResiduals(NamedTuple):
    """How far frames are from what an estimate leads one to expect."""

    frames: Int[Array, " F"]
    """Indices of the frames."""
    ratio: Float[Array, " F"]
    """Squared residual over shot noise: 1 in expectation for the true object. NaN where nothing is expected and nothing
    was counted, infinite where nothing is expected and something was."""
    deviation: Float[Array, " F"]
    """``ratio - 1`` over its standard deviation from shot noise."""


def frame_residuals(
    estimate: Reconstruction,
    counts: Num[Array, "P n n"],
    frames: Iterable[int] | Int[Array, " F"] | None = None,
    mask: Bool[Array, "n n"] | None = None,
) -> FrameResiduals:
    """Residuals of frames in units of shot noise, over the used pixels of each:

        ratio = sum (c - e)^2 / sum e,   deviation = (ratio - 1) sum e / sqrt(sum (2 e^2 + e))

    Counts c that are Poisson with the expected mean e have ``E (c - e)^2 = e`` and ``Var (c - e)^2 = 2 e^2 + e``.

    ``frames`` are the F indices to look at, None all P. ``counts`` and ``mask`` as in `frame_error`.

    Raises ValueError without frames, without a used pixel, and where the shapes do not fit.
    """
    chosen = np.arange(len(estimate.positions_px)) if frames is None else np.fromiter(frames, int)
    used_pixels = _checked(estimate, counts, mask)
    if not len(chosen):
        raise ValueError("there are no frames to compare with")
    squared, photons, variance = np.empty((3, len(chosen)))
    for rows, e, c in batches(estimate, counts, chosen, used_pixels):
        squared[rows] = ((c - e) ** 2).sum(axis=1)
        photons[rows] = e.sum(axis=1)
        variance[rows] = (2 * e**2 + e).sum(axis=1)
    # Frames where nothing is expected: 0 / 0 is NaN, all else infinite (see `FrameResiduals`).
    with np.errstate(divide="ignore", invalid="ignore"):
        return FrameResiduals(chosen, squared / photons, (squared - photons) / np.sqrt(variance))


@dataclass(frozen=True, kw_only=True)
class ResidualSummary:
    """The residuals of a scan in a few numbers."""

    median_ratio: float
    frames_beyond_5_sigma: int
    """Frames further from the estimate than shot noise explains. Of one that is not perfect, at a high dose, all."""
    standing_out: tuple[int, ...]
    """Those of them that are also outliers among the frames of the scan, worst first: the fault is in these frames, not
    in the object that all of them show."""
    worst_frames: tuple[int, ...]
    """Ten frames of the largest deviation, worst first."""

    def to_dict(self) -> dict[str, float | int | list[int] | None]:
        """Plain values, ready for JSON; a median that is no number is None."""
        return dict(
            median_ratio=self.median_ratio if np.isfinite(self.median_ratio) else None,
            frames_beyond_5_sigma=self.frames_beyond_5_sigma,
            frames_standing_out=list(self.standing_out),
            worst_frames=list(self.worst_frames),
        )

    def sentence(self) -> str:
        """A sentence for a terminal."""
        count = len(self.standing_out)
        names = ", ".join(str(frame) for frame in self.standing_out[:5]) + (", ..." if count > 5 else "")
        outliers = f"; {count} {'frame stands' if count == 1 else 'frames stand'} out: {names}" if count else ""
        return f"frames agree with the object to {self.median_ratio:.3g} times the shot noise (median){outliers}"


def summarise(residuals: FrameResiduals, sigma: float = 5.0) -> ResidualSummary:
    """The residuals of a scan in a few numbers; NaN residuals are left out.

    ``sigma`` is the number of standard deviations from which on a frame is named: chance takes one frame in three
    million beyond 5.
    """
    valid = ~np.isnan(residuals.ratio)
    frames, ratio, deviation = (values[valid] for values in residuals)
    if not len(frames):
        return ResidualSummary(median_ratio=float("nan"), frames_beyond_5_sigma=0, standing_out=(), worst_frames=())
    order = np.argsort(-deviation, kind="stable")
    beyond = deviation > sigma
    # Outliers by the median and the median absolute deviation, which outliers hardly change; times 1.4826 it is the
    # standard deviation of a Gaussian. In logarithms: where the object is not perfect, ratios scatter by factors.
    log_ratio = np.log(np.maximum(ratio, 1e-30))
    median = np.median(log_ratio)
    outlying = np.zeros_like(beyond)
    if np.isfinite(median):
        scatter = 1.4826 * np.median(np.abs(log_ratio[np.isfinite(log_ratio)] - median))
        outlying = beyond & (log_ratio - median > sigma * scatter)
    return ResidualSummary(
        median_ratio=float(np.median(ratio)),
        frames_beyond_5_sigma=int(beyond.sum()),
        standing_out=tuple(int(i) for i in frames[order][outlying[order]]),
        worst_frames=tuple(int(i) for i in frames[order][:10]),
    )


def shot_noise_error(expected: Num[Array, "..."]) -> float:
    """The `frame_error` left to a perfect model: ``sum E[(sqrt(k) - sqrt(e))^2] / sum e``, k ~ Poisson(e).

    ``expected`` are the expected counts ``e``, in any shape: those of a truth or of a good estimate
    (`Reconstruction.expected_batches`), and of the used pixels only. Measured counts are no substitute in sparse
    frames: where many pixels are empty they make the limit too low, by half at half a photon per pixel.
    """
    expected = np.asarray(expected, dtype=float)
    if expected.size == 0 or not np.all(expected >= 0) or not expected.sum() > 0:
        raise ValueError("expected counts must be finite, not negative, and not all zero")
    return float(np.sum(expected * relative_scatter(expected)) / expected.sum())


def relative_scatter(mean: Float[Array, "..."]) -> Float[Array, "..."]:
    """``E[(sqrt(k) - sqrt(e))^2] / e`` for k ~ Poisson(e): 2 at e = 0, about 1 / (4 e) for large e.

    Expanding sqrt(k) about e with the moments of the Poisson distribution gives, for the numerator,
    ``1/4 + 7 / (64 e) + 75 / (512 e^2) + O(e^-3)``, good to 1e-5 of itself from e = 64. Below, the sum is
    taken on a grid even in sqrt(e), in which the ratio is smooth, and interpolated.
    """
    grid, values = _summed_scatter()
    inverse = 1 / np.maximum(mean, SUMMED_BELOW)
    series = inverse * (1 / 4 + inverse * (7 / 64 + inverse * 75 / 512))
    return np.where(mean < SUMMED_BELOW, np.interp(np.sqrt(mean), grid, values), series)


@cache
def _summed_scatter() -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """A grid of sqrt(e), and on it the same by summation over k: ``2 - 2 E[sqrt(k)] / sqrt(e)``.

    ``E[sqrt(k)] / sqrt(e) = exp(-e) sum_k sqrt(k) e^(k - 1/2) / k!`` has no pole at 0: k starts from 1.
    The sum ends 12 standard deviations above the largest mean.
    """
    amplitude = np.linspace(0, np.sqrt(SUMMED_BELOW), 4001)
    last = int(amplitude.max() ** 2 + 12 * amplitude.max() + 12)
    k = np.arange(1, last + 1)[:, None]
    with np.errstate(divide="ignore"):
        log_amplitude = np.log(amplitude)
    terms = np.exp(np.log(k) / 2 + (2 * k - 1) * log_amplitude - gammaln(k + 1) - amplitude**2)
    return amplitude, 2 - 2 * terms.sum(axis=0)


def batches(
    estimate: Reconstruction, counts: Num[Array, "P n n"], frames: Int[Array, " F"], used_pixels: Bool[Array, "n n"]
) -> Iterator[tuple[slice, Float[Array, "b K"], Float[Array, "b K"]]]:
    """Which of the frames, what is expected in their used pixels, and what was counted; in double precision."""
    # In double precision, for the squared residuals of a good estimate are small beside the counts' squares.
    start = 0
    for expected in estimate.expected_batches(frames):
        rows = slice(start, start + len(expected))
        measured = np.asarray(counts[frames[rows]])
        yield rows, expected[:, used_pixels].astype(float), measured[:, used_pixels].astype(float)
        start = rows.stop


def _checked(
    estimate: Reconstruction, counts: Num[Array, "P n n"], mask: Bool[Array, "n n"] | None
) -> Bool[Array, "n n"]:
    """The used pixels; ValueError where estimate, counts and mask do not fit, or hold what is no number."""
    side = counts.shape[-1]
    if estimate.probe.shape[-2:] != (side, side):
        raise ValueError(
            f"object {estimate.object.shape} and probe {estimate.probe.shape} do not fit frames of {side} x {side}"
        )
    if len(counts) != len(estimate.positions_px):
        positions = len(estimate.positions_px)
        raise ValueError(f"{len(counts)} frames and {positions} positions; expected one position a frame")
    for name, array in estimate.estimate().items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are NaN or infinite")
    used_pixels = np.ones((side, side), bool) if mask is None else np.asarray(mask, bool)
    if used_pixels.shape != (side, side) or not used_pixels.any():
        raise ValueError(
            f"the mask has shape {used_pixels.shape} and {used_pixels.sum()} used pixels; expected some of "
            f"{side} x {side}"
        )
    return used_pixels
