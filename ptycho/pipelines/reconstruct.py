"""Reconstruction runs: a network, trained here or before, gives an image, which is refined to the counts."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ptycho.cluster import dask_client
from ptycho.config import RefineConfig, RunConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.diagnostics.checks import Check, examine
from ptycho.evaluation import uncertainty
from ptycho.evaluation.calibration import calibration
from ptycho.network.build import PtychoNetwork
from ptycho.pipelines.assess import (
    Outcome,
    assess,
    assess_fully,
    image_warnings,
    network_warnings,
    shows_raster,
    transmits_too_little,
    verdict_of,
)
from ptycho.pipelines.needs import decided_by, with_likelihood, with_needs
from ptycho.pipelines.open import held_out_frames, model_for
from ptycho.pipelines.precision import UNASKED, Precision, with_precision
from ptycho.pipelines.prior import Smoothed, with_priors
from ptycho.pipelines.provenance import provenance
from ptycho.pipelines.refine import refine_config
from ptycho.pipelines.thickness import with_thickness
from ptycho.pipelines.train import Trained, train_network
from ptycho.pipelines.write import write_json, write_run
from ptycho.progress import Progress
from ptycho.reconstruction import reconstruct
from ptycho.refinement.from_network import PLENTY, photons_per_object_pixel, refine_network, usual_symmetries
from ptycho.refinement.refine import Refinement, refine


@renamed_keywords
def reconstruct_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    model_folder: str | os.PathLike | None = None,
    start: str | None = None,
    hold_out_every: int | None = None,
    symmetries: int | None = None,
    tile_frames: int | None = None,
    refined: bool = True,
    resume: bool = False,
    checks: Sequence[Check] | None = None,
    auto: bool = True,
    modes: int | None = None,
    force: bool = False,
    precision: Precision = UNASKED,
    network_optional: bool = False,
    scheduler: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Reconstruct a scan with a trained network, or with one trained on it here, and leave the image in the folder.

    With ``hold_out_every`` frames 0, k, 2 k, ... are kept from every fit, and judge the result. With several
    ``symmetries`` (see `reconstruct`; by default `usual_symmetries`) the network's image has an ``uncertainty``,
    calibrated on a simulated scan (`calibration`). With ``refined`` the image is then fitted to the counts (`refine`),
    and so is one from vacuum, whose probe takes the place of a guess; the better one is the result (`better_fit`), and
    what the network alone gave is left as ``network.h5``. With the address of a Dask ``scheduler``, or a number of
    ``workers`` on this machine, these compute the network's image; everything else is done here. Writes
    ``reconstruction.h5``, ``object.png``, ``figure.png``, ``scores.json``, ``config.json`` and ``report.html``;
    ``checks`` are those of the scan, where they were made already, for its page. With ``auto`` the scan gets what it
    needs besides (`with_needs`), but for what the run sets, and the ``modes`` where they were asked for. A network that
    is ``network_optional`` is left out where it adds nothing (`does_without_network`). Where the verdict is that there
    is no image, none is written, unless with ``force`` (see `write_run`). ``precision``: see
    `with_precision`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    symmetries = usual_symmetries(scan) if symmetries is None else symmetries
    held_out = held_out_frames(scan, hold_out_every)
    config, decided = refine_config(run, scan), decided_by(run, modes)
    given, vacuum = scan, None
    if refined:
        vacuum = fit_from_vacuum(
            scan, config, held_out, folder / "checkpoint", resume, decided if auto else None, progress
        )
        config, scan = vacuum.config, with_fitted_probe(scan, vacuum.fit, held_out)
    if vacuum is not None and network_optional and does_without_network(scan, vacuum, held_out):
        if auto and config.multislice is None:
            vacuum = with_all_needs(scan, vacuum, held_out, decided, progress)
        return fitted_alone(scan, folder, vacuum, held_out, hold_out_every, checks, force, precision, progress)
    if model_folder is None:
        trained = train_network(scan.subset(~held_out), folder, run, start=start, resume=resume, progress=progress)
    else:
        trained, scan = loaded(model_folder, scan, folder, held_out, scan is not given, progress)
    model = trained.model
    predict = partial(reconstruct, model, scan, held_out=held_out, symmetries=symmetries, tile_frames=tile_frames)
    with dask_client(scheduler, workers) if scheduler or workers else nullcontext() as client:
        image = predict(client=client, progress=progress)
    image = with_uncertainty(image, model, scan, symmetries, hold_out_every)
    result, before, fit = image, None, None
    notes: tuple[str, ...] = ()
    if vacuum is not None:
        image.save(folder / "network.h5")
        before = assess(image, scan, held_out)
        fit, choice = better_fit(model, scan, config, image, vacuum.fit, held_out, symmetries, progress)
        notes = (*vacuum.notes, choice)
        if auto and config.multislice is None:
            fit, config, tried = with_needs(scan, config, fit, held_out, decided=decided, progress=progress)
            notes += tried
        result = replace(fit.result, provenance=image.provenance | dict(refine=config.to_dict()))
    findings = (*(() if fit is None else fit.notes), *network_warnings(model, result, scan))
    checks = examine(scan, orientation=False) if checks is None else checks
    outcome = assess_fully(result, scan, held_out, checks, findings, fit)
    outcome = replace(outcome, before=before, fit=None if fit is None else fit.history, notes=notes)
    outcome = replace(outcome, smoothing=() if vacuum is None else vacuum.trials)
    outcome = with_precision(outcome, scan, config, fit, held_out, precision, progress)
    write_run(folder, scan, outcome, trained.settings, checks, trained.history, force=force)
    return outcome


def does_without_network(scan: Scan, vacuum: Smoothed, held_out: np.ndarray) -> bool:
    """Whether a network's image would add nothing to a fit: to one of slices, as networks know thin samples only; to
    one that has a network as its prior (on objects unlike those it has learned from a start from the image is up to 1.1
    dB worse, and held-out frames do not tell: docs/decisions/016-a-denoiser-as-prior.md); and to one at the noise
    under so many photons that no prior does, or of a 4D-STEM scan, as networks have not learned from atoms."""
    if vacuum.config.multislice is not None or vacuum.config.red_weight > 0:
        return True
    if photons_per_object_pixel(scan) < PLENTY and not scan.is_4dstem:
        return False
    decision = verdict_of(scan, vacuum.fit, held_out)
    return decision is not None and decision.kind == "at the noise"


def with_all_needs(
    scan: Scan, vacuum: Smoothed, held_out: np.ndarray, decided: frozenset[str], progress: Progress | None
) -> Smoothed:
    """A fit from vacuum with what the scan needs besides (`with_needs`)."""
    fit, config, tried = with_needs(scan, vacuum.config, vacuum.fit, held_out, decided=decided, progress=progress)
    return Smoothed(fit, config, vacuum.trials, (*vacuum.notes, *tried))


def fitted_alone(
    scan: Scan,
    folder: Path,
    vacuum: Smoothed,
    held_out: np.ndarray,
    hold_out_every: int | None,
    checks: Sequence[Check] | None,
    force: bool,
    precision: Precision,
    progress: Progress | None,
) -> Outcome:
    """A run whose result is the fit from vacuum, and which has no network."""
    fit, settings = vacuum.fit, provenance(scan) | dict(refine=vacuum.config.to_dict(), model_from="pretrained")
    write_json(folder / "config.json", settings)
    (folder / "network.h5").unlink(missing_ok=True)  # of an earlier run
    result = replace(fit.result, provenance=settings | dict(hold_out_every=hold_out_every or 0))
    checks = examine(scan, orientation=False) if checks is None else checks
    outcome = assess_fully(result, scan, held_out, checks, (*fit.notes, *image_warnings(result, scan)), fit)
    why = "it has not learned from atoms" if scan.is_4dstem else "it adds nothing at the noise in such light"
    if vacuum.config.multislice is not None:
        why = "it knows thin samples only"
    elif vacuum.config.red_weight:
        why = "the fit has one as its prior"
    note = f"No image of a network was used, as {why} (--model takes one)."
    outcome = replace(outcome, fit=fit.history, smoothing=vacuum.trials, notes=(*vacuum.notes, note))
    outcome = with_precision(outcome, scan, vacuum.config, fit, held_out, precision, progress)
    write_run(folder, scan, outcome, settings, checks, [], force=force)
    return outcome


def loaded(
    model_folder: str | os.PathLike,
    scan: Scan,
    folder: Path,
    held_out: np.ndarray,
    probe_found: bool,
    progress: Progress | None,
) -> tuple[Trained, Scan]:
    """A network trained before, and the scan as it takes it; the folder records both."""
    model, scan = model_for(model_folder, scan, held_out=held_out, probe_found=probe_found, progress=progress)
    settings = provenance(scan) | dict(model=model.settings.to_dict(), model_from=str(model_folder))
    write_json(folder / "config.json", settings)
    return Trained(model, [], settings), scan


def with_uncertainty(
    image: Reconstruction, model: PtychoNetwork, scan: Scan, symmetries: int, hold_out_every: int | None
) -> Reconstruction:
    """A network's image with where it comes from, and, of several symmetries, its calibrated uncertainty."""
    origin = provenance(scan) | dict(hold_out_every=hold_out_every or 0, model=model.settings.to_dict())
    origin |= dict(symmetries=symmetries, views=symmetries)  # the old name, for one release
    if symmetries == 1:
        return replace(image, provenance=origin)
    factor = calibration(model, scan, image, symmetries=symmetries)
    return replace(
        image,
        uncertainty=uncertainty(image.spread, image.coverage, image.probe, factor),
        provenance=origin | dict(uncertainty_calibration=factor),
    )


