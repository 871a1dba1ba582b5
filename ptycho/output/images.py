"""Arrays as PNG and TIFF files, one screen pixel for one of the image."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho.images import contrast_limits, displayed_images
from ptycho.io import replaced

if TYPE_CHECKING:  # images of arrays need no framework
    from ptycho.data.reconstruction import Reconstruction


def save_png(result: "Reconstruction", path: str | os.PathLike) -> Path:
    """The object as one gray image: amplitude beside phase."""
    pair = displayed_images(result.object, result.coverage, result.slices)
    return save_gray(np.concatenate([_normalised(image) for image in pair.values()], axis=1), path, (0, 1))


def save_gray(image: np.ndarray, path: str | os.PathLike, limits: tuple[float, float], text: str = "") -> Path:
    """An image (H, W) as PNG of 8 bits, black and white at ``limits``, with an optional description in the file."""
    from PIL.Image import fromarray
    from PIL.PngImagePlugin import PngInfo

    low, high = limits
    metadata = PngInfo()
    if text:
        metadata.add_text("Description", text)
    with replaced(path) as partial:
        gray = np.clip((image - low) * (255 / (high - low)), 0, 255)
        fromarray(np.rint(gray).astype(np.uint8)).save(partial, format="PNG", pnginfo=metadata)
    return Path(path)


def save_stack(
    images: np.ndarray, path: str | os.PathLike, pixel_size_m: float | None, spacing_m: float | None = None
) -> Path:
    """Images (S, H, W) as a stack of float32 TIFFs that ImageJ opens with its scale, in nm where the pixel is known."""
    import tifffile

    scale: dict[str, Any] = dict(metadata=dict(axes="ZYX"))
    if pixel_size_m is not None:
        nm = 1e9 * pixel_size_m
        scale = dict(metadata=dict(axes="ZYX", unit="nm"), resolution=(1 / nm, 1 / nm))
        if spacing_m is not None:
            scale["metadata"]["spacing"] = 1e9 * spacing_m
    with replaced(path) as partial:
        tifffile.imwrite(partial, images.astype(np.float32), imagej=True, **scale)
    return Path(path)


def _normalised(image: np.ndarray) -> np.ndarray:
    """The values within the contrast limits, from 0 to 1."""
    low, high = contrast_limits(image)
    return np.clip((image - low) / (high - low), 0, 1)
