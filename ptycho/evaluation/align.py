"""Register a reconstruction with the truth: fit one gauge, remove it, and report it.

Diffraction patterns determine neither where the object is, nor how bright the probe is, nor how a linear phase is
divided between object and probe. A reconstruction ``r`` is therefore perfect if, up to this gauge, it equals the truth

    t[y, x] = scale * exp(i (u (y - H // 2) + v (x - W // 2))) * r[y - dy, x - dx]

`register` takes the integer shift from fine structure, which neither scale nor ramp changes, and then fits all six
numbers (log |scale|, its phase, u, v, dy, dx) by least squares inside the compared region.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter

from ptycho.arrays import Array, Complex, Float, Inexact

Slices = tuple[slice, slice]
Pixel = tuple[int, int]
ShiftedImage = Callable[[float, float], tuple[Complex[Array, "h w"], Complex[Array, "h w"], Complex[Array, "h w"]]]
"""A function of (dy, dx): the shifted image, and its derivatives with respect to dy and dx."""


class TooSmall(ValueError):
    """The overlap of two images is too small for a comparison; the images themselves are valid."""


@dataclass(frozen=True)
class Gauge:
    """The transformation that registers a reconstruction with the truth (equation at the top of this module)."""

    shift_px: tuple[float, float]
    """(dy, dx) of the content, positive towards larger indices."""
    scale: complex
    """Complex factor at the truth's pixel (H // 2, W // 2)."""
    ramp_rad_per_px: tuple[float, float]
    """(u, v), slopes of the phase added along y and x."""
    registered: bool
    """False: the images share no significant structure, and the integer shift aligns their centres."""

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
    """The reconstruction: shifted, scaled, with the ramp added."""
    truth: Complex[Array, "h w"]
    """The same region of the truth, unchanged."""
    gauge: Gauge
    origin_px: Pixel
    """(y, x) of the truth's pixel at ``[0, 0]`` of both."""


@dataclass(frozen=True)
class _Fit:
    """An iterate of the least-squares fit; lengths in px, slopes in rad/px about the centre of the region."""

    scale: complex
    ramp: tuple[float, float]
    shift: tuple[float, float]
    error: float = np.inf
    """``sum |target - model|^2``."""
    model: Any = field(default=None, repr=False)
    """``scale * ramp * shifted``, (h, w)."""
    jacobian: Any = field(default=None, repr=False)
    """Derivatives of the model, (6, h w): one row each for log |scale|, phase, u, v, dy, dx."""


def register(
    recon: Inexact[Array, "..."],
    truth: Inexact[Array, "..."],
    margin: float = 0.16,
    *,
    trim_px: int = 4,
    context_px: int = 32,
    reach_px: float = 2.0,
    false_alarm: float = 1e-6,
) -> Registration:
    """Shift, scale and ramp ``recon`` (h, w) onto the central region of ``truth`` (H, W).

    The shapes may differ, but ``recon`` must be at least as large as the region. Where the images share no significant
    structure, their centres are aligned (``gauge.registered`` is False).

    Args:
        recon, truth: real or complex transmissions.
        margin: fraction of the truth's height and width to leave out on every side.
        trim_px: cut from every side of the region after the fit: a shifted image may be extrapolated near its border.
        context_px: width of the surroundings that are shifted with the region; the ringing of a border decays over
            this distance.
        reach_px: largest sub-pixel correction of the integer shift.
        false_alarm: probability that unrelated images pass for registered.

    Raises:
        ValueError: an image is not 2-D or not finite.
        TooSmall: the region is too small, or ``recon`` does not cover it.
    """
    recon, truth = complex_image(recon, "recon"), complex_image(truth, "truth")
    region = central_region(truth.shape, margin)
    target = truth[region]
    if any(r < t for r, t in zip(recon.shape, target.shape)):
        raise TooSmall(f"recon has shape {recon.shape}, smaller than the compared region {target.shape} of the truth")
    # The fit corrects a shift by ``reach_px`` at most: it starts from each candidate, and the best one counts.
    origins = _matching_origins(recon, truth, region, false_alarm)
    registered = bool(origins)
    if not registered:
        origins = [_centred_origin(recon.shape, truth.shape, region)]
    shifted = [_fourier_shift(recon, origin, target.shape, context_px) for origin in origins]
    fits = [(_least_squares(image, target, reach_px), origin) for image, origin in zip(shifted, origins)]
    fit, origin = min(fits, key=lambda pair: pair[0].error)
    inner = np.s_[trim_px:-trim_px, trim_px:-trim_px]
    return Registration(
        aligned=fit.model[inner],
        truth=target[inner],
        gauge=_gauge(fit, origin, region, truth.shape, registered),
        origin_px=(region[0].start + trim_px, region[1].start + trim_px),
    )


