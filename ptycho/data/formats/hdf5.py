"""The package's own HDF5 file, in the conventions of `Scan`; any h5py opens it (gzip), nothing is pickled.

Data sets ``counts`` (P, N, N), one chunk per frame; ``positions_px`` (P, 2) as (y, x); ``probe`` (M, N, N);
optional ``mask`` (N, N), True = use, and ``object`` (H, W). Attributes of the root: ``format`` = ptycho-scan,
``version``, ``probe_known``, ``notes``, optional ``pixel_size_m``; for the near field ``near_field_distance_px``,
``near_field_wavelength_px`` and ``near_field_kind`` (see `ptycho.config.NearField`). A file made by hand needs the
first three data sets only.
"""

from pathlib import Path

import numpy as np

from ptycho.data import doctor
from ptycho.data.formats._container import hdf5_keys, required
from ptycho.data.formats.npz import as_bool, near_field_of, near_field_values
from ptycho.data.scan import Scan

NAME = "hdf5"
SUFFIXES = (".h5", ".hdf5")
NEEDS = "HDF5: counts, positions_px, probe"
VERSION = 1


def recognises(path: Path) -> bool:
    """The three data sets that make a scan are at the root."""
    return {"counts", "positions_px", "probe"} <= set(hdf5_keys(path))


def read(path: Path) -> Scan:
    """Read the file; counts keep the dtype they are stored in. Raises ValueError for a newer version."""
    import h5py
    import hdf5plugin  # noqa: F401  (importing it lets h5py open bitshuffle, LZ4, Blosc and Zstd)

    with h5py.File(path, "r") as file:
        version = int(file.attrs.get("version", VERSION))
        if version > VERSION:
            raise ValueError(f"{path} has version {version}, newer than {VERSION}; read it with a newer ptycho")
        names = ("counts", "positions_px", "probe", "mask", "object")
        arrays = {name: file[name][...] for name in names if name in file}
        size = file.attrs.get("pixel_size_m")
        known = bool(file.attrs.get("probe_known", True))
        notes = tuple(np.atleast_1d(file.attrs.get("notes", ())))
        near = near_field_of(dict(file.attrs), path)
    scan = Scan(
        counts=required(arrays, "counts", path),
        positions=required(arrays, "positions_px", path),
        probe=required(arrays, "probe", path),
        mask=as_bool(arrays.get("mask")),
        object=arrays.get("object"),
        pixel_size_m=None if size is None else float(size),
        probe_known=known,
        near_field=near,
        source=str(path),
        notes=notes,
    )
    return doctor.warned_of_corner(scan)


def write(scan: Scan, path: Path) -> None:
    """Write everything of the scan except ``source``."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "ptycho-scan", "version": VERSION, "probe_known": scan.probe_known})
        file.attrs["notes"] = np.array(scan.notes, dtype=h5py.string_dtype())
        if scan.pixel_size_m is not None:
            file.attrs["pixel_size_m"] = scan.pixel_size_m
        file.attrs.update(near_field_values(scan))
        packing = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        file.create_dataset("counts", data=scan.counts, chunks=(1, scan.N, scan.N), **packing)
        file.create_dataset("positions_px", data=scan.positions)
        file.create_dataset("probe", data=scan.probe)
        file.create_dataset("mask", data=scan.mask)
        if scan.object is not None:
            file.create_dataset("object", data=scan.object)
