"""Patches of a canvas: `extract` reads them, `accumulate` adds them up; each is the exact adjoint of the other.

Both treat what lies outside the canvas as zero. Integer positions copy pixels; real ones interpolate bilinearly.
"""

import numpy as np
from keras import ops

from ptycho import backend
from ptycho.arrays import Array, Int, Num
from ptycho.physics.fourier import times_real


def split_positions(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer and sub-pixel part of positions ``(..., 2)`` in pixels: int64, and float32 in [-1/2, 1/2).

    Patches stay on the pixel grid of the object, at the integer part; the probe moves by the sub-pixel part.
    """
    # Not `rint`, which rounds halves to even: the rest would jump between -1/2 and 1/2.
    integer = np.floor(np.asarray(positions, float) + 0.5)
    return integer.astype("int64"), (positions - integer).astype("float32")


def placed(image: np.ndarray, origin: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """A copy of a canvas ``(H, W)`` with an image on it, its first pixel at ``origin``, cut where it reaches beyond."""
    canvas = canvas.copy()
    low, high = np.maximum(origin, 0), np.minimum(np.add(origin, image.shape), canvas.shape)
    # An image that lies outside altogether has high < low: the slices are then empty, not counted from the end.
    inside = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
    canvas[inside] = image[tuple(slice(a, max(a, b)) for a, b in zip(low - origin, high - origin, strict=True))]
    return canvas


def patch_index(positions: Int[Array, "B P 2"], size: tuple[int, int], shape: tuple[int, int]) -> Array:
    """Where the pixels of patches lie on a flat batch of canvases ``(B, H, W)``: int32 ``(B, P, n, m)``.

    What lies outside a canvas points to one pixel behind the last. Computed once, it serves `extract_at` and
    `accumulate_at` at every stage of a network.
    """
    centre = ops.convert_to_tensor([size[0] // 2, size[1] // 2], dtype="int32")
    index, inside = _indices(ops.cast(positions, "int32") - centre, size, *shape)
    return ops.where(inside, index, ops.shape(positions)[0] * shape[0] * shape[1])


def extract_at(canvas: Num[Array, "B H W"], index: Int[Array, "B P n m"]) -> Num[Array, "B P n m"]:
    """Patches of a batch of canvases; 0 outside."""
    flat = ops.reshape(canvas, (-1,))
    # The index of what lies outside points to this zero: no comparison for each pixel.
    return ops.take(ops.concatenate([flat, ops.zeros((1,), dtype=flat.dtype)]), index, axis=0)


def accumulate_at(
    patches: Num[Array, "B P n m"], index: Int[Array, "B P n m"], shape: tuple[int, int]
) -> Num[Array, "B H W"]:
    """Sum of patches on canvases of ``shape`` (H, W): adjoint of `extract_at`."""
    batch = ops.shape(patches)[0]
    pixels = batch * shape[0] * shape[1]
    # The last segment collects what lies outside; it is dropped.
    total = backend.segment_sum(ops.reshape(patches, (-1,)), ops.reshape(index, (-1,)), pixels + 1)
    return ops.reshape(total[:pixels], (batch, *shape))


def extract(
    canvas: Num[Array, "B H W"], positions: Num[Array, "B P 2"], size: tuple[int, int]
) -> Num[Array, "B P n m"]:
    """Patches of ``size`` (n, m) whose pixel ``(n // 2, m // 2)`` lies at canvas coordinate ``positions`` (y, x)."""
    canvas, positions = ops.convert_to_tensor(canvas), ops.convert_to_tensor(positions)
    shape = tuple(canvas.shape[-2:])
    total = 0
    for integer, weight in _taps(positions):
        patches = extract_at(canvas, patch_index(integer, size, shape))
        total = total + (patches if weight is None else _weighted(patches, weight))
    return total


def accumulate(
    patches: Num[Array, "B P n m"], positions: Num[Array, "B P 2"], shape: tuple[int, int]
) -> Num[Array, "B H W"]:
    """Sum of the patches on a canvas of ``shape`` (H, W), each at its position: adjoint of `extract`."""
    patches, positions = ops.convert_to_tensor(patches), ops.convert_to_tensor(positions)
    size = tuple(patches.shape[-2:])
    total = 0
    for integer, weight in _taps(positions):
        values = patches if weight is None else _weighted(patches, weight)
        total = total + accumulate_at(values, patch_index(integer, size, shape), shape)
    return total


def _taps(positions):
    """The integer positions that a position touches, each with its weight: one, or four (bilinear)."""
    if "int" in ops.dtype(positions):
        return [(positions, None)]
    floor = ops.floor(positions)
    subpixel = positions - floor
    origin = ops.cast(floor, "int32")
    wy, wx = subpixel[..., 0, None, None], subpixel[..., 1, None, None]
    step = lambda dy, dx: origin + ops.convert_to_tensor([dy, dx], dtype="int32")
    return [
        (step(0, 0), (1 - wy) * (1 - wx)),
        (step(0, 1), (1 - wy) * wx),
        (step(1, 0), wy * (1 - wx)),
        (step(1, 1), wy * wx),
    ]


def _indices(origin, size, height, width):
    """Flat canvas index of every patch pixel ``(B, P, n, m)``, and where it lies inside the canvas."""
    y = origin[..., 0, None] + ops.arange(size[0], dtype="int32")
    x = origin[..., 1, None] + ops.arange(size[1], dtype="int32")
    inside_y = ops.logical_and(y >= 0, y < height)
    inside_x = ops.logical_and(x >= 0, x < width)
    # Flat index (b H + y) W + x. Clipped, so that it is valid outside too, where `inside` is False.
    row = ops.arange(ops.shape(origin)[0], dtype="int32")[:, None, None] * height + ops.clip(y, 0, height - 1)
    index = row[..., :, None] * width + ops.clip(x, 0, width - 1)[..., None, :]
    return index, ops.logical_and(inside_y[..., :, None], inside_x[..., None, :])


def _weighted(values, weight):
    """Values, complex or real, times real weights of any precision."""
    if "complex" in ops.dtype(values):
        return times_real(values, ops.cast(weight, "float32"))
    return values * ops.cast(weight, ops.dtype(values))
