"""Projective warps of image stacks, on every Keras backend, with or without compilation.

A transform maps an *output* pixel ``(x, y, 1)`` to its *source* in homogeneous coordinates,
``(X, Y, K) = T (x, y, 1)``: the source is ``(X / K, Y / K)``. Pixel centres are integers, x is the column, y
the row. Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 2.3.
"""

import functools
from collections.abc import Callable
from typing import Any

from keras import ops

from ptycho.backend import compiled
from ptycho.physics.fourier import times_real
from ptycho.tf_helper import is_complex, one_for_each

INTERPOLATIONS = ("nearest", "bilinear")
FILL_MODES = ("edge", "zeros")
FAR_PX = 1e9
"""Coordinate given to a point at infinity: outside of any image."""


def projective_warp_xla(images: Any, transforms: Any, interpolation: str = "bilinear", fill_mode: str = "edge") -> Any:
    """Warp each image by its transform: ``out[y, x] = image[source of (x, y)]``.

    Args:
        images: ``(B, H, W, C)``, real (given back as float32) or complex (as complex64).
        transforms: ``(B, 3, 3)``, or ``(B, 8)``: the same matrices row by row, with 1 as the last element.
        interpolation: ``bilinear``, or ``nearest`` (a tie goes to the larger index).
        fill_mode: what lies outside an image: its nearest pixel (``edge``) or ``zeros``. Points at infinity
            (K = 0) lie outside.

    Differentiable in the images and, with ``bilinear``, in the transforms. The identity and whole-pixel
    translations are exact.

    Raises:
        ValueError: other shapes, batches that differ (where they are known), or an unknown option.
    """
    _check_options(interpolation, fill_mode)
    return _warp(*_checked(images, transforms), interpolation=interpolation, fill_mode=fill_mode)


def projective_warp_xla_jit(
    images: Any, transforms: Any, interpolation: str = "bilinear", fill_mode: str = "edge"
) -> Any:
    """`projective_warp_xla`, compiled once for each shape, dtype and pair of options."""
    _check_options(interpolation, fill_mode)
    return _compiled_warp(interpolation, fill_mode)(*_checked(images, transforms))


def translate_xla(images: Any, translations: Any, interpolation: str = "bilinear", use_jit: bool = True) -> Any:
    """Move images ``(B, H, W, C)`` by translations ``(B, 2)`` = ``(dx, dy)`` pixels; zero outside.

    A positive translation moves content towards larger indices, as in `ptycho.tf_helper.Translation`.

    Raises:
        ValueError: as `projective_warp_xla`, and for translations that are not ``(B, 2)``.
    """
    translations = ops.cast(ops.convert_to_tensor(translations), "float32")
    if len(translations.shape) != 2 or translations.shape[1] != 2:
        raise ValueError(f"translations have shape {tuple(translations.shape)}; expected (B, 2), a (dx, dy) each")
    dx, dy = translations[:, 0], translations[:, 1]
    one, zero = ops.ones_like(dx), ops.zeros_like(dx)
    transforms = ops.stack([one, zero, -dx, zero, one, -dy, zero, zero], axis=-1)
    warp = projective_warp_xla_jit if use_jit else projective_warp_xla
    return warp(images, transforms, interpolation=interpolation, fill_mode="zeros")


@functools.cache
def _compiled_warp(interpolation: str, fill_mode: str) -> Callable[..., Any]:
    """Four at most, shared by all callers: traces of a pure function, one for each shape and dtype."""
    return compiled(functools.partial(_warp, interpolation=interpolation, fill_mode=fill_mode))


def _check_options(interpolation: str, fill_mode: str) -> None:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation!r}; expected one of {INTERPOLATIONS}")
    if fill_mode not in FILL_MODES:
        raise ValueError(f"fill_mode is {fill_mode!r}; expected one of {FILL_MODES}")


