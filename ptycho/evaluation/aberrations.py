"""The aberrations of an electron lens, from the probe that a fit has found.

In the far field a probe is the aperture ``A exp(-i chi)``, with the phase that the lens gives to the angle alpha and
the azimuth phi of a ray,

    chi = 2 pi / wavelength  sum_nm C_nm alpha^(n + 1) / (n + 1) cos(m (phi - phi_nm)),

after Krivanek, Dellby & Lupini, Ultramicroscopy 78, 1 (1999). phi is counted from the first axis of the frames (down)
towards the second (right).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Float
from ptycho.diagnostics.statistics import bright_disc
from ptycho.evaluation.measured import Measured

ORDERS = ((1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2), (3, 4))
"""(n, m) of the coefficients up to third order."""

HAIDER = {
    (1, 0): ("C1", 1.0),
    (1, 2): ("A1", 1.0),
    (2, 1): ("B2", 1 / 3),
    (2, 3): ("A2", 1.0),
    (3, 0): ("C3", 1.0),
    (3, 2): ("S3", 1 / 4),
    (3, 4): ("A3", 1.0),
}
"""Names after Uhlemann & Haider, Ultramicroscopy 72, 109 (1998), and what Krivanek's coefficients are multiplied by."""


class Aberration(NamedTuple):
    """One coefficient."""

    n: int
    m: int
    value_a: float
    """In A; not negative where ``m > 0``. ``C10 = -defocus``: negative in underfocus."""
    error_a: float
    """Standard error, from parts of the aperture left out one by one."""
    angle_deg: float
    """phi_nm, from 0 to 360 / m; 0 for ``m = 0``."""

    @property
    def name(self) -> str:
        """After Krivanek."""
        return f"C{self.n}{self.m}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in both notations."""
        name, factor = HAIDER[self.n, self.m]
        haider = dict(name=name, value_a=self.value_a * factor)
        return dict(name=self.name, value_a=self.value_a, error_a=self.error_a, angle_deg=self.angle_deg, haider=haider)

    @property
    def is_significant(self) -> bool:
        """Whether it is larger than twice its error."""
        return abs(self.value_a) > 2 * self.error_a

    def rounded(self) -> str:
        """Value and error with the digits that the error leaves."""
        unit, scale = ("A", 1.0) if abs(self.value_a) < 1e4 else ("um", 1e-4)
        return Measured(self.value_a * scale, self.error_a * scale).rounded(unit)

    def __str__(self) -> str:
        if (self.n, self.m) == (1, 0):
            return f"defocus {self._replace(value_a=-self.value_a).rounded()}"
        turn = f" at {self.angle_deg:.0f} degrees" if self.m else ""
        return f"{self.name} {self.rounded()}{turn}"


class Lens(NamedTuple):
    """What the probe tells of the lens that formed it."""

    semiangle_mrad: float
    """Where the aperture ends: at half of its intensity."""
    aberrations: tuple[Aberration, ...]
    unexplained_rad: float
    """Root mean square of the phase in the aperture that no aberration explains."""

    def sentence(self) -> str:
        """What is told of it: defocus, and what is larger than twice its error."""
        sentences = [str(each) for each in self.aberrations if each.is_significant or (each.n, each.m) == (1, 0)]
        return f"lens: semi-angle {self.semiangle_mrad:.1f} mrad, {', '.join(sentences)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(
            semiangle_mrad=self.semiangle_mrad,
            unexplained_rad=self.unexplained_rad,
            aberrations=[each.to_dict() for each in self.aberrations],
        )


