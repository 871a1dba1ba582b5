"""Raw EMPAD (``.raw``) with the JSON that phaser keeps beside it: 130 rows of 128 float32, the last two no pixels.

The JSON (``file_type`` = empad_metadata) holds ``scan_shape`` (x, y), x the fast axis; ``scan_step`` (x, y) m, or
``scan_positions`` (P, 2) of (x, y) m; ``voltage`` V; ``diff_step`` mrad per pixel; ``adu`` per electron. Without a
shape it is in the name as ``x64_y64``, or the scan is square. Read only.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.data.scan import Scan
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._metres import assembled, beam_of, in_pixels
from ptycho.io import BadFile

Array = np.ndarray
Metadata = dict[str, Any]  # as JSON has it, of unknown origin

FRAME = np.dtype(("<f4", (130, 128)))


def recognises_scan(path: Path) -> bool:
    """The JSON names the detector, or a file of this name holds complete frames."""
    raw, metadata = path.with_suffix(".raw"), path.with_suffix(".json")
    if path not in (raw, metadata) or not raw.is_file():
        return False
    complete = raw.stat().st_size % FRAME.itemsize == 0
    return complete and (path == raw or (_small(metadata) and b"empad_metadata" in metadata.read_bytes()))


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read frames in electrons. Counts below 0, of the electronics, become 0; no rotation of the scan is applied."""
    raw, beside = path.with_suffix(".raw"), path.with_suffix(".json")
    metadata = _metadata(beside)
    size = raw.stat().st_size if raw.is_file() else 0
    if not size or size % FRAME.itemsize:
        raise BadFile(f"{raw} has {size} bytes; expected complete frames of {FRAME.itemsize}: copy it again")
    # Of 130 rows the last two are not pixels.
    frames: Array = np.fromfile(raw, FRAME)[:, :128]
    beam = beam_of(beside, _number(beside, metadata, "voltage"), particle="electron")
    angle = _number(beside, metadata, "diff_step")
    pixel = options.pixel_size_m
    if pixel is None and beam is not None and angle:
        pixel = beam.wavelength_m / (128 * angle * 1e-3)  # wavelength / (N dtheta)
    if pixel is None or not (math.isfinite(pixel) and pixel > 0):
        raise BadFile(f"{beside} has not both 'voltage' and 'diff_step'; write them, or give --pixel-size-nm")
    counts = np.maximum(frames / np.float32(_number(beside, metadata, "adu") or 1.0), 0)
    notes = ["Counts below 0, of the electronics, were set to 0."] if (frames < 0).any() else []
    if _number(beside, metadata, "scan_rotation"):
        notes.append(
            f"The rotation of the scan by {metadata['scan_rotation']} degrees was not applied to the positions."
        )
    positions = in_pixels(beside, "scan_positions", _metres(raw, beside, metadata, len(frames)), pixel)
    return assembled(path, counts, positions, notes=notes, beam=beam, pixel_size_m=pixel)


def _metadata(path: Path) -> Metadata:
    if not path.is_file():
        raise BadFile(f"there is no {path} with 'scan_step', 'voltage' and 'diff_step' of the frames; write it")
    if not _small(path):
        raise BadFile(f"{path} is too large for metadata; give the JSON that belongs to the frames")
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is no JSON in UTF-8 ({error}); write it again") from error
    if not isinstance(metadata, dict):
        raise BadFile(f"{path} is JSON, but no object of names and values; write it again")
    return metadata


def _small(path: Path) -> bool:
    return path.stat().st_size <= DEFAULT.unpacked_bytes


def _numbers(path: Path, metadata: Metadata, key: str, ndim: int) -> Array | None:
    """Finite numbers, or None where there are none."""
    if metadata.get(key) is None:
        return None
    try:
        values = np.array(metadata[key], np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadFile(f"{path} has {key!r} that is no number ({error}); correct it") from error
    if values.ndim != ndim or not np.isfinite(values).all() or (ndim and values.shape[-1] != 2):
        raise BadFile(f"{path} has {key!r} of shape {values.shape}; expected {'pairs of ' * bool(ndim)}finite numbers")
    return values


def _number(path: Path, metadata: Metadata, key: str) -> float | None:
    value = _numbers(path, metadata, key, 0)
    return None if value is None else float(value)


def _metres(raw: Path, beside: Path, metadata: Metadata, frames: int) -> Array:
    """(P, 2) as (y, x): as listed, or of a raster whose fast axis is x."""
    listed = _numbers(beside, metadata, "scan_positions", 2)
    if listed is not None:
        # (x, y) to (y, x)
        return listed[:, ::-1]
    step, shape = _numbers(beside, metadata, "scan_step", 1), _numbers(beside, metadata, "scan_shape", 1)
    named = re.search(r"x(\d+)_y(\d+)", raw.stem)
    if shape is None and named:
        shape = np.array([int(number) for number in named.groups()], float)
    if shape is None:
        shape = np.array([math.isqrt(frames)] * 2, float)
    if step is None or shape.prod() != frames or (shape < 1).any():
        raise BadFile(f"{beside} needs 'scan_step', and 'scan_shape' of {frames} frames (not {shape}); write them")
    # x is the fast axis; shape and step are (x, y) as well.
    y, x = np.divmod(np.arange(frames), int(shape[0]))
    return np.stack([y * step[1], x * step[0]], axis=1)


FORMAT = Format(
    name="empad",
    suffixes=(".raw",),
    needs="*.raw of complete frames of 130 x 128 float32, and a JSON of the same name",
    scans=Access(recognises_scan, read_scan),
)
