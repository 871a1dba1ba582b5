"""Reconstructions: arrays with their provenance, in HDF5."""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from ptycho.data.scan import Scan
from ptycho.files import replaced
from ptycho.network.build import PtychoNetwork
from ptycho.pictures import object_picture, shown_region
from ptycho.reconstruction.predict import feed, open_stream
from ptycho.reconstruction.spread import predict_on
from ptycho.reconstruction.stitch import stitch
from ptycho.reconstruction.stream import Stream
from ptycho.training import Report

ARRAYS = ("object", "probe", "positions_px", "coverage", "spread", "uncertainty", "used_frames", "frame_residual")


@dataclass(frozen=True, kw_only=True, repr=False)
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


def reconstruct(
    model: PtychoNetwork,
    scan: Scan,
    *,
    withheld: np.ndarray | None = None,
    tile_frames: int | None = None,
    views: int = 1,
    client: Any = None,
    report: Report | None = None,
) -> Reconstruction:
    """The object of a scan, by a trained network.

    Args:
        model: a network for the scan's N, with its probe.
        scan: P frames.
        withheld: ``(P,)`` bool: frames that must not be looked at (their positions are reported all the same).
        tile_frames, views: see `ptycho.reconstruction.Stream`.
        client: of Dask, whose workers compute it (`predict_on`); None: this process.
        report: told of the progress.
    """
    used = np.flatnonzero(~withheld) if withheld is not None else np.arange(len(scan))
    if client is not None:
        ways: dict[str, Any] = dict(used=used, tile_frames=tile_frames, views=views, report=report)
        return as_grown(predict_on(client, model, scan, **ways), scan, used)
    stream = open_stream(model, scan, used, tile_frames, views)
    pieces = feed(stream, scan, used, report)
    if model.settings.architecture != "cnn":
        for _ in pieces:
            pass
        return as_grown(stream, scan, used)
    # Its patches have each a phase of their own.
    kept = list(pieces)
    if not kept:
        raise ValueError("no patch is finite; the network's output is not a number anywhere")
    result = as_grown(stream, scan, used)
    places = np.array([piece.corner for piece in kept]) + scan.N // 2
    stitched = stitch(np.stack([piece.values for piece in kept]), places, result.probe)
    return replace(
        result,
        object=stitched.object,
        coverage=stitched.coverage,
        positions_px=scan.positions - (places[0] - stitched.positions_px[0]),
    )


def as_grown(stream: Stream, scan: Scan, used: np.ndarray | None = None) -> Reconstruction:
    """The object of a stream as far as it has grown.

    The stream takes the frames ``used`` of the scan, or all of them.
    """
    taken = stream.arrived.copy()
    taken[stream.waiting + stream.dropped] = False
    made_of = np.zeros(len(scan), bool)
    made_of[np.arange(len(scan)) if used is None else used] = taken
    return Reconstruction(
        object=stream.mosaic.object,
        probe=ops.convert_to_numpy(stream.model.probe.value()),
        positions_px=scan.positions - stream.mosaic.origin,
        coverage=stream.mosaic.coverage,
        spread=stream.spread if len(stream.views) > 1 else None,
        used_frames=made_of,
        used=int(taken.sum()),
        dropped=len(stream.dropped),
    )
