"""HDF5 masters of Dectris detectors (Eiger, Arina, Pilatus) that record a raster: they hold no positions.

``entry/data/data_000001`` and on, or one ``entry/data/data``, mostly links to files beside the master, are the frames;
``entry/instrument/detector`` holds ``x_pixel_size`` and ``detector_distance`` in metres, ``beam_center_x`` and ``_y``,
``pixel_mask`` (0 = good), ``detectorSpecific/photon_energy`` eV. The user gives the rest (`ptycho.config.ReadConfig`).
Read only.
"""

from pathlib import Path

import numpy as np

from ptycho.data.frames import Counts, StoredFrames
from ptycho.data.scan import Scan
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has
from ptycho.formats._metres import beam_of
from ptycho.formats._raster import RasterFacts, raster_scan

GROUP, DETECTOR = "entry/data", "entry/instrument/detector"


def recognises_scan(path: Path) -> bool:
    """There is the first of the numbered stacks."""
    return hdf5_has(path, f"{GROUP}/data_000001") or hdf5_has(path, f"{GROUP}/data", f"{DETECTOR}/detectorSpecific")


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the frames of all stacks, one after the other."""
    with Hdf5(path, options) as file:
        numbered = [name for name in file.names(GROUP) if name.removeprefix("data_").isdecimal()]
        stacks = [file.frames(f"{GROUP}/{name}", raster=True) for name in numbered or ["data"]]
        number = lambda name: file.number(f"{DETECTOR}/{name}")
        pixel, distance = number("x_pixel_size"), number("detector_distance")
        # The setting of the threshold, in electron microscopes: an energy only beside a distance
        beam = beam_of(path, number("detectorSpecific/photon_energy") if distance else None, distance)
        mask = file.get(f"{DETECTOR}/detectorSpecific/pixel_mask", 2)
    # The beam centre stated is often a default, and the middle of the signal is found anyway: not used.
    facts = RasterFacts(
        detector_pixel=(pixel, "m") if pixel else None, beam=beam, mask=None if mask is None else mask == 0
    )
    return raster_scan(path, _joined(stacks), facts, options)


def _joined(stacks: list[Counts]) -> Counts:
    if all(isinstance(stack, np.ndarray) for stack in stacks):
        return np.concatenate(stacks)
    return StoredFrames.joined([StoredFrames.of(stack) for stack in stacks])


FORMAT = Format(
    name="dectris",
    suffixes=(".h5",),
    needs="HDF5: entry/data/data_000001",
    scans=Access(recognises_scan, read_scan),
    raster=True,
)
