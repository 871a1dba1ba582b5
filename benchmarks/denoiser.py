"""The network that takes noise out of an object (`ptycho.network.denoiser`): how it is trained, and how good it is.

    python benchmarks/denoiser.py train PHOTOGRAPHS --minutes 75 -o ptycho/pretrained/denoiser.npz
    python benchmarks/denoiser.py judge            # beside total variation of the best weight, on other photographs

It learns from photographs and from the simulated objects that networks are pretrained with, without gold balls, and
from noise of any strength from 0.008 to 0.7, most of it white, some of a power law between neighbouring frequencies.
The photographs of the package's own network are the eleven files named in
docs/decisions/016-a-denoiser-as-prior.md; those of `judge` are none of them.
"""

import hashlib
import queue
import threading
import time
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer
from scipy.ndimage import gaussian_filter
from skimage import data, io
from skimage.restoration import denoise_tv_chambolle

from ptycho.network.denoiser import WEIGHTS, blocks, build_denoiser, denoised, load_denoiser
from ptycho.simulation.natural import with_contrast
from ptycho.simulation.objects import make_object

KINDS = ("leaves",) * 6 + ("fractal", "weave", "cells", "cells", "lines", "siemens")
BATCH, SIDE, CANVAS = 16, 64, 256
SIGMAS = (0.008, 0.7)
LEVELS = 8
"""Strengths of noise that are told apart."""
POOL = 400
"""Objects to draw from; one is made anew in every 16 batches."""

app = typer.Typer(add_completion=False)


def shrunken(folder: Path) -> list[np.ndarray]:
    """Photographs ``(H, W, 3)`` from 0 to 1 at half, a quarter, ... of their size, each at least as large as an object.

    The full size is left out: its noise and the blocks of JPEG are no part of the motif.
    """
    images = []
    for path in sorted(folder.glob("*.jpg")):
        image = np.asarray(io.imread(path), np.float32)[..., :3] / 255
        while min(image.shape[:2]) >= 2 * CANVAS:
            height, width = (size // 2 for size in image.shape[:2])
            image = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))
            images.append(image)
    return images


