"""What a scan needs beyond object and probe, found by trying: each unknown stays only if unseen frames like it.

Modes of the probe, positions, a background, a varying probe, detector blur: a user cannot know which of them a scan
needs, and each that it does not need costs time and precision. So for a fit that has come to its end above the shot
noise one more unknown is tried at a time, and kept where the frames that the fit holds out are predicted better.
"""

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ptycho.config import RefineConfig, RunConfig, Values
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation import verdict
from ptycho.pipelines.assess import judgement_of
from ptycho.progress import Progress
from ptycho.refinement.checkpoint import FitEpoch
from ptycho.refinement.refine import AT_LIMIT, Refinement, refine
from ptycho.simulation.probes import with_modes


class Need(NamedTuple):
    """A change of a fit that a scan may need."""

    title: str
    """What users call it."""
    fields: Values
    """Fields of a `RefineConfig` that change."""
    modes: int | None = None
    """Modes that the probe gets; None: as many as it has."""
    own_numbers: int = 0
    """Numbers that each frame has for itself, held-out ones too: by chance each gains half a unit of log-likelihood."""
    near_noise: bool = False
    """Tried only where amplitudes are fitted nearly to the noise."""
    electrons: bool = False
    """Tried only of an electron microscope."""


LIKELIHOOD = Need("Poisson likelihood", dict(noise="poisson"), near_noise=True)
"""Amplitudes are biased in dim pixels, but robust where a model is wrong: once it is nearly right, the likelihood."""

NEEDS = (
    LIKELIHOOD,
    Need("probe", dict(probe_from=1)),
    # The step of its scan is known, the angle between scan and camera is not. A thin sample hardly tells the scale:
    # with the positions, object and probe grow alike.
    Need("rotation of the positions", dict(rotation_from=1), electrons=True),
    Need("3 probe modes", dict(probe_from=1), modes=3),
    Need("8 probe modes", dict(probe_from=1), modes=8),
    Need("scale and rotation of the positions", dict(affine_from=1)),
    Need("positions", dict(positions_from=1), own_numbers=2),
    Need("background", dict(background_from=1)),
    Need("a probe that varies", dict(opr_from=1), own_numbers=1),
    Need("detector blur", dict(blur_from=1)),
    LIKELIHOOD,
)
"""What is tried, in the order of its promise on measured scans."""


class Improved(NamedTuple):
    """A fit with what the scan needs."""

    fit: Refinement
    config: RefineConfig
    notes: tuple[str, ...]
    """A sentence on what was tried and kept; none where nothing was tried."""


