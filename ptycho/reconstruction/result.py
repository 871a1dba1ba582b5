"""Reconstructions: arrays with their provenance, in HDF5."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from ptycho.data.scan import Scan
from ptycho.network.build import PtychoNetwork
from ptycho.reconstruction.predict import predict
from ptycho.reconstruction.stitch import stitch
from ptycho.training import Report


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An image of the sample."""

    object: np.ndarray
    """``(H, W)`` complex64, the transmission; 0 where ``coverage`` is 0."""
    probe: np.ndarray
    """``(M, N, N)`` complex64 in sqrt(photons)."""
    positions_px: np.ndarray
    """``(P, 2)`` float64 (y, x): every frame of the scan, withheld ones too, in pixels of ``object``."""
    coverage: np.ndarray
    """``(H, W)`` float32: light on each pixel, in units of the probe's brightest."""
    used: int
    """Frames that the object is made of."""
    dropped: int
    """Frames that gave no finite patch."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike) -> Path:
        """Write HDF5: datasets by the names above, everything else as attributes."""
        import h5py

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for name in ("object", "probe", "positions_px", "coverage"):
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
            arrays = {name: file[name][()] for name in ("object", "probe", "positions_px", "coverage")}
            attributes = {k: v for k, v in file.attrs.items() if k != "format"}
        used, dropped = int(attributes.pop("used")), int(attributes.pop("dropped"))
        return cls(**arrays, used=used, dropped=dropped, provenance=attributes)


def reconstruct(
    model: PtychoNetwork,
    scan: Scan,
    *,
    withheld: np.ndarray | None = None,
    batch: int = 64,
    report: Report | None = None,
) -> Reconstruction:
    """The object of a scan, by a trained network.

    Args:
        model: a network for the scan's N, with its probe.
        scan: P frames.
        withheld: ``(P,)`` bool: frames that must not be looked at (their positions are reported all the same).
        batch: frames at a time.
        report: told of the progress.
    """
    used = np.flatnonzero(~withheld) if withheld is not None else np.arange(len(scan))
    patches, positions = predict(model, scan.subset(used), batch=batch, report=report)
    probe = ops.convert_to_numpy(model.probe.value())
    stitched = stitch(patches, positions, probe, align=model.settings.architecture == "cnn")
    origin = positions[0] - stitched.positions_px[0]
    return Reconstruction(
        object=stitched.object,
        probe=probe,
        positions_px=scan.positions - origin,
        coverage=stitched.coverage,
        used=stitched.used,
        dropped=stitched.dropped,
    )
