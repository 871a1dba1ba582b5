"""A network's image refined: how near to it the fit should stay, and from which frames it starts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ptycho.config import UNKNOWNS, RefineConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.network.build import PtychoNetwork
from ptycho.progress import Progress
from ptycho.reconstruction import reconstruct
from ptycho.refinement.refine import Refinement, divided, refine

PLENTY = 900.0
"""Photons per object pixel from which on the counts decide, and no prior is tried."""


def refine_network(
    model: PtychoNetwork,
    scan: Scan,
    config: RefineConfig,
    image: Reconstruction,
    *,
    held_out: np.ndarray,
    symmetries: int = 1,
    trial_epochs: int = 8,
    plenty: float = PLENTY,
    progress: Progress | None = None,
) -> Refinement:
    """Refine a network's image; it comes back unchanged where that makes nothing better.

    Args:
        model, scan: the network, and what it reconstructed.
        config: of the fit. Without an ``h1_weight`` the best one is searched for (`best_weight`) by the frames that the
            fit sets aside, in fits of the object alone.
        image: what the network makes of all frames. The fit starts from one without the frames that it sets aside:
            ``image`` knows their noise.
        held_out: ``(P,)`` bool: frames that no fit sees.
        symmetries: see `reconstruct`.
        trial_epochs: passes over the frames for each weight tried.
        plenty: photons per object pixel from which on nothing is searched for: the counts decide, whatever the weight.
        progress: told of the progress.
    """
    _, set_aside = divided(scan, held_out, config)
    hidden = held_out.copy()
    hidden[set_aside] = True
    start = (
        reconstruct(model, scan, held_out=hidden, symmetries=symmetries, progress=progress) if len(set_aside) else image
    )
    photons = photons_per_object_pixel(scan)
    # The prior weighs the gradient against residuals in units of sqrt(photons): its scale is one over those.
    guess = 1 / np.sqrt(photons)
    if not config.h1_weight and not config.red_weight and len(set_aside):

        def misfit(weight: float) -> float:
            object_only: dict[str, Any] = dict.fromkeys((f"{name}_from" for name in UNKNOWNS), None)
            trial = replace(config, h1_weight=weight, epochs=min(trial_epochs, config.epochs), **object_only)
            fit = refine(scan, trial, start=start, held_out=held_out, progress=progress)
            return fit.history[fit.best]["criterion"]

        config = replace(config, h1_weight=guess if photons >= plenty else best_weight(misfit, guess))
    fit = refine(scan, config, start=start, held_out=held_out, progress=progress)
    return fit if fit.best > 0 else fit._replace(result=image)


def best_weight(misfit: Callable[[float], float], guess: float, *, factor: float = 3.0, trials: int = 4) -> float:
    """The weight ``w = guess factor^k`` of least ``misfit(w)``: up from k = 0 while it falls, else down."""
    misfits = {0: misfit(guess)}
    for step in (1, -1):
        k = step
        while len(misfits) < trials:
            misfits[k] = misfit(guess * factor**k)
            if misfits[k] >= misfits[k - step]:
                break
            k += step
        if misfits.get(step, np.inf) < misfits[0]:
            break  # the minimum is on this side
    return float(guess * factor ** min(misfits, key=lambda k: misfits[k]))


def usual_symmetries(scan: Scan, scarce: float = 300.0) -> int:
    """Symmetries to average the network's image over: eight where photons are scarce, as the fit then stays near it.

    They give 0.3 to 1.5 dB for eight times the prediction. Elsewhere the fit to the counts gives more in less time.
    ``scarce`` is in photons per object pixel: at 100 starting from the network wins up to 5 dB over vacuum, at 900
    nothing (docs/results.md).
    """
    return 8 if photons_per_object_pixel(scan) < scarce else 1


def photons_per_object_pixel(scan: Scan) -> float:
    """Photons on a pixel of the object, on average over the scanned area."""
    # The scanned area, with half a probe diameter on each side
    area = np.prod(np.maximum(np.ptp(scan.positions, axis=0), 1.0) + scan.probe_diameter_px)
    return float(scan.frame_counts.sum() / area)
