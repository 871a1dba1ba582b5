"""fold_slice (and PtychoShelves) in MATLAB: the pair of files it starts from, and its result ``Niter*.mat``.

- ``*_dp.hdf5``: ``dp``, in MATLAB (rows, columns, P), so that h5py sees (P, columns, rows): each frame is transposed
  against files of the same name that Python wrote.
- ``*_para.hdf5``: ``ppX``, ``ppY`` (P,), metres, or angstroms for electrons (taken for that beyond a millimetre).
  MATLAB uses (row, column) = (-ppY, -ppX). There is neither energy nor pixel size.
- The result: ``object`` (H, W[, slices]), ``probe`` (N, N, modes[, opr_modes]), ``outputs.probe_positions`` (P, 2) px
  as (x, y) from the object's centre: the probe's first pixel lies ``ceil(H / 2 - N / 2) - 1`` beyond; ``p.dx_spec`` and
  ``p.lambda`` in metres, or angstroms.

Read only.
"""

from pathlib import Path

import numpy as np

from ptycho.data.frames import mapped
from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats import _matlab, _pairs
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has
from ptycho.formats._metres import UNITS, assembled, beam_of, in_pixels, object_pixel
from ptycho.io import BadFile

Array = np.ndarray

ANGSTROM, WIDEST_M = UNITS["angstrom"], UNITS["mm"]
"""Positions that spread further than a millimetre are angstroms; so are larger pixels."""
VARIABLES = ("object", "probe", "outputs.probe_positions", "p.dx_spec", "p.lambda")


def recognises_scan(path: Path) -> bool:
    """Positions with their frames, or frames with their positions, by the names of the files."""
    parameters, frames = _pairs.of(path)
    return frames is not None and hdf5_has(parameters, "ppX", "ppY")


def recognises_product(path: Path) -> bool:
    """A MATLAB file with the variables of a result."""
    return _matlab.has(path, "object", "probe", "outputs")


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the pair of files; frames as MATLAB has them. The user tells the pixel size."""
    parameters, frames = _pairs.of(path)
    if frames is None:
        raise BadFile(f"{path} holds no frames; put them beside it as {_pairs.frames_for(path).name}")
    with Hdf5(parameters, options) as file:
        x, y = (file.array(name).ravel() for name in ("ppX", "ppY"))
    if len(x) != len(y):
        raise BadFile(f"{parameters} has {len(x)} 'ppX' and {len(y)} 'ppY'; write it anew")
    with Hdf5(frames, options) as file:
        # MATLAB stores column by column: h5py sees (P, columns, rows).
        counts = mapped(file.frames("dp"), _transposed)
    # MATLAB's (row, column) is (-ppY, -ppX).
    metres = -np.stack([y, x], axis=1).astype(np.float64)
    pixel = object_pixel(parameters, options, None, counts.shape[-1], None, "energy, distance and detector pixel")
    notes = ["The frames were transposed, as in a file that MATLAB wrote; files written by Python are not transposed."]
    # Nothing in the file tells angstroms from metres, but no scan is as wide as this.
    if (
        options.given.position_unit is None
        and np.ptp(metres[np.isfinite(metres).all(axis=1)], axis=0).max(initial=0.0) > WIDEST_M
    ):
        metres = metres * ANGSTROM
        notes.append("The positions are too far apart for metres: they were taken as angstroms.")
    positions = in_pixels(parameters, "ppX", metres, pixel, options)
    return assembled(path, counts, positions, notes=notes, pixel_size_m=pixel, options=options)


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read the first slice of the object and the modes of the probe, without its opr_modes."""
    values = _matlab.load(path, VARIABLES, options)
    image, probe = (_at_least(path, values, name) for name in ("object", "probe"))
    scale = [_matlab.scalar(path, values, name) for name in ("p.dx_spec", "p.lambda")]
    unit = ANGSTROM if scale[0] is not None and scale[0] > WIDEST_M else 1.0
    pixel, wavelength = (None if value is None else value * unit for value in scale)
    notes = [
        f"'{name}' has several {axis}; this is the first."
        for name, axis, several in (
            ("object", "slices", image.shape[2] > 1),
            ("probe", "opr_modes", probe.shape[3] > 1),
        )
        if several
    ]
    positions = values.get("outputs.probe_positions")
    if positions is not None:
        sides = np.array(image.shape[:2]), np.array(probe.shape[:2])
        # (x, y) to (y, x); they are in pixels, of side 1.
        corners = in_pixels(path, "outputs.probe_positions", positions, 1.0)[:, ::-1]
        # First pixel of the probe to its pixel N // 2: MATLAB counts from 1 and from the middle of the object.
        positions = corners + np.ceil(sides[0] / 2 - sides[1] / 2) - 1 + sides[1] // 2
    return Product(
        object=image[:, :, 0, 0],
        # (N, N, modes) to (modes, N, N)
        probe=np.ascontiguousarray(probe[..., 0].transpose(2, 0, 1)),
        positions=positions,
        pixel_size_m=options.pixel_size_m or pixel,
        beam=beam_of(path, None, None, "electron" if unit != 1 else "photon", wavelength),
        source=str(path),
        notes=tuple(notes),
    )


def _transposed(frames: Array) -> Array:
    return np.ascontiguousarray(np.swapaxes(frames, -1, -2))


def _at_least(path: Path, values: dict[str, Array], name: str) -> Array:
    """The array with four axes, as MATLAB counts those of length 1 at the end; BadFile without it."""
    array = values.get(name)
    if array is None or not 2 <= array.ndim <= 4 or not array.size:
        raise BadFile(f"{path} has no {name!r} of 2 to 4 axes; save it with its 'object', 'probe' and 'outputs'")
    return array.reshape(*array.shape, *[1] * (4 - array.ndim))


FORMAT = Format(
    name="fold_slice",
    suffixes=("_para.hdf5", ".mat"),
    needs="*_dp.hdf5 with dp and beside it *_para.hdf5 with ppX, ppY; or as a result MATLAB: object, probe, outputs",
    scans=Access(recognises_scan, read_scan),
    pairs=True,
    products=Access(recognises_product, read_product),
)
