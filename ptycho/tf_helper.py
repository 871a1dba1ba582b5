"""The translation layer of old scripts: a shell over `ptycho.physics.translation`, on every Keras backend.

Here a translation is ``(dx, dy)`` and images carry channels last; in the physics a shift is ``(dy, dx)``. A
positive one moves content towards larger indices in both.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from ptycho.backend import compiled
from ptycho.params import cfg
from ptycho.physics import translation
from ptycho.reconstruction.stitch import stitch

_SWITCH = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def should_use_xla() -> bool:
    """Whether to compile translations with XLA: environment ``USE_XLA_TRANSLATE``, else ``cfg``, else True.

    The variable is 0, false, no, 1, true or yes in any case; anything else is a ValueError.
    """
    asked = os.environ.get("USE_XLA_TRANSLATE")
    if asked is None:
        return bool(cfg.get("use_xla_translate", True))
    if asked.strip().lower() not in _SWITCH:
        raise ValueError(f"USE_XLA_TRANSLATE is {asked!r}; expected one of {', '.join(_SWITCH)}")
    return _SWITCH[asked.strip().lower()]


@keras.saving.register_keras_serializable(package="ptycho")
class Translation(keras.layers.Layer):
    """Move images by sub-pixel translations: a layer called on ``[images, translations]``.

    Images ``(B, H, W, C)``, real (given back as float32) or complex (as complex64), H, W and C known;
    translations ``(B, 2)`` = ``(dx, dy)`` in pixels. Bilinear, zero outside, differentiable in both. A zero
    translation is the exact identity.

    Args:
        jitter_stddev: standard deviation, in pixels, of a random displacement added to each translation, in
            training only.
        use_xla: compile with XLA; None asks `should_use_xla` once, when the layer is made. The numbers are
            the same with and without. The layer owns what is compiled, and frees it with itself.
        seed: seed of the jitter.

    Raises:
        ValueError: shapes other than these, or batches of images and translations that differ. Batch sizes
            that are unknown when a graph is traced cannot be compared then: such a call fails when the graph
            runs, with the backend's own error for sizes that differ.
    """

    def __init__(
        self,
        jitter_stddev: float = 0.0,
        use_xla: bool | None = None,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Coordinates need float32: under a mixed policy bfloat16 would place an image to half a pixel only.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if not jitter_stddev >= 0:
            raise ValueError(f"jitter_stddev is {jitter_stddev!r}; expected 0 or more pixels")
        self.jitter_stddev = float(jitter_stddev)
        self.use_xla = use_xla
        self.seed = seed
        if self.jitter_stddev > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self._translate = compiled(_translate) if _resolve(use_xla) else _translate

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        images, translations = _checked(*_pair(inputs))
        if training and self.jitter_stddev > 0:
            translations = translations + keras.random.normal(
                ops.shape(translations), stddev=self.jitter_stddev, seed=self.seed_generator
            )
        return self._translate(images, translations)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        images, translations = _pair(inputs)
        _check_shapes(images.shape, translations.shape)
        return keras.KerasTensor(images.shape, "complex64" if is_complex(images) else "float32")

    def get_config(self) -> dict[str, Any]:
        own = {"jitter_stddev": self.jitter_stddev, "use_xla": self.use_xla, "seed": self.seed}
        return {**super().get_config(), **own}


def translate(images: Any, translations: Any, use_xla: bool | None = None) -> Any:
    """What `Translation` computes, as a function: same arguments, dtypes and errors, no jitter."""
    return (_compiled_translate() if _resolve(use_xla) else _translate)(*_checked(images, translations))


@functools.cache
def _compiled_translate() -> Callable[..., Any]:
    """Shared by all callers: traces of a pure function, one for each shape and dtype, and no setting."""
    return compiled(_translate)


def _resolve(use_xla: bool | None) -> bool:
    return should_use_xla() if use_xla is None else bool(use_xla)


def _pair(inputs: Any) -> tuple[Any, Any]:
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
        raise ValueError("Translation is called on [images, translations]")
    return inputs[0], inputs[1]


def _checked(images: Any, translations: Any) -> tuple[Any, Any]:
    """Both as tensors in single precision, of shapes that fit."""
    images, translations = ops.convert_to_tensor(images), ops.convert_to_tensor(translations)
    _check_shapes(tuple(images.shape), tuple(translations.shape))
    images = ops.cast(images, "complex64" if is_complex(images) else "float32")
    return images, one_for_each(images, ops.cast(translations, "float32"))


def one_for_each(images: Any, rows: Any) -> Any:
    """The float32 ``rows`` (B, k), from a graph that fails when it runs if there is not one for each image.

    They are joined to a column of the images and cut off again: sizes that differ do not join. (A reshape to
    the number of images would not do: TensorFlow removes it as redundant before it runs.)
    """
    return ops.concatenate([ops.real(images[:, 0, 0, :1]), rows], axis=1)[:, 1:]


def is_complex(array: Any) -> bool:
    """Whether an array or a symbolic tensor is complex."""
    return "complex" in str(array.dtype)


def _check_shapes(images: tuple[int | None, ...], translations: tuple[int | None, ...]) -> None:
    if len(images) != 4 or None in images[1:]:
        raise ValueError(f"images have shape {images}; expected (B, H, W, C) with H, W and C known")
    if len(translations) != 2 or translations[1] != 2:
        raise ValueError(f"translations have shape {translations}; expected (B, 2), a (dx, dy) for each image")
    if None not in (images[0], translations[0]) and images[0] != translations[0]:
        raise ValueError(f"{images[0]} images, but {translations[0]} translations; expected one for each image")


def _translate(images: Any, translations: Any) -> Any:
    """`physics.translation.translate` with the channels of an image moved alike."""
    height, width, channels = images.shape[1:]
    stack = ops.reshape(ops.transpose(images, (0, 3, 1, 2)), (-1, height, width))
    moved = translation.translate(stack, ops.repeat(ops.flip(translations, axis=-1), channels, axis=0))
    return ops.transpose(ops.reshape(moved, (-1, channels, height, width)), (0, 2, 3, 1))


def reassemble_position(obj_tensor: Any, global_offsets: Any, M: int = 10) -> np.ndarray:
    """``(H, W, 1)`` complex64: the object of patches ``(B, N, N, 1)`` at ``(B, 1, 2, 1)`` (x, y), in pixels.

    Patches of `ptycho.workflows.components` are parts of one object, which comes back; of others the M x M pixels in
    the middle of each are averaged.
    """
    mosaic = getattr(obj_tensor, "mosaic", None)
    if mosaic is not None:
        return mosaic[..., None]
    patches = np.asarray(obj_tensor)[..., 0]
    start = patches.shape[-1] // 2 - M // 2
    positions = np.asarray(global_offsets, float).reshape(-1, 2)[:, ::-1]
    middle = patches[:, start : start + M, start : start + M]
    return stitch(middle, positions, np.ones((1, M, M)), align=False).object[..., None]
