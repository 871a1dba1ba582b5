"""Whether to believe a reconstruction whose truth is unknown: its frames, its flatness, its error bars.

Counts scatter about their mean by a known law, so a reconstruction can be judged by the frames it is made of: how
far they are from what it leads one to expect, in units of shot noise (`frame_residuals`). The forward model is written
in numpy, apart from the one that the network was trained with.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import fft

from ptycho.arrays import Array, Bool, Complex, Float, Inexact, Num
from ptycho.evaluation.frames import _checked, detected

CHUNK_PIXELS = 2**20
"""Probe-mode pixels computed in one go: 16 MB for each complex array on the way."""

STANDS_OUT = 5.0
"""Standard deviations from which on a frame is named: chance does that to one in three million."""

LIT = 0.5
"""Part of the median coverage from which on a pixel of the object counts as lit."""

BRIGHT = 0.1
"""Part of the brightest light of a probe from which on a pixel of a single patch counts as lit."""

SATURATED = 0.01
"""How near to a bound, relative to it, an output is at it; and the share of such pixels that is worth a warning."""

DARK = 0.5
"""Part of the photons counted that an object lets through, below which it is called dark."""

WITHIN_1, WITHIN_2 = 1 - np.exp(-1.0), 1 - np.exp(-4.0)
"""Share of complex Gaussian errors of rms sigma within sigma and within 2 sigma: 0.632 and 0.982 (|error|^2 / sigma^2
is exponentially distributed, with mean 1)."""


class FrameResiduals(NamedTuple):
    """How far frames are from what an object leads one to expect."""

    frames: Num[Array, " F"]
    """Indices of the frames."""
    ratio: Float[Array, " F"]
    """Squared residual over shot noise: 1 in expectation for the true object. NaN where nothing is expected and nothing
    was counted, infinite where nothing is expected and something was."""
    deviation: Float[Array, " F"]
    """``ratio - 1`` over its standard deviation from shot noise."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What the residuals of a scan come to."""

    median_ratio: float
    frames_beyond_5_sigma: int
    """Frames further from the object than shot noise explains. Of an object that is not perfect at a high dose, all."""
    standing_out: tuple[int, ...]
    """Those of them that are also outliers among the frames of the scan, worst first: what is wrong with these is no
    fault of the object as a whole."""
    worst_frames: tuple[int, ...]
    """Ten frames of the largest deviation, worst first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; a median that is no number is None."""
        median = self.median_ratio if np.isfinite(self.median_ratio) else None
        return dict(
            median_ratio=median,
            frames_beyond_5_sigma=self.frames_beyond_5_sigma,
            frames_standing_out=list(self.standing_out),
            worst_frames=list(self.worst_frames),
        )

    def sentence(self) -> str:
        """One line for a terminal."""
        count = len(self.standing_out)
        names = ", ".join(str(frame) for frame in self.standing_out[:5]) + (", ..." if count > 5 else "")
        outliers = f"; {count} {'frame stands' if count == 1 else 'frames stand'} out: {names}" if count else ""
        return f"frames agree with the object to {self.median_ratio:.3g} times the shot noise (median){outliers}"


def frame_residuals(
    object: Inexact[Array, "H W"],
    probe: Inexact[Array, "M n n"],
    positions_px: Float[Array, "P 2"],
    counts: Num[Array, "P n n"],
    frames: Iterable[int] | None = None,
    mask: Bool[Array, "n n"] | None = None,
    transfer: Complex[Array, "n n"] | None = None,
) -> FrameResiduals:
    """Residuals of frames in units of shot noise, over the used pixels of each:

        ratio = sum (c - e)^2 / sum e,   deviation = (ratio - 1) sum e / sqrt(sum (2 e^2 + e))

    Counts c that are Poisson with the expected mean e have ``E (c - e)^2 = e`` and ``Var (c - e)^2 = 2 e^2 + e``.

    ``probe`` may leave out the mode axis and is in sqrt(photons). ``positions_px`` are (y, x) in pixels of ``object``,
    which continues with its border values; the patch is read at the whole part, the probe moves by the rest.
    ``frames`` are the F indices to look at, None all P. ``mask`` is True where a pixel is used. ``counts`` may stay
    in its file (`StoredFrames`): no more than a few MB of it are read at a time. ``transfer`` is the transfer
    function of a near field (`Scan.transfer`); None: the far field.

    Raises ValueError without frames, without a used pixel, and where the shapes do not fit.
    """
    chosen = np.arange(len(positions_px)) if frames is None else np.fromiter(frames, int)
    side = counts.shape[-1]
    object, probe = _checked(object, probe, side)
    if not len(chosen):
        raise ValueError("there are no frames to compare with")
    if len(counts) != len(positions_px):
        raise ValueError(f"{len(counts)} frames and {len(positions_px)} positions; expected one position a frame")
    use = np.ones((side, side), bool) if mask is None else np.asarray(mask, bool)
    if use.shape != (side, side) or not use.any():
        raise ValueError(
            f"the mask has shape {use.shape} and {use.sum()} used pixels; expected some of {side} x {side}"
        )
    squared, light, variance = np.empty((3, len(chosen)))
    start = 0
    for expected in _expected(object, probe, np.asarray(positions_px, float)[chosen], transfer):
        here = slice(start, start + len(expected))
        e = expected[:, use]
        c = counts[chosen[here]][:, use].astype(float)
        squared[here] = ((c - e) ** 2).sum(axis=1)
        light[here] = e.sum(axis=1)
        variance[here] = (2 * e**2 + e).sum(axis=1)
        start = here.stop
    with np.errstate(divide="ignore", invalid="ignore"):
        return FrameResiduals(chosen, squared / light, (squared - light) / np.sqrt(variance))


