"""How well a reconstruction predicts frames it has not seen, and how well anything could.

Conventions of `ptycho.physics`; written in numpy, apart from the forward model that a reconstruction was
made with, so that the two check each other.
"""

from collections.abc import Iterable

import numpy as np
from scipy import fft
from scipy.special import gammaln

from ptycho.arrays import Array, Bool, Complex, Float, Inexact, Num

_SUMMED_BELOW = 64.0


def frame_error(
    object: Inexact[Array, "H W"],
    probe: Inexact[Array, "M n n"],
    positions_px: Float[Array, "P 2"],
    counts: Num[Array, "P n n"],
    frames: Iterable[int],
    mask: Bool[Array, "n n"] | None = None,
    transfer: Complex[Array, "n n"] | None = None,
) -> float:
    """``sum (s |model| - sqrt(counts))^2 / sum counts`` over the given frames, with the best scale ``s``.

    ``probe`` may leave out the mode axis. ``positions_px`` are (y, x) in pixels of ``object``, which
    continues with its border values. ``mask`` is True where a pixel is used. ``counts`` may be any array
    read frame by frame. ``transfer`` is the transfer function of a near field (`Scan.transfer`); None: the far
    field.

    One scale serves all the frames. The least value that noise allows is `shot_noise_error`.
    Raises ValueError without frames, without photons, and where the shapes do not fit.
    """
    object, probe = _checked(object, probe, counts.shape[-1])
    use = np.ones(counts.shape[-2:], bool) if mask is None else np.asarray(mask, bool)
    overlap = model_power = total = 0.0
    for i in frames:
        model = np.sqrt(_frame_intensity(object, probe, positions_px[i], transfer)[use])
        measured = np.sqrt(np.asarray(counts[i])[use].astype(float))
        overlap += model @ measured
        model_power += model @ model
        total += measured @ measured
    if not total > 0:
        raise ValueError("the frames to compare with are none, or hold no photon")
    if model_power == 0:
        return 1.0
    return float((total - overlap**2 / model_power) / total)


def expected_counts(
    object: Inexact[Array, "H W"],
    probe: Inexact[Array, "M n n"],
    positions_px: Float[Array, "P 2"],
    frames: Iterable[int],
    transfer: Complex[Array, "n n"] | None = None,
) -> Float[Array, "F n n"]:
    """The counts (F, n, n) that an object and a probe in sqrt(photons) lead one to expect in these frames.

    ``transfer`` as in `frame_error`.
    """
    object, probe = _checked(object, probe, np.shape(probe)[-1])
    return np.stack([_frame_intensity(object, probe, positions_px[i], transfer) for i in frames])


def shot_noise_error(expected: Num[Array, "..."]) -> float:
    """The `frame_error` left to a perfect model: ``sum E[(sqrt(k) - sqrt(l))^2] / sum l``, k ~ Poisson(l).

    ``expected`` are the expected counts ``l``, in any shape: those of a truth or of a good reconstruction
    (see `expected_counts`), and of the pixels used only. Measured counts are no substitute in sparse
    frames: where many pixels are empty they make the limit too low, by half at half a photon per pixel.
    """
    expected = np.asarray(expected, dtype=float)
    if expected.size == 0 or not np.all(expected >= 0) or not expected.sum() > 0:
        raise ValueError("expected counts must be finite, not negative, and not all zero")
    return float(np.sum(expected * _relative_scatter(expected)) / expected.sum())


