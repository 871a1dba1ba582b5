"""Runs: what the commands do, each as one function that takes values and leaves a folder."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

import ptycho
from ptycho.calibration import calibration
from ptycho.checkpoint import load_model, save_model
from ptycho.config import ModelConfig, RunConfig, SimulationConfig, TrainingConfig
from ptycho.data.doctor import SAMPLE, rescale_probe, saturation
from ptycho.data.formats import read_scan, write_scan
from ptycho.data.scan import Scan
from ptycho.evaluation import (
    Scores,
    Trust,
    compare_objects,
    expected_counts,
    frame_error,
    frame_residuals,
    shot_noise_error,
    summarise,
    uncertainty,
    warnings_about,
)
from ptycho.network.build import PtychoNetwork, build_model
from ptycho.reconstruction import Reconstruction, reconstruct
from ptycho.simulation.simulate import simulate
from ptycho.training import History, Report, train

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """What a run found, beside its files."""

    result: Reconstruction
    scores: Scores | None
    """Against the true object, where the scan carries one."""
    withheld_error: float | None
    """Frame error on withheld frames, where there are any."""
    shot_noise: float | None
    """What the shot noise of the withheld frames alone would leave of it."""
    trust: Trust | None = None
    """How well the frames that the object is made of agree with it."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the scan or the result by the look of it."""


def open_scan(path: str | os.PathLike, say: Say) -> Scan:
    """Read a scan, say what the reader found, and bring a guessed probe to the scale of the counts."""
    scan = read_scan(Path(path))
    say(f"{path}: {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")
    for note in scan.notes:
        say(note)
    dose = scan.check_dose()
    if dose:
        say(f"warning: {dose}")
    if not scan.probe_known:
        scan, factor = rescale_probe(scan)
        say(f"the probe is a guess: rescaled by {factor:.4g} to the measured counts, and learned along")
    return scan


def model_config(run: RunConfig, scan: Scan) -> ModelConfig:
    """Settings of a network for a scan: a guessed probe is learned unless the run says otherwise."""
    follows = dict(N=scan.N, probe_modes=scan.modes, probe_trainable=not scan.probe_known)
    return ModelConfig.from_dict(follows | run.model)


def train_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> tuple[PtychoNetwork, History]:
    """Train a network on a scan and leave it in the folder: ``model.keras``, ``history.json``, ``config.json``."""
    folder = Path(folder)
    model_settings, training = model_config(run, scan), TrainingConfig.from_dict(run.training)
    folder.mkdir(parents=True, exist_ok=True)
    record = provenance(scan) | dict(model=model_settings.to_dict(), training=training.to_dict())
    _write_json(folder / "config.json", record)
    model = build_model(model_settings, scan.probe)
    history = train(model, scan, training, folder=folder / "checkpoint", resume=resume, report=report)
    _write_json(folder / "history.json", history)
    save_model(model, folder / "model.keras")
    return model, history


