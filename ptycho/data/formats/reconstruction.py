"""The package's own results (``reconstruction.h5``), to take to other programs, and to start from theirs."""

from pathlib import Path

import numpy as np

from ptycho.data.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.data.formats._hdf5 import Hdf5, is_hdf5
from ptycho.data.product import Product
from ptycho.data.scan import illumination

NAME = "reconstruction"
SUFFIXES = (".h5", ".hdf5")
NEEDS = "HDF5 with the attribute format = ptycho-reconstruction: object, probe, positions_px, coverage"
FORMAT = "ptycho-reconstruction"


def recognises_product(path: Path) -> bool:
    """The file says so."""
    if not is_hdf5(path):
        return False
    with Hdf5(path) as file:
        return file.attribute("/", "format") is not None and file.attribute_text("/", "format") == FORMAT


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read object, probe and positions."""
    with Hdf5(path, options) as file:
        return Product(
            object=file.array("object", ndim=2, kinds=COMPLEX),
            probe=file.get("probe", (2, 3), COMPLEX),
            positions=file.get("positions_px", 2),
            pixel_size_m=options.pixel_size_m,
            source=str(path),
        )


def write_product(product: Product, path: Path) -> None:
    """Write what `ptycho refine --start` takes. Raises ValueError for a result without probe or positions."""
    import h5py

    if product.probe is None or product.positions is None:
        raise ValueError("the result has not both a probe and positions, which reconstructions need; write TIFF")
    with h5py.File(path, "w") as file:
        file["object"], file["probe"], file["positions_px"] = product.object, product.probe, product.positions
        file["coverage"] = _coverage(product.object.shape, product.probe, product.positions)
        file.attrs.update({"format": FORMAT, "used": len(product.positions), "dropped": 0, "source": product.source})


def _coverage(shape: tuple[int, int], probe: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(H, W) float32: light on each pixel, in units of the probe's brightest."""
    light, N = illumination(probe), probe.shape[-1]
    total = np.zeros((shape[0] + 2 * N, shape[1] + 2 * N))
    for y, x in np.rint(positions).astype(int) - N // 2 + N:
        if 0 <= y <= shape[0] + N and 0 <= x <= shape[1] + N:
            total[y : y + N, x : x + N] += light
    return (total[N:-N, N:-N] / max(light.max(), 1e-30)).astype(np.float32)
