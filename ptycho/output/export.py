"""A result in the files that other people open: images, HDF5, CXI, and a figure ready for a paper."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ptycho.data.product import Product
from ptycho.formats import ReadOptions, read_product, reconstruction, write_product
from ptycho.images import contrast, levelled, parts, shown_region
from ptycho.io import replaced
from ptycho.output.figures import save_gray, save_paper_figure


def export(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    formats: Sequence[str] | None = None,
    pixel_size_m: float | None = None,
) -> list[Path]:
    """Write a result into a folder, in each of `FORMATS` or those that are named; the files, in this order.

    Images (``tiff``, ``png``, ``figure``) show the part that was lit, without the phase ramp and the global phase that
    ptychography cannot know; ``hdf5`` and ``cxi`` hold object, probe and positions as they are.

    Args:
        source: a run folder, its ``reconstruction.h5``, or a result of another program.
        folder: where the files go; it is made.
        formats: some of `FORMATS`; None: all.
        pixel_size_m: side of an object pixel, where the result does not know it.

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
    view = shown(product)
    return [file for name in chosen for file in FORMATS[name](product, view, folder)]


def shown(product: Product) -> Product:
    """The well-lit part of an object, levelled, without probe and positions."""
    image = product.object
    if product.probe is not None and product.positions is not None:
        image = image[shown_region(reconstruction.coverage(image.shape, product.probe, product.positions))]
    return Product(object=levelled(image), pixel_size_m=product.pixel_size_m)


def _tiff(product: Product, view: Product, folder: Path) -> list[Path]:
    write_product(view, folder / "object.tif", "tiff")
    return [folder / f"object_{name}.tif" for name in ("amplitude", "phase")]


def _png(product: Product, view: Product, folder: Path) -> list[Path]:
    size = "" if view.pixel_size_m is None else f"; a pixel is {1e9 * view.pixel_size_m:.5g} nm"
    files = []
    for title, image in parts(view.object).items():
        low, high = contrast(image)
        name = title.partition(" ")[0]
        text = f"{title}: {low:.4g} is black, {high:.4g} white{size}"
        files.append(save_gray(image, folder / f"{name}.png", (low, high), text))
    return files


def _hdf5(product: Product, view: Product, folder: Path) -> list[Path]:
    """With all that the package keeps of a result of its own."""
    target = folder / "reconstruction.h5"
    if not reconstruction.recognises_product(Path(product.source)):
        return [write_product(product, target, "reconstruction")]
    with replaced(target) as partial:
        shutil.copyfile(product.source, partial)
        if product.pixel_size_m is not None:
            reconstruction.note_pixel_size(partial, product.pixel_size_m)
    return [target]


def _cxi(product: Product, view: Product, folder: Path) -> list[Path]:
    return [write_product(product, folder / "object.cxi", "cxi")]


def _figure(product: Product, view: Product, folder: Path) -> list[Path]:
    files = [folder / "figure.pdf", folder / "figure.png"]
    save_paper_figure(view.object, view.pixel_size_m, *files)
    return files


FORMATS: dict[str, Callable[[Product, Product, Path], list[Path]]] = dict(
    tiff=_tiff, png=_png, hdf5=_hdf5, cxi=_cxi, figure=_figure
)
"""What writes each: called with the result, the part of it that is shown, and the folder."""
