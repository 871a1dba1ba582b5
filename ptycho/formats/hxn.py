"""NSLS-II HXN and SRX: three layouts of HDF5, positions always (2, P) as rows x and y in micrometres.

- Prepared: ``diffamp`` (P, N, N) *amplitudes*, ``points``, ``lambda_nm``, ``z_m``, ``ccd_pixel_um``.
- Streamed (holoptycho): ``dp`` (P, N, N) intensity and ``points``; the numbers are attributes of the root.
- Raw: ``entry/data/data`` or ``diff_data/merlin1/det_images``, ``scan/scan_positions``, ``scan/energy`` in eV; the user
  tells the pixel size.

The zero frequency may be at the corner. Read only.
"""

from pathlib import Path

import numpy as np

from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has
from ptycho.formats._metres import assembled, beam_of, in_pixels, object_pixel

RAW = ("entry/data/data", "diff_data/merlin1/det_images")
AMPLITUDES = "These are amplitudes, as the format says: they were squared."


def recognises_scan(path: Path) -> bool:
    """Frames and positions of one of the layouts."""
    return any(hdf5_has(path, *keys) for keys in (("diffamp", "points"), ("dp", "points"), ("scan/scan_positions",)))


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file as counts."""
    with Hdf5(path, options) as file:
        frames_key = file.first("diffamp", "dp", *RAW) or RAW[0]
        frames = file.frames(frames_key)
        key = file.first("points", "scan/scan_positions") or "points"
        points = file.array(key, ndim=2)
        wavelength, pixel = (_number(file, name) for name in ("lambda_nm", "ccd_pixel_um"))
        beam = beam_of(
            path,
            file.number("scan/energy"),
            _number(file, "z_m"),
            wavelength_m=None if wavelength is None else wavelength * 1e-9,
        )
        beam = options.beam(beam)
        detector = None if pixel is None else pixel * 1e-6
        size = object_pixel(path, options, beam, frames.shape[-1], detector, "lambda_nm, z_m and ccd_pixel_um")
    # Rows x, y in micrometres, to columns y, x
    positions = in_pixels(path, key, points[::-1].T, size, options, unit_m=1e-6)
    squared = frames_key == "diffamp"
    counts = statistics.squared(frames) if squared else frames
    notes = (*file.notes, AMPLITUDES) if squared else file.notes
    return assembled(
        path, counts, positions, notes=notes, beam=beam, pixel_size_m=size, options=options, absent=file.absent
    )


def _number(file: Hdf5, name: str) -> float | None:
    """A data set of one number, or an attribute of the root."""
    value = file.number(name)
    # Lengths, whatever their sign in the file
    return file.attribute_number("/", name) if value is None else np.abs(value)


FORMAT = Format(
    name="hxn",
    suffixes=(".h5",),
    needs="HDF5: diffamp or dp, points, lambda_nm, z_m, ccd_pixel_um; or scan/scan_positions and entry/data/data",
    scans=Access(recognises_scan, read_scan),
    pairs=True,
)