def fit_from_vacuum(
    scan: Scan,
    config: RefineConfig,
    held_out: np.ndarray,
    folder: Path,
    resume: bool,
    decided: frozenset[str] | None,
    progress: Progress | None,
) -> Smoothed:
    """What the scan gives without a network: no prior draws the fit to what it starts from.

    The likelihood, the prior and the slices that the scan asks for stay in the config (`with_likelihood`,
    `with_priors`, `with_thickness`), unless ``decided`` is None.
    """
    plain = replace(config, h1_weight=0.0, l2_weight=0.0)
    fit = refine(scan, plain, held_out=held_out, folder=folder, resume=resume, progress=progress)
    if decided is None:
        return Smoothed(fit, config)
    fit, plain, notes = with_likelihood(scan, plain, fit, held_out, decided=decided, progress=progress)
    smoothed = with_priors(scan, plain, fit, held_out, decided=decided, progress=progress)
    fit, plain, sliced = with_thickness(
        scan, smoothed.config, smoothed.fit, held_out, decided=decided, progress=progress
    )
    chosen = replace(
        config,
        noise=plain.noise,
        tv_weight=plain.tv_weight,
        red_weight=plain.red_weight,
        flat_weight=plain.flat_weight,
        slow_phase=plain.slow_phase,
        multislice=plain.multislice,
    )
    return Smoothed(fit, chosen, smoothed.trials, (*notes, *smoothed.notes, *sliced))


