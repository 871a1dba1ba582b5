"""napari: results as layers, also by opening a ``reconstruction.h5`` (the plug-in's manifest is ``napari.yaml``)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.data.reconstruction import Reconstruction
from ptycho.formats.reconstruction import recognises_product
from ptycho.io import BadFile

Layer = tuple[np.ndarray, dict[str, Any], str]
"""Data, arguments and kind of a layer, as napari takes them from a reader."""


def layers_of(result: Reconstruction) -> list[Layer]:
    """Images ``phase`` (rad), ``amplitude``, ``probe`` (photons, mode below mode), ``uncertainty`` where known; points
    ``positions``. All lie where they belong, the probe where the first frame has it: in nm, or in pixels where the
    pixel size is not known.
    """
    known = result.pixel_size_m is not None
    pixel = result.pixel_size_m * 1e9 if result.pixel_size_m is not None else 1.0
    origin = np.zeros(2) if result.origin_px is None else np.asarray(result.origin_px, float)
    placed = dict(scale=(pixel, pixel), translate=tuple(origin * pixel), units=("nm" if known else "pixel",) * 2)
    layers: list[Layer] = [
        (np.angle(result.object), placed | dict(name="phase", colormap="gray"), "image"),
        (np.abs(result.object), placed | dict(name="amplitude", colormap="gray", visible=False), "image"),
    ]
    if result.uncertainty is not None:
        finite = np.where(np.isfinite(result.uncertainty), result.uncertainty, np.nan)
        layers.append((finite, placed | dict(name="uncertainty", colormap="magma", visible=False), "image"))
    modes = np.concatenate(list(np.abs(result.probe) ** 2))
    first = (result.positions_px[0] - result.N // 2 + origin) * pixel
    beneath = placed | dict(translate=tuple(map(float, first)))
    layers.append((modes, beneath | dict(name="probe", colormap="inferno", visible=False), "image"))
    layers.append((result.positions_px, placed | dict(name="positions", size=1, visible=False), "points"))
    return layers


def get_reader(path: str | list[str]) -> Callable[[Any], list[Layer]] | None:
    """What napari calls to ask whether a file is one of ours; None where it is not, or too damaged to tell."""
    try:
        if not isinstance(path, str) or not Path(path).is_file() or not recognises_product(Path(path)):
            return None
    except BadFile:
        return None
    return lambda opened: layers_of(Reconstruction.load(opened))
