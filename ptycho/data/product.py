"""Results of other programs: an object, with the probe and positions that belong to it, but no frames."""

from dataclasses import dataclass

import numpy as np

from ptycho.arrays import Array, Complex, Float
from ptycho.data.beam import Beam
from ptycho.data.scan import checked_image, checked_pixel_size


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """A result as `ptycho convert` takes it from one file to another, in the conventions of `Scan`."""

    object: Complex[Array, "H W"]
    """complex64 transmission; of several slices or modes the first, which ``notes`` says."""
    slices: Complex[Array, "S H W"] | None = None
    """complex64, of a thick sample, in the order in which the wave meets them; ``object`` is their product."""
    slice_spacing_m: float | None = None
    """From one slice to the next, along the beam; None where it is not known."""
    probe: Complex[Array, "M N N"] | None = None
    """complex64, in the units of the program."""
    positions: Float[Array, "P 2"] | None = None
    """float64 (y, x): the object pixel under probe pixel ``(N // 2, N // 2)``."""
    pixel_size_m: float | None = None
    beam: Beam | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "object", checked_image(self.object, "Product.object"))
        object.__setattr__(self, "pixel_size_m", checked_pixel_size(self.pixel_size_m))
        if self.slices is not None:
            if self.slices.ndim != 3 or self.slices.shape[1:] != self.object.shape:
                raise ValueError(
                    f"Product.slices has shape {self.slices.shape}; expected (slices, *{self.object.shape})"
                )
            object.__setattr__(self, "slices", self.slices.astype(np.complex64, copy=False))
        if self.probe is not None:
            probe = np.asarray(self.probe)
            probe = probe[None] if probe.ndim == 2 else probe
            if probe.ndim != 3 or probe.dtype.kind not in "uifc" or not np.isfinite(probe).all():
                raise ValueError(f"Product.probe has shape {probe.shape}, {probe.dtype}; expected finite (modes, N, N)")
            object.__setattr__(self, "probe", probe.astype(np.complex64, copy=False))
        if self.positions is not None:
            positions = np.asarray(self.positions, np.float64)
            if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
                raise ValueError(f"Product.positions has shape {positions.shape}; expected finite (positions, 2)")
            object.__setattr__(self, "positions", positions)