def reconstruct_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    model_folder: str | os.PathLike | None = None,
    withhold_every: int | None = None,
    views: int = 1,
    resume: bool = False,
    report: Report | None = None,
) -> Outcome:
    """Reconstruct a scan with a trained network, or with one trained on it here, and leave the image in the folder.

    With ``withhold_every`` frames 0, k, 2 k, ... are kept from every fit, and judge the result. With several ``views``
    (see `reconstruct`) the result has an ``uncertainty``, calibrated on a simulated scan (`calibration`). Writes
    ``reconstruction.h5``, ``object.png``, ``figure.png``, ``scores.json`` and ``config.json``.
    """
    from ptycho.plotting import save_figure, save_png

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    withheld = scan.withheld_mask(withhold_every) if withhold_every else np.zeros(len(scan), bool)
    if model_folder is None:
        model, history = train_run(scan.subset(~withheld), folder, run, resume=resume, report=report)
    else:
        model, history = load_model(Path(model_folder) / "model.keras"), []
        record = provenance(scan) | dict(model=model.settings.to_dict(), model_from=str(model_folder))
        _write_json(folder / "config.json", record)
    result = reconstruct(model, scan, withheld=withheld, views=views, report=report)
    more = dict(withhold_every=withhold_every or 0, views=views, model=model.settings.to_dict())
    if views > 1:
        factor = calibration(model, scan, views=views)
        more["uncertainty_calibration"] = factor
        result = replace(result, uncertainty=uncertainty(result.spread, result.coverage, result.probe, factor))
    result, trust = examine(result, scan)
    result = replace(result, provenance=provenance(scan) | more)
    result.save(folder / "reconstruction.h5")
    save_png(result, folder / "object.png")
    save_figure(result, scan.counts[len(scan) // 2], history, folder / "figure.png", title=str(scan.source))
    outcome = judge(result, scan, withheld)._replace(trust=trust, warnings=look_wrong(model, result, scan))
    _write_json(folder / "scores.json", scores_record(outcome))
    return outcome


def demo_run(folder: str | os.PathLike, run: RunConfig, *, report: Report | None = None, say: Say) -> Outcome:
    """Simulate a scan with known truth, and reconstruct it: the whole way, in a minute or two."""
    scan = simulate(SimulationConfig.from_dict(run.simulation))
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_scan(scan, Path(folder) / "scan.h5")
    say(f"simulated {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")
    return reconstruct_run(scan, folder, run, report=report)


def judge(result: Reconstruction, scan: Scan, withheld: np.ndarray) -> Outcome:
    """Compare a result with what is known: the true object, and the withheld frames."""
    scores = None if scan.object is None else compare_objects(result.object, scan.object)
    frames = np.flatnonzero(withheld)
    if not len(frames):
        return Outcome(result, scores, None, None)
    error = frame_error(result.object, result.probe, result.positions_px, scan.counts, frames, scan.mask)
    expected = expected_counts(result.object, result.probe, result.positions_px, frames)
    noise = shot_noise_error(expected[:, scan.mask])
    return Outcome(result, scores, error, noise)


def examine(result: Reconstruction, scan: Scan) -> tuple[Reconstruction, Trust]:
    """The result with the residuals of the frames that it is made of, and what they come to."""
    frames = np.arange(len(scan)) if result.used_frames is None else np.flatnonzero(result.used_frames)
    found = frame_residuals(result.object, result.probe, result.positions_px, scan.counts, frames, scan.mask)
    ratio = np.full(len(scan), np.nan, "float32")
    ratio[frames] = found.ratio
    return replace(result, frame_residual=ratio), summarise(found)


def look_wrong(model: PtychoNetwork, result: Reconstruction, scan: Scan) -> tuple[str, ...]:
    """Warnings about a scan and its result; of the bounded architecture ``cnn`` the network's own output is looked at,
    in a sample of frames: stitching turns the phases of patches."""
    patches = bound = None
    if model.settings.architecture == "cnn":
        frames = np.unique(np.linspace(0, len(scan) - 1, min(SAMPLE, len(scan))).round().astype(int))
        inputs = dict(counts=scan.counts[frames][None].astype("float32"), mask=scan.mask[None].astype("float32"))
        patches = ops.convert_to_numpy(model.alone(inputs, *model.illuminate(inputs)))[0]
        bound = 1.0 if model.settings.amplitude_activation == "sigmoid" else None
    found = warnings_about(result.object, result.coverage, result.probe, patches=patches, amplitude_bound=bound)
    limit = saturation(scan)
    return (*([limit] if limit else []), *found)


def scores_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome's numbers, ready for JSON."""
    record: dict[str, Any] = dict(frames_used=outcome.result.used, frames_dropped=outcome.result.dropped)
    if outcome.trust is not None:
        record |= dict(trust=outcome.trust.to_dict(), warnings=list(outcome.warnings))
    if outcome.scores is not None:
        record["object"] = outcome.scores.to_dict()
    if outcome.withheld_error is not None:
        record |= dict(withheld_error=outcome.withheld_error, shot_noise_error=outcome.shot_noise)
    return record


def provenance(scan: Scan) -> dict[str, Any]:
    """Where a result comes from: the scan, its measured dose, and the versions of what computed it."""
    backend = keras.backend.backend()
    names = ("keras", backend, "numpy", "scipy")
    return dict(
        ptycho=ptycho.__version__,
        versions={name: version(name) for name in names} | {"python": platform.python_version()},
        backend=backend,
        source=str(scan.source),
        frames=len(scan),
        counts_per_frame=scan.mean_counts,
        notes=list(scan.notes),
    )


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")
