"""What the tests share: generic data, comparison in rounding errors, adjoints, gradients on any backend."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest

EPS = float(np.finfo("float32").eps)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """A test fails that is still here after these seconds."""

    def late(*_: Any) -> None:
        pytest.fail(f"it hangs for more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def kill_worker_of(cluster: Any, task: Any) -> None:
    """Kill the process of a Dask cluster on this machine that works on a task of its scheduler."""
    (nanny,) = (nanny for nanny in cluster.workers.values() if nanny.worker_address == task.processing_on.address)
    os.kill(nanny.pid, signal.SIGKILL)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Real float32 data."""
    return rng.normal(size=shape).astype("float32")


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex64 data without any symmetry."""
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype("complex64")


def to_numpy(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def frame_counts(
    patches: np.ndarray, probe: np.ndarray, subpixel: np.ndarray | None = None, transfer: np.ndarray | None = None
) -> np.ndarray:
    """Expected counts of frames with these patches, and one probe ``(M, n, n)`` moved by sub-pixel positions."""
    from ptycho.physics.forward import Diffraction, frame_probes

    probes, transfer = frame_probes(probe, subpixel, transfer)
    return to_numpy(Diffraction((keras.ops.convert_to_tensor(patches),), probes, transfer).expected)


def assert_near(actual: Any, expected: Any, roundings: float) -> None:
    """``|actual - expected|`` is at most ``roundings`` float32 rounding errors of ``|expected|`` (2-norm)."""
    actual, expected = to_numpy(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    error, scale = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    assert error <= roundings * EPS * scale, f"{error / (EPS * scale + 1e-300):.1f} roundings, {roundings} allowed"


def assert_adjoint(
    forward: Callable[[Any], Any],
    adjoint: Callable[[Any], Any],
    x: np.ndarray,
    y: np.ndarray,
    roundings: float = 32.0,
) -> None:
    """``<y, A x> = <A_H y, x>``, to rounding errors in A x and A_H y; x and y should be generic."""
    image, back = to_numpy(forward(x)), to_numpy(adjoint(y))
    assert image.shape == y.shape
    assert back.shape == x.shape
    left, right = np.vdot(*_wide(y, image)), np.vdot(*_wide(back, x))
    scale = np.linalg.norm(y) * np.linalg.norm(image) + np.linalg.norm(back) * np.linalg.norm(x)
    assert scale > 0
    assert abs(left - right) <= roundings * EPS * scale


def _wide(*arrays: np.ndarray) -> list[np.ndarray]:
    """For inner products without errors of their own."""
    return [a.astype("complex128").ravel() for a in arrays]


def gradient(function: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """Gradient of a real scalar function of real arrays, by the backend's own differentiation."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return [np.zeros_like(a) if g is None else to_numpy(g) for a, g in zip(arrays, tape.gradient(value, tensors))]
    if backend == "jax":
        import jax

        return [np.asarray(g) for g in jax.grad(function, argnums=tuple(range(len(arrays))))(*arrays)]
    import torch

    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    function(*tensors).backward()
    return [np.zeros_like(a) if t.grad is None else t.grad.numpy() for a, t in zip(arrays, tensors)]


def slope(function: Callable[[np.ndarray], float], x: np.ndarray, direction: np.ndarray, step: float = 1e-4) -> float:
    """Directional derivative of a float64 numpy function, by central differences: error of order step**2."""
    x, direction = x.astype("float64"), direction.astype("float64")
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def bilinear_sample(image: np.ndarray, y: float, x: float) -> complex:
    """Reference: one bilinear sample of ``image`` (H, W), zero outside, in double precision."""
    height, width = image.shape
    top, left = int(np.floor(y)), int(np.floor(x))
    total = 0.0
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return total


def translated(image: np.ndarray, dy: float, dx: float) -> np.ndarray:
    """Reference: ``out[y, x] = image[y - dy, x - dx]``."""
    height, width = image.shape
    return np.array([[bilinear_sample(image, y - dy, x - dx) for x in range(width)] for y in range(height)])


def dft_reference(wave: np.ndarray) -> np.ndarray:
    """Reference: the centred unitary DFT of the last two axes, as the sum that defines it, in float64."""

    def matrix(n: int) -> np.ndarray:
        i = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(i, i) / n) / np.sqrt(n)

    return matrix(wave.shape[-2]) @ wave.astype("complex128") @ matrix(wave.shape[-1])
