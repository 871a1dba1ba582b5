"""What an image is taken to be like, chosen by the data: smooth by total variation, weighed by photons that no fit has
seen, near its mean, or free of noise in the eyes of a network, where data that no fit has seen like that better."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ptycho.config import RefineConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.pipelines.assess import judgement_of
from ptycho.pipelines.needs import joined
from ptycho.progress import Progress
from ptycho.refinement.from_network import PLENTY, photons_per_object_pixel
from ptycho.refinement.held_out_photons import (
    PhotonTrial,
    best_total_variation,
    gain_of_denoiser,
    gain_of_slow_phase,
    gains_of_flatness,
    try_total_variation,
)
from ptycho.refinement.refine import Refinement, refine

RED_WEIGHT = 3.0
"""Of the network's image. Three times as much or a third changes little (docs/decisions/016-a-denoiser-as-prior.md)."""

SLOW_PHASE = 16
"""Epochs of the slow phase alone after those with total variation, or a network."""

FLAT_WEIGHTS = (0.03, 0.1, 0.3)
"""Of the object's mean, that are tried."""


class Smoothed(NamedTuple):
    """A fit with the prior that suits it, and how that was chosen."""

    fit: Refinement
    config: RefineConfig
    trials: tuple[PhotonTrial, ...] = ()
    notes: tuple[str, ...] = ()


