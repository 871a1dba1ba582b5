"""The frames of a scan by the names that scripts for PtychoPINN use: a door to `ptycho.formats` and `ptycho.data`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ptycho.data.scan import Scan
from ptycho.formats import read_scan
from ptycho.formats.ptychopinn import scan_of


class FromScan(np.ndarray):
    """An array that knows of which scan it was made, through arithmetic too."""

    raw: "RawData | None" = None
    mosaic: np.ndarray | None = None
    """Of patches, the object that they are parts of."""

    def __array_finalize__(self, made_from: Any) -> None:
        self.raw, self.mosaic = getattr(made_from, "raw", None), getattr(made_from, "mosaic", None)


def from_scan(values: np.ndarray, raw: "RawData") -> FromScan:
    """An array that knows the data that it was made of."""
    known = np.asarray(values).view(FromScan)
    known.raw = raw
    return known


@dataclass
class RawData:
    """Frames, positions and a probe. Coordinates are pixels of ``objectGuess``, frames counts or amplitudes."""

    xcoords: np.ndarray
    ycoords: np.ndarray
    diff3d: np.ndarray
    """``(P, N, N)``."""
    probeGuess: np.ndarray
    """``(N, N)`` or ``(M, N, N)``."""
    scan_index: np.ndarray | None = None
    objectGuess: np.ndarray | None = None
    source: str | None = None
    file_scan: Scan | None = field(default=None, repr=False)
    """What the reader of the file made of it."""

    @classmethod
    def from_file(cls, path: str | Path) -> "RawData":
        """Read a scan of any format; BadFile where it is none."""
        scan = read_scan(path)
        y, x = scan.positions.T
        frames = np.asarray(scan.counts)
        return cls(x, y, frames, scan.probe, np.zeros(len(scan), int), scan.object, str(path), scan)

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: np.ndarray,
        ycoords: np.ndarray,
        diff3d: np.ndarray,
        probeGuess: np.ndarray,
        scan_index: np.ndarray | None = None,
        objectGuess: np.ndarray | None = None,
    ) -> "RawData":
        """Data whose start positions are the positions themselves."""
        return cls(np.asarray(xcoords), np.asarray(ycoords), np.asarray(diff3d), probeGuess, scan_index, objectGuess)

    def first(self, count: int | None) -> "RawData":
        """The first ``count`` frames; all of them with None. ValueError where there are fewer."""
        if count is None:
            return self
        if not 1 <= count <= len(self.xcoords):
            raise ValueError(f"{count} frames were asked for; there are {len(self.xcoords)}")
        index = None if self.scan_index is None else self.scan_index[:count]
        frames = self.diff3d[:count]
        arrays = self.xcoords[:count], self.ycoords[:count], frames, self.probeGuess, index, self.objectGuess
        kept = None if self.file_scan is None else self.file_scan.subset(np.arange(count))
        return RawData(*arrays, self.source, kept)

    def scan(self) -> Scan:
        """The same in the conventions of `ptycho.data.scan`; the probe is a guess."""
        if self.file_scan is not None:
            return self.file_scan
        arrays = dict(xcoords=self.xcoords, ycoords=self.ycoords, diff3d=self.diff3d, probeGuess=self.probeGuess)
        return scan_of({name: np.asarray(values) for name, values in arrays.items()}, Path(self.source or "raw data"))

    def generate_grouped_data(
        self, N: int, K: int = 4, nsamples: int = 1, gridsize: int = 1, **unused: Any
    ) -> dict[str, Any]:
        """Of each frame the group with its nearest neighbours, gridsize**2 in all.

        ``diffraction (B, N, N, C)`` are amplitudes in sqrt(photons), ``coords_relative (B, 1, 2, C)`` are (x, y) from
        the group's mean with the sign flipped, ``coords_offsets (B, 1, 2, 1)`` that mean. ``K`` and ``nsamples``,
        numbers of other neighbours and groups to draw, are not used: a scan is predicted as a whole.
        """
        scan = self.scan()
        if scan.N != N:
            raise ValueError(f"the frames have {scan.N} x {scan.N} pixels, the model {N} x {N}")
        count = gridsize**2
        if count > len(scan):
            raise ValueError(f"a group of {count} frames cannot be made of {len(scan)}")
        _, groups = cKDTree(scan.positions).query(scan.positions, k=[*range(1, count + 1)])
        points = scan.positions[groups][..., ::-1]  # (B, C, 2) as (x, y)
        middle = points.mean(axis=1, keepdims=True)
        amplitudes = np.sqrt(np.maximum(np.asarray(scan.counts), 0)).astype("float32")
        return dict(
            diffraction=from_scan(amplitudes[groups].transpose(0, 2, 3, 1), self),
            coords_relative=from_scan((middle - points).transpose(0, 2, 1)[:, None].astype("float32"), self),
            coords_offsets=from_scan(middle.transpose(0, 2, 1)[:, None], self),
            nn_indices=groups,
            raw=self,
        )


Grouped = Callable[[], dict[str, Any]]
