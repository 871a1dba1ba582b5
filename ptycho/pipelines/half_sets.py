"""The resolution of an image, from two images of half the data each: where they agree, there is sample, not noise.

The halves are of the frames where these still overlap. Where they would not, they are of the photons of every frame,
and blind to what too little overlap leaves uncertain: both images err alike then, from whatever object they start.
Probe, positions and whatever else a fit has found are taken from it; only the object is sought anew, from vacuum, and
without any prior: both halves would agree on what a prior makes of them. With total variation on 6.9e3 counts a frame
of ``sim64_test`` they agreed up to Nyquist, the image with the truth up to half of that, and so do halves without
(docs/results.md). What a prior adds to an image is not counted then.
"""

from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from ptycho.arrays import Bool, Float
from ptycho.config import RefineConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation import TooSmall
from ptycho.evaluation.half_sets import HalfSets, correlated
from ptycho.physics.grid import nearest_the_middle
from ptycho.progress import Progress
from ptycho.refinement.held_out_photons import at_exposure, divided_photons, of_frames
from ptycho.refinement.refine import Refinement, make_solver, object_epochs, result_of, warmed_up, without_priors
from ptycho.refinement.solver import Solver
from ptycho.refinement.unknowns import Object

EPOCHS = 10
"""Passes over each half: with 6 the curve is the same to 0.01 (docs/results.md)."""

LEAST_FRAMES = 8
LEAST_OVERLAP = 0.5
"""Linear overlap that half of the frames must keep, on average."""


def half_sets(
    scan: Scan,
    config: RefineConfig,
    fit: Reconstruction,
    held_out: Bool[np.ndarray, " P"],
    *,
    most_frames: int = 1024,
    progress: Progress | None = None,
) -> HalfSets:
    """Fit the object alone to each half of a scan, and correlate the two images ring by ring.

    Args:
        scan: P frames.
        config: of the fit; its method is conjugate gradients here.
        fit: of the scan.
        held_out: ``(P,)`` bool: frames that must not be looked at.
        most_frames: those nearest the middle of the scan tell enough.
        progress: told of the progress.

    Raises TooSmall for fewer than `LEAST_FRAMES`, and where too little is well lit.
    """
    frames = np.flatnonzero(~held_out)
    frames = frames[nearest_the_middle(scan.positions[frames], most_frames)]
    if len(frames) < LEAST_FRAMES:
        raise TooSmall(f"{len(frames)} frames are too few to be halved")
    scan, fit = replace(scan.subset(frames), probe=fit.probe), of_frames(fit, frames)
    object_only = without_priors(config)
    everything = np.arange(len(frames))
    if by_frames(scan):
        pairs = paired(scan.positions, np.random.default_rng([config.seed, 3]))
        fits = [make_solver(scan, half, np.arange(0), object_only, fit) for half in pairs]
    else:
        exposures = divided_photons(scan, 0.5, config.seed)
        fits = [make_solver(each, everything, np.arange(0), object_only, at_exposure(fit, 0.5)) for each in exposures]
    images = []
    for number, solver in enumerate(fits):
        images.append(object_alone(solver, object_only))
        if progress:
            progress("half sets", number + 1, 2, {})
    one, other = (image.object for image in images)
    correlation = correlated(one, other, np.minimum(*(image.coverage for image in images)))
    return HalfSets("frames" if by_frames(scan) else "photons", correlation, scan.pixel_size_m)


def seconds_needed(scan: Scan, config: RefineConfig, fit: Refinement, most_frames: int = 1024) -> float:
    """About how long `half_sets` takes, by the epochs of the fit."""
    passes = 1 if by_frames(replace(scan, probe=fit.result.probe)) else 2
    return EPOCHS * passes * min(1.0, most_frames / len(scan)) * fit.epoch_seconds


def by_frames(scan: Scan) -> bool:
    """Whether half of the frames, sqrt(2) times as far apart, still overlap."""
    return 1 - np.sqrt(2) * (1 - scan.overlap) >= LEAST_OVERLAP


def paired(positions: Float[np.ndarray, "P 2"], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two halves: of two neighbours one goes to each, so that both cover the same area evenly."""
    neighbours = cKDTree(positions).query(positions, k=min(9, len(positions)))[1].reshape(len(positions), -1)
    free = np.ones(len(positions), bool)
    halves: tuple[list[int], list[int]] = ([], [])
    for frame in rng.permutation(len(positions)):
        if not free[frame]:
            continue
        free[frame] = False
        near = [other for other in neighbours[frame] if free[other]]
        first = int(rng.integers(2))
        halves[first].append(frame)
        if near:
            free[near[0]] = False
            halves[1 - first].append(near[0])
    return np.sort(np.array(halves[0], int)), np.sort(np.array(halves[1], int))


def object_alone(solver: Solver, config: RefineConfig) -> Reconstruction:
    """The object from vacuum, with all else as the solver has it."""
    warmed_up(solver)
    object_epochs(solver, EPOCHS)
    return result_of(solver, config, (Object(),))
