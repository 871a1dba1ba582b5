"""The beam of a scan, and the object pixel that follows from energy, distance and detector pixel.

Constants are those of CODATA 2022 (the first three exact by definition of the SI).
"""

import math
from dataclasses import dataclass
from typing import Literal

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

    def object_pixel_m(self, N: int, detector_pixel_m: float) -> float | None:
        """``wavelength distance / (N pixel)``: side of an object pixel in the far field; None without a distance."""
        return None if self.distance_m is None else self.wavelength_m * self.distance_m / (N * detector_pixel_m)
