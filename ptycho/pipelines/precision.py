"""How fine an image is and how far to believe it, pixel by pixel, as part of a run: where it costs little, or is asked
for."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ptycho.config import RefineConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import TooSmall
from ptycho.pipelines import bootstrap, half_sets
from ptycho.pipelines.assess import Outcome
from ptycho.progress import Progress
from ptycho.refinement.from_network import photons_per_object_pixel
from ptycho.refinement.refine import Refinement

AFFORDABLE_S = 20.0
"""Seconds that are spent on either unless it is asked for."""

FEW_PHOTONS = 10.0
"""Photons on an object pixel below which the uncertainty may be far too small: of 20 simulated scans at 4 photons half
of the pixels are within one sigma on average, where it should be two thirds, and hardly any in the worst
(docs/results.md, "How far to believe it")."""

EPOCHS = 30
"""Passes of a replica of an image that was not fitted."""


class Precision(NamedTuple):
    """What is computed: whatever it takes, or not at all; None: after a fit, where it takes `AFFORDABLE_S` at most."""

    half_sets: bool | None = None
    """The resolution by half-set FRC."""
    uncertainty: bool | None = None
    """The error to expect of each pixel."""


UNASKED = Precision()


def with_precision(
    outcome: Outcome,
    scan: Scan,
    config: RefineConfig,
    fit: Refinement | None,
    held_out: np.ndarray,
    precision: Precision,
    progress: Progress | None,
) -> Outcome:
    """An outcome with its half-set FRC (`half_sets`) and the uncertainty of its object (`error_map`).

    Args:
        outcome: of a run; one without an image comes back as it is.
        scan, config: what was fitted, and how.
        fit: its result is the outcome's; None where nothing was fitted.
        held_out: ``(P,)`` bool: frames that must not be looked at.
        precision: what is asked for.
        progress: told of the progress.
    """
    if not outcome.is_image:
        return outcome
    seconds = 0.0 if fit is None else half_sets.seconds_needed(scan, config, fit)
    if due(precision.half_sets, fit, seconds):
        try:
            halves = half_sets.half_sets(scan, config, outcome.result, held_out, progress=progress)
            outcome = replace(outcome, half_sets=halves)
        except TooSmall as problem:
            outcome = noted(outcome, f"No resolution by half-set FRC: {problem}.")
    elif precision.half_sets is None and fit is not None:
        outcome = noted(outcome, f"The resolution by half-set FRC would take about {seconds:.0f} s: --half-sets.")
    seconds = 0.0 if fit is None else bootstrap.seconds_needed(scan, config, fit)
    if due(precision.uncertainty, fit, seconds):
        outcome = with_error_map(outcome, scan, config, EPOCHS if fit is None else fit.best, progress)
    elif precision.uncertainty is None and fit is not None:
        outcome = noted(outcome, f"The uncertainty of the image would take about {seconds:.0f} s: --uncertainty.")
    return outcome


def due(wish: bool | None, fit: Refinement | None, seconds: float) -> bool:
    """Whether to compute something that takes so long."""
    return wish if wish is not None else fit is not None and seconds <= AFFORDABLE_S


def noted(outcome: Outcome, sentence: str) -> Outcome:
    """An outcome with one more note."""
    return replace(outcome, notes=(*outcome.notes, sentence))


def with_error_map(
    outcome: Outcome, scan: Scan, config: RefineConfig, epochs: int, progress: Progress | None
) -> Outcome:
    """An outcome whose object has its uncertainty."""
    # The ratio is of squares; it is no number where no frame tells it.
    ratio = 1.0 if outcome.trust is None else outcome.trust.median_ratio
    beyond = float(np.sqrt(ratio)) if ratio > 1 else 1.0
    sigma, shortfall = bootstrap.error_map(
        scan, config, outcome.result, epochs=epochs, beyond_noise=beyond, progress=progress
    )
    photons = photons_per_object_pixel(scan)
    if photons < FEW_PHOTONS:
        outcome = noted(
            outcome,
            f"The uncertainty is a lower bound: at {photons:.2g} photons on an object pixel the image may lack slow "
            "phase and fine detail altogether, and the uncertainty does not hold what is missing.",
        )
    origin = dict(uncertainty_from="replicas", uncertainty_factor=round(shortfall * beyond, 3))
    result = replace(outcome.result, uncertainty=sigma, provenance=outcome.result.provenance | origin)
    return replace(outcome, result=result)