def with_fitted_probe(scan: Scan, fit: Refinement, held_out: np.ndarray) -> Scan:
    """The scan with the probe of a fit in the place of a guess, where the fit gave an image."""
    if scan.probe_known:
        return scan
    decision = verdict_of(scan, fit, held_out)
    if decision is None or not decision.is_image:
        return scan
    return replace(scan, probe=(fit.without_unseen or fit.result).probe)


def better_fit(
    model: PtychoNetwork,
    scan: Scan,
    config: RefineConfig,
    image: Reconstruction,
    vacuum: Refinement,
    held_out: np.ndarray,
    symmetries: int,
    progress: Progress | None,
) -> tuple[Refinement, str]:
    """The network's image refined, or the fit from vacuum: what predicts frames better that neither has seen.

    Returns it with a sentence about the choice. A dark image of a network is not refined, nor one with the raster of
    the scan in it that the fit has not.
    """
    if transmits_too_little(image, scan):
        return vacuum, "The network's image is dark: the result is a fit from vacuum."
    if shows_raster(image) and not shows_raster(vacuum.result):
        return vacuum, "The network's image holds the pattern of the raster: the result is a fit from vacuum."
    refined = refine_network(model, scan, config, image, held_out=held_out, symmetries=symmetries, progress=progress)
    network, without = refined.criterion, vacuum.criterion
    scores = f"{min(network, without):.4g} on held-out frames, {max(network, without):.4g}"
    if without < network:
        return vacuum, f"The fit from vacuum is the result: {scores} from the network's image."
    return refined, f"The network's image, refined, is the result: {scores} from vacuum."
