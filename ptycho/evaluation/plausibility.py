"""Whether a result can be right by the look of it, where neither a truth nor held-out frames are at hand.

``coverage`` is the illumination of each pixel of the object, in units of the brightest pixel of ``probe``, which is in
sqrt(photons).
"""

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Float
from ptycho.evaluation.uncertainty import illuminated_pixels, peak_photons


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

    Flat: over the illuminated pixels the object varies by less than shot noise alone would make it vary
    (`noise_level`), once a linear phase, which the probe may as well have, is taken out.

    Dark: it transmits far fewer than the ``counts`` of its frames (`is_dark`), where they are given.

    Saturated (`saturation_warnings`): a network's own output ``patches`` are at the bounds of phase or amplitude. Only
    for the architecture ``cnn``: no other has bounds.

    Raises ValueError where nothing is covered.
    """
    warnings = []
    relative_contrast, noise = _contrast_and_noise(object, coverage, illuminated_pixels(coverage), probe)
    if relative_contrast < noise:
        warnings.append(
            f"the object is flat: it varies by {relative_contrast:.2g} (rms) where light fell, less than the "
            f"{noise:.2g} of shot noise alone"
        )
    if counts is not None and is_dark(object, coverage, probe, counts):
        transmitted = transmitted_fraction(object, coverage, probe, counts)
        warnings.append(
            f"the object is dark: it lets {100 * transmitted:.2g} % of the photons through that were counted; a "
            "network trained on absolute errors of amplitudes ends there where most pixels count nothing: train it on "
            "the likelihood (nll_weight), and check the scale of the probe"
        )
    return warnings + ([] if patches is None else saturation_warnings(patches, probe, amplitude_bound))


def transmitted_fraction(
    object: Complex[Array, "H W"], coverage: Float[Array, "H W"], probe: Complex[Array, "M n n"], counts: float
) -> float:
    """Photons that an object transmits over the ``counts`` of the frames that it is made of: about 1 for a true one,
    more where pixels are masked. Infinite where nothing was counted."""
    transmitted = peak_photons(probe) * float((coverage * np.abs(object) ** 2).sum())
    return transmitted / counts if counts > 0 else np.inf


def is_dark(
    object: Complex[Array, "H W"],
    coverage: Float[Array, "H W"],
    probe: Complex[Array, "M n n"],
    counts: float,
    below: float = 0.5,
) -> bool:
    """Whether an object transmits less than this fraction of the photons that were counted."""
    return bool(transmitted_fraction(object, coverage, probe, counts) < below)


def saturation_warnings(
    patches: Complex[Array, "F n n"],
    probe: Complex[Array, "M n n"],
    amplitude_bound: float | None = None,
    *,
    tolerance: float = 0.01,
    illuminated_above: float = 0.1,
) -> list[str]:
    """Sentences on network outputs that are at a bound in more than 1 % of the illuminated pixels.

    ``tolerance`` is both: how near to +-pi or to ``amplitude_bound``, relative to it, an output is at the bound, and
    the fraction of such pixels that is worth a warning. A pixel of a patch is illuminated where the probe has more than
    ``illuminated_above`` of its brightest intensity.
    """
    warnings = []
    illumination = (np.abs(probe) ** 2).sum(axis=0)
    values = patches[:, illumination > illuminated_above * illumination.max()]
    phase = float((np.abs(np.angle(values)) > (1 - tolerance) * np.pi).mean())
    if phase > tolerance:
        warnings.append(f"the network is saturated: the phase is within 1 % of +-pi in {100 * phase:.3g} % of pixels")
    if amplitude_bound is not None:
        amplitude = float((np.abs(values) > (1 - tolerance) * amplitude_bound).mean())
        if amplitude > tolerance:
            warnings.append(
                f"the network is saturated: the amplitude is within 1 % of its bound {amplitude_bound:g} in "
                f"{100 * amplitude:.3g} % of pixels"
            )
    return warnings


def _contrast_and_noise(
    object: Complex[Array, "H W"],
    coverage: Float[Array, "H W"],
    illuminated: Bool[Array, "H W"],
    probe: Complex[Array, "M n n"],
) -> tuple[float, float]:
    """Rms variation of the object under the weight w of its illumination, and that of shot noise.

    An error of variance ``1 / (2 n)``, with ``n = w peak_photons``, has the weighted mean ``sum w / (2 n) / sum w``.
    """
    weight = np.where(illuminated, coverage, 0).astype(float)
    wave = np.where(illuminated, object, 0).astype(complex)
    # The phase of the mean step is that of the ramp exactly where the object is constant, the case that matters.
    slopes = [np.angle(np.vdot(wave[:-1], wave[1:])), np.angle(np.vdot(wave[:, :-1], wave[:, 1:]))]
    y, x = (np.arange(n) for n in wave.shape)
    wave = wave * np.exp(-1j * slopes[0] * y)[:, None] * np.exp(-1j * slopes[1] * x)
    # Weighted variance sum w |o - <o>|^2 / sum w
    mean = (weight * wave).sum() / weight.sum()
    variance = (weight * np.abs(wave - mean) ** 2).sum() / weight.sum()
    # w / (2 n) = 1 / (2 peak_photons) in every illuminated pixel
    noise = illuminated.sum() / (2 * peak_photons(probe) * weight.sum())
    return float(np.sqrt(variance)), float(np.sqrt(noise))
