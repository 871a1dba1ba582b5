"""Refinement runs: object, probe and more are fitted to the counts of a scan."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ptycho.config import RefineConfig, RunConfig, Values
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.diagnostics.checks import Check, examine
from ptycho.pipelines.assess import Outcome, assess, assess_fully, image_warnings
from ptycho.pipelines.needs import decided_by, with_likelihood, with_more_modes, with_needs
from ptycho.pipelines.open import fits_probe, held_out_frames
from ptycho.pipelines.precision import UNASKED, Precision, with_precision
from ptycho.pipelines.prior import with_priors
from ptycho.pipelines.provenance import provenance
from ptycho.pipelines.thickness import with_thickness
from ptycho.pipelines.write import write_json, write_run
from ptycho.progress import Progress
from ptycho.reconstruction.probe_retrieval import is_bright
from ptycho.refinement.held_out_photons import PhotonTrial
from ptycho.refinement.refine import refine


def refine_config(run: RunConfig, scan: Scan) -> RefineConfig:
    """Settings of a refinement: a guessed probe is fitted too, and the noise is that of the counts.

    The Poisson likelihood is the better measure for a model that is right. Where the probe is fitted too and pixels
    are bright (`is_bright`), errors of the model exceed the shot noise: least squares of amplitudes are more robust.
    """
    fitted = fits_probe(scan, run)
    defaults: Values = dict(noise="amplitude" if fitted and is_bright(scan) else "poisson")
    if fitted:
        defaults["probe_from"] = 1
    return run.make(RefineConfig, **defaults)


@renamed_keywords
def refine_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    start: str | os.PathLike | None = None,
    hold_out_every: int | None = None,
    resume: bool = False,
    checks: Sequence[Check] | None = None,
    auto: bool = True,
    modes: int | None = None,
    force: bool = False,
    precision: Precision = UNASKED,
    progress: Progress | None = None,
) -> Outcome:
    """Fit object, probe and whatever else the run says to the counts of a scan, and leave the image in the folder.

    ``start`` is a reconstruction, or the run folder that holds one; without it the fit begins from vacuum. Writes
    what `reconstruct_run` does, with or without ``checks``, ``auto``, ``force`` and ``precision``, and
    ``history.json``, the epochs of the fit.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held_out = held_out_frames(scan, hold_out_every)
    image = before = None
    if start is not None:
        path = Path(start)
        image = Reconstruction.load(path / "reconstruction.h5" if path.is_dir() else path)
        before = assess(image, scan, held_out)
        image = with_more_modes(image, scan.modes)
    config = refine_config(run, scan)
    settings = provenance(scan) | dict(refine=config.to_dict(), start=None if start is None else str(start))
    write_json(folder / "config.json", settings)
    fit = refine(
        scan, config, start=image, held_out=held_out, folder=folder / "checkpoint", resume=resume, progress=progress
    )
    notes: tuple[str, ...] = ()
    trials: tuple[PhotonTrial, ...] = ()
    if auto:
        decided = decided_by(run, modes)
        if start is None:
            fit, config, notes = with_likelihood(scan, config, fit, held_out, decided=decided, progress=progress)
        fit, config, trials, smoothed = with_priors(scan, config, fit, held_out, decided=decided, progress=progress)
        fit, config, sliced = with_thickness(scan, config, fit, held_out, decided=decided, progress=progress)
        if not sliced:
            fit, config, tried = with_needs(scan, config, fit, held_out, decided=decided, progress=progress)
        notes += smoothed + (sliced or tried)
        settings |= dict(refine=config.to_dict())
        write_json(folder / "config.json", settings)
    write_json(folder / "history.json", fit.history)
    result = replace(fit.result, provenance=settings | dict(hold_out_every=hold_out_every or 0))
    checks = examine(scan, orientation=False) if checks is None else checks
    outcome = assess_fully(result, scan, held_out, checks, (*fit.notes, *image_warnings(result, scan)), fit)
    outcome = replace(outcome, before=before, fit=fit.history, smoothing=trials, notes=notes)
    outcome = with_precision(outcome, scan, config, fit, held_out, precision, progress)
    write_run(folder, scan, outcome, settings, checks, [], force=force)
    return outcome