def _checked(images: Any, transforms: Any) -> tuple[Any, Any]:
    """Images in single precision, and the matrices row by row ``(B, 9)``."""
    images = ops.convert_to_tensor(images)
    transforms = ops.cast(ops.convert_to_tensor(transforms), "float32")
    if len(images.shape) != 4 or None in tuple(images.shape)[1:]:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, H, W, C) with H, W and C known")
    if tuple(transforms.shape)[1:] not in ((3, 3), (8,)):
        raise ValueError(f"transforms have shape {tuple(transforms.shape)}; expected (B, 3, 3) or (B, 8)")
    batches = (images.shape[0], transforms.shape[0])
    if None not in batches and batches[0] != batches[1]:
        raise ValueError(f"{batches[0]} images, but {batches[1]} transforms; expected one for each image")
    if len(transforms.shape) == 2:
        transforms = ops.concatenate([transforms, ops.ones_like(transforms[:, :1])], axis=-1)
    images = ops.cast(images, "complex64" if is_complex(images) else "float32")
    return images, one_for_each(images, ops.reshape(transforms, (-1, 9)))


def _warp(images: Any, transforms: Any, *, interpolation: str, fill_mode: str) -> Any:
    height, width = images.shape[1:3]
    x, y = _source(transforms, height, width)
    # One pixel beyond the image is as good as any further: it reads as zero. Clipping here keeps the cast to
    # integers defined for sources that are far off.
    margin = 1 if fill_mode == "zeros" else 0
    x = ops.clip(x, -margin, width - 1 + margin)
    y = ops.clip(y, -margin, height - 1 + margin)
    corners = _nearest(x, y) if interpolation == "nearest" else _bilinear(x, y)
    total = 0
    for column, row, weight in corners:
        values, inside = _pixels(images, column, row)
        if fill_mode == "zeros":
            weight = weight * inside
        total = total + _times(values, weight[..., None])
    return total


def _source(transforms: Any, height: int, width: int) -> tuple[Any, Any]:
    """Source x and y of each output pixel, each ``(B, H, W)``.

    Products are taken one by one, not as a matrix product, which some devices compute in reduced precision.
    """
    x = ops.arange(width, dtype="float32")[None, None, :]
    y = ops.arange(height, dtype="float32")[None, :, None]
    element = [transforms[:, i, None, None] for i in range(9)]
    source_x, source_y, scale = (element[i] * x + element[i + 1] * y + element[i + 2] for i in (0, 3, 6))
    infinite = scale == 0
    scale = ops.where(infinite, 1.0, scale)  # before the division, or its gradient is NaN there
    return tuple(ops.where(infinite, ops.where(s < 0, -FAR_PX, FAR_PX), s / scale) for s in (source_x, source_y))


def _nearest(x: Any, y: Any) -> list[tuple[Any, Any, Any]]:
    """The pixel nearest to each source, with weight 1."""
    (x0, fx), (y0, fy) = _split(x), _split(y)
    up = lambda fraction: ops.cast(fraction >= 0.5, "int32")
    return [(x0 + up(fx), y0 + up(fy), ops.ones_like(x))]


def _bilinear(x: Any, y: Any) -> list[tuple[Any, Any, Any]]:
    """The four pixels around each source, as ``(column, row, weight)``."""
    (x0, fx), (y0, fy) = _split(x), _split(y)
    return [
        (x0, y0, (1 - fx) * (1 - fy)),
        (x0 + 1, y0, fx * (1 - fy)),
        (x0, y0 + 1, (1 - fx) * fy),
        (x0 + 1, y0 + 1, fx * fy),
    ]


def _split(coordinate: Any) -> tuple[Any, Any]:
    """Whole pixel and the fraction beyond it."""
    whole = ops.floor(coordinate)
    return ops.cast(whole, "int32"), coordinate - whole


def _pixels(images: Any, column: Any, row: Any) -> tuple[Any, Any]:
    """Pixels ``(B, H, W, C)`` at columns and rows ``(B, H, W)``, clipped; and 1.0 where inside the image."""
    height, width, channels = images.shape[1:]
    inside_x = ops.logical_and(column >= 0, column < width)
    inside_y = ops.logical_and(row >= 0, row < height)
    image = ops.arange(ops.shape(images)[0], dtype="int32")[:, None, None]
    index = (image * height + ops.clip(row, 0, height - 1)) * width + ops.clip(column, 0, width - 1)
    values = ops.take(ops.reshape(images, (-1, channels)), index, axis=0)
    return values, ops.cast(ops.logical_and(inside_x, inside_y), "float32")


def _times(values: Any, weight: Any) -> Any:
    return times_real(values, weight) if is_complex(values) else values * weight