def fresh(images: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """An object: simulated, or a photograph whose colours make phase and absorption, sharp or blurred."""
    if rng.random() < 0.5:
        pair, image = [], images[rng.integers(len(images))]
        for _ in range(2):
            top, left = (rng.integers(0, size - CANVAS + 1) for size in image.shape[:2])
            mixed = image[top : top + CANVAS, left : left + CANVAS] @ rng.dirichlet([1, 1, 1])
            pair.append(mixed if rng.random() < 0.5 else 1 - mixed)
        sample = with_contrast(np.stack(pair), rng)
    else:
        sample = make_object(KINDS[rng.integers(len(KINDS))], (CANVAS, CANVAS), rng)
    if rng.random() < 0.2:
        width = rng.uniform(0.5, 3)
        sample = gaussian_filter(sample.real, width) + 1j * gaussian_filter(sample.imag, width)
    return sample


def drawn(pool: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A square of an object: turned, mirrored, thinner or thicker, at full or half resolution, of either sign."""
    image, step = pool[rng.integers(len(pool))], 1 if rng.random() < 0.7 else 2
    top, left = rng.integers(0, CANVAS - SIDE * step, 2)
    square = image[top : top + SIDE * step, left : left + SIDE * step]
    square = square.reshape(SIDE, step, SIDE, step).mean((1, 3))
    square = np.rot90(square, rng.integers(4))
    square = square.T if rng.random() < 0.5 else square
    if rng.random() < 0.3 and np.abs(np.angle(square)).max() < 2.5:
        square = square ** rng.uniform(0.3, 1.5)
    return square.conj() if rng.random() < 0.2 else square


def batches(images: list[np.ndarray], seed: int) -> "queue.Queue[tuple[np.ndarray, np.ndarray]]":
    """Batches of what the network takes and the noise that it should find, made in a thread."""
    made: queue.Queue[tuple[np.ndarray, np.ndarray]] = queue.Queue(8)

    def make() -> None:
        rng = np.random.default_rng(seed)
        pool = [fresh(images, rng) for _ in range(POOL // 8)]
        frequency = np.maximum(np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)), 1 / SIDE)
        for count in range(10**9):
            if len(pool) < POOL and count % 4 == 0:
                pool.append(fresh(images, rng))
            elif count % 16 == 0:
                pool[rng.integers(POOL)] = fresh(images, rng)
            clean = np.stack([drawn(pool, rng) for _ in range(BATCH)])
            sigma = np.exp(rng.uniform(*np.log(SIGMAS), BATCH)).astype("float32")
            noise = rng.standard_normal((*clean.shape, 2), "float32").view("complex64")[..., 0]
            if rng.random() < 0.15:
                colour = frequency ** rng.uniform(-0.6, 0.6)
                noise = np.fft.ifft2(np.fft.fft2(noise) * colour / np.sqrt((colour**2).mean()))
            noise = sigma[:, None, None] * noise
            mean = (clean + noise).mean((1, 2), keepdims=True)
            turn = np.abs(mean) / mean
            made.put((blocks((clean + noise) * turn, sigma), blocks(-noise * turn, sigma)[..., :-1]))

    threading.Thread(target=make, daemon=True).start()
    return made


def built(policy: str, learning_rate: float):
    """A network that computes with this policy of Keras, and a step of its training, compiled."""
    import tensorflow as tf

    keras.mixed_precision.set_global_policy(policy)
    network = build_denoiser()
    keras.mixed_precision.set_global_policy("float32")
    optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm=1.0)
    optimizer.build(network.trainable_variables)

    usual = tf.Variable(tf.ones(LEVELS))
    low, high = np.log(SIGMAS)

    @tf.function
    def step(given, noise):
        sigma = given[:, 0, 0, -1]
        level = tf.cast((tf.math.log(sigma) - low) / (high - low) * (LEVELS - 1e-3), "int32")
        with tf.GradientTape() as tape:
            error = tf.reduce_mean((tf.cast(network(given, training=True), "float32") - noise) ** 2, axis=(1, 2, 3))
            left = error / sigma**2  # of the power of the noise
            # The gradient of the logarithm of what is usually left at this strength: a decibel counts alike at each.
            loss = tf.reduce_mean(left / tf.gather(usual, level))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        now = tf.tensor_scatter_nd_update(usual, level[:, None], 0.98 * tf.gather(usual, level) + 0.02 * left)
        usual.assign(now)
        return usual

    return network, optimizer, step


def write(network: keras.Model, output: Path) -> None:
    """The weights, and the SHA-256 of their file beside it."""
    np.savez(output, **{str(number): weight for number, weight in enumerate(network.get_weights())})
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    output.with_suffix(".sha256").write_text(f"{digest}  {output.name}\n")


@app.command()
def train(
    images: Annotated[Path, typer.Argument(help="Folder of photographs, *.jpg.")],
    output: Annotated[Path, typer.Option("-o", "--output")] = WEIGHTS,
    minutes: float = 75.0,
    seed: int = 1,
) -> None:
    """Train a new one for so long, with TensorFlow, and write its weights, every five minutes and at the end.

    Two thirds of the time in bfloat16, which is twice as fast on processors that have it, the rest in float32: bfloat16
    has eight bits, too few for weak noise.
    """
    made = batches(shrunken(images), seed)
    network, optimizer, step = built("mixed_bfloat16", 1e-3)
    coarse, begin, said, steps = True, time.monotonic(), time.monotonic(), 0
    while (done := (time.monotonic() - begin) / (60 * minutes)) < 1:
        if coarse and done > 2 / 3:
            weights = network.get_weights()
            network, optimizer, step = built("float32", 1e-3)
            network.set_weights(weights)
            coarse = False
        # Constant for the first third, a cosine for the rest
        slowing = 1.0 if done < 1 / 3 else max(0.005, 0.5 * (1 + np.cos(np.pi * (done - 1 / 3) * 1.5)))
        optimizer.learning_rate.assign(1e-3 * min(1.0, steps / 200 + 0.01) * slowing)
        usual = step(*made.get())
        steps += 1
        if time.monotonic() - said > 300:
            left = ", ".join(f"{10 * np.log10(part):.1f}" for part in usual.numpy())
            print(f"{done * minutes:.0f} min, {steps} steps, noise left by strength: {left} dB", flush=True)
            write(network, output)
            said = time.monotonic()
    write(network, output)
    print(f"{steps} steps of {BATCH} squares, {network.count_params()} weights in {output}")


def photographs() -> dict[str, np.ndarray]:
    """Transmissions of photographs: one makes the phase, another the amplitude."""
    squares = {name: getattr(data, name)()[:256, :256] / 255.0 for name in ("camera", "moon", "brick", "grass")}
    names = list(squares)
    pairs = zip(names, names[1:] + names[:1], strict=True)
    return {one: (0.6 + 0.4 * squares[other]) * np.exp(1j * squares[one]) for one, other in pairs}


@app.command()
def judge(seed: int = 0) -> None:
    """SNR in dB of noisy photographs, of the network, and of total variation whose weight knows the truth."""
    rng, network = np.random.default_rng(seed), load_denoiser()
    print("| photograph | sigma | noisy | total variation, best weight | network |\n|---|---|---|---|---|")
    for name, truth in photographs().items():
        db = lambda image, truth=truth: 20 * np.log10(np.linalg.norm(truth) / np.linalg.norm(image - truth))
        for sigma in (0.05, 0.1, 0.2):
            noise = rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape)
            noisy = (truth + sigma * noise).astype("complex64")
            pair = np.stack([noisy.real, noisy.imag])
            smooth = [denoise_tv_chambolle(pair, weight=w * sigma, channel_axis=0) for w in (0.5, 0.7, 1, 1.4, 2, 2.8)]
            best = max(db(real + 1j * imag) for real, imag in smooth)
            print(f"| {name} | {sigma} | {db(noisy):.1f} | {best:.1f} | {db(denoised(network, noisy, sigma)):.1f} |")


if __name__ == "__main__":
    app()
