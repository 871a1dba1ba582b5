"""The scan's own pattern in an image: what a regular raster leaves where object and probe can trade places.

A raster repeats under the probe, so that a pattern with its period may be in the object, in the probe, or in both, and
frames hardly tell. The structure factor of the positions,

    S(k) = |sum_j exp(-2 pi i k . r_j)| / P,

is near 1 at the reciprocal lattice of a raster, and small at all other k but 0; of irregular positions it is small
everywhere.
"""

import numpy as np

from ptycho.arrays import Array, Complex, Float
from ptycho.evaluation.uncertainty import illuminated_pixels


def lattice_share(
    object: Complex[Array, "H W"],
    coverage: Float[Array, "H W"],
    positions: Float[Array, "P 2"],
    *,
    regular_above: float = 0.3,
    slow_periods: float = 0.75,
) -> float:
    """The fraction of the variance of the phase that is at the reciprocal lattice of the scan; 0 of irregular scans.

    Args:
        object: the image; positions are in its pixels.
        coverage: illumination of each pixel.
        positions: (y, x) of the frames.
        regular_above: structure factor from which on a frequency belongs to the lattice.
        slow_periods: the fraction of the lowest lattice frequency below which changes are slow: they are left out, as
            the phase of most objects is in them.
    """
    shape = object.shape
    inside = illuminated_pixels(coverage)
    structure = np.zeros(shape)
    y, x = np.clip(np.rint(positions).astype(int), 0, np.array(shape) - 1).T
    np.add.at(structure, (y, x), 1.0)
    structure = np.abs(np.fft.fft2(structure)) / len(positions)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    # The peak at 0 is as wide as the others; it ends where the structure factor is small for the first time.
    extents = np.maximum(np.ptp(positions, axis=0), 1.0)
    lattice = (structure > regular_above) & (frequency > 2 / extents.min())
    if not lattice.any():
        return 0.0
    turned = np.exp(1j * np.angle(object)) * np.exp(-1j * np.angle(np.sum(object[inside])))
    phase = np.where(inside, np.angle(turned), 0.0)
    phase = np.where(inside, phase - phase[inside].mean(), 0.0)
    power = np.abs(np.fft.fft2(phase)) ** 2
    fast = frequency >= slow_periods * frequency[lattice].min()
    total = power[fast].sum()
    return float(power[lattice & fast].sum() / total) if total > 0 else 0.0
