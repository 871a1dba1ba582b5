"""Illuminations: the defocused beam of an aperture such as a zone plate, and its incoherent modes."""

import numpy as np

EDGE_ORDER = 12  # super-Gaussian: intensity falls from 94 % to 1 % over a third of the radius
BRIGHT_FIELD = 0.34  # diameter of the far-field disc as part of the detector, when no defocus is asked for


def make_probe(
    n: int,
    photons: float = 1e5,
    diameter: float = 0.55,
    defocus: float | None = None,
    modes: int = 1,
    *,
    astigmatism: float = 0.25,
    coma: float = 0.1,
) -> np.ndarray:
    """Probe ``(modes, n, n)`` complex64 in sqrt(photons), with ``sum |probe|^2 = photons`` over all modes.

    The far field of the main mode is a disc with a soft edge, and its phase is that of a lens out of focus
    with some astigmatism and coma, so that neither y and x nor the two directions along x are alike.

    Parameters
    ----------
    n : side in pixels.
    photons : incident photons per frame.
    diameter : second-moment (D4-sigma, ISO 11146) diameter of the main mode as part of ``n``; that of a
        uniform disc is its diameter. Without defocus the frame cuts off diffraction rings, and it comes out
        smaller.
    defocus : phase in waves between the centre and the edge of the probe; positive where the phase grows
        outwards (the sample is behind the focus). None takes what spreads the far field over a third of the
        detector. The larger the defocus at a given diameter, the wider the far field.
    modes : mode m carries half the photons of mode m - 1; all are orthogonal (`orthogonal_modes`).
    astigmatism, coma : as parts of the defocus.

    Raises ValueError where the far field would not fit on the detector.
    """
    defocus = 0.5 * BRIGHT_FIELD / 2 * diameter * n / 2 if defocus is None else defocus
    aberrations = (defocus, defocus * astigmatism, defocus * coma)
    radius = _aperture_radius(n, diameter, aberrations)
    frequency = np.fft.fftshift(np.fft.fftfreq(n)) / radius
    field = _pupil(frequency[:, None], frequency[None, :], *aberrations)
    main = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(field)))
    return with_photons(orthogonal_modes(main, modes), photons)


def orthogonal_modes(main: np.ndarray, modes: int) -> np.ndarray:
    """Modes ``(modes, n, n)`` of unit norm: ``main`` times polynomials in y and x, made orthogonal.

    The degrees rise as in Hermite-Gauss beams; the first mode is ``main`` itself.
    """
    n = main.shape[-1]
    basis = np.polynomial.legendre.legvander(np.linspace(-1, 1, n), modes)
    order = sorted(((i, j) for i in range(modes) for j in range(modes)), key=lambda ij: (sum(ij), ij))[:modes]
    columns = np.stack([(main * np.outer(basis[:, i], basis[:, j])).ravel() for i, j in order], axis=1)
    q, r = np.linalg.qr(columns)
    phase = np.diag(r) / np.abs(np.diag(r))
    return (q * phase).T.reshape(modes, n, n)


def with_photons(modes: np.ndarray, photons: float) -> np.ndarray:
    """Unit-norm modes ``(M, n, n)`` scaled to ``photons`` in all, halved from mode to mode; complex64."""
    weights = 0.5 ** np.arange(len(modes))
    return (modes * np.sqrt(photons * weights / weights.sum())[:, None, None]).astype(np.complex64)


SIDE_MODE = 0.02


def with_modes(probe: np.ndarray, modes: int) -> np.ndarray:
    """A probe ``(M, n, n)`` with modes added up to ``modes``, to start from where the light is not fully coherent.

    Those added are the first mode times polynomials in y and x, as `orthogonal_modes`, with 2 % of the photons each;
    the total stays. ValueError where the probe has more modes already.
    """
    if not len(probe) <= modes <= 64:
        raise ValueError(f"{modes} probe modes asked for; the probe has {len(probe)}, and 64 are the most")
    photons = np.sum(np.abs(probe) ** 2)
    added = orthogonal_modes(probe[0], modes)[len(probe) :] * np.sqrt(SIDE_MODE * photons)
    kept = probe * np.sqrt(max(1 - SIDE_MODE * len(added), 0.5))
    joined = np.concatenate([kept, added])
    return (joined * np.sqrt(photons / np.sum(np.abs(joined) ** 2))).astype("complex64")


def probe_diameter(wave: np.ndarray) -> float:
    """Second-moment (D4-sigma, ISO 11146) diameter of ``|wave|^2`` ``(n, m)``, in pixels."""
    light = np.abs(wave) ** 2 / np.sum(np.abs(wave) ** 2)
    variances = []
    for axis in (0, 1):
        profile = light.sum(axis=1 - axis)
        index = np.arange(len(profile))
        variances.append(np.sum(profile * (index - np.sum(profile * index)) ** 2))
    return float(4 * np.sqrt(np.mean(variances)))


def _pupil(v, u, defocus, astigmatism, coma):
    """Soft aperture at (v, u), along (y, x) in units of its radius; aberrations in waves at its edge."""
    squared = v**2 + u**2
    amplitude = np.exp(-np.log(2) / 2 * squared ** (EDGE_ORDER / 2))
    waves = defocus * squared + astigmatism * (u**2 - v**2) + coma * (squared - 1) * u  # -1: the probe stays centred
    return amplitude * np.exp(-2j * np.pi * waves)


def _aperture_radius(n: int, diameter: float, aberrations: tuple[float, float, float]) -> float:
    """Radius of the aperture in cycles/pixel that gives the probe its diameter.

    The mean square of position in the probe is that of the gradient in the aperture (Parseval), and scales
    with the inverse square of its radius.
    """
    defocus, astigmatism, coma = aberrations
    axis = np.linspace(-1.5, 1.5, 301)
    v, u = axis[:, None], axis[None, :]
    light = np.abs(_pupil(v, u, *aberrations)) ** 2
    edge = EDGE_ORDER * np.log(2) / 2 * np.hypot(v, u) ** (EDGE_ORDER - 1)  # -d log(amplitude) / d radius
    waves_u = 2 * (defocus + astigmatism) * u + coma * (3 * u**2 + v**2 - 1)
    waves_v = 2 * (defocus - astigmatism) * v + 2 * coma * u * v
    squared = (edge / (2 * np.pi)) ** 2 + waves_u**2 + waves_v**2
    variance = np.sum(light * squared) / np.sum(light) / 2  # along one axis
    radius = 4 * np.sqrt(variance) / (diameter * n)
    if radius * 1.2 > 0.5:  # the soft edge included
        raise ValueError(
            f"a probe of diameter {diameter} x {n} px with defocus {aberrations[0]:.3g} spreads beyond "
            "the detector: lower the defocus, or make the probe larger"
        )
    return radius
