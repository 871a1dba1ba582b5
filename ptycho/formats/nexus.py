"""NeXus NXcxi_ptycho (``.nxs``): the places of CXI, with units as attributes, and the photons' energy elsewhere.

- ``instrument_1/source_1/energy`` is the energy of the *machine*; the photons' is ``beam_1/incident_beam_energy`` or
  ``beam_1/energy``.
- Frames (P, N, N), or (rows, columns, N, N) of a raster.
- Positions: ``translation`` (P, 3) as in CXI, or ``sample_1/transformations/{x,y}`` (P,) or (rows, columns) along the
  attribute ``vector`` of each, by default x and y.

Read only.
"""

from pathlib import Path

import numpy as np

from ptycho.data.scan import Scan
from ptycho.formats import cxi
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has
from ptycho.formats._metres import assembled, beam_of, in_pixels, object_pixel, quantity, unit
from ptycho.io import BadFile

Array = np.ndarray

BEAM = "entry_1/instrument_1/beam_1"
MOVES = "entry_1/sample_1/transformations"


def recognises_scan(path: Path) -> bool:
    """The definition names ptychography, or the energy is where only NeXus has it."""
    if not hdf5_has(path, "entry_1/instrument_1"):
        return False
    with Hdf5(path) as file:
        definition = file.text("entry_1/definition") or ""
        return "ptycho" in definition.lower() or file.has(BEAM) or file.has(MOVES)


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file; the frames of a raster are numbered row by row."""
    with Hdf5(path, options) as file:
        counts = file.frames(*cxi.FRAMES[::-1], raster=True)
        basis, _ = cxi.geometry(file)
        energy = quantity(file, f"{BEAM}/incident_beam_energy", f"{BEAM}/energy")
        wavelength = quantity(file, f"{BEAM}/incident_wavelength")
        beam = beam_of(path, energy, quantity(file, f"{cxi.DETECTOR}/distance"), wavelength_m=wavelength)
        # One side is enough where pixels are square.
        y, x = (quantity(file, f"{cxi.DETECTOR}/{axis}_pixel_size") for axis in "yx")
        needed = "beam_1/incident_beam_energy, detector_1/distance and x_pixel_size"
        pixel = tuple(object_pixel(path, options, beam, counts.shape[-1], d, needed) for d in (y or x, x or y))
        key, moved = _moved(file)
        mask, notes = cxi.usable(file)
        notes += _off_centre(file, counts.shape[-1])
    positions = in_pixels(path, key, cxi.on_detector(path, key, moved, basis), pixel)
    return assembled(path, counts, positions, mask=mask, notes=notes, beam=beam, pixel_size_m=pixel[1])


def _moved(file: Hdf5) -> tuple[str, Array]:
    """The key of the moves of the sample, and these (P, 3) in metres."""
    key = file.first(f"{cxi.DETECTOR}/translation", *cxi.TRANSLATIONS)
    if key is not None:
        return key, file.array(key, ndim=2) * unit(file, key)
    total: Array | float = 0.0
    for axis, usual in (("x", [1.0, 0.0, 0.0]), ("y", [0.0, 1.0, 0.0])):
        key = f"{MOVES}/{axis}"
        vector = file.attribute_array(key, "vector")
        vector = np.array(usual) if vector is None else vector
        values = file.array(key, ndim=(1, 2)).ravel() * unit(file, key)
        if vector.shape != (3,) or (isinstance(total, np.ndarray) and len(total) != len(values)):
            raise BadFile(f"{file.path} has {key!r} of {len(values)} values along {vector}; expected as many x as y")
        # (P, 3): the sample moves by the sum of both axes, each along its vector.
        total = total + values[:, None] * vector
    return MOVES, np.asarray(total)


def _off_centre(file: Hdf5, N: int) -> tuple[str, ...]:
    """A note where the file puts the beam elsewhere than at the centre of the frames."""
    centre = [file.number(f"{cxi.DETECTOR}/beam_center_{axis}") for axis in "yx"]
    if None in centre or all(abs(p - N // 2) <= 1 for p in centre if p is not None):
        return ()
    return (f"The file puts the beam at pixel ({centre[0]:g}, {centre[1]:g}) (y, x); the frames were not moved.",)


FORMAT = Format(
    name="nexus",
    suffixes=(".nxs",),
    needs="HDF5: entry_1/definition = NXptycho or instrument_1/beam_1, detector_1/data, translation or transformations",
    scans=Access(recognises_scan, read_scan),
)
