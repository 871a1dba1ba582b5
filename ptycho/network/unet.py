"""A small U-Net that works at any image size."""

from itertools import zip_longest
from typing import Literal

import keras
import numpy as np
from keras import ops


def space_to_depth(images, block: int):
    """``(B, H, W, c)`` to ``(B, H / block, W / block, block^2 c)``; H and W are multiples of ``block``."""
    _, height, width, channels = images.shape
    tiles = ops.reshape(images, (-1, height // block, block, width // block, block, channels))
    return ops.reshape(
        ops.transpose(tiles, (0, 1, 3, 2, 4, 5)),
        (-1, height // block, width // block, block * block * channels),
    )


def depth_to_space(blocks, block: int):
    """Inverse of `space_to_depth`."""
    _, height, width, channels = blocks.shape
    tiles = ops.reshape(blocks, (-1, height, width, block, block, channels // block**2))
    return ops.reshape(
        ops.transpose(tiles, (0, 1, 3, 2, 4, 5)), (-1, height * block, width * block, channels // block**2)
    )


def twice(images):
    """``(B, H, W, c)`` to ``(B, 2 H, 2 W, c)``: each pixel four times.

    `UpSampling2D` does the same by repeating rows and columns, which took TensorFlow a quarter of the time for a trace
    of the network, and more in the gradient; XLA has no gradient of resizing.
    """
    _, height, width, channels = images.shape
    wide = ops.reshape(ops.concatenate([images, images], axis=3), (-1, height, 2 * width, channels))
    return ops.reshape(ops.concatenate([wide, wide], axis=2), (-1, 2 * height, 2 * width, channels))


Skips = Literal["join", "add", "none"]


@keras.saving.register_keras_serializable("ptycho")
class UNet(keras.layers.Layer):
    """Small U-Net on space-to-depth blocks (Ronneberger et al., MICCAI 2015); images in, images out.

    Input ``(B, H, W, c)`` of any size: it is padded with zeros to whole blocks and cropped again. Output
    ``(B, H, W, outputs)`` in float32. Two convolutions on the finest level, one on the others, down and up.

    Args:
        widths: channels of the levels, the finest first.
        block: side of the space-to-depth blocks.
        outputs: channels of the result.
        skips: how each level of the way down reaches the same level of the way up: ``join`` its channels to those from
            below; or ``add`` it to them, brought to its width before they are enlarged, with no convolution of the sum
            on the finest level, which is a third of the work.
        precision: dtype policy of the inner convolutions.
    """

    def __init__(self, widths, block=2, outputs=2, skips: Skips = "join", precision="float32", **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.widths, self.block, self.outputs = tuple(widths), block, outputs
        self.skips, self.precision = skips, precision
        count = iter(range(2 * len(self.widths)))

        def conv(width):
            name = f"conv_{next(count)}"
            return keras.layers.Conv2D(width, 3, padding="same", activation="relu", dtype=precision, name=name)

        self.first = conv(self.widths[0])
        self.down = [conv(width) for width in self.widths]
        coarse_to_fine = self.widths[-2::-1]
        self.up = [conv(width) for width in (coarse_to_fine[:-1] if skips == "add" else coarse_to_fine)]
        narrow = coarse_to_fine if skips == "add" else ()
        self.narrow = [
            keras.layers.Conv2D(width, 1, dtype=precision, name=f"narrow_{k}") for k, width in enumerate(narrow)
        ]
        self.head = keras.layers.Conv2D(outputs * block**2, 1, dtype="float32", name="head")
        self.pool = keras.layers.AveragePooling2D(2, dtype=precision)

    def build(self, input_shape):
        widths = self.widths
        image = lambda channels: (None, None, None, channels)
        self.first.build(image(input_shape[-1] * self.block**2))
        for convolution, channels in zip(self.down, (widths[0], *widths[:-1]), strict=True):
            convolution.build(image(channels))
        for k, convolution in enumerate(self.narrow):
            convolution.build(image(widths[-1 - k]))
        for k, convolution in enumerate(self.up):
            below, beside = widths[-1 - k], widths[-2 - k]
            convolution.build(image(dict(join=below + beside, add=beside, none=below)[self.skips]))
        self.head.build(image(widths[0]))
        # It has no weights; but what is not built Keras calls once more, and on several devices it fails to.
        self.pool.build(image(widths[0]))
        self.built = True

    def initialise(self, rng: np.random.Generator) -> None:
        """Draw the initial weights, the same on every backend: Glorot (AISTATS 2010) inside, and an output near
        zero, so that a network starts from doing nothing."""
        for convolution in (self.first, *self.down, *self.up, *self.narrow):
            *window, fan_in, fan_out = convolution.kernel.shape
            # Uniform of variance 2 / (fan_in + fan_out), fans counted with the pixels of the window
            limit = np.sqrt(6 / (np.prod(window) * (fan_in + fan_out)))
            convolution.kernel.assign(rng.uniform(-limit, limit, convolution.kernel.shape).astype("float32"))
        self.head.kernel.assign(1e-3 * rng.standard_normal(self.head.kernel.shape, "float32"))

    def call(self, images):
        height, width = images.shape[1:3]
        tile = self.block * 2 ** (len(self.widths) - 1)
        # Up to whole tiles: -n % t is what n lacks to a multiple of t.
        h = ops.pad(images, ((0, 0), (0, -height % tile), (0, -width % tile), (0, 0)))
        h = self.first(space_to_depth(h, self.block))
        levels = []
        for k, convolution in enumerate(self.down):
            h = convolution(self.pool(h) if k else h)
            levels.append(h)
        levels.pop()
        for narrow, convolution in zip_longest(self.narrow, self.up):
            level = levels.pop()
            if self.skips == "add":
                # Brought to the width of the finer level before it is enlarged: on a quarter of the pixels.
                h = ops.relu(twice(narrow(h)) + level)
            elif self.skips == "join":
                h = ops.concatenate([twice(h), level], axis=-1)
            else:
                h = twice(h)
            h = h if convolution is None else convolution(h)
        return depth_to_space(self.head(h), self.block)[:, :height, :width]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.outputs)

    def get_config(self):
        names = ("widths", "block", "outputs", "skips", "precision")
        return super().get_config() | {name: getattr(self, name) for name in names}