def central_region(shape: Pixel, margin: float, *, smallest_px: int = 16) -> Slices:
    """The slices that leave out the fraction ``margin`` of each axis on both of its sides.

    The smallest region of 16 pixels, trimmed by 4 on each side, has 8: enough for a window of SSIM (7) and for the
    rings of an FRC (8).
    """
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin is {margin}; expected at least 0 and less than 0.5")
    cut = [round(margin * n) for n in shape]
    if min(n - 2 * c for n, c in zip(shape, cut)) < smallest_px:
        raise TooSmall(f"margin {margin} of an image of shape {shape} leaves less than {smallest_px} pixels to compare")
    return slice(cut[0], shape[0] - cut[0]), slice(cut[1], shape[1] - cut[1])


def complex_image(image: Inexact[Array, "..."], name: str) -> Complex[Array, "H W"]:
    """``image`` as a finite 2-D complex128 array; ValueError naming it otherwise."""
    image = np.asarray(image)
    if image.ndim != 2:
        raise ValueError(f"{name} has shape {image.shape}; expected two axes (y, x)")
    invalid = np.count_nonzero(~np.isfinite(image))
    if invalid:
        raise ValueError(f"{name} has {invalid} values that are NaN or infinite, out of {image.size}")
    return image.astype(np.complex128)


# --- integer shift, from fine structure that neither scale nor ramp changes -----------------------


def _matching_origins(
    recon: Complex[Array, "h w"], truth: Complex[Array, "H W"], region: Slices, false_alarm: float
) -> list[Pixel]:
    """Origins (y, x) of the region in ``recon`` by cross-correlation; none where no peak is significant.

    Every candidate keeps the region inside ``recon``, so the cyclic correlation does not wrap around there. For
    unrelated structure the correlation is about normal with the rms of the map, and the largest of n values exceeds
    ``sqrt(2 log(n / false_alarm))`` rms with the probability ``false_alarm``. The sum of the maps is tried first, then
    each map alone, for images in which one kind of structure is noise.
    """
    candidates_y, candidates_x = (r - (s.stop - s.start) + 1 for r, s in zip(recon.shape, region))
    threshold = np.sqrt(2 * np.log(candidates_y * candidates_x / false_alarm))
    maps = [_unit_rms(_cross_correlation(a[region], b)) for a, b in zip(_fine_structure(truth), _fine_structure(recon))]
    origins: list[Pixel] = []
    for c in (_unit_rms(sum(maps)), *maps):
        y, x = divmod(int(np.argmax(c[:candidates_y, :candidates_x])), candidates_x)
        # The fit that follows reaches neighbouring pixels by itself.
        distinct = all(max(abs(y - v), abs(x - u)) > 1 for v, u in origins)
        if c[y, x] > threshold and distinct:
            origins.append((y, x))
    return origins


