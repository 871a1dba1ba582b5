"""Export of a result: images, HDF5, CXI, and a figure ready for a paper."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ptycho.data.product import Product
from ptycho.formats import ReadOptions, read_product, reconstruction, write_product
from ptycho.images import amplitude_and_phase, contrast_limits, displayed_object, ramp_removed
from ptycho.io import replaced
from ptycho.output.emd import Image, save_emd
from ptycho.output.figures import save_paper_figure
from ptycho.output.images import save_gray, save_stack


def export(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    formats: Sequence[str] | None = None,
    pixel_size_m: float | None = None,
) -> list[Path]:
    """Write a result into a folder in each of the formats; returns the files, in this order.

    Images (``tiff``, ``png``, ``figure``) show the illuminated region, without the phase ramp and the global phase,
    which ptychography cannot determine, and with the mean value in corners that no light fell on; ``hdf5`` and ``cxi``
    hold object, probe and positions unchanged. ``tiff`` and ``emd`` hold besides the phase of each slice of a thick
    sample, a stack along the beam, and the projected potential, phase over interaction constant, in V A, of electrons.

    Args:
        source: a run folder, its ``reconstruction.h5``, or a result of another program.
        folder: the folder for the files; it is created.
        formats: some of `FORMATS`; None: all.
        pixel_size_m: side of an object pixel, if the result does not contain it.

    Raises:
        ValueError: there is no such format, or no result in ``source``.
    """
    chosen = list(FORMATS) if formats is None else list(formats)
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown or not chosen:
        raise ValueError(f"no format {', '.join(unknown) or 'is named'}; formats are {', '.join(FORMATS)}")
    source, folder = Path(source), Path(folder)
    path = source / "reconstruction.h5" if source.is_dir() else source
    if not path.exists():
        raise ValueError(
            f"there is no reconstruction in {source}; give a run folder of `ptycho reconstruct` or `refine`"
        )
    product = read_product(path, options=ReadOptions(pixel_size_m=pixel_size_m))
    folder.mkdir(parents=True, exist_ok=True)
    image = displayed(product)
    return [file for name in chosen for file in FORMATS[name](product, image, folder)]


def displayed(product: Product) -> Product:
    """The object as images show it, without probe and positions: see `displayed_object`."""
    if product.probe is None or product.positions is None:
        shown = ramp_removed
    else:
        coverage = reconstruction.coverage(product.object.shape, product.probe, product.positions)
        shown = partial(displayed_object, coverage=coverage)
    slices = None if product.slices is None else np.stack([shown(layer) for layer in product.slices])
    return replace(product, object=shown(product.object), slices=slices, probe=None, positions=None)


def _tiff(product: Product, image: Product, folder: Path) -> list[Path]:
    write_product(image, folder / "object.tif", "tiff")
    files = [folder / f"object_{name}.tif" for name in ("amplitude", "phase")]
    if (potential := _potential(image)) is not None:
        files.append(folder / "object_potential.tif")
        save_stack(potential[None], files[-1], image.pixel_size_m)
    if image.slices is not None:
        files.append(folder / "object_slices_phase.tif")
        save_stack(np.angle(image.slices), files[-1], image.pixel_size_m, image.slice_spacing_m)
    return files


def _emd(product: Product, image: Product, folder: Path) -> list[Path]:
    images = dict(amplitude=Image(np.abs(image.object), ""), phase=Image(np.angle(image.object), "rad"))
    if (potential := _potential(image)) is not None:
        images["potential"] = Image(potential, "V A")
    if image.slices is not None:
        images["slices"] = Image(np.angle(image.slices), "rad", image.slice_spacing_m)
    save_emd(images, image.pixel_size_m, folder / "object.emd", title=Path(product.source).name)
    return [folder / "object.emd"]


def _potential(image: Product) -> np.ndarray | None:
    """The potential of a sample, projected along the beam, in V A: ``phase / sigma``, of electrons.

    It is known but for a constant, which is chosen so that the lowest values, of vacuum or of gaps, are 0. The phase of
    slices is their sum, so that it does not wind where that of the wave behind all of them does.
    """
    sigma = None if image.beam is None else image.beam.interaction_rad_per_v_a
    if sigma is None:
        return None
    phase = amplitude_and_phase(image.object, image.slices)["phase (rad)"]
    return (phase - np.percentile(phase, 0.5)) / sigma


def _png(product: Product, image: Product, folder: Path) -> list[Path]:
    size = "" if image.pixel_size_m is None else f"; a pixel is {1e9 * image.pixel_size_m:.5g} nm"
    files = []
    for title, values in amplitude_and_phase(image.object, image.slices).items():
        low, high = contrast_limits(values)
        name = title.partition(" ")[0]
        text = f"{title}: {low:.4g} is black, {high:.4g} white{size}"
        files.append(save_gray(values, folder / f"{name}.png", (low, high), text))
    return files


def _hdf5(product: Product, image: Product, folder: Path) -> list[Path]:
    """A result of this package is copied whole."""
    target = folder / "reconstruction.h5"
    if not reconstruction.recognises_product(Path(product.source)):
        return [write_product(product, target, "reconstruction")]
    with replaced(target) as partial:
        shutil.copyfile(product.source, partial)
        if product.pixel_size_m is not None:
            reconstruction.note_pixel_size(partial, product.pixel_size_m)
    return [target]


def _cxi(product: Product, image: Product, folder: Path) -> list[Path]:
    return [write_product(product, folder / "object.cxi", "cxi")]


def _figure(product: Product, image: Product, folder: Path) -> list[Path]:
    files = [folder / "figure.pdf", folder / "figure.png"]
    save_paper_figure(image.object, image.pixel_size_m, *files, slices=image.slices)
    return files


FORMATS: dict[str, Callable[[Product, Product, Path], list[Path]]] = dict(
    tiff=_tiff, png=_png, hdf5=_hdf5, cxi=_cxi, emd=_emd, figure=_figure
)
"""The writer of each format; its arguments are the result, its object as images show it, and the folder."""
