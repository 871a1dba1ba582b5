"""Reconstructions: arrays with their provenance, in HDF5."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.images import object_picture, shown_region
from ptycho.io import replaced

ARRAYS = ("object", "probe", "positions_px", "coverage", "spread", "uncertainty", "used_frames", "frame_residual")


@dataclass(frozen=True, kw_only=True, repr=False)
class Reconstruction:
    """An image of the sample."""

    object: np.ndarray
    """``(H, W)`` complex64, the transmission; 0 where ``coverage`` is 0."""
    probe: np.ndarray
    """``(M, N, N)`` complex64 in sqrt(photons)."""
    positions_px: np.ndarray
    """``(P, 2)`` float64 (y, x): every frame of the scan, held-out ones too, in pixels of ``object``."""
    coverage: np.ndarray
    """``(H, W)`` float32: light on each pixel, in units of the probe's brightest."""
    spread: np.ndarray | None = None
    """``(H, W)`` float32: how far several views of the data disagree about ``object`` (root mean square); None where
    only one was taken."""
    uncertainty: np.ndarray | None = None
    """``(H, W)`` float32: rms error to expect of ``object``, infinite where no light fell; None where not computed."""
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

    def __repr__(self) -> str:
        height, width = self.object.shape
        modes = f"{len(self.probe)} probe mode" + ("s" if len(self.probe) > 1 else "")
        return f"Reconstruction({height} x {width} pixels of {self.used} frames, {self.dropped} dropped, {modes})"

    def _repr_html_(self) -> str:
        """The object as a notebook shows it."""
        return object_picture(self.object[shown_region(self.coverage)], repr(self))

    def save(self, path: str | os.PathLike) -> Path:
        """Write HDF5: datasets by the names above, everything else as attributes."""
        import h5py

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial, h5py.File(partial, "w") as file:
            for name in ARRAYS:
                if getattr(self, name) is not None:
                    file.create_dataset(name, data=getattr(self, name))
            file.attrs["format"] = "ptycho-reconstruction"
            file.attrs["used"], file.attrs["dropped"] = self.used, self.dropped
            for key, value in self.provenance.items():
                file.attrs[key] = value if isinstance(value, str | int | float) else json.dumps(value)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Reconstruction":
        """Read what `save` wrote; ValueError for another file."""
        import h5py

        with h5py.File(path) as file:
            if file.attrs.get("format") != "ptycho-reconstruction":
                raise ValueError(f"{path} is not a reconstruction of ptycho; it holds {', '.join(file)}")
            arrays = {name: file[name][()] for name in ARRAYS if name in file}
            attributes = {k: v for k, v in file.attrs.items() if k != "format"}
        used, dropped = int(attributes.pop("used")), int(attributes.pop("dropped"))
        return cls(**arrays, used=used, dropped=dropped, provenance=attributes)
