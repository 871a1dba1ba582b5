"""The scan's own pattern in an image: found where it was put, and only there."""

import numpy as np
import pytest

from ptycho.evaluation.lattice import lattice_share

STEP = 6.0


def raster(rows=14, columns=14, step=STEP):
    return np.stack(np.mgrid[:rows, :columns], axis=-1).reshape(-1, 2) * step + 20


def image(positions, pattern, seed=0):
    """Band-limited random phase of 0.1 rad rms, and ``pattern`` rad of the raster's first harmonics."""
    shape = (124, 124)
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    phase = np.fft.ifft2(np.fft.fft2(np.random.default_rng(seed).normal(size=shape)) * (k < 0.3)).real
    phase *= 0.1 / phase.std()
    y, x = np.indices(shape)
    phase += pattern * (np.cos(2 * np.pi * y / STEP) + np.cos(2 * np.pi * x / STEP))
    coverage = np.zeros(shape, "float32")
    coverage[16:106, 16:106] = 1
    return np.exp(1j * phase).astype("complex64"), coverage


def test_a_pattern_with_the_period_of_the_raster_is_measured():
    """0.1 rad in each of two cosines is a variance of 0.01, as much as the rest has: half of what is not slow."""
    positions = raster()
    object, coverage = image(positions, 0.1)
    share = lattice_share(object, coverage, positions)
    object, coverage = image(positions, 0.0)
    without = lattice_share(object, coverage, positions)
    assert without < 0.1
    # The window of the illuminated pixels spreads a tenth of a peak beyond it.
    assert share == pytest.approx(0.5, abs=0.1)


def test_irregular_positions_have_no_lattice():
    rng = np.random.default_rng(0)
    positions = raster() + rng.uniform(-STEP / 2, STEP / 2, (196, 2))
    object, coverage = image(positions, 0.3)
    assert lattice_share(object, coverage, positions) == 0
