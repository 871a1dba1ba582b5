"""Lay a reconstruction onto the truth: one gauge, fitted once, and reported.

Diffraction patterns do not say where the object is, how bright the probe is, nor how much linear phase
belongs to the object and how much to the probe. So a reconstruction ``r`` is perfect if it differs from the
truth ``t`` by no more than

    t[y, x] ~ scale * exp(i (u (y - H // 2) + v (x - W // 2))) * r[y - dy, x - dx]

`register` finds the whole-pixel part of the shift from local structure, which neither scale nor ramp can
touch, then all six numbers together by least squares inside the compared region.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter

from ptycho.arrays import Array, Complex, Float, Inexact

TRIM_PX = 4
"""Cut from every side of the region after the fit: next to its border a moved image may be extrapolated."""
CONTEXT_PX = 32
"""What is taken along around the region when it is moved; the ringing of a border falls off with distance."""
FALSE_ALARM = 1e-6
"""Chance that unrelated images pass for registered."""
REACH_PX = 2.0
"""The least-squares fit may move the image by so much from whole pixels."""
SMALLEST_PX = 16
"""Side of the smallest region: `TRIM_PX` twice, and a window of SSIM (7) or rings of FRC (8)."""

Slices = tuple[slice, slice]
Lag = tuple[int, int]
Movable = Callable[[float, float], tuple[Any, Any, Any]]


class TooSmall(ValueError):
    """Too little of an image is there to be compared; nothing is wrong with what is."""


@dataclass(frozen=True)
class Gauge:
    """What had to be done to lay a reconstruction onto the truth (formula at the top of this module)."""

    shift_px: tuple[float, float]
    """(dy, dx) by which the content moved, positive towards larger indices; (0, 0) is no move."""
    scale: complex
    """Factor applied, as it is at the truth's pixel (H // 2, W // 2)."""
    ramp_rad_per_px: tuple[float, float]
    """(u, v), slope of the phase that was added along y and x."""
    registered: bool
    """False: no structure in common was found, and the whole-pixel shift is that of aligned centres."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; the scale as modulus and phase."""
        return {
            "shift_px": list(self.shift_px),
            "scale_modulus": abs(self.scale),
            "scale_phase_rad": float(np.angle(self.scale)),
            "ramp_rad_per_px": list(self.ramp_rad_per_px),
            "registered": self.registered,
        }


@dataclass(frozen=True)
class Registration:
    """The compared region of both images in one gauge."""

    aligned: Complex[Array, "h w"]
    """The reconstruction, moved, scaled and ramped."""
    truth: Complex[Array, "h w"]
    """The same region of the truth, as it was given."""
    gauge: Gauge
    origin_px: tuple[int, int]
    """(y, x) of the truth's pixel at ``[0, 0]`` of both."""


@dataclass(frozen=True)
class _Fit:
    """A point of the least-squares search; lengths in px, slopes in rad/px about the centre of the region."""

    scale: complex
    ramp: tuple[float, float]
    shift: tuple[float, float]
    error: float = np.inf
    model: Any = field(default=None, repr=False)
    columns: Any = field(default=None, repr=False)


def register(recon: Inexact[Array, "h w"], truth: Inexact[Array, "H W"], margin: float = 0.16) -> Registration:
    """Move, scale and ramp ``recon`` onto the central region of ``truth``.

    ``margin`` is the fraction of the truth's height and width left out on every side. The two may differ in
    shape, but ``recon`` must be at least as large as that region. Where nothing in common stands out, the
    centres are taken as aligned (``gauge.registered`` is False).

    Raises ValueError for an image that is not 2-D or not finite, `TooSmall` where the region is, or is not covered.
    """
    recon, truth = complex_image(recon, "recon"), complex_image(truth, "truth")
    region = central_region(truth.shape, margin)
    target = truth[region]
    if any(r < t for r, t in zip(recon.shape, target.shape)):
        raise TooSmall(f"recon has shape {recon.shape}, smaller than the compared region {target.shape} of the truth")
    corners = _matching_corners(recon, truth, region)
    registered = bool(corners)
    if not registered:
        corners = [_centred_corner(recon.shape, truth.shape, region)]
    fits = [(_least_squares(_movable(recon, c, target.shape), target), c) for c in corners]
    fit, corner = min(fits, key=lambda pair: pair[0].error)
    inner = np.s_[TRIM_PX:-TRIM_PX, TRIM_PX:-TRIM_PX]
    return Registration(
        aligned=fit.model[inner],
        truth=target[inner],
        gauge=_gauge(fit, corner, region, truth.shape, registered),
        origin_px=(region[0].start + TRIM_PX, region[1].start + TRIM_PX),
    )


