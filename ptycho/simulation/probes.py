"""Probes: the defocused beam of an aperture such as a zone plate, and its incoherent modes."""

from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array, Complex, Float, Shaped


class Aberrations(NamedTuple):
    """Phase of an aperture in waves at its edge."""

    defocus: float
    astigmatism: float
    coma: float


def make_probe(
    n: int,
    photons: float = 1e5,
    diameter: float = 0.55,
    defocus: float | None = None,
    modes: int = 1,
    *,
    astigmatism: float = 0.25,
    coma: float = 0.1,
    bright_field: float = 0.34,
) -> Complex[Array, "{modes} {n} {n}"]:
    """Probe complex64 in sqrt(photons), with ``sum |probe|^2 = photons`` over all modes.

    The far field of the main mode is a disc with a soft edge. Its phase is that of a defocused lens with some
    astigmatism and coma, so that the probe has no symmetry that would hide a swap of y and x or a flip.

    Args:
        n: side in pixels.
        photons: incident photons per frame.
        diameter: second-moment (D4-sigma, ISO 11146) diameter of the main mode as a fraction of ``n``; that of a
            uniform disc is its diameter. Without defocus the window cuts off diffraction rings, and it is smaller.
        defocus: phase in waves between the centre and the edge of the probe; positive where the phase grows outwards
            (the sample is behind the focus). None: what gives the far field the diameter ``bright_field``. At a given
            diameter of the probe, the far field widens with defocus.
        modes: mode m carries half the photons of mode m - 1; all are orthogonal (`orthogonal_modes`).
        astigmatism: as a fraction of the defocus.
        coma: as a fraction of the defocus.
        bright_field: diameter of the far-field disc as a fraction of the detector, where no defocus is given.

    Raises:
        ValueError: the far field would not fit on the detector.
    """
    # W waves of defocus over the radius R, W (r / R)^2, have the local frequency 2 W / R at the edge: the radius of the
    # far field, bright_field / 2 in cycles per pixel.
    defocus = 0.5 * bright_field / 2 * diameter * n / 2 if defocus is None else defocus
    aberrations = Aberrations(defocus, defocus * astigmatism, defocus * coma)
    radius = _aperture_radius(n, diameter, aberrations)
    frequency = np.fft.fftshift(np.fft.fftfreq(n)) / radius
    field = _pupil(frequency[:, None], frequency[None, :], aberrations)
    # Zero frequency and the middle of the probe at pixel n // 2, for n odd or even
    main = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(field)))
    return with_photons(orthogonal_modes(main, modes), photons)


def orthogonal_modes(main: Complex[Array, "n n"], modes: int) -> Complex[Array, "{modes} n n"]:
    """Modes of unit norm: ``main`` times polynomials in y and x, made orthogonal.

    The degrees rise as in Hermite-Gauss beams; the first mode is ``main`` itself.
    """
    n = main.shape[-1]
    basis = np.polynomial.legendre.legvander(np.linspace(-1, 1, n), modes)
    order = sorted(((i, j) for i in range(modes) for j in range(modes)), key=lambda ij: (sum(ij), ij))[:modes]
    columns = np.stack([(main * np.outer(basis[:, i], basis[:, j])).ravel() for i, j in order], axis=1)
    # QR leaves the phase of each column open: with that of r_kk the first mode is `main`, not a multiple by a phase.
    q, r = np.linalg.qr(columns)
    phase = np.diag(r) / np.abs(np.diag(r))
    return (q * phase).T.reshape(modes, n, n)


def with_photons(modes: Complex[Array, "M n n"], photons: float) -> Complex[Array, "M n n"]:
    """Unit-norm modes scaled to ``photons`` in total, halved from mode to mode; complex64."""
    # Powers 1, 1/2, 1/4, ... of the total; amplitudes go with their roots.
    weights = 0.5 ** np.arange(len(modes))
    return (modes * np.sqrt(photons * weights / weights.sum())[:, None, None]).astype(np.complex64)


