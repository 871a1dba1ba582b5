"""The error to expect of a fit's image, pixel by pixel: by replicas of the fit (the parametric bootstrap).

The forward model says what counts the image makes one expect; with new shot noise these are fitted again, and how far
that fit is from the image, which made its counts, is about how far the image is from the truth:

    sigma^2 = c^2 mean(n |O' - O|^2) / n,    c^2 = sum |O' - O|^2 / sum |O'' - O'|^2

with the light n on each pixel, and means over its neighbours.

Slow phase that the fit does not reach and detail that the prior takes away are in it, but less than they should be, as
the image holds less of both than the sample does. How much less a second replica O'', made from the first, tells: it
falls short of the first as the first does of the truth (the iterated bootstrap: Hall, Ann. Statist. 14, 1431 (1986)).

Reference: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from ptycho.arrays import Bool, Complex, Float
from ptycho.config import RefineConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation.uncertainty import illuminated_pixels
from ptycho.physics.grid import ObjectGrid
from ptycho.progress import Progress
from ptycho.refinement.held_out_photons import of_frames
from ptycho.refinement.refine import (
    RAMP_DENOISER,
    Refinement,
    make_solver,
    object_epochs,
    result_of,
    slow_phase_epochs,
    warmed_up,
    without_priors,
)
from ptycho.refinement.unknowns import Object

EPOCHS = 14, 60
"""Passes without a prior: as many as are needed before one comes in, and at most."""

WIDTH_PX = 8.0
"""Standard deviation of the weights of the mean above: one replica tells the error of a pixel only to a factor."""


def schedule_of(config: RefineConfig, epochs: int) -> Sequence[tuple[int, float]]:
    """Passes of a replica, and part of the weight of the prior in them; without a prior as many as the fit took."""
    if not (config.tv_weight or config.red_weight):
        return ((min(max(epochs, EPOCHS[0]), EPOCHS[1]), 0.0),)
    return ((EPOCHS[0], 0.0), *((passes - 2, fraction) for passes, fraction in RAMP_DENOISER), (24, 1.0))


def error_map(
    scan: Scan,
    config: RefineConfig,
    fit: Reconstruction,
    *,
    epochs: int,
    beyond_noise: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Float[np.ndarray, "H W"], float]:
    """The rms error to expect of each pixel of a fit, float32, infinite where nothing fell, and c of the formula above.

    Only the object is fitted to the replicas; an error of the probe or of the positions, which leaves its marks in the
    residuals, is not in them. An image that a network's was a prior of is fitted without that: what it knew is not
    counted.

    Args:
        scan: P frames.
        config: of the fit.
        fit: of the scan.
        epochs: that the fit took until it was best.
        beyond_noise: by which factor the residuals of the frames exceed the shot noise, as a root mean square; the
            errors are taken to do so, too.
        seed: of the noise.
        progress: told of the progress.
    """
    frames = np.arange(len(scan)) if fit.used_frames is None else np.flatnonzero(fit.used_frames)
    scan, fit = scan.subset(frames), of_frames(fit, frames)
    schedule = schedule_of(config, epochs)
    rng = np.random.default_rng([seed, 4])
    covered = fit.coverage > 0
    bright = illuminated_pixels(fit.coverage)
    image, errors = fit.object, []
    for number in range(2):
        replica = refitted(scan, config, schedule, replace(fit, object=image, slices=None), rng)
        phase = np.vdot(replica[bright], image[bright])
        replica = replica * (phase / max(abs(phase), np.finfo(float).tiny))
        errors.append(np.where(covered, np.abs(replica - image) ** 2, 0))
        image = np.where(covered, replica, 0).astype("complex64")
        if progress:
            progress("replicas", number + 1, 2, {})
    first, second = (float(np.sqrt(error[bright].mean())) for error in errors)
    shortfall = max(first / second, 1.0) if second > 0 else 1.0
    # In proportion to the light: the dim rim, whose errors are far larger, would spoil its neighbourhood.
    light = np.where(covered, fit.coverage, 1.0)
    mean = local_mean(errors[0] * light, covered)
    # Where a mean of few pixels happens to be small
    mean = np.maximum(mean, 0.1 * np.median(mean[bright]))
    sigma = shortfall * max(beyond_noise, 1.0) * np.sqrt(mean / light)
    return np.where(covered, sigma, np.inf).astype("float32"), shortfall


def refitted(
    scan: Scan,
    config: RefineConfig,
    schedule: Sequence[tuple[int, float]],
    image: Reconstruction,
    rng: np.random.Generator,
) -> Complex[np.ndarray, "H W"]:
    """The object that a fit from vacuum makes of new counts of an image, on that image's canvas."""
    plain = without_priors(config)
    counts = np.concatenate([rng.poisson(expected) for expected in image.expected_batches()])
    again = replace(scan, counts=counts.astype("float32"), object=None)
    solver = make_solver(again, np.arange(len(scan)), np.arange(0), plain, image)
    warmed_up(solver)
    for passes, fraction in schedule:
        object_epochs(
            solver,
            passes,
            tv=config.tv_weight,
            red=config.red_weight,
            flat=config.flat_weight,
            fraction=fraction,
        )
    slow_phase_epochs(solver, 0 if config.flat_weight else config.slow_phase)
    replica = result_of(solver, plain, (Object(),))
    # Where the replica's first pixel is on the canvas, by what the first frame's position is on both
    origin = np.rint(image.positions_px[0] - replica.positions_px[0]).astype(int)
    return ObjectGrid((0, 0), image.object.shape, scan.N).placed(replica.object, origin, np.zeros_like(image.object))


def local_mean(values: Float[np.ndarray, "H W"], where: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Means with Gaussian weights, of the pixels where it is True."""
    weights = gaussian_filter(where.astype(float), WIDTH_PX)
    return gaussian_filter(np.where(where, values, 0.0), WIDTH_PX) / np.maximum(weights, 1e-6)


def seconds_needed(scan: Scan, config: RefineConfig, fit: Refinement) -> float:
    """About how long `error_map` takes, by the epochs of the fit."""
    passes = 1 + config.slow_phase + sum(passes for passes, _ in schedule_of(config, fit.best))
    return 2 * passes * fit.epoch_seconds
