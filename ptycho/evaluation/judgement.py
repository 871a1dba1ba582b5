"""Is it an image? The error on frames that a fit has not seen, beside the least and the most that it may be.

The least is what shot noise leaves. The most is the error of the mean of the other frames, which is no image at all.
An image explains a fraction of what lies between them,

    explained = (E_mean - E) / (E_mean - E_noise),

1 at the noise, 0 for the mean frame. The measure E is the `frame_error` of amplitudes; where most pixels count less
than a photon on average it is the Poisson deviance, as amplitude errors reward predicting the mean amplitude there.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import gammaln, xlogy

from ptycho.arrays import Array, Bool, Float, Int, Num
from ptycho.data.frames import mean_pattern, picked
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import illumination
from ptycho.diagnostics.statistics import evenly_spread
from ptycho.evaluation.residuals import SUMMED_BELOW, batches, relative_scatter

VerdictKind = Literal["at the noise", "disagrees", "undecided", "no image"]


class Errors(NamedTuple):
    """An error of frames, and what it is measured by; all over the counts."""

    error: float
    """Of the image."""
    shot_noise: float
    """What shot noise alone leaves, were the image the true one."""
    mean_frame: float
    """Of the mean of the other frames, which is no image."""

    @property
    def beats_mean_frame(self) -> bool:
        """Whether the image predicts frames better than their mean does."""
        return self.error < self.mean_frame

    @property
    def explained(self) -> float:
        """1 at the noise, 0 for the mean frame, negative where that predicts better; NaN where frames are all alike."""
        room = self.mean_frame - self.shot_noise
        return (self.mean_frame - self.error) / room if room > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How well an image predicts frames."""

    frames: int
    """Number of frames that it was judged by."""
    uncovered: int
    """Frames left out, as no other frame covers what they show."""
    unseen: bool
    """Whether the image was made without these frames."""
    amplitude: Errors
    """`frame_error`."""
    deviance: Errors
    """Half the Poisson deviance over the counts, ``sum (k log(k / e) - k + e) / 2 sum k``: on the same scale."""
    sparse: bool
    """Whether most pixels count less than a photon on average, so that the deviance decides."""
    own: float | None = None
    """The deciding error over shot noise of frames that the image is made of; None where it is judged by these."""

    @property
    def deciding(self) -> Errors:
        """The errors that decide."""
        return self.deviance if self.sparse else self.amplitude

    @property
    def times(self) -> float:
        """The deciding error over shot noise."""
        error, noise, _ = self.deciding
        return error / noise if noise > 0 else float("inf")

    @property
    def misfit(self) -> float:
        """What the model leaves of frames over shot noise, apart from the noise that the image took up.

        A right model of p numbers fitted to n counts leaves ``1 - p / n`` of the noise in these, and misses others by
        ``1 + p / n`` (Mallows, Technometrics 15, 661 (1973)): the mean of both is 1, however many frames there are.
        """
        return self.times if self.own is None else (self.times + self.own) / 2

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        record = asdict(self) | dict(amplitude=self.amplitude._asdict(), deviance=self.deviance._asdict())
        explained = self.deciding.explained
        return record | dict(explained=explained if np.isfinite(explained) else None)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to think of a result."""

    kind: VerdictKind
    sentence: str

    @property
    def is_image(self) -> bool:
        """Whether there is an image."""
        return self.kind != "no image"

    def to_dict(self) -> dict[str, str]:
        """Plain values, ready for JSON."""
        return asdict(self)


def verdict(
    judgement: Judgement,
    residual_ratio: float | None = None,
    *,
    at_noise: float = 1.2,
    no_misfit: float = 1.1,
    noisy: float = 1.6,
    least_explained: float = 0.5,
    well_explained: float = 0.9,
    agreeing_ratio: float = 1.3,
    overfitted: float = 0.8,
) -> Verdict:
    """One sentence on whether a result is an image.

    Args:
        judgement: of the result.
        residual_ratio: median squared residual of the frames that the image is made of, over their shot noise
            (`ResidualSummary.median_ratio`): at few photons an image predicts other frames badly for its own noise
            only, and agrees with those it is made of.
        at_noise: the error over shot noise up to which an image is at the noise, where it is ``well_explained`` or
            without misfit: of frames with little contrast a wrong image may be that near.
        no_misfit: `Judgement.misfit` up to which it is, too, where its own noise raises the error to ``noisy`` at most;
            fits of sound simulated scans of 144 frames leave 0.98 to 1.04.
        least_explained: the fraction explained below which it is none: wrong geometry left 0.3 (docs/results.md).
        agreeing_ratio: ``residual_ratio`` up to which the frames agree with an image that explains little.
        overfitted: error over shot noise of the frames that it is made of below which an image follows their noise.
    """
    error, noise, mean_frame = judgement.deciding
    explained, times = judgement.deciding.explained, judgement.times
    where = "error on held-out frames" if judgement.unseen else "error on the frames that it is made of"
    measure = f"{where}{' (Poisson deviance)' if judgement.sparse else ''} {error:.3g}"
    beside = f"shot noise alone {noise:.3g}, the mean of the other frames {mean_frame:.3g}"
    if not judgement.deciding.beats_mean_frame:
        return Verdict(
            kind="no image",
            sentence=f"No image: {measure}, no better than the mean of the other frames, {mean_frame:.3g} "
            f"(shot noise alone {noise:.3g}).",
        )
    if not judgement.unseen and times < overfitted:
        return Verdict(
            kind="undecided",
            sentence=f"No frame can tell whether this is an image: none was left out that others cover, and the fit "
            f"follows the noise of those that it is made of; {measure} ({beside}).",
        )
    if not np.isfinite(explained):
        return Verdict(
            kind="undecided",
            sentence=f"The frames cannot tell whether this is an image, as they differ from their mean by no more than "
            f"shot noise: {measure} ({beside}).",
        )
    agrees = residual_ratio is not None and residual_ratio <= agreeing_ratio
    if explained < least_explained and not agrees:
        return Verdict(
            kind="no image",
            sentence=f"No image: it explains {100 * explained:.0f} % of what the frames show beyond their mean; "
            f"{measure} ({beside}).",
        )
    if times <= at_noise and explained < least_explained:
        return Verdict(
            kind="undecided",
            sentence="The frames agree with this image, and hardly tell it from none: they differ from their mean by "
            f"little more than shot noise: {measure}, {times:.3g} times the shot noise ({beside}).",
        )
    if not judgement.unseen and times <= at_noise:
        return _by_its_own(residual_ratio, no_misfit, f"{measure} ({beside})")
    if times <= at_noise and (explained >= well_explained or judgement.misfit <= no_misfit):
        return Verdict(kind="at the noise", sentence=f"An image at the noise: {measure} ({beside}).")
    if times <= noisy and judgement.misfit <= no_misfit and explained >= least_explained:
        return Verdict(
            kind="at the noise",
            sentence=f"An image at the noise, of which it took up some, as there are few frames for what they show: "
            f"{measure}, {judgement.own:.2g} times the shot noise on those that it is made of ({beside}).",
        )
    return Verdict(
        kind="disagrees",
        sentence=f"An image that the frames do not quite agree with: {measure}, {times:.3g} times the shot noise "
        f"({beside}).",
    )


def _by_its_own(residual_ratio: float | None, no_misfit: float, measure: str) -> Verdict:
    """Of an image that no other frame can judge, for too little overlap.

    A right one took up some of the noise of these frames, and leaves less than all of it: what leaves more is another
    image, as frames that hardly overlap fit many. Of sound scans with an overlap of 20 % it is 0.82 to 0.85, where the
    fit went wrong 1.3 to 2.2 (docs/decisions/018-reflected-projections.md).
    """
    if residual_ratio is not None and residual_ratio > no_misfit:
        return Verdict(
            kind="disagrees",
            sentence="An image that the frames that it is made of do not quite agree with: their residuals are "
            f"{residual_ratio:.2g} times the shot noise (median), and they overlap too little for others to tell; "
            f"{measure}.",
        )
    return Verdict(
        kind="at the noise",
        sentence="An image at the noise, as far as its own frames can tell; they overlap too little for others to "
        f"judge it: {measure}.",
    )


def judge(
    estimate: Reconstruction,
    counts: Num[Array, "P n n"],
    frames: Iterable[int] | Int[Array, " F"],
    others: Iterable[int] | Int[Array, " K"],
    mask: Bool[Array, "n n"] | None = None,
    *,
    unseen: bool = True,
    covered_from: float = 0.9,
    well_covered_from: float = 0.99,
    enough: int = 5,
    sparse_below: float = 1.0,
    most_frames: int = 512,
    most_own: int = 128,
) -> Judgement | None:
    """Judge an image by some frames; None where no other frame covers what they show, or they hold no photon.

    Args:
        estimate: the image, with everything else that was fitted.
        counts: of all frames of the scan; they may stay in their file.
        frames: indices of the frames to judge by.
        others: indices of those whose mean stands beside the image.
        mask: True where a pixel is used.
        unseen: whether the image was made without ``frames``.
        covered_from: fraction of a frame's illumination that the image must cover.
        well_covered_from: that which it has to cover where ``enough`` frames are so well covered: of 1e9 photons a
            frame at the rim of the scan, of which 2 % fall beside the image, leaves 400 times the shot noise.
        sparse_below: mean counts; the deviance decides where most pixels have less.
        most_frames: the image is judged by so many, and the mean taken of so many, evenly spread; more tell no more.
        most_own: of the others that the image itself is compared with.
    """
    chosen, reference = (np.fromiter(indices, int) for indices in (frames, others))
    chosen, reference = (index[evenly_spread(len(index), most_frames)] for index in (chosen, reference))
    used = np.ones(counts.shape[-2:], bool) if mask is None else np.asarray(mask, bool)
    fractions = illumination_covered(estimate, chosen) if unseen else np.ones(len(chosen))
    well_covered = chosen[fractions >= well_covered_from]
    covered = well_covered if len(well_covered) >= enough else chosen[fractions >= covered_from]
    if not len(covered) or not len(reference):
        return None
    mean = mean_pattern(picked(counts, reference))[used]
    # A photon where nothing is expected must not outweigh all others.
    dark = 1e-3 * min(float(mean.mean()), 1.0)
    of_image, of_mean = _Sums(dark), _Sums(dark)
    for _, expected, measured in batches(estimate, counts, covered, used):
        of_image.add(expected, measured)
        of_mean.add(np.broadcast_to(mean, measured.shape), measured)
    if not (of_image.counted > 0 and of_image.expected > 0 and of_mean.expected > 0):
        return None
    sparse = bool(np.median(mean) < sparse_below)
    own = _Sums(dark)
    if unseen:
        for _, expected, measured in batches(
            estimate, counts, reference[evenly_spread(len(reference), most_own)], used
        ):
            own.add(expected, measured)
    return Judgement(
        frames=len(covered),
        uncovered=len(chosen) - len(covered),
        unseen=unseen,
        amplitude=Errors(of_image.amplitude_error(), of_image.scatter / of_image.expected, of_mean.amplitude_error()),
        deviance=Errors(of_image.deviance(), of_image.deviance_noise(mean) / of_image.expected, of_mean.deviance()),
        sparse=sparse,
        own=own.over_noise(mean if sparse else None) if own.counted > 0 and own.expected > 0 else None,
    )


def illumination_covered(
    estimate: Reconstruction, frames: Int[Array, " F"], least_coverage: float = 0.1
) -> Float[Array, " F"]:
    """The fraction of each frame's illumination that falls where the image's coverage is ``least_coverage`` or more."""
    photons = illumination(estimate.probe)
    N, (height, width) = estimate.N, estimate.coverage.shape
    # Frames may reach beyond the object: nothing is covered there.
    covered = np.pad(estimate.coverage >= least_coverage, N)
    fractions = np.empty(len(frames))
    for index, position in enumerate(estimate.positions_px[frames]):
        y, x = np.clip(np.rint(position).astype(int) - N // 2, -N, (height, width)) + N
        fractions[index] = photons[covered[y : y + N, x : x + N]].sum()
    return fractions / max(float(photons.sum()), 1e-30)


class _Sums:
    """What the errors of some expected counts are made of, summed frame by frame."""

    def __init__(self, dark: float) -> None:
        self.dark = dark
        self.frames = 0
        self.counted = self.expected = self.overlap = self.logarithms = self.scatter = 0.0
        self.of_pixels: Float[Array, " K"] = np.zeros(())
        """Expected counts of each pixel."""
        self.deviance_scatter: Float[Array, " K"] = np.zeros(())
        """Of each pixel what shot noise leaves of half the deviance, were the expected counts the true ones."""

    def add(self, expected: Float[Array, "b K"], counts: Float[Array, "b K"]) -> None:
        """Take up some frames."""
        self.frames += len(counts)
        self.counted += float(counts.sum())
        self.overlap += float(np.sqrt(expected * counts).sum())
        self.scatter += float((expected * relative_scatter(expected)).sum())
        self.expected += float(expected.sum())
        # k log(k / e), 0 where nothing was counted
        self.logarithms += float(xlogy(counts, counts / (expected + self.dark)).sum())
        self.of_pixels = self.of_pixels + expected.sum(axis=0)
        self.deviance_scatter = self.deviance_scatter + self._scatter(expected).sum(axis=0)

    def amplitude_error(self) -> float:
        """`frame_error`: ``sum (s sqrt(e) - sqrt(k))^2 / sum k``, with the best scale."""
        return (self.counted - self.overlap**2 / self.expected) / self.counted

    def deviance_noise(self, mean: Float[Array, " K"]) -> float:
        """What shot noise leaves of half the deviance, were each pixel's expected counts right on average.

        A fit expects nothing where it takes the few photons for noise, as of an electron microscope's dark field. Their
        shot noise is there all the same, and is told by the ``mean`` counts of the pixels in other frames.
        """
        expected = self.of_pixels / self.frames
        right = mean * (expected.sum() / max(float(mean.sum()), 1e-30))
        missing = self.frames * (self._scatter(right) - self._scatter(expected))
        return float((self.deviance_scatter + missing).sum())

    def _scatter(self, mean: Float[Array, "..."]) -> Float[Array, "..."]:
        """`deviance_scatter`, were ``mean + dark`` compared with the counts: ``E[k log(k / (e + dark)) - k + e] / 2``.

        That is less by ``e log(1 + dark / e) / 2``, which is not small beside it where next to nothing is expected.
        """
        return deviance_scatter(mean) - xlogy(mean, 1 + self.dark / np.maximum(mean, 1e-30)) / 2

    def over_noise(self, mean: Float[Array, " K"] | None) -> float:
        """The error over what shot noise leaves of it, or that of the deviance where the ``mean`` frame is given."""
        if mean is not None:
            return self.deviance() * self.expected / self.deviance_noise(mean)
        return self.amplitude_error() * self.expected / self.scatter

    def deviance(self) -> float:
        """``sum (k log(k / s e) - k + s e) / 2 sum k``, with the best scale, which is ``s = sum k / sum e``."""
        return float(self.logarithms / self.counted - np.log(self.counted / self.expected)) / 2


def deviance_scatter(mean: Float[Array, "..."]) -> Float[Array, "..."]:
    """``E[k log(k / e) - k + e] / 2`` for k ~ Poisson(e): what shot noise leaves of half the deviance of a pixel.

    ``E k = e``, so that it is ``(E[k log k] - e log e) / 2``: about ``1/4 + 1 / (24 e)`` for large e. Below
    it is summed on a grid even in sqrt(e), and interpolated.
    """
    grid, values = _summed_deviance()
    inverse = 1 / np.maximum(mean, SUMMED_BELOW)
    return np.where(mean < SUMMED_BELOW, np.interp(np.sqrt(mean), grid, values), 0.25 + inverse / 24 * (1 + inverse))


@cache
def _summed_deviance() -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """A grid of sqrt(e), and on it ``(E[k log k] - e log e) / 2``; the sum ends 12 standard deviations above e."""
    amplitude = np.linspace(0, np.sqrt(SUMMED_BELOW), 4001)
    mean = amplitude**2
    k = np.arange(2, int(SUMMED_BELOW + 12 * SUMMED_BELOW**0.5 + 12))[:, None]  # k log k is 0 for 0 and 1
    terms = k * np.log(k) * np.exp(xlogy(k, mean) - gammaln(k + 1) - mean)
    return amplitude, (terms.sum(axis=0) - xlogy(mean, mean)) / 2