def fit_lens(
    probe: Complex[Array, "N N"],
    pixel_size_m: float,
    wavelength_m: float,
    orders: Sequence[tuple[int, int]] = ORDERS,
    *,
    sectors: int = 12,
    rounds: int = 4,
) -> Lens | None:
    """Semi-angle and aberrations of the lens by the first mode of a probe; None where there is no aperture to see.

    The differences of the phase between neighbouring pixels are linear in the coefficients, and need no unwrapping as
    long as the probe fits into its window; what then is left of the phase itself, far below a turn, makes them precise.
    A tilt of the phase, the place of the probe, is fitted along. ``sectors`` of the aperture are left out one by one
    for the errors (jackknife).
    """
    N = probe.shape[-1]
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe)))
    k = np.arange(N) - N // 2
    to_rad = wavelength_m / (N * pixel_size_m)  # angle of one detector pixel
    intensity = np.abs(spectrum) ** 2
    bright = bright_disc(intensity)
    semiangle = float(np.sqrt(bright.sum() / np.pi))
    if not 6 <= semiangle < N / 2:  # of fewer pixels fourteen coefficients tell nothing
        return None
    middle = np.argwhere(bright).mean(axis=0) - N // 2
    inside = np.hypot(k[:, None] - middle[0], k - middle[1]) < 0.95 * semiangle
    wave, rows = spectrum * inside, _terms(N, orders, 1e10 * wavelength_m, to_rad)
    directions = (np.arctan2(k, k[:, None]) + np.pi) / (2 * np.pi) * sectors
    sector = np.minimum(directions.astype(int), sectors - 1)
    all_sectors = _fitted(wave, rows, inside, rounds)
    jackknife = np.stack(
        [_fitted(wave * (sector != one), rows, inside & (sector != one), rounds) for one in range(sectors)]
    )
    spread = np.sqrt((sectors - 1) / sectors * ((jackknife - jackknife.mean(axis=0)) ** 2).sum(axis=0))
    left = (wave * np.exp(1j * np.tensordot(all_sectors, rows, 1)))[inside]
    left = np.angle(left / left.sum())  # but for a constant
    return Lens(
        1e3 * semiangle * to_rad,
        tuple(_coefficients(orders, all_sectors[3:], spread[3:])),
        float(np.sqrt(np.average(left**2, weights=intensity[inside]))),
    )


def _terms(N: int, orders: Sequence[tuple[int, int]], wavelength_a: float, to_rad: float) -> Float[Array, "K N N"]:
    """Phases in rad of 1, two tilts of a rad a pixel, and of each coefficient of 1 A."""
    k = (np.arange(N) - N // 2).astype(float)
    alpha, phi = np.hypot(k[:, None], k) * to_rad, np.arctan2(k, k[:, None])
    terms = [np.ones((N, N)), np.broadcast_to(k[:, None], (N, N)), np.broadcast_to(k, (N, N))]
    for n, m in orders:
        radial = 2 * np.pi / wavelength_a * alpha ** (n + 1) / (n + 1)
        terms += [radial] if m == 0 else [radial * np.cos(m * phi), radial * np.sin(m * phi)]
    return np.stack(terms)


def _fitted(
    wave: Complex[Array, "N N"], terms: Float[Array, "K N N"], inside: Bool[Array, "N N"], rounds: int
) -> Float[Array, " K"]:
    """Coefficients of the phase ``-arg(wave)`` by least squares, weighted by the intensity."""
    systems = []
    for axis in (0, 1):
        ahead, here = np.roll(wave, -1, axis), wave
        neighbours = inside & np.roll(inside, -1, axis)
        difference = -np.angle(ahead * here.conj())[neighbours]
        slopes = (np.roll(terms[1:], -1, axis + 1) - terms[1:])[:, neighbours].T
        systems.append((slopes, difference, np.sqrt(np.abs(ahead * here))[neighbours]))
    slopes, differences, weights = (np.concatenate(parts) for parts in zip(*systems))
    coefficients = np.append(0.0, _least_squares(slopes, differences, weights))
    rows, weights = terms[:, inside].T, np.abs(wave[inside])
    for _ in range(rounds):
        left = wave[inside] * np.exp(1j * rows @ coefficients)
        left = left * np.exp(-1j * np.angle(left.sum()))  # the constant may be anything
        coefficients = coefficients + _least_squares(rows, -np.angle(left), weights)
    return coefficients


def _least_squares(rows: Float[Array, "L K"], values: Float[Array, " L"], weights: Float[Array, " L"]) -> Array:
    units = np.abs(rows).max(axis=0)  # coefficients of high orders are of other magnitudes
    return np.linalg.lstsq(rows / units * weights[:, None], values * weights, rcond=None)[0] / units


def _coefficients(orders: Sequence[tuple[int, int]], values: Array, errors: Array) -> list[Aberration]:
    """Magnitudes and angles of the cosine and sine parts."""
    aberrations, at = [], 0
    for n, m in orders:
        if m == 0:
            aberrations.append(Aberration(n, m, float(values[at]), float(errors[at]), 0.0))
            at += 1
            continue
        # a cos(m phi) + b sin(m phi) = C cos(m (phi - phi_nm))
        a, b = values[at : at + 2]
        size = float(np.hypot(a, b))
        error = float(np.hypot(a * errors[at], b * errors[at + 1]) / max(size, 1e-30))
        aberrations.append(Aberration(n, m, size, error, float(np.rad2deg(np.arctan2(b, a)) % 360) / m))
        at += 2
    return aberrations
