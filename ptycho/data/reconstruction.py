"""The estimate: an image of the sample with everything else that a fit has found, as one value, in HDF5."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.config import Multislice, NearField
from ptycho.hdf5_guard import require_bounded_tables, start_walker
from ptycho.images import illuminated_region, object_picture
from ptycho.io import BadFile, hdf5_file, replaced

FORMAT = "ptycho-reconstruction"


@dataclass(frozen=True, kw_only=True, repr=False)
class Reconstruction:
    """An image of the sample, and all other unknowns of the fit that made it: what the forward model needs to say what
    the detector is expected to count (`expected_batches`)."""

    object: np.ndarray
    """``(H, W)`` complex64, the transmission (product of the slices of a thick sample); 0 where ``coverage`` is."""
    probe: np.ndarray
    """``(M, N, N)`` complex64 in sqrt(photons)."""
    positions_px: np.ndarray
    """``(P, 2)`` float64 (y, x): every frame of the scan, held-out ones too, in pixels of ``object``."""
    coverage: np.ndarray
    """``(H, W)`` float32: illumination of each pixel, in units of the probe's brightest."""
    slices: np.ndarray | None = None
    """``(S, H, W)`` complex64: a thick sample slice by slice, in the order in which the wave meets them."""
    multislice: Multislice | None = None
    """Spacing of the slices; None for a thin sample."""
    near_field: NearField | None = None
    """Where the detector is; None: in the far field."""
    opr_modes: np.ndarray | None = None
    """``(K, N, N)`` complex64: what the first probe mode varies by from frame to frame."""
    opr_weights: np.ndarray | None = None
    """``(P, K)`` float32: how much of each OPR mode a frame has."""
    background: np.ndarray | None = None
    """``(N, N)`` float32: counts that do not come through the sample, the same in all frames."""
    blur_px: float = 0.0
    """Standard deviation of the detector's Gaussian point-spread function, in detector pixels."""
    affine: np.ndarray | None = None
    """``(2, 2)`` float64: the linear map from the scan's positions, about their mean, to the fitted ones."""
    origin_px: np.ndarray | None = None
    """``(2,)`` int64 (y, x): the first pixel of ``object`` in pixels of the scan; None where not known."""
    pixel_size_m: float | None = None
    """Side of an object pixel in metres; None where not known."""
    spread: np.ndarray | None = None
    """``(H, W)`` float32: how far several symmetries of the data disagree about ``object`` (root mean square); None
    where only one was taken."""
    uncertainty: np.ndarray | None = None
    """``(H, W)`` float32: rms error to expect of ``object``, infinite where nothing fell; None where not computed."""
    used_frames: np.ndarray | None = None
    """``(P,)`` bool: the frames that the object is made of; None where not known."""
    frame_residual: np.ndarray | None = None
    """``(P,)`` float32: squared residual of each frame over its shot noise, 1 for a perfect object; NaN for frames that
    the object is not made of. None where not computed."""
    used: int
    """Frames that the object is made of."""
    dropped: int
    """Frames that gave no finite patch."""
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def bare(cls, object: np.ndarray, probe: np.ndarray, positions_px: np.ndarray, **unknowns: Any) -> "Reconstruction":
        """An estimate of which nothing is known but what the forward model needs; a probe ``(N, N)`` is one mode."""
        probe = np.asarray(probe).reshape(-1, *np.shape(probe)[-2:])
        coverage = np.ones(np.shape(object), "float32")
        return cls(
            object=object,
            probe=probe,
            positions_px=np.asarray(positions_px, float),
            coverage=coverage,
            used=len(positions_px),
            dropped=0,
            **unknowns,
        )

    def __repr__(self) -> str:
        height, width = self.object.shape
        modes = f"{len(self.probe)} probe mode" + ("s" if len(self.probe) > 1 else "")
        return f"Reconstruction({height} x {width} pixels of {self.used} frames, {self.dropped} dropped, {modes})"

    def _repr_html_(self) -> str:
        """The object as a notebook shows it."""
        return object_picture(self.object[illuminated_region(self.coverage)], repr(self))

    @property
    def N(self) -> int:
        """Side of the frames in pixels."""
        return self.probe.shape[-1]

    def estimate(self) -> dict[str, np.ndarray]:
        """The arrays that the forward model takes (`ptycho.physics.forward`)."""
        slices = self.object[None] if self.slices is None else self.slices
        arrays = dict(object=slices.astype("complex64"), probe=self.probe.astype("complex64"))
        if self.opr_modes is not None:
            arrays["opr"] = self.opr_modes.astype("complex64")
        if self.background is not None:
            arrays["background"] = self.background.astype("float32")
        if self.blur_px:
            # The forward model takes the variance (see `ptycho.physics.detection`).
            arrays["blur"] = np.array(self.blur_px**2, "float32")
        return arrays

    def expected_counts(self, frames: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """All that `expected_batches` yields, ``(F, N, N)``."""
        return np.concatenate(list(self.expected_batches(frames)))

    def nuisance_parameters(self) -> dict[str, np.ndarray]:
        """What else was fitted, by the names of the forward model: OPR modes and weights, background, blur."""
        arrays = {name: array for name, array in self.estimate().items() if name not in ("object", "probe")}
        return arrays if self.opr_weights is None else arrays | dict(opr_weights=self.opr_weights.astype("float32"))

    def expected_batches(self, frames: Sequence[int] | np.ndarray | None = None) -> Iterator[np.ndarray]:
        """The counts that the detector is expected to show in some frames (None: all), ``(<= B, N, N)`` at a time.

        Where frames reach beyond the object it goes on with its border values.
        """
        from ptycho.physics.forward import expected_batches
        from ptycho.physics.grid import ObjectGrid
        from ptycho.physics.propagation import free_space

        frames = np.arange(len(self.positions_px)) if frames is None else np.asarray(frames, int)
        positions = self.positions_px[frames]
        canvas, needed = ObjectGrid((0, 0), self.object.shape, self.N), ObjectGrid.around(positions, self.N)
        # How far frames reach beyond the object, on either side
        before = np.maximum(-np.array(needed.origin), 0)
        after = np.maximum(np.add(needed.origin, needed.shape) - canvas.shape, 0)
        arrays = self.estimate()
        if before.any() or after.any():
            # All slices alike; the canvas then begins before the object, at negative pixels.
            border = ((0, 0), *zip(before, after, strict=True))
            arrays["object"] = np.pad(arrays["object"], border, mode="edge")
            height, width = arrays["object"].shape[1:]
            canvas = ObjectGrid((-int(before[0]), -int(before[1])), (height, width), self.N)
        yield from expected_batches(
            arrays,
            canvas,
            positions,
            opr_weights=None if self.opr_weights is None else self.opr_weights[frames],
            transfer=free_space(self.near_field, self.N),
            spacing=free_space(self.multislice, self.N),
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Write HDF5: datasets by the names above, everything else as attributes."""

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial, hdf5_file(partial) as file:
            for name in ARRAYS:
                if getattr(self, name) is not None:
                    file.create_dataset(name, data=getattr(self, name))
            file.attrs["format"] = FORMAT
            for key, value in (self.provenance | self._attributes()).items():
                # Attributes hold numbers and texts; lists and dictionaries go as JSON.
                file.attrs[key] = value if isinstance(value, str | int | float) else json.dumps(value)
        return path

    def _attributes(self) -> dict[str, Any]:
        """What is no array and known."""
        values: dict[str, Any] = dict(used=self.used, dropped=self.dropped)
        if self.blur_px:
            values["blur_px"] = self.blur_px
        if self.pixel_size_m is not None:
            values["pixel_size_m"] = self.pixel_size_m
        for name in ("near_field", "multislice"):
            if getattr(self, name) is not None:
                values[name] = asdict(getattr(self, name))
        return values

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Reconstruction":
        """Read what `save` wrote, and nothing that its links lead to.

        Raises FileNotFoundError where there is no file, BadFile, a ValueError, where it is another or a damaged one.
        """
        path = Path(path)
        if path.exists() and not path.is_file():
            raise BadFile(f"{path} is no file; give the reconstruction.h5 of a run")
        try:
            arrays, attributes = _read(path)
            return cls._made(arrays, attributes)
        except (BadFile, FileNotFoundError):
            raise
        except Exception as error:  # HDF5 on damaged bytes raises whatever it meets
            raise BadFile(f"{path} is no HDF5 file, or a damaged one ({error}); copy it again") from error

    @classmethod
    def _made(cls, arrays: dict[str, Any], attributes: dict[str, Any]) -> "Reconstruction":
        values: dict[str, Any] = dict(used=int(attributes.pop("used")), dropped=int(attributes.pop("dropped")))
        if "blur_px" in attributes:
            values["blur_px"] = float(attributes.pop("blur_px"))
        if "pixel_size_m" in attributes:
            values["pixel_size_m"] = float(attributes["pixel_size_m"])
        for name, kind in (("near_field", NearField), ("multislice", Multislice)):
            if name in attributes:
                values[name] = kind.from_dict(json.loads(attributes[name]))
        record = {key: _as_written(value) for key, value in attributes.items()}
        return cls(**arrays, **values, provenance=record)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays and attributes of a file that `Reconstruction.save` wrote."""
    start_walker()
    import h5py

    size = path.stat().st_size
    require_bounded_tables(path)
    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise BadFile(f"{path} is not a reconstruction of ptycho; it holds {', '.join(file)}")
        arrays = {}
        for name in ARRAYS:
            link = file.get(name, getlink=True)
            if link is None:
                continue
            array = file[name] if isinstance(link, h5py.HardLink) else None
            # `save` writes without compression: what claims to be larger than the file is no result of it.
            if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual or array.nbytes > size:
                raise BadFile(f"{path} does not hold {name!r} itself; it is no file that ptycho wrote")
            arrays[name] = array[()]
        return arrays, {key: value for key, value in file.attrs.items() if key != "format"}


def _as_written(value: Any) -> Any:
    """An attribute as it was in the record of its run: lists and tables are kept as JSON."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(json.JSONDecodeError):  # a sentence, or a name
            return json.loads(value)
    return value


_NO_ARRAYS = ("multislice", "near_field", "blur_px", "pixel_size_m", "used", "dropped", "provenance")
ARRAYS = tuple(entry.name for entry in fields(Reconstruction) if entry.name not in _NO_ARRAYS)
"""The datasets of a file."""
