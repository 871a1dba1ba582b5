"""Products of Ptychodus (HDF5, or NPZ with the same names in one level) and their patterns; PtychoViT pairs too.

- The product: ``probe_position_{x,y}_m`` (P,), ``probe_position_indexes`` (P,) of the pattern that belongs to each;
  ``probe`` (C, I, N, N), C varying and I incoherent modes, or less; ``opr_weights`` (P, C), an attribute of ``probe``
  or a data set; ``object`` (L, H, W); ``photon_energy_eV`` or ``probe_energy_eV``,
  ``detector_object_distance_m``.
- x runs along columns, y along rows; a position is at pixel ``(x - centre) / pixel + W / 2`` from the edge of the
  object, and the middle of the probe, ``N / 2``, lies there: probe pixel ``N // 2`` half a pixel before if N is odd.
- Patterns: ``*_dp.hdf5`` with ``dp`` (P, N, N), or NPZ with ``patterns``, ``indexes``, ``bad_pixels``, beside it.
"""

from pathlib import Path

import numpy as np

from ptycho.data.beam import Beam
from ptycho.data.frames import Counts, picked
from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats import _pairs
from ptycho.formats._container import (
    COMPLEX,
    DEFAULT,
    REAL,
    ReadOptions,
    load_npz,
    npz_keys,
    number,
    optional,
    required,
)  # fmt: skip
from ptycho.formats._format import Access, Format
from ptycho.formats._hdf5 import Hdf5, hdf5_has, write_frames
from ptycho.formats._metres import GROUP, Kept, Physical, assembled, beam_of, physical, read_kept, write_kept
from ptycho.io import BadFile, hdf5_file

Array = np.ndarray
Arrays = dict[str, Array]

LACKS = ("mask", "notes")
POSITIONS = ("probe_position_x_m", "probe_position_y_m")
DATASETS = (*POSITIONS, "probe_position_indexes", "probe", "object", "opr_weights")
ENERGIES, DISTANCE = ("photon_energy_eV", "probe_energy_eV"), "detector_object_distance_m"
"""The first name of the energy is that of Ptychodus 1.7, which reads the other too, the only one before."""
PIXELS, CENTRES = ("pixel_height_m", "pixel_width_m"), ("center_y_m", "center_x_m")


def recognises_scan(path: Path) -> bool:
    """A product with its patterns, or patterns with their product, by the names of the files."""
    product, patterns = _pairs.of(path)
    return patterns is not None and recognises_product(product)


