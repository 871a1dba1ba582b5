"""A network that takes noise out of complex images: a prior that a fit can ask at any time.

It is told the standard deviation sigma of the noise, the same of real and imaginary part, and gives about the mean of
all images that may lie behind a noisy one. That mean tells the slope of the logarithm of the images' probability,

    D(y, sigma) - y = sigma^2 grad log p(y)

(Tweedie's formula: Robbins 1956; Efron, J. Am. Stat. Assoc. 106, 1602 (2011)), which is what a prior is in a fit.
"""

from functools import cache

import keras
import numpy as np
from keras import layers

from ptycho.arrays import Complex, Float
from ptycho.network.files import PRETRAINED, require_intact

WIDTHS = (32, 64, 128)
BLOCK = 2
"""Side of the blocks of pixels that become channels."""
MULTIPLE = BLOCK * 2 ** (len(WIDTHS) - 1)
"""Height and width of what the network takes are multiples of this."""
WEIGHTS = PRETRAINED / "denoiser.npz"
"""Made by ``benchmarks/denoiser.py train``, beside its SHA-256."""


def build_denoiser(widths: tuple[int, ...] = WIDTHS) -> keras.Model:
    """The network: ``(B, h, w, 9)`` to ``(B, h, w, 8)``, see `blocks` and `denoised`; residual, without biases.

    Without biases it is as good at noise it was not trained with (Mohan et al., ICLR 2020): what it gives grows
    with the image and sigma together.
    """
    image = layers.Input((None, None, 2 * BLOCK**2 + 1))
    features, skips = _convolution(widths[0])(image), []
    for level, width in enumerate(widths):
        features = _residual(_residual(features, width), width)
        if level + 1 < len(widths):
            skips.append(features)
            features = layers.Conv2D(widths[level + 1], 2, strides=2, use_bias=False)(features)
    for width, skip in zip(widths[-2::-1], reversed(skips), strict=True):
        features = layers.Conv2DTranspose(width, 2, strides=2, use_bias=False)(features)
        features = layers.Add()([features, skip])
        features = _residual(_residual(features, width), width)
    return keras.Model(image, _convolution(2 * BLOCK**2)(features), name="denoiser")


def _convolution(width: int, activation: str | None = None) -> layers.Layer:
    return layers.Conv2D(width, 3, padding="same", use_bias=False, activation=activation)


def _residual(features, width: int):
    return layers.Add()([features, _convolution(width)(_convolution(width, "relu")(features))])


def denoised(network: keras.Model, image: Complex[np.ndarray, "H W"], sigma: float) -> Complex[np.ndarray, "H W"]:
    """An image ``(H, W)`` without its noise of the standard deviation ``sigma`` of real and imaginary part each.

    The phase that all pixels have in common does not matter: the mean is made real before, and turned back.
    """
    height, width = image.shape
    mean = image.mean()
    turn = mean / abs(mean) if abs(mean) > 0 else np.complex64(1)
    padding = [(0, -size % MULTIPLE) for size in image.shape]
    even = np.pad(image / turn, padding, mode="symmetric")
    noise = keras.ops.convert_to_numpy(network(blocks(even[None], np.array([sigma], "float32"))))[0]
    return (turn * (even + from_blocks(noise))[:height, :width]).astype("complex64")


def blocks(images: Complex[np.ndarray, "B H W"], sigma: Float[np.ndarray, " B"]) -> Float[np.ndarray, "B h w 9"]:
    """What the network takes: real and imaginary parts of the four pixels of each block, and sigma."""
    count, height, width = images.shape
    pairs = np.stack([images.real, images.imag], axis=-1).astype("float32")
    tiles = pairs.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 2).transpose(0, 1, 3, 2, 4, 5)
    tiles = tiles.reshape(count, height // BLOCK, width // BLOCK, -1)
    level = np.broadcast_to(sigma.astype("float32")[:, None, None, None], (*tiles.shape[:3], 1))
    return np.concatenate([tiles, level], axis=-1)


def from_blocks(tiles: Float[np.ndarray, "*B h w 8"]) -> Complex[np.ndarray, "*B H W"]:
    """Complex images of what the network gives: minus the noise."""
    *batch, height, width, _ = tiles.shape
    pairs = tiles.reshape(-1, height, width, BLOCK, BLOCK, 2).transpose(0, 1, 3, 2, 4, 5)
    pairs = pairs.reshape(*batch, height * BLOCK, width * BLOCK, 2)
    return pairs[..., 0] + 1j * pairs[..., 1]


@cache
def load_denoiser() -> keras.Model:
    """The package's own, trained on simulated objects and noise.

    Raises ValueError if its file was damaged.
    """
    require_intact(WEIGHTS)
    network = build_denoiser()
    with np.load(WEIGHTS, allow_pickle=False) as file:
        network.set_weights([file[f"{number}"].astype("float32") for number in range(len(network.weights))])
    return network
