"""Images as EMD, which HyperSpy, ncempy and the programs of electron microscopes open: calibrated axes and units.

Layout of EMD 0.2 (https://emdatasets.com/format): attributes ``version_major``, ``version_minor`` of the root; each
image is a group with ``emd_group_type = 1``, ``data`` of N axes and the coordinates ``dim1`` to ``dimN``, which have
``name`` and ``units``. The first axis is x: in the other order HyperSpy 2.5 shows images transposed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho.io import hdf5_file

AXES = ("x", "y", "z")


class Image(NamedTuple):
    """A real image (H, W), or a stack of them along the beam (S, H, W)."""

    values: np.ndarray
    units: str
    """Of the values."""
    spacing_m: float | None = None
    """Between the images of a stack."""


def save_emd(images: Mapping[str, Image], pixel_size_m: float | None, path: Path, title: str = "") -> None:
    """Write some images, by their names; axes are in nm where their step is known, else in pixels."""
    with hdf5_file(path) as file:
        file.attrs.update(version_major=0, version_minor=2)
        for name in ("microscope", "sample", "user", "comments"):
            file.create_group(name)
        file["comments"].attrs["title"] = title
        for name, image in images.items():
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = 1
            values = group.create_dataset("data", data=image.values.astype(np.float32).T)
            values.attrs["units"] = image.units
            steps = (pixel_size_m, pixel_size_m, image.spacing_m)
            for number, (length, axis, step_m) in enumerate(zip(values.shape, AXES, steps), start=1):
                _write_axis(group, f"dim{number}", axis, length, step_m)


def _write_axis(group: Any, key: str, name: str, length: int, step_m: float | None) -> None:
    axis = group.create_dataset(key, data=np.arange(length) * (1.0 if step_m is None else step_m * 1e9))
    axis.attrs.update(name=name, units="px" if step_m is None else "[n_m]")
