"""PtyLab's HDF5: everything at the root, in metres, scalars often as arrays of length 1.

``ptychogram`` (P, N, N), ``encoder`` (P, 2) as (row, column), ``wavelength``, ``dxd`` of the detector, ``zo`` to it;
optional ``orientation`` (codes of PtyPy), ``probe`` and ``object`` (wavelengths, object modes, probe modes, slices, N,
N) of a result, whose centre is at (0, 0): pixel ``encoder / dxo + No // 2``. Fourier ptychography (``zled``) is another
thing, and is refused. Read only.
"""

from pathlib import Path

import numpy as np

from ptycho.data.frames import mapped
from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has
from ptycho.formats._metres import assembled, beam_of, in_pixels, object_pixel
from ptycho.io import BadFile

Array = np.ndarray


def recognises_scan(path: Path) -> bool:
    """Frames and positions are at the root."""
    return hdf5_has(path, "ptychogram", "encoder")


def recognises_product(path: Path) -> bool:
    """A result: object and probe with the pixel of the probe."""
    return hdf5_has(path, "object", "probe", "dxp")


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file; frames are turned as ``orientation`` says."""
    with Hdf5(path, options) as file:
        if file.has("zled"):
            raise BadFile(f"{path} is of Fourier ptychography ('zled'), which has no probe to scan; give another file")
        counts, encoder = file.frames("ptychogram"), file.array("encoder", ndim=2)
        beam = beam_of(path, None, file.number("zo"), wavelength_m=file.number("wavelength"))
        pixel = object_pixel(path, options, beam, counts.shape[-1], file.number("dxd"), "wavelength, zo and dxd")
        code = file.number("orientation") or 0
        probe = _first_slice(file.get("probe", (2, 3, 6), COMPLEX)) if file.has("probe") else None
        notes = [f"'{name}' is left out." for name in ("emptyBeam", "theta") if file.has(name)]
    if encoder.shape[0] == 2 != encoder.shape[1]:
        encoder = encoder.T
        notes.append("'encoder' has two rows: it was transposed.")
    if code not in range(8):
        raise BadFile(f"{path} has 'orientation' {code:g}; expected one of 0 to 7")
    counts = mapped(counts, oriented, int(code)) if code else counts
    positions = in_pixels(path, "encoder", encoder, pixel)
    return assembled(path, counts, positions, probe=probe, notes=notes, beam=beam, pixel_size_m=pixel)


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read the first object of a result, and the modes of its probe."""
    with Hdf5(path, options) as file:
        images = _first_slice(file.array("object", ndim=(2, 3, 6), kinds=COMPLEX))
        probe = _first_slice(file.array("probe", ndim=(2, 3, 6), kinds=COMPLEX))
        pixel = options.pixel_size_m or file.number("dxp")
        key = file.first("encoder_corrected", "encoder")
        encoder = file.get(key, 2) if key else None
        beam = beam_of(path, None, file.number("zo"), wavelength_m=file.number("wavelength"))
    positions = None
    if key and encoder is not None and pixel:
        # The encoder is 0 at the middle of the object, pixel No // 2.
        positions = in_pixels(path, key, encoder, pixel) + np.array(images.shape[-2:]) // 2
    return Product(
        object=images[0],
        probe=probe,
        positions=positions,
        pixel_size_m=pixel,
        beam=beam,
        source=str(path),
        notes=() if len(images) == 1 else (f"The object has {len(images)} modes; this is the first.",),
    )


def _first_slice(waves: Array | None) -> Array:
    """(modes, H, W) of the first wavelength and slice, of six axes or less."""
    assert waves is not None
    if waves.ndim == 6:
        # (wavelengths, object modes, probe modes, slices, N, N): of object and probe one of the mode axes has length 1.
        waves = waves[0, :, :, 0].reshape(-1, *waves.shape[-2:])
    return waves if waves.ndim == 3 else waves[None]


def oriented(frames: Array, code: int) -> Array:
    """Frames (P, N, N) turned by a code of PtyPy: 1 left-right, 2 up-down, 3 both, 4 transposed, 5 to 7 then 1 to 3."""
    frames = np.swapaxes(frames, -1, -2) if code & 4 else frames
    frames = frames[..., ::-1] if code & 1 else frames
    frames = frames[..., ::-1, :] if code & 2 else frames
    return np.ascontiguousarray(frames)


FORMAT = Format(
    name="ptylab",
    suffixes=(".hdf5",),
    needs="HDF5: ptychogram, encoder, wavelength, dxd, zo",
    scans=Access(recognises_scan, read_scan),
    products=Access(recognises_product, read_product),
)