def recognises_product(path: Path) -> bool:
    """The positions are there by their names."""
    return hdf5_has(path, *POSITIONS) or set(POSITIONS) <= set(npz_keys(path))


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read product and patterns, joined by the indexes of the patterns."""
    product, patterns = _pairs.of(path)
    if patterns is None:
        raise BadFile(f"{path} holds no frames; put its patterns beside it as {_pairs.frames_for(path).name}")
    arrays = _product(product, options)
    counts, indexes, bad = _patterns(patterns, options)
    points = (
        required(arrays, "probe_position_indexes", product, 1, "ui") if "probe_position_indexes" in arrays else None
    )
    order = np.argsort(indexes, kind="stable")
    points = np.arange(len(arrays[POSITIONS[0]])) if points is None else points
    # Row of the pattern with each index; `matched` tells where there is one.
    at = np.clip(np.searchsorted(indexes[order], points), 0, len(indexes) - 1)
    matched = indexes[order][at] == points
    frames, (positions, pixel) = order[at][matched], _positions(product, arrays, options, counts.shape[-1])
    notes = _left_out(len(points) - int(matched.sum()), len(counts) - len(np.unique(frames)))
    if not matched.any() or len(points) != len(positions):
        raise BadFile(f"{product} has 'probe_position_indexes' that name no pattern of {patterns}; write both anew")
    counts = picked(counts, frames)
    kept, origin, kept_notes = _kept(product, arrays, options, pixel)
    if bad is not None:
        kept["mask"] = bad == 0
    return assembled(path, counts, (positions + origin)[matched], notes=(*notes, *kept_notes), **kept)


def read_product(path: Path, options: ReadOptions = DEFAULT) -> Product:
    """Read the product alone: the first layer of its object."""
    arrays = _product(path, options)
    probe, notes = _probe(path, arrays)
    image = required(arrays, "object", path, (2, 3))
    layers = len(image) if image.ndim == 3 else 1
    positions, pixel = _positions(path, arrays, options, probe.shape[-1])
    notes += (f"The object has {layers} layers; this is the first.",) if layers > 1 else ()
    return Product(
        object=image[0] if image.ndim == 3 else image,
        probe=probe,
        positions=positions if len(positions) else None,
        pixel_size_m=pixel,
        beam=_beam(path, arrays),
        source=str(path),
        notes=notes,
    )


def _product(path: Path, options: ReadOptions) -> Arrays:
    """Everything under its flat name, as in the NPZ."""
    pixels = [f"{image}_{name}" for image in ("object", "probe") for name in (*PIXELS, *CENTRES)]
    if set(POSITIONS) <= set(npz_keys(path)):
        return load_npz(path, (*DATASETS, *ENERGIES, DISTANCE, *pixels), options)[0]
    with Hdf5(path, options) as file:
        arrays = {name: file.get(name, kinds=COMPLEX) for name in DATASETS}
        arrays |= {name: _single(file.attribute_number("/", name)) for name in (*ENERGIES, DISTANCE)}
        for name in pixels:
            image, _, attribute = name.partition("_")
            arrays[name] = _single(file.attribute_number(image, attribute))
        if arrays["opr_weights"] is None:
            arrays["opr_weights"] = file.attribute_array("probe", "opr_weights")
    return {name: value for name, value in arrays.items() if value is not None}


def _single(value: float | None) -> Array | None:
    return None if value is None else np.array(value)


def _patterns(path: Path, options: ReadOptions) -> tuple[Counts, Array, Array | None]:
    """``(counts, index of each, bad pixels or None)``."""
    if npz_keys(path):
        arrays, _ = load_npz(path, ("patterns", "indexes", "bad_pixels"), options)
        counts: Counts = required(arrays, "patterns", path, 3, REAL)
        indexes, bad = optional(arrays, "indexes", path, 1, "ui"), optional(arrays, "bad_pixels", path, 2, REAL)
        if indexes is not None and len(indexes) != len(counts):
            raise BadFile(f"{path} has {len(counts)} 'patterns' and {len(indexes)} 'indexes'; write them anew")
    else:
        with Hdf5(path, options) as file:
            counts, indexes, bad = file.frames("dp"), None, None
    return counts, np.arange(len(counts)) if indexes is None else indexes, bad


def _positions(path: Path, arrays: Arrays, options: ReadOptions, N: int) -> tuple[Array, float]:
    """(P, 2) object pixels under probe pixel N // 2, and the side of an object pixel."""
    x, y = (required(arrays, name, path, None, REAL).ravel() for name in POSITIONS)
    if len(x) != len(y):
        raise BadFile(f"{path} has {len(x)} '{POSITIONS[0]}' and {len(y)} '{POSITIONS[1]}'; write it anew")
    sizes = [
        options.pixel_size_m or number(arrays, f"object_{name}", path) or number(arrays, f"probe_{name}", path)
        for name in PIXELS
    ]
    if not all(size and size > 0 for size in sizes):
        raise BadFile(f"{path} has no '{PIXELS[1]}' of its object or probe; give --pixel-size-nm")
    shape = arrays["object"].shape[-2:] if "object" in arrays and arrays["object"].ndim > 1 else (0, 0)
    centre = [number(arrays, f"object_{name}", path) or 0.0 for name in CENTRES]
    # (position - centre) / pixel + shape / 2, from the outer edge of the object: pixel i lies between i and i + 1.
    from_edge = (np.stack([y, x], axis=1) - centre) / np.array(sizes, float) + np.array(shape) / 2
    # There lies the middle of the probe, N / 2 behind the beginning of its first pixel; wanted is its pixel N // 2.
    return from_edge - N / 2 + N // 2, float(sizes[1] or 0)


def _probe(path: Path, arrays: Arrays) -> tuple[Array, tuple[str, ...]]:
    """(I, N, N); of a probe that varies the mean over the frames, as its weights say."""
    probe = required(arrays, "probe", path, (2, 3, 4))
    if probe.ndim < 4:
        return probe.reshape(-1, *probe.shape[-2:]), ()
    if len(probe) == 1:
        return probe[0], ()
    note = (
        f"The probe varies from frame to frame in {len(probe)} modes, which a scan has no place for: the mean is taken."
    )
    weights = optional(arrays, "opr_weights", path, 2, REAL)
    if weights is None:
        return probe[0], (note,)
    if weights.shape[1] != len(probe):
        raise BadFile(f"{path} has 'opr_weights' of shape {weights.shape}; expected {len(probe)} columns, as probes")
    # Mean over the frames of sum_c w_jc P_c
    return np.tensordot(weights.mean(axis=0), probe, axes=1), (note,)


