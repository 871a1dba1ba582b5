"""Fourier ring correlation: the spatial frequency up to which two images agree.

References: van Heel & Schatz, J. Struct. Biol. 151, 250 (2005), the half-bit criterion; Rosenthal &
Henderson, J. Mol. Biol. 333, 721 (2003), the threshold 1/7 for two half data sets.
"""

from typing import NamedTuple

import numpy as np
from scipy import fft

from ptycho.arrays import Array, Complex, Float, Inexact, Int


class RingCorrelation(NamedTuple):
    """A Fourier ring correlation with its half-bit threshold, ring by ring."""

    frequency: Float[Array, " rings"]
    """Over Nyquist."""
    correlation: Float[Array, " rings"]
    half_bit: Float[Array, " rings"]


def ring_correlation(a: Inexact[Array, "..."], b: Inexact[Array, "..."]) -> RingCorrelation:
    """`fourier_ring_correlation` and `half_bit_threshold` of two images."""
    return RingCorrelation(*fourier_ring_correlation(a, b), half_bit_threshold(min(np.shape(a))))


def fourier_ring_correlation(
    a: Inexact[Array, "..."], b: Inexact[Array, "..."]
) -> tuple[Float[Array, " rings"], Float[Array, " rings"]]:
    """Correlation of the spectra A, B of two images (H, W) in each ring -> (frequency / Nyquist, correlation):

        FRC = Re sum A conj(B) / sqrt(sum |A|^2 sum |B|^2)

    Both images must be in one gauge (`register` them first): a phase between them lowers the real part. Images that
    are not square are cut to their central square. The mean is subtracted and a Hann window applied, because opposite
    borders would correlate. A ring without power in one of the images has a correlation of 0.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 2 or min(a.shape) < 8:
        raise ValueError(f"two images of one shape, 8 pixels or more, are needed; got {a.shape} and {b.shape}")
    side = min(a.shape)
    rings = ring_index(side)
    (spectrum_a, power_a), (spectrum_b, power_b) = (_ring_power(central_square(z, side), rings) for z in (a, b))
    cross = _ring_sum((spectrum_a * spectrum_b.conj()).real, rings)
    # Root by root: the product of two powers can leave the range of numbers.
    power = np.sqrt(power_a) * np.sqrt(power_b)
    return ring_frequency(side), np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)


def frc_resolution(
    frequency: Float[Array, " rings"],
    correlation: Float[Array, " rings"],
    threshold: float | Float[Array, " rings"],
) -> float:
    """The first frequency (over Nyquist) with a correlation below the threshold; 1 if there is none."""
    below = np.flatnonzero(np.asarray(correlation) < threshold)
    return float(frequency[below[0]]) if below.size else 1.0


def resolutions(a: Inexact[Array, "H W"], b: Inexact[Array, "H W"]) -> dict[str, float]:
    """`frc_resolution` (frequency over Nyquist) at 0.5, at 1/7 and at the half-bit curve."""
    frequency, correlation, half_bit = ring_correlation(a, b)
    thresholds = {"half": 0.5, "one_seventh": 1 / 7, "half_bit": half_bit}
    return {name: frc_resolution(frequency, correlation, t) for name, t in thresholds.items()}


def half_bit_threshold(side: int) -> Float[Array, " rings"]:
    """The correlation of two half data sets at which their sum carries half a bit per Fourier pixel, for each ring.

    With a signal-to-noise ratio s = (sqrt(2) - 1) / 2 in each half and n independent pixels in the ring (van Heel &
    Schatz 2005), it is

        (s + 2 sqrt(s / n) + 1 / sqrt(n)) / (1 + s + 2 sqrt(s / n))

    The Hann window correlates neighbouring Fourier pixels. A ring is one pixel wide, so only the correlation along it
    reduces n.
    """
    independent = _ring_sum(np.ones((side, side)), ring_index(side)) * _independent_fraction(side)
    snr = (np.sqrt(2) - 1) / 2
    # 2 sqrt(s / n) + 1 / sqrt(n)
    chance = (2 * np.sqrt(snr) + 1) / np.sqrt(independent)
    return (snr + chance) / (1 + snr + chance - 1 / np.sqrt(independent))


def central_square(image: Inexact[Array, "H W"], side: int) -> Inexact[Array, "n n"]:
    """The ``side`` x ``side`` pixels at the centre."""
    y, x = ((n - side) // 2 for n in image.shape)
    return image[y : y + side, x : x + side]


def ring_index(side: int) -> Int[Array, "n n"]:
    """Distance of every Fourier pixel from zero frequency (which is at [0, 0]), rounded."""
    # Integer frequencies: cycles over the side
    k = fft.fftfreq(side) * side
    return np.rint(np.hypot(k[:, None], k)).astype(int)


def ring_frequency(side: int) -> Float[Array, " rings"]:
    """Frequency over Nyquist of the rings used: the complete ones, without zero frequency."""
    return np.arange(1, side // 2) / (side / 2)


def _ring_sum(values: Float[Array, "n n"], rings: Int[Array, "n n"]) -> Float[Array, " rings"]:
    # Without zero frequency, and without the incomplete rings in the corners
    return np.bincount(rings.ravel(), values.ravel())[1 : len(values) // 2]


def _ring_power(
    image: Inexact[Array, "n n"], rings: Int[Array, "n n"]
) -> tuple[Complex[Array, "n n"], Float[Array, " rings"]]:
    """Spectrum of the windowed image, and its power in each ring; power within rounding errors counts as zero."""
    window = np.hanning(len(image))
    # Without the mean, whose window would leak into the first rings
    spectrum = fft.fft2((image - image.mean()) * np.outer(window, window))
    power = _ring_sum(np.abs(spectrum) ** 2, rings)
    rounding = (16 * np.finfo(float).eps * np.sum(np.abs(image))) ** 2  # the mean itself is rounded
    return spectrum, np.where(power > rounding * _ring_sum(np.ones(image.shape), rings), power, 0.0)


def _independent_fraction(side: int) -> float:
    """``(sum w^2)^2 / (n sum w^4)``: the fraction of Fourier pixels along one axis that stay independent."""
    power = np.hanning(side) ** 2
    return float(power.sum() ** 2 / (side * (power**2).sum()))