def _relative_scatter(mean: Float[Array, "..."]) -> Float[Array, "..."]:
    """``E[(sqrt(k) - sqrt(l))^2] / l`` for k ~ Poisson(l): 2 at l = 0, about 1 / (4 l) for large l.

    Expanding sqrt(k) about l with the moments of the Poisson distribution gives, for the numerator,
    ``1/4 + 7 / (64 l) + 75 / (512 l^2) + O(l^-3)``, good to 1e-5 of itself from l = 64. Below, the sum is
    taken on a grid even in sqrt(l), in which the ratio is smooth, and interpolated.
    """
    root_grid = np.linspace(0, np.sqrt(_SUMMED_BELOW), 4001)
    root = np.sqrt(mean)
    inverse = 1 / np.maximum(mean, _SUMMED_BELOW)
    series = inverse * (1 / 4 + inverse * (7 / 64 + inverse * 75 / 512))
    return np.where(mean < _SUMMED_BELOW, np.interp(root, root_grid, _summed_scatter(root_grid)), series)


def _summed_scatter(root: Float[Array, " n"]) -> Float[Array, " n"]:
    """The same by summation over k, for an array of sqrt(l): ``2 - 2 E[sqrt(k)] / sqrt(l)``.

    ``E[sqrt(k)] / sqrt(l) = exp(-l) sum_k sqrt(k) l^(k - 1/2) / k!`` has no pole at 0: k starts from 1.
    The sum ends 12 standard deviations above the largest mean.
    """
    last = int(root.max() ** 2 + 12 * root.max() + 12)
    k = np.arange(1, last + 1)[:, None]
    with np.errstate(divide="ignore"):
        log_root = np.log(root)
    terms = np.exp(np.log(k) / 2 + (2 * k - 1) * log_root - gammaln(k + 1) - root**2)
    return 2 - 2 * terms.sum(axis=0)


def _frame_intensity(
    object: Complex[Array, "H W"],
    probe: Complex[Array, "M n n"],
    position_px: Float[Array, " 2"],
    transfer: Complex[Array, "n n"] | None,
) -> Float[Array, "n n"]:
    """Expected counts of one frame (`detected`)."""
    return detected(probe * _patch(object, position_px, probe.shape[-1]), transfer)


def detected(
    exit_waves: Complex[Array, "*batch M n n"], transfer: Complex[Array, "*seen n n"] | None
) -> Float[Array, "*batch n n"]:
    """Expected counts of exit waves: ``sum_m |F psi_m|^2``, zero frequency at pixel (n // 2, n // 2).

    With a transfer function ``sum_m |F^-1[transfer F psi_m]|^2``.
    """
    if transfer is not None:
        return (np.abs(fft.ifft2(fft.fft2(exit_waves) * transfer)) ** 2).sum(axis=-3)
    return fft.fftshift((np.abs(fft.fft2(exit_waves, norm="ortho")) ** 2).sum(axis=-3), axes=(-2, -1))


def _patch(object: Complex[Array, "H W"], position_px: Float[Array, " 2"], side: int) -> Complex[Array, "n n"]:
    """The object under the probe: whole pixels by indexing (border values go on), then a Fourier shift."""
    corner = np.asarray(position_px, dtype=float) - side // 2
    whole = np.floor(corner).astype(int)
    rows, columns = (np.clip(c + np.arange(side), 0, n - 1) for c, n in zip(whole, object.shape))
    patch = object[np.ix_(rows, columns)]
    part = corner - whole
    if not part.any():
        return patch
    ramp_y, ramp_x = (np.exp(2j * np.pi * fft.fftfreq(side) * p) for p in part)
    return fft.ifft2(fft.fft2(patch) * ramp_y[:, None] * ramp_x)


def _checked(
    object: Inexact[Array, "H W"], probe: Inexact[Array, "..."], side: int
) -> tuple[Complex[Array, "H W"], Complex[Array, "M n n"]]:
    """Both as complex128, the probe with its mode axis; ValueError where shape or values will not do."""
    object, probe = np.asarray(object), np.asarray(probe)
    if object.ndim != 2 or probe.ndim not in (2, 3) or probe.shape[-2:] != (side, side):
        raise ValueError(f"object {object.shape} and probe {probe.shape} do not fit frames of {side} x {side}")
    for name, array in (("object", object), ("probe", probe)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are NaN or infinite")
    return object.astype(np.complex128), probe.reshape(-1, side, side).astype(np.complex128)
