"""Error bars of an object from shot noise and spread, and how often errors are within them.

``coverage`` is the illumination of each pixel of the object, in units of the brightest pixel of ``probe``, which is in
sqrt(photons): both together give the photons n that fell on a pixel. Shot noise alone leaves an rms error of
``sqrt(1 / (2 n))`` of the complex object (`noise_level`).
"""

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Float

WITHIN_1, WITHIN_2 = 1 - np.exp(-1.0), 1 - np.exp(-4.0)
"""Fraction of complex Gaussian errors of rms sigma within sigma and within 2 sigma: 0.632 and 0.982 (|error|^2 /
sigma^2 is exponentially distributed, with mean 1)."""


def peak_photons(probe: Complex[Array, "M n n"]) -> float:
    """Photons of one frame on the brightest object pixel of a probe in sqrt(photons): ``max sum_m |P_m|^2``."""
    return float((np.abs(probe) ** 2).sum(axis=0).max())


def illuminated_pixels(coverage: Float[Array, "H W"], above: float = 0.5) -> Bool[Array, "H W"]:
    """Where the illumination is more than ``above`` times its median over the covered pixels.

    Raises ValueError where no pixel is covered.
    """
    if not (coverage > 0).any():
        raise ValueError("coverage is 0 everywhere; no light fell on the object")
    return coverage > above * np.median(coverage[coverage > 0])


def noise_level(photons: Float[Array, "..."]) -> Float[Array, "..."]:
    """Rms error of the complex object from shot noise alone, ``sqrt(1 / (2 n))`` for n photons on a pixel.

    A photon count fixes an exit wave in sqrt(photons) to a variance of 1/4 in a quadrature, so the transmission to
    1 / (4 n) in each. It is the least: a detector pixel tells one quadrature of its wave, and photons shared evenly
    between the two leave twice the variance (`ptycho.evaluation.calibration` finds it). Infinite without photons.
    """
    with np.errstate(divide="ignore"):
        return np.sqrt(0.5 / np.asarray(photons, float))


def uncertainty(
    spread: Float[Array, "H W"] | None,
    coverage: Float[Array, "H W"],
    probe: Complex[Array, "M n n"],
    calibration: float = 1.0,
) -> Float[Array, "H W"]:
    """Rms error to expect of the complex object, float32: ``calibration sqrt(spread^2 + noise_level^2)``.

    ``spread`` is the disagreement of several symmetries, None for 0. Infinite where nothing fell.
    """
    noise = noise_level(coverage * peak_photons(probe))
    return (calibration * np.hypot(0.0 if spread is None else spread, noise)).astype("float32")


def band_coverage(
    object: Complex[Array, "H W"],
    truth: Complex[Array, "H W"],
    uncertainty: Float[Array, "H W"],
    where: Bool[Array, "H W"],
) -> dict[str, float]:
    """Fraction of the pixels ``where`` is True whose error ``|o - t|`` is within one and within two sigma of 0.

    Both images are in one gauge. Errors that are complex Gaussian with an rms of sigma are so in 0.632 and 0.982 of the
    pixels (`WITHIN_1`, `WITHIN_2`), given along. Raises ValueError where there is no pixel.
    """
    if not np.any(where):
        raise ValueError("there is no pixel to look at: where is False everywhere")
    # |error| / sigma: for a complex Gaussian error its square is exponential, P(< x) = 1 - exp(-x^2).
    relative = np.abs(object - truth)[where] / uncertainty[where]
    return dict(
        within_1_sigma=float((relative <= 1).mean()),
        within_2_sigma=float((relative <= 2).mean()),
        expected_1_sigma=float(WITHIN_1),
        expected_2_sigma=float(WITHIN_2),
    )