def with_modes(probe: Complex[Array, "M n n"], modes: int, added_power: float = 0.02) -> Complex[Array, "{modes} n n"]:
    """A probe with modes added up to ``modes``, to start a fit of partially coherent data from; complex64.

    Those added are the first mode times polynomials in y and x, as in `orthogonal_modes`, each with ``added_power`` of
    the photons; the total stays. ValueError where the probe has more modes already.
    """
    if not len(probe) <= modes <= 64:
        raise ValueError(f"{modes} probe modes asked for; the probe has {len(probe)}, and the limit is 64")
    photons = np.sum(np.abs(probe) ** 2)
    added = orthogonal_modes(probe[0], modes)[len(probe) :] * np.sqrt(added_power * photons)
    # The photons of the added modes are taken from the given ones.
    kept = probe * np.sqrt(max(1 - added_power * len(added), 0.5))
    joined = np.concatenate([kept, added])
    return (joined * np.sqrt(photons / np.sum(np.abs(joined) ** 2))).astype("complex64")


def probe_diameter(wave: Shaped[Array, "n m"]) -> float:
    """Second-moment (D4-sigma, ISO 11146) diameter of ``|wave|^2`` in pixels: four standard deviations."""
    intensity = np.abs(wave) ** 2 / np.sum(np.abs(wave) ** 2)
    variances = []
    for axis in (0, 1):
        profile = intensity.sum(axis=1 - axis)
        index = np.arange(len(profile))
        variances.append(np.sum(profile * (index - np.sum(profile * index)) ** 2))
    return float(4 * np.sqrt(np.mean(variances)))


def _pupil(
    v: Float[Array, "n 1"], u: Float[Array, "1 n"], aberrations: Aberrations, edge_order: int = 12
) -> Complex[Array, "n n"]:
    """Soft aperture at (v, u), along (y, x) in units of its radius r; aberrations in waves at its edge.

    ``A = exp(-ln 2 / 2 r^k - 2 pi i [a_2 r^2 + a_1 (u^2 - v^2) + a_3 (r^2 - 1) u])``. The super-Gaussian of order k =
    12 falls from 94 % to 1 % of the intensity over a third of the radius.
    """
    squared = v**2 + u**2
    amplitude = np.exp(-np.log(2) / 2 * squared ** (edge_order / 2))
    defocus, astigmatism, coma = aberrations
    waves = defocus * squared + astigmatism * (u**2 - v**2) + coma * (squared - 1) * u  # -1: the probe stays centred
    return amplitude * np.exp(-2j * np.pi * waves)


def _aperture_radius(n: int, diameter: float, aberrations: Aberrations, edge_order: int = 12) -> float:
    """Radius of the aperture in cycles/pixel that gives the probe its diameter.

    By Parseval the mean square of position in the probe is that of the gradient in the aperture, ``|grad A|^2 / (2
    pi)^2 = |A|^2 [(d log|A| / dr)^2 / (2 pi)^2 + |grad waves|^2]``, and scales with the inverse square of its radius.
    """
    defocus, astigmatism, coma = aberrations
    axis = np.linspace(-1.5, 1.5, 301)
    v, u = axis[:, None], axis[None, :]
    intensity = np.abs(_pupil(v, u, aberrations, edge_order)) ** 2
    edge = edge_order * np.log(2) / 2 * np.hypot(v, u) ** (edge_order - 1)  # -d log|A| / dr
    # Gradient of the waves of `_pupil` along u and v
    waves_u = 2 * (defocus + astigmatism) * u + coma * (3 * u**2 + v**2 - 1)
    waves_v = 2 * (defocus - astigmatism) * v + 2 * coma * u * v
    squared = (edge / (2 * np.pi)) ** 2 + waves_u**2 + waves_v**2
    variance = np.sum(intensity * squared) / np.sum(intensity) / 2  # along one axis
    # D4-sigma: 4 sigma = diameter n, and sigma = sqrt(variance) / radius
    radius = 4 * np.sqrt(variance) / (diameter * n)
    if radius * 1.2 > 0.5:  # the soft edge included
        raise ValueError(
            f"a probe of diameter {diameter} x {n} px with defocus {defocus:.3g} spreads beyond "
            "the detector: lower the defocus, or make the probe larger"
        )
    return radius
