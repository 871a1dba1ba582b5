"""Patches of a canvas: `extract` reads them, `accumulate` adds them up; each is the exact adjoint of the other.

Both treat what lies outside the canvas as zero. Integer positions copy pixels; real ones interpolate bilinearly.
"""

import numpy as np
from keras import ops

from ptycho.arrays import Array, Num
from ptycho.physics.fourier import make_complex


def split_positions(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole and sub-pixel part of positions ``(..., 2)`` in pixels: int32, and float32 in [-1/2, 1/2).

    Patches stay on the pixel grid of the object, at the whole part; the probe moves by the rest.
    """
    whole = np.floor(np.asarray(positions, float) + 0.5)
    return whole.astype("int32"), (positions - whole).astype("float32")


def extract(
    canvas: Num[Array, "B H W"], positions: Num[Array, "B P 2"], size: tuple[int, int]
) -> Num[Array, "B P n m"]:
    """Patches of ``size`` (n, m) whose pixel ``(n // 2, m // 2)`` lies at canvas coordinate ``positions`` (y, x)."""
    canvas, positions = ops.convert_to_tensor(canvas), ops.convert_to_tensor(positions)
    flat = ops.reshape(canvas, (-1,))
    total = 0
    for corner, weight in _taps(positions, size):
        index, inside = _indices(corner, size, canvas.shape[-2], canvas.shape[-1])
        total = total + _times(ops.take(flat, index, axis=0), inside, weight)
    return total


def accumulate(
    patches: Num[Array, "B P n m"], positions: Num[Array, "B P 2"], shape: tuple[int, int]
) -> Num[Array, "B H W"]:
    """Sum of the patches on a canvas of ``shape`` (H, W), each at its position: adjoint of `extract`."""
    patches, positions = ops.convert_to_tensor(patches), ops.convert_to_tensor(positions)
    batch = ops.shape(patches)[0]
    size = patches.shape[-2:]
    total = 0
    for corner, weight in _taps(positions, size):
        index, inside = _indices(corner, size, *shape)
        values = _times(patches, inside, weight)
        total = total + _scatter(values, index, batch * shape[0] * shape[1])
    return ops.reshape(total, (batch, *shape))


def _taps(positions, size):
    """The integer corners that a position touches, each with its weight: one, or four (bilinear)."""
    centre = ops.convert_to_tensor([size[0] // 2, size[1] // 2], dtype="int32")
    if "int" in ops.dtype(positions):
        return [(ops.cast(positions, "int32") - centre, None)]
    floor = ops.floor(positions)
    fraction = positions - floor
    corner = ops.cast(floor, "int32") - centre
    wy, wx = fraction[..., 0, None, None], fraction[..., 1, None, None]
    step = lambda dy, dx: corner + ops.convert_to_tensor([dy, dx], dtype="int32")
    return [
        (step(0, 0), (1 - wy) * (1 - wx)),
        (step(0, 1), (1 - wy) * wx),
        (step(1, 0), wy * (1 - wx)),
        (step(1, 1), wy * wx),
    ]


def _indices(corner, size, height, width):
    """Flat canvas index of every patch pixel ``(B, P, n, m)``, and where it lies inside the canvas."""
    y = corner[..., 0, None] + ops.arange(size[0], dtype="int32")
    x = corner[..., 1, None] + ops.arange(size[1], dtype="int32")
    inside_y = ops.logical_and(y >= 0, y < height)
    inside_x = ops.logical_and(x >= 0, x < width)
    row = ops.arange(ops.shape(corner)[0], dtype="int32")[:, None, None] * height + ops.clip(y, 0, height - 1)
    index = row[..., :, None] * width + ops.clip(x, 0, width - 1)[..., None, :]
    return index, ops.logical_and(inside_y[..., :, None], inside_x[..., None, :])


def _times(values, inside, weight):
    is_complex = "complex" in ops.dtype(values)
    real_dtype = "float32" if is_complex else ops.dtype(values)
    factor = ops.cast(inside, real_dtype)
    if weight is not None:
        factor = factor * ops.cast(weight, real_dtype)
    if is_complex:
        return make_complex(ops.real(values) * factor, ops.imag(values) * factor)
    return values * factor


def _scatter(values, index, length):
    ids = ops.reshape(index, (-1,))
    add = lambda part: ops.segment_sum(ops.reshape(part, (-1,)), ids, num_segments=length)
    if "complex" in ops.dtype(values):
        return make_complex(add(ops.real(values)), add(ops.imag(values)))
    return add(values)