def _beam(path: Path, arrays: Arrays) -> Beam | None:
    energies = [number(arrays, name, path) for name in ENERGIES]
    return beam_of(path, next(filter(None, energies), None), number(arrays, DISTANCE, path) or None)


def _kept(path: Path, arrays: Arrays, options: ReadOptions, pixel: float) -> tuple[Kept, Array, tuple[str, ...]]:
    """``(fields, origin, notes)``: fields of a scan in the product or kept beside it; the scan's pixel at its first."""
    probe, notes = _probe(path, arrays)
    beam, origin = _beam(path, arrays), np.zeros(2)
    if not hdf5_has(path, GROUP):
        omitted = ("The object of the product is not known to be true: left out.",) if "object" in arrays else ()
        return Kept(probe=probe, beam=beam, pixel_size_m=pixel), origin, (*notes, *omitted)
    with Hdf5(path, options) as file:
        kept = read_kept(file, beam, pixel)
        kept.setdefault("probe", probe)
        kept_origin = file.attribute_array(GROUP, "origin")
        if kept_origin is None:
            kept["object"] = required(arrays, "object", path, 3)[0]
        elif kept_origin.shape == (2,):
            origin = kept_origin
    return kept, origin, notes


def _left_out(points: int, patterns: int) -> tuple[str, ...]:
    pairs = ((points, "positions have no pattern"), (patterns, "patterns have no position"))
    return tuple(f"{count} {reason}: left out." for count, reason in pairs if count)


def write_scan(scan: Scan, path: Path) -> None:
    """Write the product, and its patterns beside it. Without a true object it holds vacuum."""

    scan.require_far_field("files of Ptychodus", "write HDF5 or NPZ")
    # Without a true object: a vacuum with a frame to spare on all sides; its origin is kept, to read positions back.
    origin = np.zeros(2, int) if scan.object is not None else np.floor(scan.positions.min(axis=0)).astype(int) - scan.N
    size = np.ceil(np.ptp(scan.positions, axis=0)).astype(int) + 2 * scan.N + 1
    image = np.ones(size, np.complex64) if scan.object is None else scan.object
    with hdf5_file(_pairs.frames_for(path)) as file:
        write_frames(file, "dp", scan.counts)
    with hdf5_file(path) as file:
        _write(file, physical(scan), image, scan.probe, scan.positions - origin)
        write_kept(file, scan, LACKS)
        if scan.object is None:
            file[GROUP].attrs["origin"] = origin


def write_product(product: Product, path: Path) -> None:
    """Write a product without patterns. Raises ValueError for one without a probe."""

    if product.probe is None:
        raise ValueError("the result has no probe, which products of Ptychodus need; write TIFF")
    positions = np.zeros((0, 2)) if product.positions is None else product.positions
    with hdf5_file(path) as file:
        _write(file, physical(product), product.object, product.probe, positions)


def _write(file, setup: Physical, image: Array, probe: Array, positions: Array) -> None:
    """The middle of the object is at (0, 0) metres."""
    N, sizes = probe.shape[-1], dict.fromkeys(PIXELS, setup.pixel_m)
    # Inverse of `_positions`, the centre at 0
    metres = (positions + N / 2 - N // 2 - np.array(image.shape) / 2) * setup.pixel_m
    file.attrs.update({"name": "ptycho", "comments": "", "exposure_time_s": 1.0, DISTANCE: setup.distance_m})
    file.attrs.update(dict.fromkeys(ENERGIES, setup.beam.energy_eV))
    file.attrs["probe_photon_count"] = float((np.abs(probe) ** 2).sum())
    file["probe_position_indexes"] = np.arange(len(positions))
    file["probe_position_y_m"], file["probe_position_x_m"] = metres[:, 0], metres[:, 1]
    # (C, I, N, N) and (L, H, W), with one coherent mode and one layer
    file["probe"], file["object"] = probe[None], image[None]
    file["probe"].attrs.update(sizes)
    file["object"].attrs.update(sizes | dict.fromkeys(CENTRES, 0.0))
    file["object_layer_spacing_m"], file["loss_values"], file["loss_epochs"] = (
        np.zeros(0),
        np.zeros(0),
        np.zeros(0, int),
    )


FORMAT = Format(
    name="ptychodus",
    suffixes=("_para.hdf5", "_para.h5"),
    needs="HDF5 or NPZ: probe_position_x_m, probe_position_y_m, probe, and *_dp.hdf5 with dp or patterns NPZ beside it",
    scans=Access(recognises_scan, read_scan, write_scan),
    products=Access(recognises_product, read_product, write_product),
    lacks=LACKS,
    keeps_lacking=True,
    in_metres=True,
)
