"""Prepared data of PtyPy (``.ptyd``): ``meta`` and numbered ``chunks``, SI units but for the energy in keV.

- ``meta``: ``energy`` keV, ``distance`` m, ``psize`` m of the detector (one, or two of rows and columns), ``center``
  (row, column); each may be missing or the string 'None'.
- ``chunks/<i>``: ``data`` (M, N, N) intensity, ``indices`` (M,), ``positions`` (M, 2) m in (y, x), of the beam on the
  sample, ``weights`` like the data or empty, 1 = good. A file that still grows, and chunks that are links to other
  files, are read as far as they exist.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptycho.data.frames import Counts, StoredFrames, chunks
from ptycho.data.scan import Scan
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has, write_frames
from ptycho.formats._metres import (
    assembled,
    beam_of,
    in_pixels,
    object_pixel,
    particle,
    physical,
    read_kept,
    write_kept,
)
from ptycho.io import BadFile, hdf5_file

Array = np.ndarray

LACKS = ("probe", "object", "notes")


def recognises_scan(path: Path) -> bool:
    """The description and the chunks are there."""
    return hdf5_has(path, "meta", "chunks")


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read all chunks that are complete, in the order of their indices; PtyPy's files hold no probe."""
    with Hdf5(path, options) as file:
        chunk, notes = _frames(file)
        sizes = _numbers(file, "meta/psize")
        energy = file.number("meta/energy")
        # keV to eV
        beam = beam_of(path, None if energy is None else energy * 1e3, file.number("meta/distance"), particle(file))
        beam = options.beam(beam)
        pixel = [
            object_pixel(path, options, beam, chunk.data.shape[-1], size, "meta/energy, distance and psize")
            for size in (sizes[0], sizes[-1])
        ]
        kept = read_kept(file, beam, pixel[1])
        notes += _off_centre(file, chunk.data.shape[-1])
    # Positions are of the beam on the sample, in (y, x): neither sign nor order changes.
    positions = in_pixels(path, "chunks/0/positions", chunk.positions, tuple(pixel), options)
    kept["mask"], mask_notes = _mask(chunk.good)
    return assembled(path, chunk.data, positions, notes=(*notes, *mask_notes), options=options, **kept)


class Chunk(NamedTuple):
    """A chunk of a file, or all of them joined."""

    data: Counts
    positions: Array
    indices: Array
    good: Array | None
    """(N, N): the fraction of frames in which the weight of a pixel is above 0; None where there are no weights."""


def _frames(file: Hdf5) -> tuple[Chunk, tuple[str, ...]]:
    """All chunks, sorted by index, and a note on one that is not complete."""
    names, complete, notes = file.names("chunks"), [], []
    sizes = (getattr(file.find(f"chunks/{name}/data"), "nbytes", 0) or 0 for name in names)
    left = sum(sizes) > file.options.in_memory_bytes
    for name in names:
        chunk = _chunk(file, f"chunks/{name}", name == names[-1] and len(names) > 1, left)
        if chunk is None:
            notes.append(f"The last chunk ({name}) is not complete, as of a scan that still runs: left out.")
        else:
            complete.append(chunk)
    if not complete:
        raise BadFile(f"{file.path} has no chunk in 'chunks'; save the data again, with save='append'")
    if any(chunk.data.shape[1:] != complete[0].data.shape[1:] for chunk in complete):
        raise BadFile(f"{file.path} has 'chunks' with frames of different size; save the data again")
    indices = np.concatenate([chunk.indices for chunk in complete])
    order = np.argsort(indices, kind="stable")
    data: Counts
    if left:
        data = StoredFrames.joined([StoredFrames.of(chunk.data) for chunk in complete]).picked(order)
    else:
        data = np.concatenate([chunk.data for chunk in complete])
        # Sorted already: no copy of the frames
        data = data[order] if (np.diff(order) != 1).any() else data
    positions = np.concatenate([chunk.positions for chunk in complete])[order]
    weights = [chunk.good for chunk in complete if chunk.good is not None]
    good = np.mean(weights, axis=0) if len(weights) == len(complete) else None
    return Chunk(data, positions, indices[order], good), tuple(notes)


