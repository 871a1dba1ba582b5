"""Test objects made here, and the way to the shared data."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def make_object():
    """A function of (shape, seed): an asymmetric, periodic complex object, band-limited to 0.4 of Nyquist.

    Mean 1; the rest is random with an rms of 0.15 and a smooth spectrum.
    """

    def make(shape=(160, 200), seed=0, rms=0.15):
        rng = np.random.default_rng(seed)
        k = 2 * np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
        passed = np.exp(-((k / 0.2) ** 2)) * (k < 0.4)
        noise = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        z = np.fft.ifft2(np.fft.fft2(noise) * passed)
        z -= z.mean()
        return 1 + rms * z / np.sqrt(np.mean(np.abs(z) ** 2))

    return make


@pytest.fixture
def shift():
    """A function of (image, dy, dx): the periodic Fourier shift, ``out[y, x] = in[y - dy, x - dx]``."""

    def moved(image, dy, dx):
        ky, kx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])
        return np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * (ky * dy + kx * dx)))

    return moved


@pytest.fixture
def data_folder():
    if "PTYCHO_DATA" not in os.environ:
        pytest.skip("PTYCHO_DATA is not set: it names the folder of the shared data sets")
    return Path(os.environ["PTYCHO_DATA"])


@pytest.fixture
def sim64(data_folder):
    with np.load(data_folder / "sim64_test.npz") as z:
        return {name: z[name] for name in z.files}


@pytest.fixture
def score(data_folder):
    """The project's common judge, which lies beside the data folder."""
    path = data_folder.resolve().parent / "score.py"
    if not path.exists():
        pytest.skip(f"the common judge score.py is not at {path}")
    spec = importlib.util.spec_from_file_location("score", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
