"""Raw EMPAD (``.raw``): float32 frames of 130 x 128, the last two rows no pixels, or 128 x 128 of the G2.

Beside them is what the microscope (XML) or phaser (JSON) knows of the scan:

- JSON (``file_type`` = empad_metadata): ``scan_shape`` (x, y), x the fast axis; ``scan_step`` (x, y) m, or
  ``scan_positions`` (P, 2) of (x, y) m; ``scan_rotation`` degrees; ``voltage`` V; ``diff_step`` mrad per pixel;
  ``conv_angle`` mrad; ``defocus`` m; ``adu`` per electron.
- XML: ``scan_resolution_x`` and ``_y``; ``scan_rotation`` degrees; ``high_voltage`` V; ``calibrated_diffraction_angle``
  rad over the detector; ``full_scan_field_of_view`` m.

JSON wins over XML, and what the user gives over both. Without a shape it is in the name as ``x64_y64``, or the scan is
square. Read only.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.data.frames import Counts, StoredFrames
from ptycho.data.scan import Scan
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._raster import RasterFacts, electron_beam, raster_scan
from ptycho.io import BadFile

Array = np.ndarray
Metadata = dict[str, Any]  # as JSON has it, of unknown origin

FRAME, FRAME_G2 = np.dtype(("<f4", (130, 128))), np.dtype(("<f4", (128, 128)))
PIXELS = 128
SHAPE_IN_NAME = re.compile(r"x(\d+)_y(\d+)")


def recognises_scan(path: Path) -> bool:
    """JSON or XML name the detector, or a file of this name holds complete frames."""
    raw = _raw(path)
    if raw is None:
        return False
    size = raw.stat().st_size
    described = any(file is not None and _names_detector(file) for file in (_json(raw), _xml(raw)))
    named = SHAPE_IN_NAME.search(raw.stem) is not None
    return size > 0 and (described or size % FRAME.itemsize == 0 or (named and size % FRAME_G2.itemsize == 0))


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read frames in electrons. Counts below 0, of the electronics, become 0."""
    raw = _raw(path)
    if raw is None:
        raise BadFile(f"there is no raw file of {path}; put it beside, under the same name")
    notes: list[str] = []
    facts = _facts(raw)
    frames = _frames(raw, facts.get("shape"), options, notes)
    beside = facts.pop("beside", raw)
    beam, said = electron_beam(beside, facts.pop("voltage", None))
    shape = facts.pop("shape", None)
    if shape is None and options.given.scan_shape is None and facts.get("positions_m") is None:
        side = math.isqrt(len(frames))
        shape = (side, side) if side**2 == len(frames) else None
        if shape is not None:
            notes.append(f"The scan was taken for a square of {side} x {side}: its shape is not stated.")
    if facts.get("gain") is None and options.given.gain is None:
        notes.append(
            "Nothing states how many detector units an electron has: the frames stay in these units, and noise "
            "cannot be judged; give --gain."
        )
    return raster_scan(path, frames, RasterFacts(shape=shape, beam=beam, notes=(*notes, *said), **facts), options)


def _raw(path: Path) -> Path | None:
    """The frames that belong to a file: itself, that of its name, or that which an XML names."""
    suffix = path.suffix.lower()
    if suffix == ".raw":
        return path if path.is_file() else None
    if suffix not in (".json", ".xml"):
        return None
    named = [] if suffix == ".json" else [path.parent / Path(name).name for name in _xml_names(path)]
    return next((raw for raw in (path.with_suffix(".raw"), *named) if raw.is_file()), None)


def _json(raw: Path) -> Path | None:
    beside = raw.with_suffix(".json")
    return beside if beside.is_file() else None


def _xml(raw: Path, most: int = 50) -> Path | None:
    """The XML of the same name, or the one in the folder that names the frames."""
    if raw.with_suffix(".xml").is_file():
        return raw.with_suffix(".xml")
    others = sorted(raw.parent.glob("*.xml"))[:most]
    return next((xml for xml in others if raw.name in [Path(name).name for name in _xml_names(xml)]), None)


def _small(path: Path, most_bytes: int = 2**24) -> bool:
    return path.stat().st_size <= most_bytes


def _names_detector(path: Path) -> bool:
    return _small(path) and re.search(rb"empad", path.read_bytes(), re.IGNORECASE) is not None


