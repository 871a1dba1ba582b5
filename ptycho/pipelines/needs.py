"""What a scan needs beyond object and probe, found by trying: each unknown stays only if unseen frames like it.

Modes of the probe, positions, a background, a varying probe, detector blur: a user cannot know which of them a scan
needs, and each that it does not need costs time and precision. So a fit that has come to its end above the shot noise
goes on with one more unknown at a time, and keeps it where the frames that the fit holds out are predicted better.
"""

import time
from collections.abc import Iterator
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
from ptycho.refinement.refine import Refinement, refine
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


NEEDS = (
    Need("probe", dict(probe_from=1)),
    Need("3 probe modes", dict(probe_from=1), modes=3),
    Need("positions", dict(positions_from=1), own_numbers=2),
    Need("background", dict(background_from=1)),
    Need("a probe that varies", dict(opr_from=1), own_numbers=1),
    Need("detector blur", dict(blur_from=1)),
    Need("8 probe modes", dict(probe_from=1), modes=8),
)
"""What is tried, in the order of its promise on measured scans."""


class Improved(NamedTuple):
    """A fit with what the scan needs."""

    fit: Refinement
    config: RefineConfig
    notes: tuple[str, ...]
    """A sentence on what was tried and kept; none where nothing was tried."""


def with_needs(
    scan: Scan,
    config: RefineConfig,
    fit: Refinement,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    seconds: float = 120.0,
    trial_epochs: int = 10,
    least_gain: float = 0.005,
    progress: Progress | None = None,
) -> Improved:
    """A fit continued with what the scan needs.

    Args:
        scan: what was fitted.
        config: of the fit; other methods than ``cg`` fit no further unknowns, and come back as they are.
        fit: has come to its end: one that was still improving, did not get beyond its start, or is at the noise comes
            back as it is.
        held_out: ``(P,)`` bool: frames that no fit sees.
        decided: fields of the config that the user has set, and ``modes``: nothing changes these.
        seconds: no trial begins after so many. What was found by then is kept.
        trial_epochs: passes over the frames for a trial.
        least_gain: the fraction by which the criterion must fall.
        progress: told of the progress.
    """
    nothing = Improved(fit, config, ())
    if config.method != "cg" or fit.at_limit or fit.without_unseen is None or fit.best == 0:
        return nothing
    judgement = judgement_of(fit.result, scan, held_out, fit)
    if judgement is None or verdict(judgement).kind == "at the noise":
        return nothing
    begin, counts = time.monotonic(), float(scan.frame_counts[fit.unseen].sum())
    tried, kept, best, start = [], [], fit, fit.without_unseen
    for need in _open(config, decided, start):
        if time.monotonic() - begin > seconds:
            break
        # The change from the best fit so far: fields that were kept stay.
        needing = RefineConfig.from_dict(config.to_dict() | need.fields)
        trial = replace(needing, epochs=trial_epochs, focus=False)
        image = with_more_modes(start, need.modes or 1)
        if len(image.probe) == len(start.probe) and needing == config:
            continue
        tried.append(need.title)
        candidate = refine(scan, trial, start=image, held_out=held_out, progress=progress)
        # Twice what chance gives, in units of log-likelihood, of which the criterion has two to a unit.
        chance = (need.own_numbers * len(fit.unseen) + 4) / (2 * counts)
        if candidate.criterion < best.criterion - max(least_gain * best.criterion, chance):
            kept.append(need.title)
            # To its end: else the next trial would gain by going on, whatever it adds.
            settled = replace(needing, focus=False)
            end = refine(scan, settled, start=candidate.without_unseen, held_out=held_out, progress=progress)
            best = end if end.criterion <= candidate.criterion else candidate
            config, start = needing, best.without_unseen or start
    if not tried:
        return nothing
    sentence = f"Tried by held-out frames: {', '.join(tried)}; kept: {', '.join(kept) or 'none'}."
    return Improved(_joined(fit, best) if kept else fit, config, (sentence,))


def decided_by(run: RunConfig, modes: int | None) -> frozenset[str]:
    """What a user has decided: the fields of the fit that the run sets, and ``modes`` where they are given."""
    return frozenset(run.refine) | (frozenset() if modes is None else {"modes"})


def _open(config: RefineConfig, decided: frozenset[str], start: Reconstruction) -> Iterator[Need]:
    """What can be tried: nothing that the user has decided, and no fewer modes than there are."""
    for need in NEEDS:
        fields_decided = any(name in decided and getattr(config, name) != value for name, value in need.fields.items())
        modes_decided = need.modes is not None and ("modes" in decided or need.modes <= len(start.probe))
        if not fields_decided and not modes_decided:
            yield need


def with_more_modes(image: Reconstruction, modes: int) -> Reconstruction:
    """An image whose probe has ``modes`` or more; those added are guesses."""
    return replace(image, probe=with_modes(image.probe, modes)) if len(image.probe) < modes else image


def _joined(before: Refinement, after: Refinement) -> Refinement:
    """A fit that went on from another: one history."""
    first = before.history[: before.best + 1]
    further: list[FitEpoch] = [{**entry, "epoch": entry["epoch"] + before.best} for entry in after.history[1:]]
    return after._replace(history=[*first, *further], best=before.best + after.best)