def with_likelihood(
    scan: Scan,
    config: RefineConfig,
    fit: Refinement,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Improved:
    """A fit by the Poisson likelihood, where one of amplitudes explains nothing of frames with few counts.

    Least squares of amplitudes is biased in dim pixels. Where most pixels are dim and the contrast is weak, as in a
    cell under the electron microscope, the bias is more than what the sample does to the frames. The fit begins from
    vacuum, with the probe that was found: an object that makes up for the bias would stay.
    """
    nothing = Improved(fit, config, ())
    if config.noise != "amplitude" or config.method != "cg" or "noise" in decided:
        return nothing
    judgement = judgement_of(fit.result, scan, held_out, fit)
    if judgement is None or not judgement.sparse or judgement.deviance.beats_mean_frame:
        return nothing
    before = judgement.deviance
    likely = replace(config, noise="poisson", focus=False)
    probe = (fit.without_unseen or fit.result).probe
    trial = refine(scan.with_probe(probe, known=False), likely, held_out=held_out, progress=progress)
    after = judgement_of(trial.result, scan, held_out, trial)
    if after is None or not after.deviance.error < before.error:
        return nothing
    sentence = (
        "Least squares of amplitudes explained nothing of the held-out frames: the Poisson likelihood is fitted "
        f"(deviance {after.deviance.error:.4g}, {before.error:.4g} before)."
    )
    return Improved(trial._replace(notes=(*fit.notes, *trial.notes)), replace(config, noise="poisson"), (sentence,))


def with_needs(
    scan: Scan,
    config: RefineConfig,
    fit: Refinement,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    seconds: float = 75.0,
    trial_epochs: int = 10,
    trial_patience: int = 4,
    least_gain: float = 0.005,
    near_noise: float = 1.3,
    progress: Progress | None = None,
) -> Improved:
    """A fit continued with what the scan needs, until it is at the noise.

    Modes are tried by fits from vacuum, with the probe that was found as their first: those come in a dozen epochs to
    what a fit of one mode that goes on with several takes a hundred for.

    Args:
        scan: what was fitted.
        config: of the fit; other methods than ``cg`` fit no further unknowns, and come back as they are.
        fit: has come to its end: one that was still improving, did not get beyond its start, or is at the noise comes
            back as it is.
        held_out: ``(P,)`` bool: frames that no fit sees.
        decided: fields of the config that the user has set, and ``modes``: nothing changes these.
        seconds: no trial begins that would take longer, by the epochs before. What is found by then is kept.
        trial_epochs: passes over the frames for a trial.
        trial_patience: passes in which a trial that goes on from the best fit has to gain something.
        least_gain: the fraction by which the criterion must fall.
        near_noise: the amplitudes' error over shot noise up to which the Poisson likelihood is tried: simulated scans
            are at 1.1 to 1.2 by then, the measured star at 2.1, where amplitudes fit better (`is_bright`).
        progress: told of the progress.
    """
    nothing = Improved(fit, config, ())
    if config.method != "cg" or fit.at_limit or fit.without_unseen is None or fit.best == 0:
        return nothing
    judgement = judgement_of(fit.result, scan, held_out, fit)
    clock, counts = _Clock(seconds), float(scan.frame_counts[fit.unseen].sum())
    tried, kept, best, modes_help = [], [], fit, True
    for need in NEEDS:
        if judgement is None or verdict(judgement).kind == "at the noise":
            break
        start = best.without_unseen or best.result
        # The change from the best fit so far: fields that were kept stay.
        needing = RefineConfig.from_dict(config.to_dict() | need.fields)
        error, noise, _ = judgement.amplitude
        modes = max(need.modes or 1, len(start.probe))
        if (
            _is_decided(need, config, decided)
            or (need.modes is not None and not modes_help)
            or not _changes(need, needing, config, start)
            or (need.near_noise and error > near_noise * noise)
            or (need.electrons and not scan.is_4dstem)
            or clock.epochs(best, modes) < trial_epochs
        ):
            continue
        tried.append(need.title)
        trial = replace(needing, epochs=trial_epochs, focus=False)
        if need.modes is None:
            trial = replace(trial, patience=trial_patience, tolerance=least_gain / 2)
        candidate = _tried(scan, trial, need.modes and modes, start, held_out, progress)
        # Twice what chance gives, in units of log-likelihood, of which the criterion has two to a unit.
        chance = (need.own_numbers * len(fit.unseen) + 4) / (2 * counts)
        # The criterion of another likelihood is another one: that of the start stands at the head of the trial.
        before = best.criterion if needing.noise == config.noise else candidate.history[0]["criterion"]
        if candidate.criterion >= before - max(least_gain * before, chance):
            modes_help = modes_help and need.modes is None  # where three are none too many, eight may be better
            continue
        kept.append(need.title)
        config, best = needing, candidate if need.modes is not None else joined(best, candidate)
        further = min(clock.epochs(best, modes), config.epochs)
        if need.modes is None and further >= trial_epochs:
            # To its end: else the next trial would gain by going on, whatever it adds.
            settled = replace(config, focus=False, epochs=further)
            end = refine(scan, settled, start=best.without_unseen, held_out=held_out, progress=progress)
            best = joined(best, end) if end.criterion <= best.criterion else best
        judgement = judgement_of(best.result, scan, held_out, best)
    if not tried:
        return nothing
    once = dict.fromkeys  # the likelihood is tried first and last
    sentence = f"Tried by held-out frames: {', '.join(once(tried))}; kept: {', '.join(once(kept)) or 'none'}."
    if kept and best.at_limit:
        sentence += " The image was still improving when the time for it ended: `ptycho refine --start` goes on."
    # That a trial ended at the limit of its epochs says nothing.
    best = best._replace(notes=tuple(note for note in best.notes if not note.startswith(AT_LIMIT)))
    return Improved(best if kept else fit, config, (sentence,))


def _tried(
    scan: Scan,
    trial: RefineConfig,
    modes: int | None,
    start: Reconstruction,
    held_out: np.ndarray,
    progress: Progress | None,
) -> Refinement:
    """A fit that goes on from a result with one more unknown; with other ``modes`` one from vacuum."""
    if modes is None:
        return refine(scan, trial, start=start, held_out=held_out, progress=progress)
    guess = scan.with_probe(with_shared_power(start.probe, modes), known=False)
    return refine(guess, trial, held_out=held_out, progress=progress)


class _Clock:
    """What is left of the time for trials."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def epochs(self, fit: Refinement, modes: int) -> int:
        """How many epochs of ``modes`` modes fit into it, by those of a fit: half of an epoch goes with the modes."""
        each = float(np.median([entry["seconds"] for entry in fit.history[-6:]]))
        each *= (1 + modes) / (1 + len(fit.result.probe))
        return int((self.end - time.monotonic()) / max(each, 1e-6))


def with_shared_power(probe: np.ndarray, modes: int) -> np.ndarray:
    """A probe ``(M, N, N)`` of more modes to begin a fit with: half of the light in the first, the k-th of the others
    with ``1 / k`` of the rest, in proportion; of that of the fit, only the shape of the first is taken."""
    waves = with_modes(probe[:1], modes)
    if modes == 1:
        return waves * np.float32(np.sqrt((np.abs(probe) ** 2).sum() / (np.abs(waves) ** 2).sum()))
    shares = np.append(0.5, 0.5 / np.arange(1, modes) / (1 / np.arange(1, modes)).sum())
    photons = (np.abs(waves) ** 2).sum(axis=(1, 2))
    total = float((np.abs(probe) ** 2).sum())
    return (waves * np.sqrt(shares * total / photons)[:, None, None]).astype("complex64")


def decided_by(run: RunConfig, modes: int | None) -> frozenset[str]:
    """What a user has decided: the fields of the fit that the run sets, and ``modes`` where they are given."""
    return frozenset(run.refine) | (frozenset() if modes is None else {"modes"})


def _is_decided(need: Need, config: RefineConfig, decided: frozenset[str]) -> bool:
    """Whether the user has decided what a need would change."""
    by_field = any(name in decided and getattr(config, name) != value for name, value in need.fields.items())
    return by_field or (need.modes is not None and "modes" in decided)


def _changes(need: Need, needing: RefineConfig, config: RefineConfig, start: Reconstruction) -> bool:
    """Whether there is anything in a need that a fit does not have."""
    return needing != config if need.modes is None else need.modes > len(start.probe)


def with_more_modes(image: Reconstruction, modes: int) -> Reconstruction:
    """An image whose probe has ``modes`` or more; those added are guesses."""
    return replace(image, probe=with_modes(image.probe, modes)) if len(image.probe) < modes else image


def joined(before: Refinement, after: Refinement) -> Refinement:
    """A fit that went on from another: one history."""
    first = before.history[: before.best + 1]
    further: list[FitEpoch] = [{**entry, "epoch": entry["epoch"] + before.best} for entry in after.history[1:]]
    return after._replace(history=[*first, *further], best=before.best + after.best)
