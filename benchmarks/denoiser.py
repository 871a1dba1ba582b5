"""The network that takes noise out of an object (`ptycho.network.denoiser`): how it is trained, and how good it is.

    python benchmarks/denoiser.py train --minutes 50 -o ptycho/pretrained/denoiser.npz
    python benchmarks/denoiser.py judge            # beside total variation of the best weight, on photographs

It learns from the simulated objects that networks are pretrained with, without gold balls, and from noise that is
white, or of a power law between neighbouring frequencies, of any strength from 0.008 to 0.7. The photographs of
`judge` are none of them.
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
from skimage import data
from skimage.restoration import denoise_tv_chambolle

from ptycho.network.denoiser import WEIGHTS, blocks, build_denoiser, denoised, load_denoiser
from ptycho.simulation.objects import make_object

KINDS = ("leaves",) * 5 + ("fractal",) * 2 + ("weave",) + ("cells",) * 2 + ("lines", "siemens")
BATCH, SIDE, CANVAS = 16, 64, 256
SIGMAS = (0.008, 0.7)

app = typer.Typer(add_completion=False)


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


def batches(seed: int) -> "queue.Queue[tuple[np.ndarray, np.ndarray]]":
    """Batches of what the network takes and the noise that it should find, made in a thread."""
    made: queue.Queue[tuple[np.ndarray, np.ndarray]] = queue.Queue(4)

    def make() -> None:
        rng = np.random.default_rng(seed)
        fresh = lambda: make_object(KINDS[rng.integers(len(KINDS))], (CANVAS, CANVAS), rng)
        pool = [fresh() for _ in range(40)]
        frequency = np.maximum(np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)), 1 / SIDE)
        for count in range(10**9):
            if count % 2:
                pool[rng.integers(len(pool))] = fresh()
            clean = np.stack([drawn(pool, rng) for _ in range(BATCH)])
            sigma = np.exp(rng.uniform(*np.log(SIGMAS), BATCH)).astype("float32")
            noise = rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)
            if rng.random() < 0.3:
                colour = frequency ** rng.uniform(-0.6, 0.6)
                noise = np.fft.ifft2(np.fft.fft2(noise) * colour / np.sqrt((colour**2).mean()))
            noisy = clean + sigma[:, None, None] * noise
            mean = noisy.mean((1, 2), keepdims=True)
            turn = np.abs(mean) / mean
            made.put((blocks(noisy * turn, sigma), blocks(-noise * turn, sigma)[..., :-1]))

    threading.Thread(target=make, daemon=True).start()
    return made


@app.command()
def train(
    output: Annotated[Path, typer.Option("-o", "--output")] = WEIGHTS, minutes: float = 50.0, seed: int = 1
) -> None:
    """Train a new one for so long, with TensorFlow, and write its weights."""
    import tensorflow as tf

    network, made = build_denoiser(), batches(seed)
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(given, noise):
        with tf.GradientTape() as tape:
            error = tf.reduce_mean((network(given, training=True) - noise) ** 2, axis=(1, 2, 3))
            # The square of the object's error over sigma^1.5: weak noise would count nothing, or all.
            loss = tf.reduce_mean(error * tf.sqrt(given[:, 0, 0, -1]))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return tf.reduce_mean(error)

    begin, said, steps, errors = time.monotonic(), time.monotonic(), 0, []
    while (done := (time.monotonic() - begin) / (60 * minutes)) < 1:
        # Constant for the first half, a cosine for the second
        slowing = 1.0 if done < 0.5 else max(0.02, 0.5 * (1 + np.cos(np.pi * (2 * done - 1))))
        optimizer.learning_rate.assign(1e-3 * min(1.0, steps / 200 + 0.01) * slowing)
        errors.append(float(step(*made.get())))
        steps += 1
        if time.monotonic() - said > 60:
            print(f"{done * minutes:.0f} min, {steps} steps, noise left {np.mean(errors):.3f}", flush=True)
            said, errors = time.monotonic(), []
    arrays = {str(number): weight for number, weight in enumerate(network.get_weights())}
    np.savez(output, **arrays)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    output.with_suffix(".sha256").write_text(f"{digest}  {output.name}\n")
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