def _frames(raw: Path, shape: tuple[int, int] | None, options: ReadOptions, notes: list[str]) -> Counts:
    """Complete frames (P, 128, 128) of the file, which stay in it where they are more than the options say."""
    size = raw.stat().st_size
    fits = [frame for frame in (FRAME, FRAME_G2) if size % frame.itemsize == 0]
    if len(fits) == 2 and shape is not None:  # both fit: the one of which there are so many
        fits.sort(key=lambda frame: size // frame.itemsize != shape[0] * shape[1])
    frame = fits[0] if fits else FRAME
    count, rest = divmod(size, frame.itemsize)
    if not count:
        raise BadFile(f"{raw} has {size} bytes, less than a frame of {frame.itemsize}; copy it again")
    if rest:
        notes.append(f"The file ends within a frame: {count} frames are complete.")
    stored = np.memmap(raw, np.float32, "r", shape=(count, *frame.shape))[:, :PIXELS]
    sample = stored[:: max(1, count // 16)]
    # Integers, of the G2, look like the tiniest of floats.
    if np.any(sample) and np.nanmax(np.abs(sample)) < 1e-30:
        stored = stored.view(np.uint32)
    return StoredFrames.of(stored) if stored.nbytes > options.in_memory_bytes else np.array(stored)


def _facts(raw: Path) -> Metadata:
    """Arguments of `RasterFacts`, and voltage and source, as far as JSON, XML and the name state them."""
    facts: Metadata = {}
    if (named := SHAPE_IN_NAME.search(raw.stem)) is not None:
        facts["shape"] = (int(named[2]), int(named[1]))
    if (xml := _xml(raw)) is not None:
        facts |= _stated(_xml_facts(xml)) | {"beside": xml}
    if (beside := _json(raw)) is not None:
        facts |= _stated(_json_facts(beside)) | {"beside": beside}
    return facts


def _stated(facts: Metadata) -> Metadata:
    return {name: value for name, value in facts.items() if value is not None}


# --------------------------------------------------------------------------------------------------------------- JSON


def _json_facts(path: Path) -> Metadata:
    metadata = _metadata(path)
    number = lambda key: _number(path, metadata, key)
    shape, step = (_numbers(path, metadata, key, 1) for key in ("scan_shape", "scan_step"))
    listed = _numbers(path, metadata, "scan_positions", 2)
    if shape is not None and (shape < 1).any():
        raise BadFile(f"{path} has 'scan_shape' of {shape.tolist()}; correct it")
    angle = number("diff_step")
    # x is the fast axis: shape, step and positions are (x, y).
    return {
        "shape": None if shape is None else (int(shape[1]), int(shape[0])),
        "step_m": None if step is None else (float(step[1]), float(step[0])),
        "positions_m": None if listed is None else listed[:, ::-1],
        "detector_pixel": None if angle is None else (angle, "mrad"),
        "rotation_deg": number("scan_rotation"),
        "semiangle_mrad": number("conv_angle"),
        "defocus_m": number("defocus"),
        "gain": number("adu"),
        "voltage": number("voltage"),
    }


def _metadata(path: Path) -> Metadata:
    if not _small(path):
        raise BadFile(f"{path} is too large for metadata; give the JSON that belongs to the frames")
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is no JSON in UTF-8 ({error}); write it again") from error
    if not isinstance(metadata, dict):
        raise BadFile(f"{path} is JSON, but no object of names and values; write it again")
    return metadata


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


# ---------------------------------------------------------------------------------------------------------------- XML


def _xml_facts(path: Path) -> Metadata:
    """Numbers by the names of the elements, wherever these are; later files have them in other places."""
    text = path.read_text("utf-8", "replace") if _small(path) else ""
    # The scan that was recorded, before that of searching
    text = text[max(text.find('<scan_parameters mode="acquire"'), 0) :] + text
    first = lambda *names: next((value for name in names if (value := _element(text, name)) is not None), None)
    rows, columns = first("scan_resolution_y", "pix_y"), first("scan_resolution_x", "pix_x")
    angle = first("calibrated_diffraction_angle")
    field = re.search(r"full_scan_field_of_view\b[^>]*>(.*?)</[\w.]*full_scan_field_of_view", text, re.DOTALL)
    sides = [float(number) for number in re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", field[1])] if field else []
    return {
        "shape": (int(rows), int(columns)) if rows and columns else None,
        "step_m": (sides[1] / rows, sides[0] / columns) if len(sides) == 2 and rows and columns else None,
        "detector_pixel": (angle / PIXELS, "rad") if angle else None,
        "rotation_deg": first("scan_rotation"),
        "voltage": first("high_voltage", "source_voltage", "source.get_voltage"),
    }


def _element(text: str, name: str) -> float | None:
    """The number in the first element of a name; None where there is none."""
    found = re.search(rf"<{re.escape(name)}\b[^>]*>\s*([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)\s*<", text)
    return float(found[1]) if found else None


def _xml_names(path: Path) -> list[str]:
    """Files of frames that an XML names."""
    return re.findall(r'<raw_file\b[^>]*filename="([^"]+)"', path.read_text("utf-8", "replace")) if _small(path) else []


FORMAT = Format(
    name="empad",
    suffixes=(".raw",),
    needs="*.raw of complete frames of 130 x 128 or 128 x 128 float32, with JSON or XML beside it",
    scans=Access(recognises_scan, read_scan),
    raster=True,
)