def with_priors(
    scan: Scan,
    config: RefineConfig,
    fit: Refinement,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Smoothed:
    """A fit continued with total variation, with its slow phase by the counts alone, near the object's mean, and with a
    network that takes out noise, each where data that no fit has seen like it: see `with_total_variation`,
    `with_slow_phase`, `with_flatness` and `with_denoiser`, and there for the arguments."""
    smoothed = with_total_variation(scan, config, fit, held_out, decided=decided, progress=progress)
    smoothed = with_slow_phase(scan, smoothed, held_out, decided=decided, progress=progress)
    smoothed = with_flatness(scan, smoothed, held_out, decided=decided, progress=progress)
    return with_denoiser(scan, smoothed, held_out, decided=decided, progress=progress)


class DenoiserTrial(NamedTuple):
    """A fit with the network that takes out noise as its prior, beside one without."""

    fit: Refinement
    config: RefineConfig
    by_frames: float
    """What held-out frames gain by it: a quarter of the change of their Poisson deviance."""
    by_photons: float
    """The same of photons that two shorter fits have not seen."""

    @property
    def liked(self) -> bool:
        """Whether data that no fit has seen are the more likely with it: independent photons, whose logarithms of
        likelihood add up."""
        return self.by_frames + self.by_photons > 0


def with_denoiser(
    scan: Scan,
    smoothed: Smoothed,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    plenty: float = PLENTY,
    progress: Progress | None = None,
) -> Smoothed:
    """A fit continued with regularisation by denoising in the place of total variation, where frames and photons that
    no fit has seen like it.

    The network is the package's own (`load_denoiser`), and has learned from photographs and simulated objects.

    Args:
        scan: what was fitted.
        smoothed: the fit, with or without total variation; where the prior is the user's choice, the method another
            than ``cg`` or the sample one of slices, it comes back as it is.
        held_out: ``(P,)`` bool: frames that no fit sees.
        decided: fields of the config that the user has set.
        plenty: photons per object pixel from which on nothing is tried.
        progress: told of the progress.
    """
    fit, config = smoothed.fit, smoothed.config
    chosen = bool(decided & {"tv_weight", "red_weight"}) or config.red_weight > 0
    if chosen or config.method != "cg" or config.multislice is not None:
        return smoothed
    if photons_per_object_pixel(scan) >= plenty or fit.without_unseen is None:
        return smoothed
    trial = try_denoiser(scan, smoothed, held_out, progress)
    scores = f"{trial.fit.criterion:.4g} on held-out frames, {fit.criterion:.4g} without"
    gains = f"{scores}; gain in log-likelihood {trial.by_frames:+.3g}, and {trial.by_photons:+.3g} on held-out photons"
    if not trial.liked:
        return smoothed._replace(notes=(*smoothed.notes, f"A network as prior, tried: not taken, {gains}."))
    note = f"The prior is a network that takes out noise: {gains}."
    return Smoothed(joined(fit, trial.fit), trial.config, smoothed.trials, (*smoothed.notes, note))


def try_denoiser(
    scan: Scan, smoothed: Smoothed, held_out: np.ndarray, progress: Progress | None = None
) -> DenoiserTrial:
    """A fit continued with the network in the place of total variation; see `with_denoiser` for the arguments."""
    fit, config = smoothed.fit, smoothed.config
    assert fit.without_unseen is not None
    free = replace(config, tv_weight=0.0, red_weight=RED_WEIGHT, focus=False)
    further = refine(scan, free, start=fit.without_unseen, start_counts=False, held_out=held_out, progress=progress)
    frames = np.setdiff1d(np.flatnonzero(~held_out), fit.unseen)
    by_photons = gain_of_denoiser(
        scan,
        config,
        fit.without_unseen,
        frames,
        tv_weight=config.tv_weight,
        red_weight=RED_WEIGHT,
        flat_weight=config.flat_weight,
    )
    by_frames = gain_by_frames(scan, fit, further)
    return DenoiserTrial(further, free, by_frames, by_photons)


def gain_by_frames(scan: Scan, fit: Refinement, further: Refinement) -> float:
    """What held-out frames gain by a fit that went on from another: a quarter of the change of their deviance."""
    return (fit.criterion - further.criterion) * float(scan.frame_counts[fit.unseen].sum())


def with_total_variation(
    scan: Scan,
    config: RefineConfig,
    fit: Refinement,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    plenty: float = PLENTY,
    least: float = 0.1,
    progress: Progress | None = None,
) -> Smoothed:
    """A fit continued with total variation, where held-out photons, and then held-out frames, like it.

    A weak sample under a weak beam gets more of it than the photons ask for, as long as the image is no better than the
    mean frame and held-out frames like it: noise that is not quite Poisson's is alike in both parts of the photons.

    Args:
        scan: what was fitted.
        config: of the fit; other methods than ``cg``, and fits with total variation, come back as they are.
        fit: of the scan.
        held_out: ``(P,)`` bool: frames that no fit sees.
        decided: fields of the config that the user has set.
        plenty: photons per object pixel from which on nothing is tried.
        least: the smallest weight tried, over one by the root of the photons per object pixel: simulated scans of 9 to
            110 photons per object pixel were best at 0.17 to 0.36
            (docs/decisions/014-total-variation-by-held-out-photons.md).
        progress: told of the progress.
    """
    photons = photons_per_object_pixel(scan)
    decision = bool(decided & {"tv_weight", "red_weight"}) or config.tv_weight > 0 or config.red_weight > 0
    if decision or config.method != "cg" or photons >= plenty or fit.without_unseen is None:
        return Smoothed(fit, config)
    frames = np.setdiff1d(np.flatnonzero(~held_out), fit.unseen)
    # The prior weighs the gradient against residuals in units of sqrt(photons): its scale is one over those.
    trials = tuple(try_total_variation(scan, config, fit.without_unseen, frames, guess=least / np.sqrt(photons)))
    weight = best_total_variation(trials)
    if weight == 0:
        return Smoothed(fit, config, trials, ("Total variation, tried by held-out photons: none.",))
    further = _smoothed(scan, config, weight, fit.without_unseen, held_out, progress)
    choice = f"Total variation, chosen by held-out photons: weight {weight:.2g}"
    while no_better_than_mean(further, scan, held_out):
        heavier = _smoothed(scan, config, 3 * weight, fit.without_unseen, held_out, progress)
        if heavier.criterion >= further.criterion:
            break
        further, weight = heavier, 3 * weight
        choice = f"Total variation, chosen by held-out photons, then frames: weight {weight:.2g}"
    scores = f"{further.criterion:.4g} on held-out frames, {fit.criterion:.4g} without"
    if further.best == 0 or further.criterion >= fit.criterion:
        return Smoothed(fit, config, trials, (f"{choice}; not taken: {scores}.",))
    return Smoothed(joined(fit, further), replace(config, tv_weight=weight), trials, (f"{choice}; {scores}.",))


def with_slow_phase(
    scan: Scan,
    smoothed: Smoothed,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Smoothed:
    """A fit with total variation whose slow phase follows the counts alone, where photons, and then frames, that no fit
    has seen like it.

    Total variation keeps a step of phase between wide regions too low
    (docs/decisions/017-slow-phase-by-itself.md). For the arguments see `with_denoiser`.
    """
    fit, config = smoothed.fit, smoothed.config
    is_set = bool(decided & {"tv_weight", "slow_phase"}) or config.slow_phase > 0
    if not config.tv_weight or is_set or config.multislice is not None or fit.without_unseen is None:
        return smoothed
    frames = np.setdiff1d(np.flatnonzero(~held_out), fit.unseen)
    by_photons = gain_of_slow_phase(
        scan, config, fit.without_unseen, frames, tv_weight=config.tv_weight, slow_epochs=SLOW_PHASE
    )
    gain = f"gain in log-likelihood {by_photons:+.3g} on held-out photons"
    if by_photons <= 0:
        return smoothed._replace(notes=(*smoothed.notes, f"Slow phase by the counts alone, tried: not taken, {gain}."))
    slow = replace(config, slow_phase=SLOW_PHASE, focus=False)
    further = refine(scan, slow, start=fit.without_unseen, held_out=held_out, progress=progress)
    by_frames = gain_by_frames(scan, fit, further)
    gain += f", {by_frames:+.3g} on held-out frames"
    if by_frames <= 0:
        return smoothed._replace(notes=(*smoothed.notes, f"Slow phase by the counts alone, tried: not taken, {gain}."))
    notes = (*smoothed.notes, f"The slow phase follows the counts alone: {gain}.")
    return Smoothed(joined(fit, further), replace(config, slow_phase=SLOW_PHASE), smoothed.trials, notes)


def with_flatness(
    scan: Scan,
    smoothed: Smoothed,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Smoothed:
    """A fit with total variation continued near the object's mean, where photons that no fit has seen like it, and
    frames that no fit has seen, too.

    Total variation asks next to nothing of slow phase, and few photons through a wide probe leave that open: of a weak
    sample under 700 photons a frame it made an image by 1 to 2 dB worse than a flat one
    (docs/decisions/016-a-denoiser-as-prior.md). For the arguments see `with_denoiser`.
    """
    fit, config = smoothed.fit, smoothed.config
    if not config.tv_weight or decided & {"tv_weight", "flat_weight"} or fit.without_unseen is None:
        return smoothed
    frames = np.setdiff1d(np.flatnonzero(~held_out), fit.unseen)
    gains = gains_of_flatness(
        scan, config, fit.without_unseen, frames, tv_weight=config.tv_weight, flat_weights=FLAT_WEIGHTS
    )
    best = int(np.argmax(gains))
    tried = "Nearness to the mean of the object, tried by held-out photons"
    if gains[best] <= 0:
        return smoothed._replace(notes=(*smoothed.notes, f"{tried}: none."))
    flat = replace(config, flat_weight=FLAT_WEIGHTS[best], focus=False)
    further = refine(scan, flat, start=fit.without_unseen, start_counts=False, held_out=held_out, progress=progress)
    by_frames = gain_by_frames(scan, fit, further)
    gain = f"gain in log-likelihood {by_frames:+.3g}, and {gains[best]:+.3g} on held-out photons"
    told = f"weight {flat.flat_weight:g}, {gain}"
    if by_frames <= 0:
        return smoothed._replace(notes=(*smoothed.notes, f"{tried}: not taken, {told}."))
    notes = (*smoothed.notes, f"{tried}, and frames: {told}.")
    return Smoothed(joined(fit, further), replace(config, flat_weight=flat.flat_weight), smoothed.trials, notes)


def _smoothed(
    scan: Scan,
    config: RefineConfig,
    weight: float,
    start: Reconstruction,
    held_out: np.ndarray,
    progress: Progress | None,
) -> Refinement:
    smooth = replace(config, tv_weight=weight, focus=False)
    return refine(scan, smooth, start=start, held_out=held_out, progress=progress)


def no_better_than_mean(fit: Refinement, scan: Scan, held_out: np.ndarray) -> bool:
    """Whether the mean frame predicts held-out frames as well as a fit, which then holds more noise than sample."""
    judgement = judgement_of(fit.result, scan, held_out, fit)
    return judgement is not None and not judgement.deciding.beats_mean_frame