def _expected(
    object: Complex[Array, "H W"],
    probe: Complex[Array, "M n n"],
    positions: Float[Array, "F 2"],
    transfer: Complex[Array, "n n"] | None,
) -> Iterator[Float[Array, "b n n"]]:
    """Expected counts (`detected`), chunk by chunk.

    The probe is moved, not the object: it is dark at its border, so that a Fourier shift does not ring there. A near
    field is moved back.
    """
    side = probe.shape[-1]
    waves = fft.fft2(probe)
    frequency = fft.fftfreq(side)
    whole = np.floor(positions + 0.5).astype(int)
    grid = np.arange(side) - side // 2
    step = max(1, CHUNK_PIXELS // probe.size)
    for start in range(0, len(positions), step):
        at, rest = whole[start : start + step], (positions - whole)[start : start + step]
        rows, columns = (np.clip(at[:, k, None] + grid, 0, object.shape[k] - 1) for k in (0, 1))
        patches = object[rows[:, :, None], columns[:, None, :]]
        ramps = [np.exp(-2j * np.pi * frequency * rest[:, k, None]) for k in (0, 1)]
        moved = fft.ifft2(waves * (ramps[0][:, None, :, None] * ramps[1][:, None, None, :])) if rest.any() else probe
        back = None if transfer is None else transfer * (ramps[0][:, None, :, None] * ramps[1][:, None, None, :]).conj()
        yield detected(moved * patches[:, None], back)


def summarise(residuals: FrameResiduals) -> Trust:
    """The residuals of a scan in a few numbers; NaN residuals are left out."""
    judged = ~np.isnan(residuals.ratio)
    frames, ratio, deviation = (values[judged] for values in residuals)
    if not len(frames):
        return Trust(median_ratio=float("nan"), frames_beyond_5_sigma=0, standing_out=(), worst_frames=())
    order = np.argsort(-deviation, kind="stable")
    beyond = deviation > STANDS_OUT
    # Outliers by the median and the scatter about it, which outliers hardly move; 1.4826 makes it that of a Gaussian.
    # In logarithms: where the object is not perfect, ratios scatter by factors.
    logs = np.log(np.maximum(ratio, 1e-30))
    middle = np.median(logs)
    scatter = 1.4826 * np.median(np.abs(logs[np.isfinite(logs)] - middle)) if np.isfinite(middle) else 0.0
    outlying = beyond & (logs - middle > STANDS_OUT * scatter) if np.isfinite(middle) else np.zeros_like(beyond)
    return Trust(
        median_ratio=float(np.median(ratio)),
        frames_beyond_5_sigma=int(beyond.sum()),
        standing_out=tuple(int(i) for i in frames[order][outlying[order]]),
        worst_frames=tuple(int(i) for i in frames[order][:10]),
    )


def warnings_about(
    object: Complex[Array, "H W"],
    coverage: Float[Array, "H W"],
    probe: Complex[Array, "M n n"],
    *,
    patches: Complex[Array, "F n n"] | None = None,
    amplitude_bound: float | None = None,
    counts: float | None = None,
) -> list[str]:
    """Sentences on what is wrong with a result by the look of it; none if nothing is.

    Flat: over the lit pixels (`LIT`) the object varies by less than shot noise alone would make it vary
    (`noise_level`), once a linear phase, which the probe may as well have, is taken out.

    Dark: it lets through less than `DARK` of the ``counts`` of its frames (`light_let_through`), where they are given.

    Saturated: more than `SATURATED` of the lit pixels (`BRIGHT`) of a network's own output ``patches`` have a phase
    within as much of +-pi, or an amplitude within as much of ``amplitude_bound``. Only for the architecture ``cnn``:
    no other has bounds.

    ``coverage`` is light in units of the brightest pixel of ``probe``, which is in sqrt(photons).
    Raises ValueError where nothing is covered.
    """
    found = []
    lit = lit_pixels(coverage)
    varies, noise = _variation(object, coverage, lit, probe)
    if varies < noise:
        found.append(
            f"the object is flat: it varies by {varies:.2g} (rms) where light fell, less than the {noise:.2g} of "
            "shot noise alone"
        )
    passed = np.inf if counts is None else light_let_through(object, coverage, probe, counts)
    if passed < DARK:
        found.append(
            f"the object is dark: it lets {100 * passed:.2g} % of the photons through that were counted; a network "
            "trained on absolute errors of amplitudes ends there where most pixels count nothing: train it on the "
            "likelihood (nll_weight), and check the scale of the probe"
        )
    if patches is not None:
        light = (np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0)
        values = patches[:, light > BRIGHT * light.max()]
        phase = float((np.abs(np.angle(values)) > (1 - SATURATED) * np.pi).mean())
        if phase > SATURATED:
            found.append(f"the network is saturated: the phase is within 1 % of +-pi in {100 * phase:.3g} % of pixels")
        if amplitude_bound is not None:
            amplitude = float((np.abs(values) > (1 - SATURATED) * amplitude_bound).mean())
            if amplitude > SATURATED:
                found.append(
                    f"the network is saturated: the amplitude is within 1 % of its bound {amplitude_bound:g} in "
                    f"{100 * amplitude:.3g} % of pixels"
                )
    return found


def light_let_through(
    object: Complex[Array, "H W"], coverage: Float[Array, "H W"], probe: Complex[Array, "M n n"], counts: float
) -> float:
    """Photons that an object lets through over the ``counts`` of the frames that it is made of: about 1 for a true one,
    more where pixels are masked. Infinite where nothing was counted. ``coverage`` as for `warnings_about`."""
    passed = brightest_photons(probe) * float((coverage * np.abs(object) ** 2).sum())
    return passed / counts if counts > 0 else np.inf


def lit_pixels(coverage: Float[Array, "H W"]) -> Bool[Array, "H W"]:
    """Where more than `LIT` of the median light of the covered pixels fell; ValueError where none did."""
    if not (coverage > 0).any():
        raise ValueError("coverage is 0 everywhere; no light fell on the object")
    return coverage > LIT * np.median(coverage[coverage > 0])


def _variation(object, coverage, lit, probe) -> tuple[float, float]:
    """Rms variation of the object weighted with light, and that of shot noise: sum w / (2 n) / sum w."""
    weight = np.where(lit, coverage, 0).astype(float)
    wave = np.where(lit, object, 0).astype(complex)
    # The mean phase step is the ramp exactly where the rest is constant, the case that matters.
    slopes = [np.angle(np.vdot(wave[:-1], wave[1:])), np.angle(np.vdot(wave[:, :-1], wave[:, 1:]))]
    y, x = (np.arange(n) for n in wave.shape)
    wave = wave * np.exp(-1j * slopes[0] * y)[:, None] * np.exp(-1j * slopes[1] * x)
    mean = (weight * wave).sum() / weight.sum()
    variance = (weight * np.abs(wave - mean) ** 2).sum() / weight.sum()
    noise = lit.sum() / (2 * brightest_photons(probe) * weight.sum())
    return float(np.sqrt(variance)), float(np.sqrt(noise))


def brightest_photons(probe: Complex[Array, "M n n"]) -> float:
    """Photons of one frame on the brightest object pixel of a probe ``(M, n, n)`` in sqrt(photons)."""
    return float((np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0).max())


def noise_level(light_photons: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """Rms error of the complex object from shot noise alone, ``sqrt(1 / (2 n))`` for n photons on a pixel.

    A photon count fixes an exit wave in sqrt(photons) to a variance of 1/4 in a quadrature, so the transmission to
    1 / (4 n) in each. It is the least: a detector pixel tells one quadrature of its wave, and photons shared evenly
    between the two leave twice the variance (`ptycho.evaluation.calibration` finds it). Infinite where no light fell.
    """
    with np.errstate(divide="ignore"):
        return np.sqrt(0.5 / np.asarray(light_photons, float))


def uncertainty(
    spread: Float[Array, "H W"] | None,
    coverage: Float[Array, "H W"],
    probe: Complex[Array, "M n n"],
    calibration: float = 1.0,
) -> Float[Array, "H W"]:
    """Rms error to expect of the complex object, float32: ``calibration sqrt(spread^2 + noise_level^2)``.

    ``spread`` is the disagreement of several views, None for 0; ``coverage`` is light in units of the brightest pixel
    of ``probe``, which is in sqrt(photons). Infinite where no light fell.
    """
    noise = noise_level(coverage * brightest_photons(probe))
    return (calibration * np.hypot(0.0 if spread is None else spread, noise)).astype("float32")


def band_coverage(
    object: Complex[Array, "H W"],
    truth: Complex[Array, "H W"],
    uncertainty: Float[Array, "H W"],
    where: Bool[Array, "H W"],
) -> dict[str, float]:
    """Share of the pixels ``where`` is True whose error ``|o - t|`` is within one and within two sigma of 0.

    Both images are in one gauge. Errors that are complex Gaussian with an rms of sigma are so in 0.632 and 0.982 of the
    pixels (`WITHIN_1`, `WITHIN_2`), given along. Raises ValueError where there is no pixel.
    """
    if not np.any(where):
        raise ValueError("there is no pixel to look at: where is False everywhere")
    relative = np.abs(object - truth)[where] / uncertainty[where]
    return dict(
        within_1_sigma=float((relative <= 1).mean()),
        within_2_sigma=float((relative <= 2).mean()),
        expected_1_sigma=float(WITHIN_1),
        expected_2_sigma=float(WITHIN_2),
    )
