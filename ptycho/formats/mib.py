"""Merlin ``.mib`` of Medipix detectors: frames one after the other, each behind a text header that starts ``MQ1,``.

Its fields, between commas, are: MQ1, number of the frame, bytes of the header, chips, width, height, dtype (U08, U16,
U32: big-endian counts). A ``.hdr`` beside it may tell ``ScanX`` and ``ScanY``, or the frames per trigger. Raw modes
(R64) are not read. The user gives the rest (`ptycho.config.ReadConfig`). Read only.
"""

import re
from pathlib import Path

import numpy as np

from ptycho.arrays import Array, Real
from ptycho.data.frames import StoredFrames, mapped
from ptycho.data.scan import Scan
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._raster import RasterFacts, raster_scan
from ptycho.io import BadFile

DTYPES = {"U08": ">u1", "U16": ">u2", "U32": ">u4"}


def recognises_scan(path: Path) -> bool:
    """It starts as the header of a frame does."""
    with path.open("rb") as file:
        return file.read(4) == b"MQ1,"


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the complete frames, which stay in the file where they are more than the options say."""
    with path.open("rb") as file:
        fields = file.read(384).decode("latin-1").split(",")
    try:
        header, width, height = int(fields[2]), int(fields[4]), int(fields[5])
        dtype = np.dtype(DTYPES[fields[6].strip()])
        if not (0 < header < 2**16 and 0 < width < 2**14 and 0 < height < 2**14):
            raise ValueError(f"{header} bytes before {width} x {height} pixels")
    except (IndexError, KeyError, ValueError) as error:
        raise BadFile(f"{path} has a header that is not read ({error}); export U08, U16 or U32") from error
    frame = np.dtype([("header", f"V{header}"), ("counts", dtype, (height, width))])
    count, rest = divmod(path.stat().st_size, frame.itemsize)
    if not count:
        raise BadFile(f"{path} ends within its first frame; copy it again")
    notes = (f"The file ends within a frame: {count} frames are complete.",) if rest else ()
    stored = np.memmap(path, frame, "r", shape=(count,))["counts"]
    left = stored.nbytes > options.in_memory_bytes
    frames = mapped(StoredFrames.of(stored), _native) if left else _native(np.array(stored))
    return raster_scan(path, frames, RasterFacts(shape=_shape(path, count), notes=notes), options)


def _native(frames: Real[Array, "B h w"]) -> Real[Array, "B h w"]:
    """In the byte order of this machine."""
    return frames.astype(frames.dtype.newbyteorder("="))


def _shape(path: Path, count: int, most_bytes: int = 2**20) -> tuple[int, int] | None:
    """Rows and columns by the ``.hdr`` beside the file; None where it tells none."""
    beside = path.with_suffix(".hdr")
    if not beside.is_file() or beside.stat().st_size > most_bytes:
        return None
    text = beside.read_text("latin-1")
    number = lambda name: int(match[1]) if (match := re.search(rf"{name}\b[^:\n]*:\s*(\d+)", text)) else 0
    columns, rows = number("ScanX") or number("Frames per Trigger"), number("ScanY")
    if columns < 2:
        return None
    rows = rows or -(-count // columns)  # the last may be cut short
    return (rows, columns) if rows else None


FORMAT = Format(
    name="mib",
    suffixes=(".mib",),
    needs="*.mib: frames that start with MQ1, of U08, U16 or U32",
    scans=Access(recognises_scan, read_scan),
    raster=True,
)
