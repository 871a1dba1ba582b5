"""Files of electron microscopes and HyperSpy, read by RosettaSciIO (``pip install ptycho[microscopy]``).

That package is under the GPL: it is imported only when such a file is read. It gives the frames, lazily, and axes with
scale and units; the beam energy and the convergence angle are in its metadata. What a file does not state the user
gives (`ptycho.config.ReadConfig`). Read only.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.arrays import Array, Int, Shaped
from ptycho.data.frames import Cache, Counts, StoredFrames
from ptycho.data.scan import Scan
from ptycho.formats._container import DEFAULT, ReadOptions, why
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import is_hdf5
from ptycho.formats._metres import UNITS, beam_of, known_unit
from ptycho.formats._raster import RasterFacts, raster_scan
from ptycho.hdf5_guard import require_bounded_tables
from ptycho.io import BadFile

READERS = {
    ".blo": "blockfile", ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph",
    ".hspy": "hspy", ".zspy": "zspy", ".prz": "pantarhei", ".tvips": "tvips", ".mrc": "mrc", ".de5": "emd",
    ".emd": "emd", ".ser": "tia", ".emi": "tia", ".app5": "topspin",
}  # fmt: skip
"""Modules of RosettaSciIO by the suffix of the file."""
LENGTHS = ("m", "mm", "um", "nm", "pm", "A", "Å", "angstrom")
"""Units that an axis of distances, or of reciprocal ones, may have, in any spelling."""


def recognises_scan(path: Path) -> bool:
    """By its suffix; HDF5 of that suffix that py4DSTEM wrote has its own format, which comes first."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return suffix == ".zspy"
    return suffix in READERS and (suffix not in (".emd", ".de5", ".hspy") or is_hdf5(path))


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the largest stack of frames in the file."""
    content = opened(path)
    data = content["data"]
    frames: Counts
    if data.nbytes > options.in_memory_bytes:
        frames = StoredFrames(_Lazy(path))
    else:
        frames = _numbers(path, np.asarray(data)).reshape(-1, *data.shape[-2:])
    return scan_of(path, frames, data.shape, content["axes"], content.get("metadata", {}), options)


def scan_of(
    path: Path,
    frames: Counts,
    shape: Sequence[int],
    axes: Iterable[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    options: ReadOptions = DEFAULT,
) -> Scan:
    """The scan of frames ``(P, h, w)`` that were an array of ``shape``, with axes and metadata as HyperSpy has them."""
    ordered = sorted(axes, key=lambda axis: axis.get("index_in_array") or 0)
    steps = [_length(axis) for axis in ordered[:-2]]
    facts = RasterFacts(
        shape=tuple(shape[:2]) if len(shape) == 4 else None,  # type: ignore[arg-type]
        step_m=(steps[0], steps[1]) if len(steps) == 2 and None not in steps else None,  # type: ignore[arg-type]
        detector_pixel=_detector_pixel(ordered[-1]),
        **_instrument(path, metadata),
    )
    return raster_scan(path, frames, facts, options)


def opened(path: Path) -> Mapping[str, Any]:
    """What RosettaSciIO reads of a file, the frames lazily: the largest array of 3 or 4 axes."""
    if find_spec("rsciio") is None:
        raise BadFile(f"{path} is read by RosettaSciIO, which is not installed: pip install ptycho[microscopy]")
    if path.is_file() and is_hdf5(path):  # a `.zspy` is a folder
        require_bounded_tables(path)
    try:
        lazy = path.suffix.lower() != ".prz"  # packed
        contents = import_module(f"rsciio.{READERS[path.suffix.lower()]}").file_reader(str(path), lazy=lazy)
        stacks = [content for content in contents if np.ndim(content["data"]) in (3, 4)]
    except ImportError as error:
        raise BadFile(f"{path} needs a package that is not installed ({error}): pip install {error.name}") from error
    except Exception as error:  # a decoder of damaged bytes raises whatever it meets
        raise BadFile(f"{path} is damaged, or of a kind that RosettaSciIO does not read ({why(error)})") from error
    if not stacks:
        raise BadFile(f"{path} holds no stack of frames: export the 4D-STEM data set itself")
    return max(stacks, key=lambda content: content["data"].nbytes)


def _numbers(path: Path, values: Array) -> Array:
    """Numbers in the byte order of this machine."""
    if values.dtype.kind not in "uif":
        raise BadFile(f"{path} has frames of dtype {values.dtype}; expected real numbers")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


class _Lazy:
    """Frames that RosettaSciIO leaves in the file; a process that gets them by pickle opens it itself."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.__setstate__({"path": self.path})

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self.cache: Cache | None = {}
        data = opened(self.path)["data"]
        self._data = data.reshape(-1, *data.shape[-2:])
        self.shape, self.dtype = tuple(map(int, self._data.shape)), self._data.dtype.newbyteorder("=")

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def __repr__(self) -> str:
        return repr(str(self.path))

    def read(self, rows: Int[Array, " B"]) -> Shaped[Array, "B N N"]:
        return _numbers(self.path, np.asarray(self._data[rows]))


def _in_metres(unit: str) -> float | None:
    """The metres of a unit of length; None for any other unit."""
    name = known_unit(unit)
    return UNITS[name] if name in LENGTHS else None


def _length(axis: Mapping[str, Any]) -> float | None:
    """The step of an axis in metres; None where it is not calibrated."""
    unit, scale = str(axis.get("units") or "").replace(" ", ""), abs(float(axis.get("scale") or 0.0))
    metres = _in_metres(unit)
    return scale * metres if metres and scale else None


def _detector_pixel(axis: Mapping[str, Any]) -> tuple[float, str] | None:
    """The step of a detector axis as `ptycho.config.ReadConfig` has it; None where it is not calibrated."""
    unit, scale = str(axis.get("units") or "").replace(" ", ""), abs(float(axis.get("scale") or 0.0))
    if not scale:
        return None
    if unit in ("mrad", "rad"):
        return scale, unit
    for ending in ("^-1", "$^{-1}$", "⁻¹", "^{-1}"):
        unit = f"1/{unit.removesuffix(ending)}" if unit.endswith(ending) else unit
    metres = _in_metres(unit.removeprefix("1/"))
    return (scale / metres, "1/m") if unit.startswith("1/") and metres else None


def _instrument(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Beam (keV) and convergence semi-angle (mrad) of the microscope, as arguments of `RasterFacts`."""
    microscope = metadata.get("Acquisition_instrument", {}).get("TEM", {})
    energy, angle = microscope.get("beam_energy"), microscope.get("convergence_angle")
    beam = beam_of(path, float(energy) * 1e3, particle="electron") if energy else None
    return dict(beam=beam, semiangle_mrad=float(angle) if angle else None)


FORMAT = Format(
    name="microscopy",
    suffixes=(".blo", ".dm4", ".hspy"),
    needs="a file named " + ", ".join(READERS) + "; and pip install ptycho[microscopy]",
    scans=Access(recognises_scan, read_scan),
    raster=True,
    folders=True,
)
