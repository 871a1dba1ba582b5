"""Reconstruction runs: a network, trained here or before, gives an image, which is refined to the counts."""

import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
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
from ptycho.pipelines.assess import Outcome, assess, assess_fully, network_warnings, transmits_too_little
from ptycho.pipelines.open import held_out_frames, model_for
from ptycho.pipelines.provenance import provenance
from ptycho.pipelines.refine import refine_config
from ptycho.pipelines.train import Trained, train_network
from ptycho.pipelines.write import write_json, write_run
from ptycho.progress import Progress
from ptycho.reconstruction import reconstruct
from ptycho.refinement.from_network import refine_network, usual_symmetries
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
    scheduler: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Reconstruct a scan with a trained network, or with one trained on it here, and leave the image in the folder.

    With ``hold_out_every`` frames 0, k, 2 k, ... are kept from every fit, and judge the result. With several
    ``symmetries`` (see `reconstruct`; by default `usual_symmetries`) the network's image has an ``uncertainty``,
    calibrated on a simulated scan (`calibration`). With ``refined`` the image is then fitted to the counts (`refine`);
    what the network alone gave is left as ``network.h5``. With the address of a Dask ``scheduler``, or a
    number of ``workers`` on this machine, these compute the network's image; everything else is done here. Writes
    ``reconstruction.h5``, ``object.png``, ``figure.png``, ``scores.json``, ``config.json`` and ``report.html``;
    ``checks`` are those of the scan, where they were made already, for its page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    symmetries = usual_symmetries(scan) if symmetries is None else symmetries
    held_out = held_out_frames(scan, hold_out_every)
    if model_folder is None:
        trained = train_network(scan.subset(~held_out), folder, run, start=start, resume=resume, progress=progress)
    else:
        model, scan = model_for(model_folder, scan, held_out=held_out, progress=progress)
        settings = provenance(scan) | dict(model=model.settings.to_dict(), model_from=str(model_folder))
        trained = Trained(model, [], settings)
        write_json(folder / "config.json", settings)
    model = trained.model
    with dask_client(scheduler, workers) if scheduler or workers else nullcontext() as client:
        image = reconstruct(
            model,
            scan,
            held_out=held_out,
            symmetries=symmetries,
            tile_frames=tile_frames,
            client=client,
            progress=progress,
        )
    origin = provenance(scan) | dict(hold_out_every=hold_out_every or 0, model=model.settings.to_dict())
    origin |= dict(symmetries=symmetries, views=symmetries)  # the old name, for one release
    if symmetries > 1:
        factor = calibration(model, scan, image, symmetries=symmetries)
        origin["uncertainty_calibration"] = factor
        image = replace(image, uncertainty=uncertainty(image.spread, image.coverage, image.probe, factor))
    image = replace(image, provenance=origin)
    result, before, fit = image, None, None
    notes: tuple[str, ...] = ()
    if refined:
        image.save(folder / "network.h5")
        config = refine_config(run, scan)
        refinement = _refinement(model, scan, config, image, held_out, symmetries, progress)
        result = replace(refinement.result, provenance=origin | dict(refine=config.to_dict()))
        before, fit, notes = assess(image, scan, held_out), refinement.history, refinement.notes
    checks = examine(scan, orientation=False) if checks is None else checks
    outcome = assess_fully(result, scan, held_out, checks, (*notes, *network_warnings(model, result, scan)))
    outcome = replace(outcome, before=before, fit=fit)
    write_run(folder, scan, outcome, trained.settings, checks, trained.history)
    return outcome


def _refinement(
    model: PtychoNetwork,
    scan: Scan,
    config: RefineConfig,
    image: Reconstruction,
    held_out: np.ndarray,
    symmetries: int,
    progress: Progress | None,
) -> Refinement:
    """The network's image refined; where it is dark, a fit from vacuum, with a warning."""
    if transmits_too_little(image, scan):
        warnings.warn("the network's image is dark: refined from vacuum instead", UserWarning, stacklevel=3)
        return refine(scan, config, held_out=held_out, progress=progress)
    return refine_network(model, scan, config, image, held_out=held_out, symmetries=symmetries, progress=progress)
