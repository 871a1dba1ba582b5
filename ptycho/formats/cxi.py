"""CXI 1.6 (cxidb.org), as CDTools and Ptychodus write it; ``/entry_1`` in SI units, energies in joules.

- Frames ``data_1/data`` or ``instrument_1/detector_1/data`` (P, N, N).
- ``translation`` (P, 3) in metres moves the *sample*, in (x, y, z). The beam moves the other way over it, and rows and
  columns of the usual detector run along -y and -x (``basis_vectors`` [[0, -dx], [-dy, 0], [0, 0]]), so that
  (row, column) = (y, x) over the object pixel: without ``basis_vectors`` that is assumed.
- ``detector_1/mask``: 0 is good, 0x1000 (signal above background) too; any other bit is bad.
- ``source_1/energy`` or ``wavelength``; ``source_1/illumination`` is the probe, if any.
- A result has ``image_1`` instead of a detector: ``data`` (H, W) complex, ``image_size`` (x, y, z) in metres, and here
  ``ptycho/positions_px`` (P, 2), which other programs do not read.
"""

from pathlib import Path

import numpy as np

from ptycho.data.beam import ELEMENTARY_CHARGE_C
from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats._container import COMPLEX, DEFAULT, ReadOptions
from ptycho.formats._detector import corrections
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has, write_frames
from ptycho.formats._metres import (
    GROUP,
    assembled,
    beam_of,
    in_pixels,
    object_pixel,
    particle,
    physical,
    read_kept,
    write_kept,
)
from ptycho.io import BadFile, hdf5_file

Array = np.ndarray

LACKS = ("object", "notes")
DETECTOR, SOURCE = "entry_1/instrument_1/detector_1", "entry_1/instrument_1/source_1"
IMAGE = "entry_1/image_1"
FRAMES = ("entry_1/data_1/data", f"{DETECTOR}/data")
TRANSLATIONS = (
    "entry_1/data_1/translation",
    "entry_1/sample_1/geometry_1/translation",
    "entry_1/sample_1/geometry/translation",
    f"{DETECTOR}/translation",
)


def recognises_scan(path: Path) -> bool:
    """``cxi_version`` and the group of the entry are there, as in NeXus files, which are recognised before."""
    return hdf5_has(path, "cxi_version", "entry_1") and not recognises_product(path)


def recognises_product(path: Path) -> bool:
    """An image is there, and no frames of a detector."""
    return hdf5_has(path, "cxi_version", f"{IMAGE}/data") and not hdf5_has(path, FRAMES[1])


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file; dark frames and the flat field of the detector are applied."""
    with Hdf5(path, options) as file:
        counts = file.frames(*FRAMES)
        basis, pixels = geometry(file)
        beam = beam_of(
            path, energy(file), distance(file, basis), particle(file), wavelength_m=file.number(f"{SOURCE}/wavelength")
        )
        beam = options.beam(beam)
        pixel = tuple(
            object_pixel(path, options, beam, counts.shape[-1], size, "energy, distance and x_pixel_size")
            for size in pixels
        )
        key = file.first(*TRANSLATIONS) or TRANSLATIONS[0]
        moved = file.array(*TRANSLATIONS, ndim=2)
        probe_key = file.first(f"{SOURCE}/illumination")
        kept = read_kept(file, beam, pixel[1])
        if probe_key and "probe" not in kept:
            kept["probe"] = file.get(probe_key, (2, 3), COMPLEX)
        kept["mask"], notes = usable(file)
        if (file.number(f"{SOURCE}/energy") or 0) >= 1e-10:
            notes = (*notes, f"No photon has so many joules: '{SOURCE}/energy' was taken for {energy(file):g} eV.")
        detector = corrections(file, DETECTOR, counts.shape[1:])
    positions = in_pixels(path, key, on_detector(path, key, moved, basis), pixel, options)
    notes = (*file.notes, *notes)
    return assembled(
        path, counts, positions, notes=notes, options=options, absent=file.absent, detector=detector, **kept
    )


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read the image; probe, positions and beam if they are there."""
    with Hdf5(path, options) as file:
        image = file.array(f"{IMAGE}/data", ndim=2, kinds=COMPLEX)
        size = file.get(f"{IMAGE}/image_size", 1)
        return Product(
            object=image,
            probe=file.get(f"{SOURCE}/illumination", (2, 3), COMPLEX),
            positions=file.get(f"{GROUP}/positions_px", 2),
            pixel_size_m=options.pixel_size_m or (None if size is None else float(size[0] / image.shape[1])),
            beam=beam_of(
                path, energy(file), file.number(f"{DETECTOR}/distance"), particle(file),
                wavelength_m=file.number(f"{SOURCE}/wavelength"),
            ),
            source=str(path),
        )  # fmt: skip


def on_detector(path: Path, key: str, moved: Array, basis: Array) -> Array:
    """Moves of the beam along rows and columns (P, 2) in metres, from those of the sample, (P, 3) or (P, 2)."""
    if moved.shape[1] not in (2, 3):
        raise BadFile(f"{path} has {key!r} of shape {moved.shape}; expected (frames, 3), the x, y, z of each")
    # The sample moves, the beam stays: over the sample it moves the other way. Unit vectors give (row, column).
    return -moved.astype(np.float64) @ basis[: moved.shape[1]]


