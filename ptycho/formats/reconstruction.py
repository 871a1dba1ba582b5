"""The package's own results (``reconstruction.h5``), to take to other programs, and to start from theirs."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ptycho.config import Multislice
from ptycho.data.beam import Beam
from ptycho.data.product import Product
from ptycho.data.scan import illumination
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, is_hdf5
from ptycho.io import BadFile, hdf5_file

SIGNATURE = "ptycho-reconstruction"


def recognises_product(path: Path) -> bool:
    """The attribute ``format`` is ours."""
    if not is_hdf5(path):
        return False
    with Hdf5(path) as file:
        return file.attribute("/", "format") is not None and file.attribute_text("/", "format") == SIGNATURE


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read object, probe and positions, and from the provenance beam and pixel size."""
    with Hdf5(path, options) as file:
        beam = file.attribute_text("/", "beam")
        pixel_size_m = options.pixel_size_m or file.attribute_number("/", "pixel_size_m")
        slices = file.get("slices", 3, COMPLEX)
        stack = None if slices is None else file.attribute_text("/", "multislice")
        return Product(
            object=file.array("object", ndim=2, kinds=COMPLEX),
            slices=slices,
            slice_spacing_m=None if stack is None or pixel_size_m is None else _spacing_px(path, stack) * pixel_size_m,
            probe=file.get("probe", (2, 3), COMPLEX),
            positions=file.get("positions_px", 2),
            pixel_size_m=pixel_size_m,
            beam=None if beam is None else _beam(path, beam),
            source=str(path),
        )


def write_product(product: Product, path: Path) -> None:
    """Write what `ptycho refine --start` takes. Raises ValueError for a result without probe or positions."""

    if product.probe is None or product.positions is None:
        raise ValueError("a reconstruction needs a probe and positions, which the result does not have; write TIFF")
    with hdf5_file(path) as file:
        file["object"], file["probe"], file["positions_px"] = product.object, product.probe, product.positions
        file["coverage"] = coverage(product.object.shape, product.probe, product.positions)
        file.attrs.update({"format": SIGNATURE, "used": len(product.positions), "dropped": 0, "source": product.source})
        if product.pixel_size_m is not None:
            file.attrs["pixel_size_m"] = product.pixel_size_m
        if product.beam is not None:
            file.attrs["beam"] = json.dumps(asdict(product.beam))


def note_pixel_size(path: Path, pixel_size_m: float) -> None:
    """Write the side of an object pixel, given by the user, into a reconstruction."""

    with hdf5_file(path, new=False) as file:
        file.attrs["pixel_size_m"] = pixel_size_m


def _beam(path: Path, text: str) -> Beam:
    try:
        return Beam(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise BadFile(f"{path} has an attribute 'beam' that is no beam ({error}); correct or delete it") from error


def _spacing_px(path: Path, text: str) -> float:
    try:
        return Multislice.from_dict(json.loads(text)).spacing_px
    except (TypeError, ValueError) as error:
        raise BadFile(f"{path} has an attribute 'multislice' that tells no slices ({error}); correct it") from error


def coverage(shape: tuple[int, int], probe: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(H, W) float32: illumination of each pixel by all frames, in units of the probe's brightest pixel."""
    intensity, N = illumination(probe), probe.shape[-1]
    total = np.zeros((shape[0] + 2 * N, shape[1] + 2 * N))
    # On a canvas with N pixels to spare on all sides, cut off at the end: frames may reach beyond the object.
    for y, x in np.rint(positions).astype(int) - N // 2 + N:
        if 0 <= y <= shape[0] + N and 0 <= x <= shape[1] + N:
            total[y : y + N, x : x + N] += intensity
    return (total[N:-N, N:-N] / max(intensity.max(), 1e-30)).astype(np.float32)


FORMAT = Format(
    name="reconstruction",
    suffixes=(".h5", ".hdf5"),
    needs="HDF5 with the attribute format = ptycho-reconstruction: object, probe, positions_px, coverage",
    products=Access(recognises_product, read_product, write_product),
)
