"""Results of PtyPy (``.ptyr``): ``content/obj/<ID>`` and ``content/probe/<ID>``, each ``data`` (modes, H, W), SI units.

``_psize`` m, ``_origin`` m of the first pixel, ``_center`` px; ``content/positions/<ID>`` (P, 2) m in (y, x) only where
PtyPy was told to record them. Read only. Of several objects or object modes the first is taken.
"""

from pathlib import Path

import numpy as np

from ptycho.data.product import Product
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has
from ptycho.io import BadFile

Array = np.ndarray


def recognises_product(path: Path) -> bool:
    """Object and probe are where PtyPy puts them."""
    return hdf5_has(path, "content/obj", "content/probe")


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read the first object, with its first probe."""
    with Hdf5(path, options) as file:
        names = file.names("content/obj")
        if not names:
            raise BadFile(f"{path} has no object in 'content/obj'; save a result with an object")
        key, name = f"content/obj/{names[0]}", names[0]
        image = file.array(f"{key}/data", ndim=(2, 3), kinds=COMPLEX)
        probes = file.names("content/probe")
        probe = file.array(f"content/probe/{probes[0]}/data", ndim=(2, 3), kinds=COMPLEX) if probes else None
        size = options.pixel_size_m
        pixel = np.array([size, size]) if size else _pair(file, f"{key}/_psize", None)
        metres = file.get(f"content/positions/{name}", 2)
        positions = None
        if metres is not None and pixel is not None:
            origin = _pair(file, f"{key}/_origin", 0.0)
            positions = (metres - origin) / pixel
    notes = [f"The file holds {len(names)} objects; this is {name}."] if len(names) > 1 else []
    notes += [f"The object has {len(image)} modes; this is the first."] if image.ndim == 3 and len(image) > 1 else []
    return Product(
        object=image[0] if image.ndim == 3 else image,
        probe=probe,
        positions=positions,
        pixel_size_m=None if pixel is None else float(pixel[1]),
        source=str(path),
        notes=tuple(notes),
    )


def _pair(file: Hdf5, key: str, default: float | None) -> Array | None:
    """Two numbers (y, x), also from one."""
    values = file.get(key)
    if values is None:
        return None if default is None else np.array([default, default])
    if values.size not in (1, 2) or not np.isfinite(values).all():
        raise BadFile(f"{file.path} has {key!r} of shape {values.shape}; expected one or two numbers")
    return np.broadcast_to(values.ravel(), 2).astype(np.float64)


FORMAT = Format(
    name="ptyr",
    suffixes=(".ptyr",),
    needs="HDF5: content/obj/<ID>/data, content/probe/<ID>/data",
    products=Access(recognises_product, read_product),
)