def _fine_structure(image: Complex[Array, "H W"], smooth_px: float = 4.0) -> list[Float[Array, "H W"]]:
    """High-pass amplitude and phase gradients along y and x, with outliers clipped at 6 median deviations."""
    # arg(z[y + 1] conj(z[y])): no phase is unwrapped, and a ramp adds a constant, which the high pass takes out.
    step_y = np.angle(image[1:] * image[:-1].conj())
    step_x = np.angle(image[:, 1:] * image[:, :-1].conj())
    steps = [np.pad(step_y, ((0, 1), (0, 0)), mode="edge"), np.pad(step_x, ((0, 0), (0, 1)), mode="edge")]
    fine = [f - gaussian_filter(f, smooth_px, truncate=3.0) for f in (np.abs(image), *steps)]
    return [_clipped(f, 6 * np.median(np.abs(f))) for f in fine]


def _clipped(values: Float[Array, "H W"], limit: float) -> Float[Array, "H W"]:
    """``values`` within +-limit. A limit of zero (more than half of the image is empty) clips nothing."""
    return np.clip(values, -limit, limit) if limit > 0 else values


def _cross_correlation(template: Float[Array, "h w"], image: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """``c[y, x] = sum_ij template[i, j] image[y + i, x + j]``, cyclic in the frame of ``image``."""
    # Correlation theorem: C = conj(T) I
    spectrum = fft.rfft2(template, image.shape).conj() * fft.rfft2(image)
    return fft.irfft2(spectrum, image.shape)


def _unit_rms(values: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """``values`` over their root mean square; zeros stay zeros."""
    rms = np.sqrt((values**2).mean())
    return values / rms if rms > 0 else values


def _centred_origin(recon_shape: Pixel, truth_shape: Pixel, region: Slices) -> Pixel:
    """Origin of the region in a reconstruction whose centre is that of the truth."""
    y, x = (s.start + (r - t) // 2 for s, r, t in zip(region, recon_shape, truth_shape))
    return y, x


# --- all six numbers together, by least squares ---------------------------------------------------


def _fourier_shift(recon: Complex[Array, "H W"], origin: Pixel, shape: Pixel, context_px: int) -> ShiftedImage:
    """The region at ``origin`` of ``recon`` as a function of a sub-pixel shift (dy, dx).

    With the spectrum R(k) the shifted image is ``F^-1[R exp(-2 pi i k.d)]``, and its derivative with respect to dy is
    ``-F^-1[2 pi i k_y R exp(-2 pi i k.d)]``. The surroundings of the region are shifted along and faded to the mean,
    which makes them periodic: cut at its border, the region would ring there by a per cent and more.
    """
    # Surroundings, as far as the image goes, then a ramp down to the mean, to a length with a fast transform.
    low = [max(0, o - context_px) for o in origin]
    high = [min(n, o + s + context_px) for n, o, s in zip(recon.shape, origin, shape)]
    around = recon[low[0] : high[0], low[1] : high[1]]
    pad = [(context_px // 2, fft.next_fast_len(n + context_px) - n - context_px // 2) for n in around.shape]
    spectrum = fft.fft2(np.pad(around, pad, mode="linear_ramp", end_values=around.mean()))
    wave_y, wave_x = (2j * np.pi * fft.fftfreq(n) for n in spectrum.shape)
    y0, x0 = (o - start + p[0] for o, start, p in zip(origin, low, pad))
    inside = np.s_[..., y0 : y0 + shape[0], x0 : x0 + shape[1]]

    def shifted(dy: float, dx: float) -> tuple[Any, Any, Any]:
        s = spectrum * np.exp(-wave_y * dy)[:, None] * np.exp(-wave_x * dx)
        # r(x - d), d/d dy = F^-1[-2 pi i k_y R exp(-2 pi i k.d)], and likewise along x
        image, along_y, along_x = fft.ifft2(np.stack([s, -s * wave_y[:, None], -s * wave_x]))[inside]
        return image, along_y, along_x

    return shifted


def _least_squares(shifted: ShiftedImage, target: Complex[Array, "h w"], reach_px: float, iterations: int = 20) -> _Fit:
    """Minimise ``sum |target - scale ramp shifted|^2`` (Levenberg-Marquardt), starting at a coarse ramp."""
    start = _Fit(scale=0j, ramp=_coarse_ramp(shifted(0.0, 0.0)[0], target), shift=(0.0, 0.0))
    fit, damping = _evaluate(start, shifted, target), 1e-4
    for _ in range(iterations):
        trial = _evaluate(_gauss_newton_step(fit, target, damping), shifted, target)
        if not trial.error < fit.error or max(map(abs, trial.shift)) > reach_px:
            # Steps that are short already do not help: this is the minimum.
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
    # conj(r) t = |r|^2 scale exp(i (u y + v x)): a peak at (u, v) / 2 pi. Padding to twice the size halves its spacing.
    spectrum = np.abs(fft.fft2(recon.conj() * target, shape))
    i, j = divmod(int(np.argmax(spectrum)), shape[1])
    return 2 * np.pi * float(fft.fftfreq(shape[0])[i]), 2 * np.pi * float(fft.fftfreq(shape[1])[j])


def _evaluate(fit: _Fit, shifted: ShiftedImage, target: Complex[Array, "h w"]) -> _Fit:
    """The model at this ramp and shift with its best scale ``<g, t> / <g, g>``; error and Jacobian."""
    y, x = _centred_axes(target.shape)
    ramp = np.exp(1j * fit.ramp[0] * y) * np.exp(1j * fit.ramp[1] * x)
    image, along_y, along_x = (ramp * term for term in shifted(*fit.shift))
    power = np.vdot(image, image).real
    scale = complex(np.vdot(image, target) / power) if power > 0 else 0j
    model = scale * image
    # d m / d (log |scale|, phase, u, v, dy, dx), with m = scale exp(i (u y + v x)) r(x - d)
    jacobian = np.stack([model, 1j * model, 1j * y * model, 1j * x * model, scale * along_y, scale * along_x])
    error = float(np.sum(np.abs(target - model) ** 2))
    return replace(fit, scale=scale, error=error, model=model, jacobian=jacobian.reshape(6, -1))


def _gauss_newton_step(fit: _Fit, target: Complex[Array, "h w"], damping: float) -> _Fit:
    """One step ``p += (Re J^H J + damping diag)^-1 Re J^H (t - m)`` in p = (log |scale|, phase, u, v, dy, dx).

    Only ramp and shift are taken from it: `_evaluate` refits the scale.
    """
    # Real parts, as the six numbers are real; each in units of its own curvature, so that one damping suits radians
    # and pixels.
    gram = (fit.jacobian.conj() @ fit.jacobian.T).real
    gradient = (fit.jacobian.conj() @ (target - fit.model).ravel()).real
    norm = np.sqrt(np.diag(gram))
    norm = np.where(norm > 0, norm, 1.0)  # the shift of a flat image has no effect: that row is zero
    scaled = gram / np.outer(norm, norm) + damping * np.eye(6)
    step = np.linalg.lstsq(scaled, gradient / norm, rcond=1e-12)[0] / norm
    return replace(
        fit,
        ramp=(fit.ramp[0] + float(step[2]), fit.ramp[1] + float(step[3])),
        shift=(fit.shift[0] + float(step[4]), fit.shift[1] + float(step[5])),
    )


def _centred_axes(shape: Pixel) -> tuple[Float[Array, "h 1"], Float[Array, " w"]]:
    """Coordinates (px) about the centre of the region, for which ramp and scale are independent."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return y[:, None], x


def _gauge(fit: _Fit, origin: Pixel, region: Slices, shape: Pixel, registered: bool) -> Gauge:
    """The fit in the coordinates of the truth, with its scale at the pixel (H // 2, W // 2)."""
    centre = [(s.start + s.stop - 1) / 2 for s in region]
    # The fit has its ramp about the centre of the region: at pixel n // 2 that has added u (n // 2 - c).
    phase = sum(u * (n // 2 - c) for u, n, c in zip(fit.ramp, shape, centre))
    # t[start] = r[origin - d], so that the content moves by start - origin + d.
    dy, dx = (float(s.start - o + d) for s, o, d in zip(region, origin, fit.shift))
    return Gauge((dy, dx), complex(fit.scale * np.exp(1j * phase)), fit.ramp, registered)
