"""The frames of a scan by the names that scripts for PtychoPINN use: a door to `ptycho.formats` and `ptycho.data`."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ptycho.data.scan import Scan
from ptycho.formats import read_scan
from ptycho.formats.ptychopinn import object_guess, scan_of


class FromScan(np.ndarray):
    """An array that knows of which scan it was made, through arithmetic too."""

    raw: "RawData | None" = None
    rows: np.ndarray | None = None
    """Of each entry, which group of the scan it is."""
    mosaic: np.ndarray | None = None
    """Of patches, the object that they are parts of."""

    def __array_finalize__(self, made_from: Any) -> None:
        for name in ("raw", "rows", "mosaic"):
            setattr(self, name, getattr(made_from, name, None))

    def __getitem__(self, key: Any) -> Any:
        entries = super().__getitem__(key)
        first = key[0] if isinstance(key, tuple) and key else key
        if isinstance(entries, FromScan):
            of_groups = isinstance(first, slice) or (isinstance(first, np.ndarray | list) and np.ndim(first) == 1)
            entries.rows = self.rows[first] if of_groups and self.rows is not None else None
        return entries


def from_scan(values: np.ndarray, raw: "RawData") -> FromScan:
    """An array that knows the data that it was made of."""
    known = np.asarray(values).view(FromScan)
    known.raw, known.rows = raw, np.arange(len(known))
    return known


def warn_of(function: str, others: Mapping[str, Any]) -> None:
    """Say which arguments of other programs' function have no effect here; those that ask for nothing are silent."""
    for name, value in others.items():
        if value:
            warnings.warn(f"{function}: {name}={value!r} has no effect", stacklevel=3)


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
    """What the reader of the file made of it; this counts, whatever becomes of the arrays."""

    @classmethod
    def from_file(cls, path: str | Path) -> "RawData":
        """Read a scan of any format; BadFile where it is none."""
        scan = read_scan(path)
        y, x = scan.positions.T
        frames = np.asarray(scan.counts)
        image = object_guess(Path(path)) if scan.object is None else scan.object
        return cls(x, y, frames, scan.probe, np.zeros(len(scan), int), image, str(path), scan)

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
        self, N: int, K: int = 4, nsamples: int = 1, gridsize: int = 1, **others: Any
    ) -> dict[str, Any]:
        """Of each frame the group with its nearest neighbours, gridsize**2 in all.

        ``diffraction (B, N, N, C)`` are amplitudes in sqrt(photons), ``coords_relative (B, 1, 2, C)`` are (x, y) from
        the group's mean with the sign flipped, ``coords_offsets (B, 1, 2, 1)`` that mean. ``K`` and ``nsamples``,
        numbers of other neighbours and groups to draw, are not used: a scan is predicted as a whole.
        """
        warn_of("generate_grouped_data", others)
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