def central_region(shape: tuple[int, ...], margin: float) -> Slices:
    """The slices that leave out the fraction ``margin`` of each axis on both of its sides."""
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin is {margin}; expected at least 0 and less than 0.5")
    cut = [round(margin * n) for n in shape]
    if min(n - 2 * c for n, c in zip(shape, cut)) < SMALLEST_PX:
        raise TooSmall(f"margin {margin} of an image of shape {shape} leaves less than {SMALLEST_PX} pixels to compare")
    return slice(cut[0], shape[0] - cut[0]), slice(cut[1], shape[1] - cut[1])


def complex_image(image: Inexact[Array, "H W"], name: str) -> Complex[Array, "H W"]:
    """``image`` as a finite 2-D complex128 array; ValueError naming it otherwise."""
    image = np.asarray(image)
    if image.ndim != 2:
        raise ValueError(f"{name} has shape {image.shape}; expected two axes (y, x)")
    bad = np.count_nonzero(~np.isfinite(image))
    if bad:
        raise ValueError(f"{name} has {bad} values that are NaN or infinite, out of {image.size}")
    return image.astype(np.complex128)


# --- whole pixels: local structure that neither scale nor ramp can touch --------------------------


def _matching_corners(recon: Complex[Array, "h w"], truth: Complex[Array, "H W"], region: Slices) -> list[Lag]:
    """Corners (y, x) in ``recon`` at which the region's structure is found; none where nothing stands out.

    Every corner keeps the whole region inside ``recon``, so a cyclic correlation is free of wrap-around
    there. For unrelated structure the correlation scatters about zero with the rms of the whole cyclic map;
    a peak must be higher than chance makes the highest of so many, but for one case in a million. The sum
    of the maps comes first, then each map by itself, for where one kind of structure is noise.
    """
    free_y, free_x = (r - (s.stop - s.start) + 1 for r, s in zip(recon.shape, region))
    threshold = np.sqrt(2 * np.log(free_y * free_x / FALSE_ALARM))
    maps = [_unit_rms(_cross_correlation(a[region], b)) for a, b in zip(_texture(truth), _texture(recon))]
    corners: list[Lag] = []
    for c in (_unit_rms(sum(maps)), *maps):
        y, x = divmod(int(np.argmax(c[:free_y, :free_x])), free_x)
        if c[y, x] > threshold and not _near((y, x), corners):
            corners.append((y, x))
    return corners


def _texture(image: Complex[Array, "H W"], smooth_px: float = 4.0) -> list[Float[Array, "H W"]]:
    """Fine structure of the amplitude and of the phase steps along y and x, outliers clipped."""
    step_y = np.angle(image[1:] * image[:-1].conj())
    step_x = np.angle(image[:, 1:] * image[:, :-1].conj())
    steps = [np.pad(step_y, ((0, 1), (0, 0)), mode="edge"), np.pad(step_x, ((0, 0), (0, 1)), mode="edge")]
    fine = [f - gaussian_filter(f, smooth_px, truncate=3.0) for f in (np.abs(image), *steps)]
    return [_clipped(f, 6 * np.median(np.abs(f))) for f in fine]


def _clipped(values: Float[Array, "H W"], limit: float) -> Float[Array, "H W"]:
    """``values`` within +-limit. A limit of zero (more than half of the image is empty) clips nothing."""
    return np.clip(values, -limit, limit) if limit > 0 else values


