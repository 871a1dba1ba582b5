"""Samples without a model of matter, for networks to learn from: shapes that hide each other, fractal fields, weaves.

Pictures of nature share their statistics with these: edges and flat areas at all scales (dead leaves), a power law of
the spectrum, and repetition. Each is a pair of maps from 0 to 1, for absorption and phase, with a contrast of its own.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from ptycho.arrays import Array, Complex, Float
from ptycho.simulation.shapes import (
    Map,
    Point,
    Rng,
    Shape,
    Window,
    blob,
    box,
    covered,
    grid,
    transmission,
    window_around,
)

Pair = Float[Array, "2 H W"]
"""Maps for absorption and phase."""


def leaves(shape: Shape, rng: Rng, *, most_px: float = 60.0) -> Complex[Array, "H W"]:
    """Ellipses, blobs and boxes that hide each other, each with its own values, slope and grain.

    Radii from 1.5 to 6 px on follow ``p(r) ~ r^-3``, which is alike at every scale (Lee, Mumford & Huang, Int. J.
    Comput. Vis. 41, 35 (2001)).
    """
    pair = np.ones((2, *shape)) * rng.uniform(size=(2, 1, 1))
    low = np.exp(rng.uniform(np.log(1.5), np.log(6)))
    high = max(2 * low, min(most_px, 0.4 * min(shape)))
    mean_area = 2 * np.pi * low**2 * np.log(high / low)  # int pi r^2 p(r) dr for high >> low
    # Three leaves over each point: exp(-3) = 5 % of the ground is left to see.
    for _ in range(int(3 * shape[0] * shape[1] / mean_area)):
        # The inverse of the distribution of r
        radius = (low**-2 - rng.uniform() * (low**-2 - high**-2)) ** -0.5
        centre = rng.uniform(-0.05, 1.05, 2) * shape
        window, cover = _leaf(shape, centre, radius, rng)
        y, x = grid(shape, window)
        turn, slope = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.15, (2, 1, 1)) / radius
        rise = np.cos(turn) * (y - centre[0]) + np.sin(turn) * (x - centre[1])
        values = rng.uniform(size=(2, 1, 1)) + slope * rise
        under = pair[(slice(None), *window)]
        under += cover * (values - under)
    grain = rng.uniform(0, 0.12) * np.stack([power_law(shape, rng.uniform(0.6, 1.4), rng) for _ in range(2)])
    return with_contrast(gaussian_filter(pair + grain, (0, *[rng.uniform(0.0, 0.6)] * 2)), rng)


def fractal(shape: Shape, rng: Rng) -> Complex[Array, "H W"]:
    """Two fields whose amplitude spectra fall as powers of frequency, from 1 to 1.9."""
    return with_contrast(np.stack([power_law(shape, rng.uniform(1.0, 1.9), rng) for _ in range(2)]), rng)


def weave(shape: Shape, rng: Rng) -> Complex[Array, "H W"]:
    """A few waves of periods from 4 to 25 px, bent and brought to steeper edges, on a slow ground."""
    y, x = grid(shape)
    pair = np.empty((2, *shape))
    bend = 2.0 * rng.uniform(0, 1) * np.stack([power_law(shape, 1.8, rng) for _ in range(2)])
    for i in range(2):
        waves = np.zeros(shape)
        for _ in range(rng.integers(1, 5)):
            angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4), np.log(25)))
            along = np.cos(angle) * (y + bend[0]) + np.sin(angle) * (x + bend[1])
            waves += rng.uniform(0.3, 1) * np.cos(2 * np.pi * (along / period + rng.uniform()))
        pair[i] = np.tanh(rng.uniform(0.5, 3) * waves) + rng.uniform(0, 0.5) * power_law(shape, 1.5, rng)
    return with_contrast(pair, rng)


def power_law(shape: Shape, exponent: float, rng: Rng) -> Map:
    """A Gaussian field of unit variance whose amplitude spectrum is ``f^-exponent``."""
    # Twice as large as asked for, so that opposite borders do not know of each other
    size = (2 * shape[0], 2 * shape[1])
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :])
    frequency[0, 0] = np.inf  # no mean
    waves = rng.normal(size=(2, *frequency.shape)) * frequency**-exponent
    field = np.fft.irfft2(waves[0] + 1j * waves[1], s=size)[: shape[0], : shape[1]]
    return (field - field.mean()) / field.std()


def with_contrast(pair: Pair, rng: Rng) -> Complex[Array, "H W"]:
    """A transmission of two maps: weak or strong, mostly phase or both, of one matter or of independent maps."""
    low, high = (np.quantile(pair, q, axis=(1, 2), keepdims=True) for q in (0.002, 0.998))
    absorption, phase = np.clip((pair - low) / np.maximum(high - low, 1e-9), 0, 1)
    if rng.random() < 0.4:
        absorption = phase  # one matter: both follow its thickness
    phase_range = np.exp(rng.uniform(np.log(0.15), np.log(2.0)))
    return transmission(rng.uniform(0.02, 0.7) * absorption, phase_range * phase)


def _leaf(shape: Shape, centre: Point, radius: float, rng: Rng) -> tuple[Window, Map]:
    """A window, and what a leaf covers of its pixels."""
    if rng.random() < 0.35:
        window = window_around(shape, centre, 1.5 * radius + 2)
        y, x = grid(shape, window)
        turn = rng.uniform(0, np.pi)
        v = (y - centre[0]) * np.cos(turn) - (x - centre[1]) * np.sin(turn)
        u = (y - centre[0]) * np.sin(turn) + (x - centre[1]) * np.cos(turn)
        side = radius * rng.uniform(0.4, 1)
        return window, box(v, u, (-side, -radius), (side, radius))
    window, distance = blob(shape, centre, radius * rng.uniform(0.4, 1, 2), rng.choice([0.0, 0.1]), rng)
    return window, covered(distance)
