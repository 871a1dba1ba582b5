"""First pictures of a 4D-STEM scan, made of its frames alone: virtual detectors, and the phase by DPC.

No fit, no probe: what a microscopist looks at first, and beside which the image of a fit has to make sense.
"""

import numpy as np

from ptycho.arrays import Array, Bool, Float
from ptycho.data.frames import chunks
from ptycho.data.scan import Scan
from ptycho.diagnostics.geometry import centres_of_mass
from ptycho.diagnostics.statistics import bright_disc, without_spikes


def bright_field_disc(scan: Scan, margin: float = 1.1) -> Bool[Array, "N N"]:
    """Pixels of the detector within ``margin`` radii of the middle of the mean pattern's `bright_disc`."""
    mean = without_spikes(np.where(scan.mask, scan.mean_pattern, 0), scan.mask)
    pixels = np.argwhere(bright_disc(mean))
    radius = np.sqrt(len(pixels) / np.pi)
    y, x = np.indices(mean.shape)
    middle = pixels.mean(axis=0)
    return np.hypot(y - middle[0], x - middle[1]) <= margin * radius


def direct_pictures(scan: Scan, most_px: int = 256) -> dict[str, Float[Array, "h w"]]:
    """Counts in the bright field and beyond it, and the phase in rad, on a grid of the scan's own step over its field.

    The phase is that of differential phase contrast: the centre of mass of a frame is the mean gradient of the phase
    under the probe, ``grad phi = 2 pi k / N`` with k in detector pixels from its mean, and phi solves Poisson's
    equation. It is blurred by the probe, and rises where the potential does. Positions must lie as the frames do.
    """
    inside = bright_field_disc(scan)
    used = scan.mask.astype(float)
    weights = np.stack([used * inside, used * ~inside], axis=-1).reshape(-1, 2)
    totals = np.concatenate([chunk.reshape(len(chunk), -1).astype(float) @ weights for chunk in chunks(scan.counts)])
    shifts = centres_of_mass(scan)
    values = np.column_stack([totals, 2 * np.pi / scan.N * (shifts - shifts.mean(axis=0))])
    step = max(scan.step_px, float(np.ptp(scan.positions, axis=0).max()) / most_px)
    bright, dark, *slopes = on_grid(scan.positions, values, step)
    return {"bright field": bright, "dark field": dark, "phase by DPC": integrated(slopes[0], slopes[1], step)}


def on_grid(positions: Float[Array, "P 2"], values: Float[Array, "P K"], step: float) -> list[Float[Array, "h w"]]:
    """Values between scattered positions, on a grid with this step; means where no position is near."""
    from scipy.interpolate import LinearNDInterpolator

    low, high = positions.min(axis=0), positions.max(axis=0)
    axes = (np.arange(first, last + 0.5 * step, step) for first, last in zip(low, high))
    images = LinearNDInterpolator(positions, values)(*np.meshgrid(*axes, indexing="ij"))
    means = values.mean(axis=0)
    return [np.where(np.isnan(image), mean, image) for image, mean in zip(np.moveaxis(images, -1, 0), means)]


def integrated(along_y: Float[Array, "h w"], along_x: Float[Array, "h w"], step: float) -> Float[Array, "h w"]:
    """The image of mean 0 whose gradient is nearest to a given one, by least squares.

    ``laplace phi = div g`` with the slope across the borders given by g: cosines diagonalise it (Neumann).
    """
    from scipy.fft import dctn, idctn

    h, w = along_y.shape
    divergence = np.zeros((h, w))
    # Differences between neighbours are the means of their gradients, times the step.
    down, right = (step * (a + b) / 2 for a, b in ((along_y[1:], along_y[:-1]), (along_x[:, 1:], along_x[:, :-1])))
    divergence[:-1] += down
    divergence[1:] -= down
    divergence[:, :-1] += right
    divergence[:, 1:] -= right
    eigenvalues = np.add.outer(*(2 * np.cos(np.pi * np.arange(n) / n) - 2 for n in (h, w)))
    eigenvalues[0, 0] = 1.0
    spectrum = dctn(divergence, type=2) / eigenvalues
    spectrum[0, 0] = 0.0
    return idctn(spectrum, type=2)
