"""Scores of a reconstruction against the true object, each beside the score of a flat object.

A diffraction loss can fall while the object becomes flat, so every score comes with a floor: that of a flat object
(the mean of the truth). All functions but `compare_objects` take two images in one gauge.
"""

from dataclasses import asdict, dataclass, field

import numpy as np

from ptycho.arrays import Array, Complex, Float, Inexact
from ptycho.evaluation.align import Gauge, register
from ptycho.evaluation.frc import RingCorrelation, fourier_ring_correlation, frc_resolution, ring_correlation

ROW_NAMES = {
    "snr_db": "SNR (dB)",
    "amplitude_psnr_db": "amplitude PSNR (dB)",
    "amplitude_ssim": "amplitude SSIM",
    "phase_rms_rad": "phase error, rms (rad)",
    "phase_ssim": "phase SSIM",
    "frc_half_nyquist": "FRC 0.5 (of Nyquist)",
}


@dataclass(frozen=True)
class Metrics:
    """The agreement of two complex images in one gauge."""

    snr_db: float
    amplitude_psnr_db: float
    amplitude_ssim: float
    phase_rms_rad: float
    phase_ssim: float
    frc_half_nyquist: float


@dataclass(frozen=True)
class Scores:
    """Scores of a reconstruction (the names of `Metrics`), those of a flat object, the gauge removed, and the FRC."""

    snr_db: float
    amplitude_psnr_db: float
    amplitude_ssim: float
    phase_rms_rad: float
    phase_ssim: float
    frc_half_nyquist: float
    flat: Metrics
    gauge: Gauge
    correlation: RingCorrelation = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON: the scores, ``floor_flat_object`` and ``gauge``."""
        scores = {name: getattr(self, name) for name in ROW_NAMES}
        return scores | {"floor_flat_object": asdict(self.flat), "gauge": self.gauge.to_dict()}

    def rows(self) -> list[tuple[str, float, float]]:
        """(name with unit, score, score of the flat object), for a table."""
        return [(label, getattr(self, name), getattr(self.flat, name)) for name, label in ROW_NAMES.items()]


def compare_objects(recon: Inexact[Array, "..."], truth: Inexact[Array, "..."], margin: float = 0.16) -> Scores:
    """Scores of ``recon`` (h, w) inside the central region of ``truth`` (H, W), without shift, scale and ramp.

    Both are complex transmissions; their shapes may differ. ``margin`` is the fraction of the truth to leave out on
    every side, where a scan has little coverage. Raises ValueError as `register` does, and where the truth is flat.
    """
    # All scores are taken in one gauge: shift, scale and ramp do not count as errors.
    fit = register(recon, truth, margin)
    if np.ptp(np.abs(fit.truth)) == 0 or np.ptp(np.angle(fit.truth)) == 0:
        raise ValueError("truth has one amplitude or one phase throughout the region: SSIM has no scale there")
    flat = np.full_like(fit.truth, fit.truth.mean())
    scores = measure(fit.aligned, fit.truth)
    correlation = ring_correlation(fit.aligned, fit.truth)
    return Scores(**asdict(scores), flat=measure(flat, fit.truth), gauge=fit.gauge, correlation=correlation)


def measure(recon: Complex[Array, "H W"], truth: Complex[Array, "H W"]) -> Metrics:
    """All metrics of two images of one shape in one gauge."""
    return Metrics(
        snr_db=snr_db(recon, truth),
        amplitude_psnr_db=amplitude_psnr_db(recon, truth),
        amplitude_ssim=amplitude_ssim(recon, truth),
        phase_rms_rad=phase_rms_rad(recon, truth),
        phase_ssim=phase_ssim(recon, truth),
        frc_half_nyquist=frc_half_nyquist(recon, truth),
    )


def snr_db(recon: Complex[Array, "..."], truth: Complex[Array, "..."]) -> float:
    """``10 log10( sum |t|^2 / sum |t - r|^2 )`` in dB; infinite for equal images."""
    return decibels(float(np.sum(np.abs(truth) ** 2)), float(np.sum(np.abs(truth - recon) ** 2)))


def amplitude_psnr_db(recon: Complex[Array, "..."], truth: Complex[Array, "..."]) -> float:
    """``10 log10( peak^2 / mean (|r| - |t|)^2 )`` in dB; the peak is the largest amplitude of the *truth*."""
    return decibels(np.abs(truth).max() ** 2, np.mean((np.abs(recon) - np.abs(truth)) ** 2))


def phase_rms_rad(recon: Complex[Array, "..."], truth: Complex[Array, "..."]) -> float:
    """Root mean square of the wrapped phase difference, in radians."""
    return float(np.sqrt(np.mean(phase_difference(recon, truth) ** 2)))


def phase_difference(recon: Complex[Array, "..."], truth: Complex[Array, "..."]) -> Float[Array, "..."]:
    """Phase of ``recon`` less that of ``truth``, wrapped to [-pi, pi).

    It is not the phase of a product: that of zero is zero, and an empty reconstruction would have no phase error.
    """
    return np.mod(np.angle(recon) - np.angle(truth) + np.pi, 2 * np.pi) - np.pi


def amplitude_ssim(recon: Complex[Array, "H W"], truth: Complex[Array, "H W"]) -> float:
    """Structural similarity of the amplitudes; the data range is that of the truth."""
    return _ssim(np.abs(recon), np.abs(truth))


def phase_ssim(recon: Complex[Array, "H W"], truth: Complex[Array, "H W"]) -> float:
    """Structural similarity of the phases; the data range is that of the truth, which must not wrap.

    The phase of the reconstruction is the truth's plus the wrapped difference, which has no jump of 2 pi where the
    truth is near pi.
    """
    phase = np.angle(truth)
    return _ssim(phase + phase_difference(recon, truth), phase)


def frc_half_nyquist(recon: Complex[Array, "H W"], truth: Complex[Array, "H W"]) -> float:
    """Frequency over Nyquist at which the Fourier ring correlation with the truth falls below 0.5."""
    return frc_resolution(*fourier_ring_correlation(recon, truth), 0.5)


def decibels(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)`` of two powers; infinite without noise, minus infinity without signal."""
    with np.errstate(divide="ignore"):
        # A difference of logarithms: noise 0 gives infinity, where the ratio would be a division by zero.
        return float(10 * (np.log10(signal) - np.log10(noise)))


def _ssim(image: Float[Array, "H W"], truth: Float[Array, "H W"]) -> float:
    """Wang et al., IEEE Trans. Image Process. 13, 600 (2004), with the 7 x 7 window of scikit-image."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(truth, image, data_range=float(np.ptp(truth))))