def _good_fraction(weights: Counts) -> Array:
    """(N, N): the fraction of frames with a weight above 0."""
    return np.sum([(chunk > 0).sum(axis=0) for chunk in chunks(weights)], axis=0) / len(weights)


def _chunk(file: Hdf5, key: str, growing: bool, left: bool) -> Chunk | None:
    """None for a chunk that is still being written."""
    if growing and not all(file.has(f"{key}/{name}") for name in ("data", "positions")):
        return None
    data = file.frames(f"{key}/data", left=left)
    positions = file.array(f"{key}/positions", ndim=2)
    if len(positions) != len(data):
        if growing:
            return None
        raise BadFile(f"{file.path} has {len(data)} frames and {len(positions)} positions in {key!r}; save it again")
    indices = file.get(f"{key}/indices", 1, "ui")
    indices = np.arange(len(data)) if indices is None or len(indices) != len(data) else indices
    good = None
    stack = left and getattr(file.find(f"{key}/weights"), "ndim", 0) == 3
    weights = file.frames(f"{key}/weights", left=True) if stack else file.get(f"{key}/weights")
    if weights is not None and weights.size:
        if weights.shape[-2:] != data.shape[-2:] or weights.ndim not in (2, 3):
            raise BadFile(f"{file.path} has '{key}/weights' of shape {weights.shape}; expected that of the data")
        good = _good_fraction(weights if weights.ndim == 3 else weights[None])
    return Chunk(data, positions, indices, good)


def _mask(good: Array | None) -> tuple[Array | None, tuple[str, ...]]:
    """True where the weight is above 0 in all frames, and a note if it varies."""
    if good is None:
        return None, ()
    varies = ((good > 0) & (good < 1)).sum()
    note = f"The weights of {varies} pixels differ from frame to frame: such pixels are masked in all."
    # One mask for all frames: only what is good in every frame is used.
    return good == 1, (note,) if varies else ()


def _numbers(file: Hdf5, key: str) -> list[float | None]:
    """One or two numbers, or one None."""
    values = None if file.text(key) is not None else file.get(key)
    return [None] if values is None or values.size not in (1, 2) else [float(v) for v in values.ravel()]


def _off_centre(file: Hdf5, N: int) -> tuple[str, ...]:
    centre = _numbers(file, "meta/center")
    if None in centre or all(abs(p - N // 2) <= 1 for p in centre if p is not None):
        return ()
    return (f"The file puts the beam at pixel ({centre[0]:g}, {centre[-1]:g}) (y, x); the frames were not moved.",)


def write_scan(scan: Scan, path: Path) -> None:
    """Write one chunk. Raises ValueError for a scan in the near field."""

    scan.require_far_field("files of PtyPy", "write HDF5 or NPZ")
    setup, frames, N = physical(scan), len(scan), scan.N
    meta: dict[str, str | float | Array] = {
        "version": "0.1",
        "num_frames": frames,
        "label": "ptycho",
        "shape": np.array([N, N]),
        "energy": setup.beam.energy_eV / 1e3,
        "distance": setup.distance_m,
        "center": np.array([N // 2, N // 2], float),
        "psize": np.array([setup.detector_pixel_m] * 2),
        "propagation": "farfield",
    }
    with hdf5_file(path) as file:
        for name, value in meta.items():
            file[f"meta/{name}"] = value
        write_frames(file, "chunks/0/data", scan.counts)
        write_frames(file, "chunks/0/weights", np.broadcast_to(scan.mask, scan.counts.shape))
        file["chunks/0/indices"] = np.arange(frames)
        file["chunks/0/positions"] = scan.positions * setup.pixel_m
        write_kept(file, scan, LACKS)


FORMAT = Format(
    name="ptyd",
    suffixes=(".ptyd",),
    needs="HDF5: meta, chunks/0/data, positions",
    scans=Access(recognises_scan, read_scan, write_scan),
    pairs=True,
    lacks=LACKS,
    keeps_lacking=True,
    in_metres=True,
)
