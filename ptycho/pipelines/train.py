"""Training runs: a network learns from one scan, or from many simulated ones."""

import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptycho.config import ADAPTING, PRETRAINING, ModelConfig, PretrainingConfig, RunConfig, TrainingConfig
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.io import replace_text
from ptycho.network.build import PtychoNetwork, build_model
from ptycho.network.files import save_model
from ptycho.output.report import save_report
from ptycho.pipelines.assess import network_warnings
from ptycho.pipelines.open import fits_probe, model_config, open_model
from ptycho.pipelines.provenance import Record, provenance
from ptycho.pipelines.write import write_json
from ptycho.progress import Progress, with_image
from ptycho.reconstruction import find_probe, reconstruct
from ptycho.training.pretrain import pretrain
from ptycho.training.schedule import History
from ptycho.training.train import train


class Trained(NamedTuple):
    """A network, and how it was trained."""

    model: PtychoNetwork
    history: History
    settings: Record
    """What the run folder's ``config.json`` holds."""


@renamed_keywords
def train_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    start: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """`train_network`, and the network's image of the scan as a page: ``report.html``."""
    trained = train_network(scan, folder, run, start=start, resume=resume, progress=progress)
    result = reconstruct(trained.model, scan, progress=progress)
    save_report(
        Path(folder) / "report.html",
        scan,
        result,
        findings=network_warnings(trained.model, result, scan),
        training=[epoch.to_dict() for epoch in trained.history],
        settings=trained.settings,
    )
    return trained


def train_network(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    start: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train a network on a scan and leave it in the folder: ``model.keras``, ``history.json``, ``config.json``.

    ``start`` names a network to start from: a run folder, or ``pretrained``; it is trained in small steps (`ADAPTING`).
    """
    folder = Path(folder)
    training = run.make(TrainingConfig, **(ADAPTING if start else {}))
    retrieves, resumes = fits_probe(scan, run), resume and (folder / "checkpoint" / "history.json").exists()
    if retrieves and not resumes:  # a training that is resumed has its probe in the checkpoint
        scan = with_retrieved_probe(scan, progress=progress)
    if start is None:
        model = build_model(model_config(run, scan), scan.probe)
    else:
        source = open_model(start)
        values = source.settings.to_dict() | dict(scale_trainable=False, probe_trainable=False)
        values |= dict(N=scan.N, probe_modes=scan.modes) | run.model
        model = build_model(ModelConfig.from_dict(values), scan.probe, start=source)
    folder.mkdir(parents=True, exist_ok=True)
    settings = provenance(scan) | dict(model=model.settings.to_dict(), training=training.to_dict(), start=start)
    write_json(folder / "config.json", settings)
    history = train(
        model,
        scan,
        training,
        folder=folder / "checkpoint",
        resume=resume,
        progress=progress and with_image(progress, partial(reconstruct, model, scan)),
    )
    if retrieves and model.architecture.sees_probe:
        find_probe(model, scan, progress=progress)  # the network knows the object better now
    write_json(folder / "history.json", [epoch.to_dict() for epoch in history])
    save_model(model, folder / "model.keras")
    return Trained(model, history, settings)


def with_retrieved_probe(scan: Scan, *, held_out: np.ndarray | None = None, progress: Progress | None = None) -> Scan:
    """A scan with the probe that the package's own network retrieves for it (`find_probe`)."""
    return replace(scan, probe=find_probe(open_model("pretrained"), scan, held_out=held_out, progress=progress).probe)


def pretrain_run(
    folder: str | os.PathLike, run: RunConfig, *, resume: bool = False, progress: Progress | None = None
) -> History:
    """Train a network on simulated scans and leave it in the folder: ``model.keras``, its SHA-256, ``history.json``.

    With ``resume`` it goes on from the last epoch of an interrupted run in the folder, see `train`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scans = run.make(PretrainingConfig)
    model_settings = run.make(ModelConfig, N=64, gridsize=5)
    training = run.make(TrainingConfig, **PRETRAINING)
    write_json(
        folder / "config.json",
        dict(pretraining=scans.to_dict(), model=model_settings.to_dict(), training=training.to_dict()),
    )
    checkpoint = folder / "checkpoint"
    model, history = pretrain(scans, model_settings, training, folder=checkpoint, resume=resume, progress=progress)
    write_json(folder / "history.json", [epoch.to_dict() for epoch in history])
    path = save_model(model, folder / "model.keras")
    replace_text(folder / "model.sha256", f"{hashlib.sha256(path.read_bytes()).hexdigest()}  model.keras\n")
    return history
