"""The package's own HDF5 file, in the conventions of `Scan`; any h5py opens it (gzip), nothing is pickled.

Data sets ``counts`` (P, N, N), one chunk per frame; ``positions_px`` (P, 2) as (y, x); ``probe`` (M, N, N);
optional ``mask`` (N, N), True = use, and ``object`` (H, W). Attributes of the root: ``format`` = ptycho-scan,
``version``, ``probe_known``, ``notes``, optional ``pixel_size_m``; for the near field ``near_field_distance_px``,
``near_field_wavelength_px`` and ``near_field_kind`` (see `ptycho.config.NearField`); for the beam ``energy_eV``,
``particle`` and ``distance_m`` (see `ptycho.data.beam.Beam`). A file made by hand needs the first three data sets only.
"""

from pathlib import Path

import numpy as np

from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._detector import corrections
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has, write_frames
from ptycho.formats._metres import placed_counts
from ptycho.formats.npz import (
    BEAM,
    NEAR_FIELD,
    as_bool,
    beam_from,
    beam_values,
    near_field_of,
    near_field_values,
)
from ptycho.io import BadFile, hdf5_file

VERSION = 1


def recognises_scan(path: Path) -> bool:
    """The three data sets that make a scan are at the root."""
    return hdf5_has(path, "counts", "positions_px", "probe")


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file; counts keep the dtype they are stored in. Raises BadFile for a newer version."""
    with Hdf5(path, options) as file:
        version = file.attribute_number("/", "version") or VERSION
        if version > VERSION:
            raise BadFile(f"{path} has version {version:g}, newer than {VERSION}; read it with a newer ptycho")
        near = {name: file.attribute("/", name) for name in NEAR_FIELD}
        near = {name: file.attribute_text("/", name) if "kind" in name else value for name, value in near.items()}
        known = file.attribute_number("/", "probe_known")
        counts = file.frames("counts", raster=True)
        pixel = options.pixel_size_m or file.attribute_number("/", "pixel_size_m")
        counts, positions, mask, notes = placed_counts(
            path, counts, file.array("positions_px", ndim=2), as_bool(file.get("mask", 2)), pixel, options,
            file.absent, corrections(file, "", counts.shape[1:]),
        )  # fmt: skip
        scan = Scan(
            counts=counts,
            positions=positions,
            probe=file.array("probe", ndim=(2, 3), kinds=COMPLEX),
            mask=mask,
            object=file.get("object", kinds=COMPLEX),
            pixel_size_m=pixel,
            beam=beam_from(path, {name: file.attribute("/", name) for name in BEAM}),
            # A file made by hand does not say: its probe counts as known.
            probe_known=known is None or bool(known),
            near_field=near_field_of({name: value for name, value in near.items() if value is not None}, path),
            source=str(path),
            notes=(*file.attribute_texts("/", "notes"), *file.notes, *notes),
        )
    return statistics.warned_of_corner(scan)


def write_scan(scan: Scan, path: Path) -> None:
    """Write everything of the scan except ``source``."""
    import h5py

    with hdf5_file(path) as file:
        file.attrs.update({"format": "ptycho-scan", "version": VERSION, "probe_known": scan.probe_known})
        file.attrs["notes"] = np.array(scan.notes, dtype=h5py.string_dtype())
        if scan.pixel_size_m is not None:
            file.attrs["pixel_size_m"] = scan.pixel_size_m
        file.attrs.update(near_field_values(scan) | beam_values(scan))
        write_frames(file, "counts", scan.counts)
        file.create_dataset("positions_px", data=scan.positions)
        file.create_dataset("probe", data=scan.probe)
        file.create_dataset("mask", data=scan.mask)
        if scan.object is not None:
            file.create_dataset("object", data=scan.object)


FORMAT = Format(
    name="hdf5",
    suffixes=(".h5", ".hdf5"),
    needs="HDF5: counts, positions_px, probe",
    scans=Access(recognises_scan, read_scan, write_scan),
    pairs=True,
)
