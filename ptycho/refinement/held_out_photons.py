"""The weight of total variation, chosen by photons that the fits have not seen.

Each photon of a scan goes at random to one of two scans of the same frames, so that no overlap is lost: the parts of a
Poisson count are independent Poisson counts. Of fits to the one with different weights the best predicts the other.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ptycho.config import RefineConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.physics.grid import nearest_the_middle
from ptycho.refinement.refine import RAMP_DENOISER, make_solver, object_epochs, slow_phase_epochs, warmed_up
from ptycho.refinement.solver import Solver
from ptycho.training.batches import thin_counts


class PhotonTrial(NamedTuple):
    """A weight, and how well a fit with it predicts the held-out photons."""

    weight: float
    deviance: float
    """A quarter of the Poisson deviance, for each held-out photon."""


def try_total_variation(
    scan: Scan,
    config: RefineConfig,
    estimate: Reconstruction,
    frames: np.ndarray,
    *,
    guess: float,
    factor: float = 3.0,
    weights: int = 5,
    part: float = 0.1,
    first_epochs: int = 12,
    epochs: int = 8,
    most_frames: int = 1024,
) -> list[PhotonTrial]:
    """Fits of the object alone with growing weights of total variation, from 0 on; they end when a weight is worse.

    Each fit goes on from the last: as the weight grows, what the noise has put into the image goes.

    Args:
        scan: P frames.
        config: of the fit.
        estimate: of the scan; everything but the object is taken from it.
        frames: indices of those that may be looked at.
        guess: the smallest weight beside 0.
        factor: from one weight to the next.
        weights: how many are tried at most, beside 0.
        part: of the photons that are held out.
        first_epochs: passes over the frames without total variation, from vacuum.
        epochs: passes with each weight.
        most_frames: those nearest the middle of the scan tell enough.
    """
    solver, judge = fitting_and_judging(scan, config, estimate, frames, part, most_frames)
    photons = max(float(judge.scan.frame_counts.sum()), 1.0)
    trials: list[PhotonTrial] = []
    for k in range(-1, weights):
        weight = 0.0 if k < 0 else guess * factor**k
        object_epochs(solver, first_epochs if k < 0 else epochs, tv=weight)
        trials.append(PhotonTrial(weight, deviance_of(solver, judge) / photons))
        if k > 0 and trials[-1].deviance > trials[-2].deviance:
            break
    return trials


def gain_of_denoiser(
    scan: Scan,
    config: RefineConfig,
    estimate: Reconstruction,
    frames: np.ndarray,
    *,
    tv_weight: float,
    red_weight: float,
    flat_weight: float = 0.0,
    fraction: float = 0.1,
    epochs: int = 20,
    most_frames: int = 1024,
) -> float:
    """What held-out photons gain by the network that takes out noise, over total variation: a quarter of the change of
    their Poisson deviance, below 0 where they lose.

    One fit of the object alone, from vacuum: with total variation, and from there with the network.

    Args:
        scan: P frames.
        config: of the fit.
        estimate: of the scan; everything but the object is taken from it.
        frames: indices of those that may be looked at.
        tv_weight: of total variation; 0 for none, where the best of the epochs counts.
        red_weight: of the network's image.
        flat_weight: of the object's mean, in both.
        fraction: of the photons that are held out.
        epochs: passes over the frames with either, after the ramp.
        most_frames: those nearest the middle of the scan tell enough.
    """
    solver, judge = fitting_and_judging(scan, config, estimate, frames, fraction, most_frames)
    without = []
    for passes, weight in ((4, 0.0), (4, 0.0), (6, 0.1), (6, 0.3), (epochs, 1.0)):
        object_epochs(solver, passes, tv=tv_weight, flat=flat_weight, fraction=weight)
        without.append(deviance_of(solver, judge))
    for passes, weight in (*RAMP_DENOISER, (epochs, 1.0)):
        object_epochs(solver, passes, red=red_weight, flat=flat_weight, fraction=weight)
    return (without[-1] if tv_weight else min(without)) - deviance_of(solver, judge)


def gains_of_flatness(
    scan: Scan,
    config: RefineConfig,
    estimate: Reconstruction,
    frames: np.ndarray,
    *,
    tv_weight: float,
    flat_weights: Sequence[float],
    fraction: float = 0.1,
    epochs: int = 12,
    most_frames: int = 1024,
) -> list[float]:
    """What held-out photons gain by holding the object near its mean, beside total variation: a quarter of the change
    of their Poisson deviance, for each of some growing weights.

    One fit of the object alone, from vacuum; for the other arguments see `gain_of_denoiser`.
    """
    solver, judge = fitting_and_judging(scan, config, estimate, frames, fraction, most_frames)
    total_variation_epochs(solver, tv_weight, epochs)
    without = deviance_of(solver, judge)
    # As many epochs more, for fairness
    object_epochs(solver, epochs, tv=tv_weight)
    without = min(without, deviance_of(solver, judge))
    gains = []
    for weight in flat_weights:
        object_epochs(solver, epochs, tv=tv_weight, flat=weight)
        gains.append(without - deviance_of(solver, judge))
    return gains


def gain_of_slow_phase(
    scan: Scan,
    config: RefineConfig,
    estimate: Reconstruction,
    frames: np.ndarray,
    *,
    tv_weight: float,
    slow_epochs: int,
    fraction: float = 0.3,
    epochs: int = 12,
    most_frames: int = 1024,
) -> float:
    """What held-out photons gain where the slow phase follows the counts alone, after total variation: a quarter of the
    change of their Poisson deviance.

    They are many, as slow phase gains little. For the other arguments see `gain_of_denoiser`.
    """
    solver, judge = fitting_and_judging(scan, config, estimate, frames, fraction, most_frames)
    total_variation_epochs(solver, tv_weight, epochs)
    without = deviance_of(solver, judge)
    slow_phase_epochs(solver, slow_epochs)
    return without - deviance_of(solver, judge)


def total_variation_epochs(solver: Solver, weight: float, epochs: int) -> None:
    """Fit the object alone, without total variation at first."""
    for passes, fraction in ((8, 0.0), (6, 0.1), (6, 0.3), (epochs, 1.0)):
        object_epochs(solver, passes, tv=weight, fraction=fraction)


def fitting_and_judging(
    scan: Scan, config: RefineConfig, estimate: Reconstruction, frames: np.ndarray, fraction: float, most_frames: int
) -> tuple[Solver, Solver]:
    """A solver of the frames nearest the middle without ``fraction`` of their photons, warmed up, and one that holds
    these; everything but the object as an estimate has it."""
    frames = frames[nearest_the_middle(scan.positions[frames], most_frames)]
    fitted, judging = divided_photons(scan.subset(frames), fraction, config.seed)
    estimate = of_frames(estimate, frames)
    everything, none = np.arange(len(frames)), np.arange(0)
    plain = replace(config, tv_weight=0.0, red_weight=0.0, flat_weight=0.0)
    solver = make_solver(fitted, everything, none, plain, at_exposure(estimate, 1 - fraction))
    judge = make_solver(judging, everything, none, replace(plain, noise="poisson"), at_exposure(estimate, fraction))
    warmed_up(solver)
    return solver, judge


def deviance_of(solver: Solver, judge: Solver) -> float:
    """A quarter of the Poisson deviance of the held-out photons."""
    judge.state["object"] = solver.state["object"]
    return judge.evaluate()["deviance"]


def best_total_variation(trials: Sequence[PhotonTrial]) -> float:
    """The weight of the best prediction: the vertex of a parabola over the logarithm of three weights, where there are
    two others beside the best; 0 where none is better than that."""
    best = int(np.argmin([trial.deviance for trial in trials]))
    if trials[best].weight == 0 or best < 2 or best + 1 >= len(trials):
        return trials[best].weight
    around = trials[best - 1 : best + 2]
    a, b, _ = np.polyfit(np.log([trial.weight for trial in around]), [trial.deviance for trial in around], 2)
    # d = a x^2 + b x + c with x = log w is lowest at x = -b / (2 a)
    return float(np.exp(-b / (2 * a)))


def divided_photons(scan: Scan, part: float, seed: int) -> tuple[Scan, Scan]:
    """Two scans of the same frames: ``1 - part`` of the photons, and the others. Their probes are scaled alike."""
    counts = np.where(scan.mask, scan.counts, 0).astype(scan.counts.dtype)  # a masked pixel may hold anything
    rest, taken = thin_counts(counts, 1 - part, np.random.default_rng([seed, 2]))
    probe = lambda fraction: (scan.probe * np.sqrt(fraction)).astype("complex64")
    return (
        replace(scan, counts=rest, probe=probe(1 - part), object=None),
        replace(scan, counts=taken, probe=probe(part), object=None),
    )


def at_exposure(estimate: Reconstruction, fraction: float) -> Reconstruction:
    """An estimate of the same sample at another exposure."""
    root = np.float32(np.sqrt(fraction))
    changes: dict[str, Any] = dict(probe=estimate.probe * root)
    if estimate.opr_modes is not None:
        changes["opr_modes"] = estimate.opr_modes * root
    if estimate.background is not None:
        changes["background"] = estimate.background * np.float32(fraction)
    return replace(estimate, **changes)


def of_frames(estimate: Reconstruction, frames: np.ndarray) -> Reconstruction:
    """An estimate of some of its frames."""
    weights, used = estimate.opr_weights, estimate.used_frames
    return replace(
        estimate,
        positions_px=estimate.positions_px[frames],
        opr_weights=None if weights is None else weights[frames],
        used_frames=None if used is None else used[frames],
    )