def geometry(file: Hdf5, detector: str = DETECTOR) -> tuple[Array, tuple[float | None, float | None]]:
    """Unit vectors (3, 2) along rows and columns of the detector, and the side of a pixel along each in metres."""
    basis = file.get(f"{detector}/basis_vectors", 2)
    x, y = (file.number(f"{detector}/{axis}_pixel_size") for axis in "xy")
    if basis is None:
        # As columns (x, y, z): from row to row along -y, from column to column along -x.
        return np.array([[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0]]), (y or x, x or y)
    # Some programs write the two vectors as rows.
    basis = basis.T if basis.shape == (2, 3) else basis
    lengths = np.linalg.norm(basis, axis=0)
    if basis.shape != (3, 2) or not (np.isfinite(lengths).all() and lengths.all()):
        raise BadFile(
            f"{file.path} has '{detector}/basis_vectors' that are not two vectors in metres; correct or delete it"
        )
    return basis / lengths, (y or x or float(lengths[0]), x or y or float(lengths[1]))


def distance(file: Hdf5, basis: Array) -> float | None:
    """From the sample to the detector in metres: stated, or the distance of the detector's corner along its normal."""
    stated = file.number(f"{DETECTOR}/distance")
    corner_m = file.get(f"{DETECTOR}/corner_position")
    if stated or corner_m is None or corner_m.size != 3:
        return abs(stated) if stated else None
    # The corner is off the axis: its part along the normal of the detector is the distance.
    normal = np.cross(basis[:, 0], basis[:, 1])
    return float(abs(corner_m.ravel() @ normal / max(np.linalg.norm(normal), 1e-12))) or None


def energy(file: Hdf5) -> float | None:
    """Of a photon, in eV. No photon has 1e-10 J: such numbers are eV, or keV if they are small."""
    joules = file.number(f"{SOURCE}/energy")
    if joules is None or joules < 1e-10:
        return None if joules is None else joules / ELEMENTARY_CHARGE_C
    return joules if joules >= 100 else joules * 1e3


def usable(
    file: Hdf5, detector: str = DETECTOR, names: tuple[str, ...] = ("mask",)
) -> tuple[Array | None, tuple[str, ...]]:
    """``(mask, notes)``: True where a pixel is used, and which masks of the detector are left out."""
    key = file.first(*(f"{detector}/{name}" for name in names))
    bits = None if key is None else file.get(key, 2, "ui")
    left = [name for name in ("probe_mask",) if file.has(f"{detector}/{name}")]
    notes = tuple(f"'{name}' of the detector is left out: the frames are taken as they are." for name in left)
    # All bits but 0x1000, "signal above background", make a pixel bad.
    return None if bits is None else (bits.astype(np.int64) & ~0x1000) == 0, notes


def write_scan(scan: Scan, path: Path) -> None:
    """Write with soft links wherever programs look for a key. Raises ValueError for a scan in the near field."""
    import h5py

    scan.require_far_field("CXI files", "write HDF5 or NPZ")
    setup = physical(scan)
    with hdf5_file(path) as file:
        file["cxi_version"], file["number_of_entries"] = 160, 1
        detector, source = file.create_group(DETECTOR), file.create_group(SOURCE)
        write_frames(detector, "data", scan.counts)
        detector["data"].attrs["axes"] = "translation:y:x"
        detector["distance"] = setup.distance_m
        detector["x_pixel_size"] = detector["y_pixel_size"] = setup.detector_pixel_m
        # As columns the steps (x, y, z) from row to row, (0, -d, 0), and from column to column, (-d, 0, 0)
        detector["basis_vectors"] = -setup.detector_pixel_m * np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        # CXI: 0 is good. Ours: True is used.
        detector["mask"] = (~scan.mask).astype(np.uint32)
        # CXI has energies in joules.
        source["energy"] = setup.beam.energy_eV * ELEMENTARY_CHARGE_C
        source["wavelength"] = setup.beam.wavelength_m
        source["illumination"] = scan.probe
        y, x = scan.positions.T * setup.pixel_m
        # Moves of the sample as (x, y, z): their sign and that of the basis vectors cancel.
        file["entry_1/sample_1/geometry_1/translation"] = np.stack([x, y, np.zeros(len(scan))], axis=1)
        for alias in (TRANSLATIONS[0], TRANSLATIONS[3]):
            file[alias] = h5py.SoftLink(f"/{TRANSLATIONS[1]}")
        file[FRAMES[0]] = h5py.SoftLink(f"/{FRAMES[1]}")
        write_kept(file, scan, LACKS)


def write_product(product: Product, path: Path) -> None:
    """Write the image as ``image_1``, with probe, positions, beam and pixel size as far as they are known."""

    with hdf5_file(path) as file:
        file["cxi_version"], file["number_of_entries"] = 160, 1
        image, source = file.create_group(IMAGE), file.create_group(SOURCE)
        image.create_dataset("data", data=product.object, compression="gzip")
        image["data_space"], image["data_type"], image["dimensionality"] = "real", "complex transmission", 2
        image["is_fft_shifted"] = 0
        group = file.create_group(GROUP)
        if product.pixel_size_m is not None:
            height, width = product.object.shape
            # (x, y, z), so width before height
            image["image_size"] = product.pixel_size_m * np.array([width, height, 0.0])
        if product.probe is not None:
            source["illumination"] = product.probe
        if product.positions is not None:
            group["positions_px"] = product.positions
        if product.beam is not None:
            source["energy"] = product.beam.energy_eV * ELEMENTARY_CHARGE_C
            source["wavelength"] = product.beam.wavelength_m
            group.attrs["particle"] = product.beam.particle
            if product.beam.distance_m is not None:
                file[f"{DETECTOR}/distance"] = product.beam.distance_m


FORMAT = Format(
    name="cxi",
    suffixes=(".cxi",),
    needs="HDF5: cxi_version, entry_1/data_1/data, translation; or as a result entry_1/image_1/data",
    scans=Access(recognises_scan, read_scan, write_scan),
    pairs=True,
    products=Access(recognises_product, read_product, write_product),
    lacks=LACKS,
    keeps_lacking=True,
    in_metres=True,
)
