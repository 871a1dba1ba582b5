"""The beam of a scan, the object pixel that follows from energy, distance and detector pixel, and the probe of a lens.

Constants are those of CODATA 2022 (the first three exact by definition of the SI).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ptycho.arrays import Array, Complex

PLANCK_J_S = 6.62607015e-34
LIGHT_M_S = 299792458.0
ELEMENTARY_CHARGE_C = 1.602176634e-19
ELECTRON_REST_EV = 510998.95069
HC_EV_M = PLANCK_J_S * LIGHT_M_S / ELEMENTARY_CHARGE_C
"""Energy times wavelength of a photon: 1.2398 eV um."""

Particle = Literal["photon", "electron"]


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Particles, their energy, and the distance to the detector."""

    energy_eV: float
    """Energy of a photon; kinetic energy of an electron, the acceleration voltage in eV."""
    particle: Particle = "photon"
    distance_m: float | None = None
    """From the sample to the detector; None where it is not known, or meaningless behind lenses."""

    def __post_init__(self) -> None:
        for name in ("energy_eV", "distance_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0 if value is not None else name == "distance_m"):
                raise ValueError(f"Beam.{name} is {value}; expected a number above 0")
        if self.particle not in ("photon", "electron"):
            raise ValueError(f"Beam.particle is {self.particle!r}; expected 'photon' or 'electron'")

    @classmethod
    def of_wavelength(
        cls, wavelength_m: float, particle: Particle = "photon", distance_m: float | None = None
    ) -> "Beam":
        """The beam of a wavelength, the relativistic one of an electron."""
        if not (math.isfinite(wavelength_m) and wavelength_m > 0):
            raise ValueError(f"the wavelength is {wavelength_m} m; expected a number above 0")
        energy = HC_EV_M / wavelength_m
        if particle == "electron":
            # sqrt(p^2 + m^2) - m without the cancellation of two large numbers
            energy = energy**2 / (math.hypot(energy, ELECTRON_REST_EV) + ELECTRON_REST_EV)
        return cls(energy_eV=energy, particle=particle, distance_m=distance_m)

    @property
    def wavelength_m(self) -> float:
        """``h c / E`` of a photon; ``h c / sqrt(E (E + 2 m c^2))``, the relativistic one, of an electron."""
        if self.particle == "photon":
            return HC_EV_M / self.energy_eV
        # p c = sqrt(E (E + 2 m c^2)), E the kinetic energy
        return HC_EV_M / math.sqrt(self.energy_eV * (self.energy_eV + 2 * ELECTRON_REST_EV))

    @property
    def interaction_rad_per_v_a(self) -> float | None:
        """The phase in rad that a projected potential of 1 V A gives to an electron; None of photons.

        ``sigma = 2 pi m e wavelength / h^2 = 2 pi (E + m c^2) / (wavelength E (E + 2 m c^2))``, m the relativistic mass
        (Kirkland, Advanced Computing in Electron Microscopy, 2010, eq. 5.6); about 1 / 1000 at 80 kV.
        """
        if self.particle == "photon":
            return None
        E, rest = self.energy_eV, ELECTRON_REST_EV
        return 2e-10 * math.pi * (E + rest) / (self.wavelength_m * E * (E + 2 * rest))

    def object_pixel_m(self, N: int, detector_pixel_m: float) -> float | None:
        """``wavelength distance / (N pixel)``: side of an object pixel in the far field; None without a distance."""
        return None if self.distance_m is None else self.wavelength_m * self.distance_m / (N * detector_pixel_m)

    def detector_pixel_m(self, N: int, object_pixel_m: float) -> float | None:
        """The side of a detector pixel that has this object pixel in the far field: the relation is its own inverse."""
        return self.object_pixel_m(N, object_pixel_m)


def object_pixel_m(N: int, detector_pixel: tuple[float, str], beam: Beam | None) -> float | None:
    """Side of an object pixel in the far field, by the side of a detector pixel and its unit; None if more is needed.

    ``dx = 1 / (N dq)``, where a pixel covers the frequencies ``dq``: as it is in 1/m, 1/nm or 1/A; ``angle /
    wavelength`` in rad or mrad; ``length / (wavelength distance)`` in m, mm or um.
    """
    value, unit = detector_pixel
    inverse_lengths = {"1/m": 1.0, "1/nm": 1e9, "1/A": 1e10}
    if unit in inverse_lengths:
        return 1 / (N * value * inverse_lengths[unit])
    if beam is None:
        return None
    angles = {"rad": 1.0, "mrad": 1e-3}
    if unit in angles:
        return beam.wavelength_m / (N * value * angles[unit])
    return beam.object_pixel_m(N, value * {"m": 1.0, "mm": 1e-3, "um": 1e-6}[unit])


def aperture_probe(
    N: int,
    radius_px: float,
    defocus_m: float = 0.0,
    wavelength_m: float = 0.0,
    pixel_m: float = 1.0,
    edge_px: float = 0.4,
) -> Complex[Array, "1 N N"]:
    """The probe that a round aperture of so many detector pixels forms, of one photon; complex64.

    ``P = F^-1[A exp(-i chi)]``, ``chi = -pi wavelength defocus q^2``, the defocus positive in underfocus (C10 =
    -defocus). The edge of the aperture A is soft over ``edge_px``.
    """
    k = np.fft.fftfreq(N) * N
    radius = np.hypot(k[:, None], k)
    aperture = 1 / (1 + np.exp(np.clip((radius - radius_px) / edge_px, -50, 50)))
    # q = k / (N dx) in cycles per metre
    chi = -np.pi * wavelength_m * defocus_m * (radius / (N * pixel_m)) ** 2
    wave = np.fft.fftshift(np.fft.ifft2(aperture * np.exp(-1j * chi), norm="ortho"))
    return (wave / np.linalg.norm(wave))[None].astype(np.complex64)
