"""PtychoShelves' HDF5: prepared frames (by LibDetXR, or by its older mex), and reconstructions.

- ``measurement/n0/data`` (P, N, N) intensity and ``positions`` (P, 2) metres as (row, column). Lists of 0-based (row,
  column): ``measurement/n0/bad_pixels`` or ``detector/n0/bad_pixels``. ``detector/n0/modules`` has rows (height, width,
  first row, first column); what lies outside all modules is no pixel.
- The older: ``measurements/measurement_<i>/diff_pat`` with the attribute ``position``, and ``bad_pixels``, 1 = good.
- The result, written by MATLAB, so that h5py sees it transposed: ``reconstruction/p/objects/object_0``,
  ``reconstruction/p/probes/probe_0``.

Read only; the user tells the pixel size.
"""

from pathlib import Path

import numpy as np

from ptycho.data.frames import Counts
from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has
from ptycho.formats._metres import assembled, in_pixels, object_pixel
from ptycho.io import BadFile

Array = np.ndarray

DATA, DETECTOR, OLDER = "measurement/n0", "detector/n0", "measurements"


def recognises_scan(path: Path) -> bool:
    """Frames in either of the places."""
    return hdf5_has(path, f"{DATA}/data") or hdf5_has(path, OLDER)


def recognises_product(path: Path) -> bool:
    """Objects and probes of a reconstruction."""
    return hdf5_has(path, "reconstruction/p/objects", "reconstruction/p/probes")


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the first scan of the file."""
    with Hdf5(path, options) as file:
        notes = [f"The file holds {len(file.names('measurement'))} scans; this is the first."]
        notes = notes if len(file.names("measurement")) > 1 else []
        counts, metres, mask = _prepared(file) if file.has(f"{DATA}/data") else _older(file)
    pixel = object_pixel(path, options, None, counts.shape[-1], None, "energy, distance and detector pixel")
    positions = in_pixels(path, "positions", metres, pixel, options)
    return assembled(path, counts, positions, mask=mask, notes=notes, pixel_size_m=pixel, options=options)


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read the first object and probe."""
    with Hdf5(path, options) as file:
        image = file.array("reconstruction/p/objects/object_0", "reconstruction/object", ndim=(2, 3), kinds=COMPLEX)
        probe = file.array("reconstruction/p/probes/probe_0", "reconstruction/probes", ndim=(2, 3), kinds=COMPLEX)
    # MATLAB stores column by column: h5py sees rows and columns exchanged.
    image, probe = (np.swapaxes(array, -1, -2) for array in (image, probe))
    return Product(
        object=image if image.ndim == 2 else image[0],
        probe=probe,
        pixel_size_m=options.pixel_size_m,
        source=str(path),
    )


def _prepared(file: Hdf5) -> tuple[Counts, Array, Array]:
    """``(counts, positions in metres, mask)``."""
    counts, positions = file.frames(f"{DATA}/data"), file.array(f"{DATA}/positions", ndim=2)
    if positions.shape != (len(counts), 2) and positions.shape[0] == 2:
        positions = positions.T  # as MATLAB leaves two columns
    mask = np.ones(counts.shape[1:], bool)
    modules = file.get(f"{DETECTOR}/modules", 2)
    if modules is not None:
        mask[:] = False
        modules = modules if modules.shape[1] == 4 else modules.T
        if modules.shape[1] != 4:
            raise BadFile(f"{file.path} has '{DETECTOR}/modules' of shape {modules.shape}; expected 4 columns")
        for height, width, row, column in modules.astype(int).tolist():
            # Negative starts would count from the end.
            mask[max(row, 0) : max(row + height, 0), max(column, 0) : max(column + width, 0)] = True
    for key in (f"{DATA}/bad_pixels", f"{DETECTOR}/bad_pixels"):
        bad = file.get(key, kinds="ui") if file.has(key) else None
        if bad is None or not bad.size:
            continue
        bad = bad if bad.ndim == 2 and bad.shape[1] == 2 else bad.T
        if bad.ndim != 2 or bad.shape[1] != 2 or (bad < 0).any() or (bad >= mask.shape).any():
            raise BadFile(f"{file.path} has {key!r} of shape {bad.shape}; expected pairs (row, column) within a frame")
        mask[tuple(bad.T)] = False
    return counts, positions, mask


def _older(file: Hdf5) -> tuple[Counts, Array, Array]:
    """One group for each frame; a pixel is used if it is good in all."""
    frames, positions, mask = [], [], None
    names = [name for name in file.names(OLDER) if name.startswith("measurement_")]
    # By number: shorter names first, so that 2 comes before 10.
    for name in sorted(names, key=lambda name: (len(name), name)):
        key = f"{OLDER}/{name}"
        frames.append(file.array(f"{key}/diff_pat", ndim=2))
        position = file.attribute_array(key, "position")
        if position is None or position.size != 2 or frames[-1].shape != frames[0].shape:
            raise BadFile(f"{file.path} has {key!r} without a 'position' of two, or of another size than the first")
        positions.append(position.ravel())
        good = file.get(f"{key}/bad_pixels", 2)
        if good is not None and good.shape == frames[0].shape:
            # Called "bad_pixels", but 1 is good.
            mask = (good != 0) & (True if mask is None else mask)
    if not frames:
        raise BadFile(f"{file.path} has no 'measurement_0' in {OLDER!r}; prepare the data again")
    used = np.ones(frames[0].shape, bool) if mask is None else mask
    return np.stack(frames), np.stack(positions), used


FORMAT = Format(
    name="ptychoshelves",
    suffixes=(".h5",),
    needs="HDF5: measurement/n0/data, positions, or measurements/measurement_0/diff_pat; as a result reconstruction/p",
    scans=Access(recognises_scan, read_scan),
    pairs=True,
    products=Access(recognises_product, read_product),
)