def _cross_correlation(part: Float[Array, "h w"], whole: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """``c[y, x] = sum part[i, j] whole[y + i, x + j]``, cyclic in the frame of ``whole``."""
    spectrum = fft.rfft2(part, whole.shape).conj() * fft.rfft2(whole)
    return fft.irfft2(spectrum, whole.shape)


def _unit_rms(values: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """``values`` over their root mean square; zeros stay zeros."""
    rms = np.sqrt((values**2).mean())
    return values / rms if rms > 0 else values


def _near(corner: Lag, others: list[Lag]) -> bool:
    """Whether a corner is within one pixel of another: the fit that follows reaches that far."""
    return any(max(abs(corner[0] - y), abs(corner[1] - x)) <= 1 for y, x in others)


def _centred_corner(recon_shape: Lag, truth_shape: Lag, region: Slices) -> Lag:
    """Corner of the region in a reconstruction whose centre is that of the truth."""
    y, x = (s.start + (r - t) // 2 for s, r, t in zip(region, recon_shape, truth_shape))
    return y, x


# --- all six numbers together, by least squares ---------------------------------------------------


def _movable(recon: Complex[Array, "H W"], corner: Lag, shape: Lag) -> Movable:
    """A function of (dy, dx): the region moved by so much, and its derivatives by y and by x.

    The Fourier shift is done on the region with what lies around it, faded to the mean so that it closes
    smoothly: cut at its border it would ring there, by a percent and more.
    """
    low = [max(0, c - CONTEXT_PX) for c in corner]
    high = [min(n, c + s + CONTEXT_PX) for n, c, s in zip(recon.shape, corner, shape)]
    around = recon[low[0] : high[0], low[1] : high[1]]
    pad = [(CONTEXT_PX // 2, fft.next_fast_len(n + CONTEXT_PX) - n - CONTEXT_PX // 2) for n in around.shape]
    spectrum = fft.fft2(np.pad(around, pad, mode="linear_ramp", end_values=around.mean()))
    wave_y, wave_x = (2j * np.pi * fft.fftfreq(n) for n in spectrum.shape)
    y0, x0 = (c - lo + p[0] for c, lo, p in zip(corner, low, pad))
    inside = np.s_[..., y0 : y0 + shape[0], x0 : x0 + shape[1]]

    def moved(dy: float, dx: float) -> tuple[Any, Any, Any]:
        s = spectrum * np.exp(-wave_y * dy)[:, None] * np.exp(-wave_x * dx)
        image, along_y, along_x = fft.ifft2(np.stack([s, s * wave_y[:, None], s * wave_x]))[inside]
        return image, along_y, along_x

    return moved


def _least_squares(moved: Movable, target: Complex[Array, "h w"], iterations: int = 20) -> _Fit:
    """Minimise ``sum |target - scale ramp moved|^2`` (Levenberg-Marquardt), from a coarse ramp on."""
    fit = _evaluated(_Fit(scale=0j, ramp=_coarse_ramp(moved(0, 0)[0], target), shift=(0, 0)), moved, target)
    damping = 1e-4
    for _ in range(iterations):
        trial = _evaluated(_step(fit, target, damping), moved, target)
        if not trial.error < fit.error or max(map(abs, trial.shift)) > REACH_PX:
            if damping > 1:
                break
            damping *= 30
            continue
        gain, fit, damping = fit.error - trial.error, trial, damping / 30
        if gain < 1e-7 * fit.error:
            break
    return fit


def _coarse_ramp(recon: Complex[Array, "h w"], target: Complex[Array, "h w"]) -> tuple[float, float]:
    """The ramp (rad/px) at the peak of the zero-padded spectrum of ``conj(recon) target``."""
    shape = [fft.next_fast_len(2 * n) for n in target.shape]
    spectrum = np.abs(fft.fft2(recon.conj() * target, shape))
    i, j = divmod(int(np.argmax(spectrum)), shape[1])
    return 2 * np.pi * float(fft.fftfreq(shape[0])[i]), 2 * np.pi * float(fft.fftfreq(shape[1])[j])


def _evaluated(fit: _Fit, moved: Movable, target: Complex[Array, "h w"]) -> _Fit:
    """The same ramp and shift with the best scale for them; the error, the model, and its derivatives."""
    y, x = _centred_axes(target.shape)
    ramp = np.exp(1j * fit.ramp[0] * y) * np.exp(1j * fit.ramp[1] * x)
    image, along_y, along_x = (ramp * part for part in moved(*fit.shift))
    power = np.vdot(image, image).real
    scale = complex(np.vdot(image, target) / power) if power > 0 else 0j
    model = scale * image
    columns = np.stack([model, 1j * model, 1j * y * model, 1j * x * model, -scale * along_y, -scale * along_x])
    error = float(np.sum(np.abs(target - model) ** 2))
    return replace(fit, scale=scale, error=error, model=model, columns=columns.reshape(6, -1))


def _step(fit: _Fit, target: Complex[Array, "h w"], damping: float) -> _Fit:
    """One damped Gauss-Newton step in (log scale, phase, ramp, shift); the scale is refitted afterwards."""
    gram = (fit.columns.conj() @ fit.columns.T).real
    force = (fit.columns.conj() @ (target - fit.model).ravel()).real
    size = np.sqrt(np.diag(gram))
    size = np.where(size > 0, size, 1.0)  # a flat image does not move: that column is zero
    scaled = gram / np.outer(size, size) + damping * np.eye(6)
    step = np.linalg.lstsq(scaled, force / size, rcond=1e-12)[0] / size
    return replace(
        fit,
        ramp=(fit.ramp[0] + float(step[2]), fit.ramp[1] + float(step[3])),
        shift=(fit.shift[0] + float(step[4]), fit.shift[1] + float(step[5])),
    )


def _centred_axes(shape: Lag) -> tuple[Float[Array, "h 1"], Float[Array, " w"]]:
    """Coordinates (px) from the centre of the region, where ramp and scale are independent."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return y[:, None], x


def _gauge(fit: _Fit, corner: Lag, region: Slices, shape: Lag, registered: bool) -> Gauge:
    """The fit in the coordinates of the truth, its scale as it is at the pixel (H // 2, W // 2)."""
    middle = [(s.start + s.stop - 1) / 2 for s in region]
    phase = sum(u * (n // 2 - m) for u, n, m in zip(fit.ramp, shape, middle))
    dy, dx = (float(s.start - c + d) for s, c, d in zip(region, corner, fit.shift))
    return Gauge((dy, dx), complex(fit.scale * np.exp(1j * phase)), fit.ramp, registered)
