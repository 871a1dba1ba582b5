"""Runs: what the commands do, each as one function that takes values and leaves a folder."""

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from keras import ops

import ptycho
from ptycho.backend import backend_name
from ptycho.cluster import dask_client
from ptycho.config import (
    UNKNOWNS,
    ModelConfig,
    PretrainingConfig,
    RefineConfig,
    RunConfig,
    SimulationConfig,
    TrainingConfig,
)
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import Check
from ptycho.diagnostics.checks import examine as check_scan
from ptycho.diagnostics.statistics import evenly_spread, rescale_probe
from ptycho.evaluation import (
    ResidualSummary,
    Scores,
    TooSmall,
    compare_objects,
    frame_error,
    frame_residuals,
    is_dark,
    shot_noise_error,
    summarise,
    uncertainty,
    warnings_about,
)
from ptycho.evaluation.calibration import calibration
from ptycho.formats import ReadOptions, read_scan, write_scan
from ptycho.io import replace_text
from ptycho.network.build import PtychoNetwork, build_model
from ptycho.network.domain import far_from_training
from ptycho.network.files import load_model, load_pretrained, save_model
from ptycho.progress import Progress
from ptycho.reconstruction import as_grown, find_probe, reconstruct
from ptycho.reconstruction.predict import open_stream
from ptycho.reconstruction.probe_retrieval import is_bright
from ptycho.reconstruction.replay import Order, ReplayReport, replay
from ptycho.refinement.refine import Refinement, divided, refine
from ptycho.simulation.probes import with_modes
from ptycho.simulation.simulate import simulate
from ptycho.training.pretrain import pretrain
from ptycho.training.schedule import History
from ptycho.training.train import train

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """What a run found, beside its files."""

    result: Reconstruction
    scores: Scores | None
    """Against the true object, where the scan carries one."""
    held_out_error: float | None
    """Frame error on held-out frames, where there are any."""
    shot_noise: float | None
    """What the shot noise of the held-out frames alone would leave of it."""
    trust: ResidualSummary | None = None
    """How well the frames that the object is made of agree with it."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the scan or the result by the look of it."""
    before: "Outcome | None" = None
    """What the refinement started from, judged alike; None where nothing was refined, or from empty space."""
    fit: list[dict[str, Any]] | None = None
    """The epochs of the refinement, see `Refinement`."""


def open_scan(path: str | os.PathLike, say: Say, modes: int | None = None, *, in_file: bool = False) -> Scan:
    """Read a scan, say what the reader found, and bring a guessed probe to the scale of the counts.

    With ``modes`` the probe gets so many; those added are guesses, so that the whole is one. With ``in_file`` the
    frames stay in the file, however few there are (`StoredFrames`), where the format lets them.
    """
    scan = read_scan(Path(path), options=ReadOptions(in_memory_bytes=0) if in_file else ReadOptions())
    if modes is not None and modes != scan.modes:
        scan = replace(scan, probe=with_modes(scan.probe, modes), probe_known=False)
    say(f"{path}: {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")
    for note in scan.notes:
        say(note)
    dose = scan.check_dose()
    if dose:
        say(f"warning: {dose}")
    if not scan.probe_known:
        scan, factor = rescale_probe(scan)
        say(f"the probe is a guess: rescaled by {factor:.4g} to the measured counts, and sought along with the object")
    return scan


def model_config(run: RunConfig, scan: Scan) -> ModelConfig:
    """Settings of a network for a scan."""
    return ModelConfig.from_dict(dict(N=scan.N, probe_modes=scan.modes) | run.model)


def probe_is_sought(scan: Scan, run: RunConfig) -> bool:
    """Whether the probe is to be found along with the object: where it is a guess, unless the run says otherwise."""
    return bool(run.model.get("probe_trainable", not scan.probe_known))


def with_found_probe(scan: Scan, *, held_out: np.ndarray | None = None, progress: Progress | None = None) -> Scan:
    """A scan with the probe that the package's own network finds for it (`find_probe`)."""
    return replace(scan, probe=find_probe(load_pretrained(), scan, held_out=held_out, progress=progress).probe)


def train_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    start: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[PtychoNetwork, History]:
    """`train_network`, and what the network makes of the scan as a page: ``report.html``."""
    from ptycho.output.report import save_report

    folder = Path(folder)
    model, history = train_network(scan, folder, run, start=start, resume=resume, progress=progress)
    result = reconstruct(model, scan, progress=progress)
    save_report(
        folder / "report.html",
        scan,
        result,
        findings=look_wrong(model, result, scan),
        training=[epoch.to_dict() for epoch in history],
        settings=_settings(folder),
    )
    return model, history


def train_network(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    start: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[PtychoNetwork, History]:
    """Train a network on a scan and leave it in the folder: ``model.keras``, ``history.json``, ``config.json``.

    ``start`` names a network to start from: a run folder, or ``pretrained``; it is trained in small steps (`ADAPTING`).
    """
    folder = Path(folder)
    training = TrainingConfig.from_dict((ADAPTING if start else {}) | run.training)
    sought, goes_on = probe_is_sought(scan, run), resume and (folder / "checkpoint" / "history.json").exists()
    if sought and not goes_on:  # a training that goes on has its probe in the checkpoint
        scan = with_found_probe(scan, progress=progress)
    if start is None:
        model = build_model(model_config(run, scan), scan.probe)
    else:
        source = open_model(start)
        settings = source.settings.to_dict() | dict(scale_trainable=False, probe_trainable=False)
        settings |= dict(N=scan.N, probe_modes=scan.modes) | run.model
        model = build_model(ModelConfig.from_dict(settings), scan.probe, start=source)
    folder.mkdir(parents=True, exist_ok=True)
    record = provenance(scan) | dict(model=model.settings.to_dict(), training=training.to_dict(), start=start)
    _write_json(folder / "config.json", record)
    history = train(
        model,
        scan,
        training,
        folder=folder / "checkpoint",
        resume=resume,
        progress=progress and showing(progress, partial(reconstruct, model, scan)),
    )
    if sought and model.architecture.sees_probe:
        find_probe(model, scan, progress=progress)  # the network knows the object better now
    _write_json(folder / "history.json", [epoch.to_dict() for epoch in history])
    save_model(model, folder / "model.keras")
    return model, history


def showing(progress: Progress, image: Callable[[], Reconstruction]) -> Progress:
    """A report that is told of the image too."""
    return lambda what, done, total, numbers, _=None, /: progress(what, done, total, numbers, image)


def open_model(name: str | os.PathLike) -> PtychoNetwork:
    """The network in a run folder, or the package's own with the name ``pretrained``."""
    return load_pretrained() if str(name) == "pretrained" else load_model(Path(name) / "model.keras")


def ready_model(
    name: str | os.PathLike, scan: Scan, *, held_out: np.ndarray | None = None, progress: Progress | None = None
) -> tuple[PtychoNetwork, Scan]:
    """A trained network (see `open_model`), and the scan with the probe that it takes; warns where the scan is far from
    what the network was trained for.

    A network with a probe of its own, as those of run folders, brings it where it fits the frames. Else it is the
    scan's; where that is a guess, it is found (`find_probe`) from the frames that are not held out.
    """
    model = open_model(name)
    if model.probe is not None and model.settings.N != scan.N:
        model = model.without_probe()
    if model.probe is None and not scan.probe_known and model.architecture.sees_probe:
        scan = replace(scan, probe=find_probe(model, scan, held_out=held_out, progress=progress).probe)
    for sentence in far_from_training(model, scan):
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return model, scan


def pretrain_run(
    folder: str | os.PathLike, run: RunConfig, *, resume: bool = False, progress: Progress | None = None
) -> History:
    """Train a network on simulated scans and leave it in the folder: ``model.keras``, its SHA-256, ``history.json``.

    With ``resume`` it goes on from the last epoch of an interrupted run in the folder, see `train`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = PretrainingConfig.from_dict(run.pretraining)
    model_settings = ModelConfig.from_dict(dict(N=64, gridsize=5) | run.model)
    training = TrainingConfig.from_dict(PRETRAINING | run.training)
    record = dict(pretraining=settings.to_dict(), model=model_settings.to_dict(), training=training.to_dict())
    _write_json(folder / "config.json", record)
    checkpoint = folder / "checkpoint"
    model, history = pretrain(settings, model_settings, training, folder=checkpoint, resume=resume, progress=progress)
    _write_json(folder / "history.json", [epoch.to_dict() for epoch in history])
    path = save_model(model, folder / "model.keras")
    replace_text(folder / "model.sha256", f"{hashlib.sha256(path.read_bytes()).hexdigest()}  model.keras\n")
    return history


PRETRAINING: dict[str, Any] = dict(total_frames=100_000, realspace_weight=1.0, nll_weight=0.1, validation_fraction=0.03)
"""How a network is pretrained, unless a run says otherwise: the truth is known and should be used."""

ADAPTING: dict[str, Any] = dict(learning_rate=5e-4)
"""How a network that starts from a trained one goes on, unless a run says otherwise: what it knows of slow phases,
which the counts of one scan hardly tell, is washed out by larger steps."""


def reconstruct_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    model_folder: str | os.PathLike | None = None,
    start: str | None = None,
    hold_out_every: int | None = None,
    views: int | None = None,
    tile_frames: int | None = None,
    refined: bool = True,
    resume: bool = False,
    checks: Sequence[Check] | None = None,
    scheduler: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Reconstruct a scan with a trained network, or with one trained on it here, and leave the image in the folder.

    With ``hold_out_every`` frames 0, k, 2 k, ... are kept from every fit, and judge the result. With several ``views``
    (see `reconstruct`; by default `usual_views`) the network's image has an ``uncertainty``, calibrated on a simulated
    scan (`calibration`). With ``refined`` the image is then fitted to the counts (`refine`); what the network alone
    gave is left as ``network.h5``. With the address of a Dask ``scheduler``, or a number of ``workers`` on this
    machine, these compute the network's image (`predict_on`); everything else is done here. Writes
    ``reconstruction.h5``, ``object.png``, ``figure.png``, ``scores.json``, ``config.json`` and ``report.html``;
    ``checks`` are those of the scan, where they were made already, for its page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    views = usual_views(scan) if views is None else views
    held_out = scan.held_out_mask(hold_out_every) if hold_out_every else np.zeros(len(scan), bool)
    history: History = []
    if model_folder is None:
        model, history = train_network(
            scan.subset(~held_out), folder, run, start=start, resume=resume, progress=progress
        )
    else:
        model, scan = ready_model(model_folder, scan, held_out=held_out, progress=progress)
        record = provenance(scan) | dict(model=model.settings.to_dict(), model_from=str(model_folder))
        _write_json(folder / "config.json", record)
    with dask_client(scheduler, workers) if scheduler or workers else nullcontext() as client:
        ways: dict[str, Any] = dict(held_out=held_out, symmetries=views, tile_frames=tile_frames, progress=progress)
        result = reconstruct(model, scan, client=client, **ways)
    more = dict(hold_out_every=hold_out_every or 0, views=views, model=model.settings.to_dict())
    if views > 1:
        factor = calibration(model, scan, result, symmetries=views)
        more["uncertainty_calibration"] = factor
        result = replace(result, uncertainty=uncertainty(result.spread, result.coverage, result.probe, factor))
    if not refined:
        result = replace(result, provenance=provenance(scan) | more)
        return _leave(result, scan, folder, held_out, history, look_wrong(model, result, scan), checks=checks)
    alone = replace(result, provenance=provenance(scan) | more)
    alone.save(folder / "network.h5")
    settings = refine_config(run, scan)
    fit = refine_network(model, scan, settings, result, held_out=held_out, views=views, progress=progress)
    result = replace(fit.result, provenance=alone.provenance | dict(refine=settings.to_dict()))
    before = judge(alone, scan, held_out)
    found = look_wrong(model, result, scan)
    return _leave(result, scan, folder, held_out, history, found, before, fit.history, checks)


def refine_config(run: RunConfig, scan: Scan) -> RefineConfig:
    """Settings of a refinement: a guessed probe is fitted too, and the noise is that of the counts.

    The Poisson likelihood is right for a model that is; where the probe is only sought, and pixels are not dark, least
    squares of amplitudes bear better what the model lacks (`is_bright`).
    """
    sought = probe_is_sought(scan, run)
    defaults: dict[str, Any] = dict(noise="amplitude" if sought and is_bright(scan) else "poisson")
    if sought:
        defaults["probe_from"] = 1
    return RefineConfig.from_dict(defaults | run.refine)


STRIDE = 3.0
"""Ratio of the drift weights that are tried one after the other."""

TRIED, TRIAL_EPOCHS = 4, 8
"""Drift weights that are tried at most, and passes over the frames in a trial: of the object alone."""


def refine_network(
    model: PtychoNetwork,
    scan: Scan,
    settings: RefineConfig,
    alone: Reconstruction,
    *,
    held_out: np.ndarray,
    views: int = 1,
    progress: Progress | None = None,
) -> Refinement:
    """Refine a network's image; ``alone``, what it gives of all frames, comes back where that makes nothing better.

    The image to start from is made anew without the frames that judge the fit: it would know their noise. How strongly
    details are held near to it (``h1_weight``), unless ``settings`` say so, is what these frames like best. A dark
    image (`is_dark`) is no start: the fit then begins from empty space, with a warning.
    """
    if is_dark(alone.object, alone.coverage, alone.probe, counted(alone, scan)):
        warnings.warn("the network's image is dark: refined from empty space instead", UserWarning, stacklevel=2)
        return refine(scan, settings, held_out=held_out, progress=progress)
    _, judging = divided(scan, held_out, settings)
    unseen = held_out.copy()
    unseen[judging] = True
    start = reconstruct(model, scan, held_out=unseen, symmetries=views, progress=progress) if len(judging) else alone
    if not settings.h1_weight and len(judging):

        def trial(drift: float) -> float:
            only: dict[str, Any] = dict.fromkeys((f"{name}_from" for name in UNKNOWNS), None)
            short = replace(settings, h1_weight=drift, epochs=min(TRIAL_EPOCHS, settings.epochs), **only)
            fit = refine(scan, short, start=start, held_out=held_out, progress=progress)
            return fit.history[fit.best]["judged"]

        settings = replace(settings, h1_weight=best_weight(trial, 1 / np.sqrt(light_on_object(scan))))
    fit = refine(scan, settings, start=start, held_out=held_out, progress=progress)
    return fit if fit.best > 0 else fit._replace(result=alone)


def best_weight(trial: Callable[[float], float], guess: float) -> float:
    """The weight of least ``trial(weight)`` on a ladder of steps of `STRIDE` that is climbed from a guess."""
    found = {0: trial(guess)}
    for way in (1, -1):
        rung = way
        while len(found) < TRIED:
            found[rung] = trial(guess * STRIDE**rung)
            if found[rung] >= found[rung - way]:
                break
            rung += way
        if found[way] < found[0]:
            break  # it went uphill this way, and does not any more
    return float(guess * STRIDE ** min(found, key=lambda rung: found[rung]))


SCARCE = 300.0
"""Photons on a pixel of the object below which a refinement does better near to the network's image: between 100, where
that wins up to 5 dB over a fit from empty space, and 900, where it wins none (docs/results.md)."""


def usual_views(scan: Scan) -> int:
    """Views to average in the network's image: eight where photons are `SCARCE`, for then the image stays near to it.

    They give 0.3 to 1.5 dB for eight times the prediction. Elsewhere the fit to the counts gives more in less time.
    """
    return 8 if light_on_object(scan) < SCARCE else 1


def light_on_object(scan: Scan) -> float:
    """Photons on a pixel of the object, on average over the scanned area."""
    area = np.prod(np.maximum(np.ptp(scan.positions, axis=0), 1.0) + scan.probe_diameter_px)
    return float(scan.frame_counts.sum() / area)


def refine_run(
    scan: Scan,
    folder: str | os.PathLike,
    run: RunConfig,
    *,
    start: str | os.PathLike | None = None,
    hold_out_every: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Fit object, probe and whatever else the run says to the counts of a scan, and leave the image in the folder.

    ``start`` is a reconstruction, or the run folder that holds one; without it the fit begins from empty space. Writes
    what `reconstruct_run` does, and ``history.json``, the epochs of the fit.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held_out = scan.held_out_mask(hold_out_every) if hold_out_every else np.zeros(len(scan), bool)
    image = before = None
    if start is not None:
        path = Path(start)
        image = Reconstruction.load(path / "reconstruction.h5" if path.is_dir() else path)
        before = judge(image, scan, held_out)
        if len(image.probe) < scan.modes:  # more were asked for
            image = replace(image, probe=with_modes(image.probe, scan.modes))
    settings = refine_config(run, scan)
    record = provenance(scan) | dict(refine=settings.to_dict(), start=None if start is None else str(start))
    _write_json(folder / "config.json", record)
    fit = refine(
        scan, settings, start=image, held_out=held_out, folder=folder / "checkpoint", resume=resume, progress=progress
    )
    _write_json(folder / "history.json", fit.history)
    result = replace(fit.result, provenance=record | dict(hold_out_every=hold_out_every or 0))
    found = warnings_of(result, scan)
    return _leave(result, scan, folder, held_out, [], found, before, fit.history)


def _leave(
    result: Reconstruction,
    scan: Scan,
    folder: Path,
    held_out: np.ndarray,
    training: History,
    found: Sequence[str],
    before: Outcome | None = None,
    fit: list[dict[str, Any]] | None = None,
    checks: Sequence[Check] | None = None,
) -> Outcome:
    """Examine and judge a result, and leave its files in the folder."""
    from ptycho.output.figures import save_figure
    from ptycho.output.images import save_png
    from ptycho.output.report import save_report

    result, trust = examine(result, scan)
    trained = [epoch.to_dict() for epoch in training]
    result.save(folder / "reconstruction.h5")
    save_png(result, folder / "object.png")
    curve = trained or [
        dict(epoch=entry["epoch"], loss=entry["error"], validation_loss=entry["held_out_error"])
        for entry in (fit or [])[1:]
    ]
    save_figure(result, scan.counts[len(scan) // 2], curve, folder / "figure.png", title=str(scan.source))
    checks = check_scan(scan, orientation=False) if checks is None else checks
    limit = [check.finding for check in checks if check.name == "saturation" and check.verdict != "pass"]
    outcome = judge(result, scan, held_out)._replace(trust=trust, warnings=(*limit, *found), before=before, fit=fit)
    _write_json(folder / "scores.json", scores_record(outcome))
    save_report(
        folder / "report.html",
        scan,
        result,
        scores=outcome.scores,
        findings=sentences(outcome),
        training=trained,
        fit=(fit or [])[1:],
        settings=_settings(folder) | result.provenance,
        checks=checks,
    )
    return outcome


def _settings(folder: Path) -> dict[str, Any]:
    """What the run in a folder was told, with versions."""
    return json.loads((folder / "config.json").read_text())


def sentences(outcome: Outcome) -> list[str]:
    """What there is to say about a result, beside its scores."""
    lines = list(outcome.warnings)
    if outcome.trust is not None:
        lines.append(outcome.trust.sentence())
    if outcome.held_out_error is not None:
        lines.append(f"held-out frames: error {outcome.held_out_error:.4f}, shot noise alone {outcome.shot_noise:.4f}")
    return lines


def stream_run(
    scan: Scan,
    folder: str | os.PathLike,
    model_folder: str | os.PathLike,
    *,
    rate: float | None = None,
    order: Order = "scan",
    tile_frames: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Outcome, ReplayReport]:
    """Play a scan to a trained network frame by frame, as a detector would, and leave the image in the folder.

    Writes ``reconstruction.h5``, ``object.png``, ``scores.json``, ``config.json`` and ``stream.json``, the report.

    Args:
        scan, folder: what is played; where the results go.
        model_folder: run folder of the network.
        rate, order, seed: see `replay`.
        tile_frames: see `Stream`; None: `Architecture.streamed_frames`.
        progress: told of the progress.

    Raises:
        ValueError: the network is a ``cnn``, or for frames of another size.
    """
    from ptycho.output.images import save_png

    folder = Path(folder)
    model, scan = ready_model(model_folder, scan)
    if not model.architecture.common_phase:
        raise ValueError(
            f"the patches of a {model.settings.architecture} have each a phase of their own, which takes the complete "
            "scan to tell: use `ptycho reconstruct`"
        )
    size = tile_frames or model.architecture.streamed_frames
    stream = open_stream(model, scan, np.arange(len(scan)), size)
    folder.mkdir(parents=True, exist_ok=True)
    record = provenance(scan) | dict(model=model.settings.to_dict(), model_from=str(model_folder))
    _write_json(folder / "config.json", record)
    played = replay(stream, enumerate(scan.counts), rate=rate, order=order, seed=seed, progress=progress)
    more = dict(hold_out_every=0, model=model.settings.to_dict())
    result = replace(as_grown(stream, scan), provenance=provenance(scan) | more)
    result.save(folder / "reconstruction.h5")
    save_png(result, folder / "object.png")
    outcome = judge(result, scan, np.zeros(len(scan), bool))
    _write_json(folder / "scores.json", scores_record(outcome))
    _write_json(folder / "stream.json", dict(order=order, seed=seed, tile_frames=size) | asdict(played))
    return outcome, played


def demo_run(folder: str | os.PathLike, run: RunConfig, *, progress: Progress | None = None, say: Say) -> Outcome:
    """Simulate a scan with known truth, and reconstruct it: the whole way, in a minute or two."""
    scan = simulate(SimulationConfig.from_dict(run.simulation))
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_scan(scan, Path(folder) / "scan.h5")
    say(f"simulated {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")
    return reconstruct_run(scan, folder, run, progress=progress)


def judge(result: Reconstruction, scan: Scan, held_out: np.ndarray) -> Outcome:
    """Compare a result with what is known: the true object, and the held-out frames.

    A result of a few frames may hold too little of the true object to be compared; a warning says so.
    """
    scores = None
    if scan.object is not None:
        try:
            scores = compare_objects(result.object, scan.object)
        except TooSmall as problem:
            warnings.warn(f"not scored against the true object: {problem}", UserWarning, stacklevel=2)
    frames = np.flatnonzero(held_out)
    if not len(frames):
        return Outcome(result, scores, None, None)
    error = frame_error(result, scan.counts, frames, scan.mask)
    noise = shot_noise_error(result.expected_counts(frames)[:, scan.mask])
    return Outcome(result, scores, error, noise)


def examine(result: Reconstruction, scan: Scan) -> tuple[Reconstruction, ResidualSummary]:
    """The result with the residuals of the frames that it is made of, and what they come to."""
    frames = frames_of(result, scan)
    found = frame_residuals(result, scan.counts, frames, scan.mask)
    ratio = np.full(len(scan), np.nan, "float32")
    ratio[frames] = found.ratio
    return replace(result, frame_residual=ratio), summarise(found)


def look_wrong(model: PtychoNetwork, result: Reconstruction, scan: Scan) -> tuple[str, ...]:
    """Warnings about a network's result; of the bounded architecture ``cnn`` the network's own output is looked at,
    in a sample of frames: stitching turns the phases of patches."""
    patches = bound = None
    if not model.architecture.common_phase:
        frames = evenly_spread(len(scan))
        inputs = dict(
            counts=scan.counts[frames][None].astype("float32"),
            mask=scan.mask[None].astype("float32"),
            probe=result.probe[None],
        )
        patches = ops.convert_to_numpy(model.single_frame_patches(inputs, *model.probes(inputs)))[0]
        bound = model.architecture.amplitude_bound(model.settings)
    return warnings_of(result, scan, patches=patches, amplitude_bound=bound)


def warnings_of(result: Reconstruction, scan: Scan, **network: Any) -> tuple[str, ...]:
    """Warnings about a result of a scan, see `warnings_about`."""
    counts = counted(result, scan)
    return tuple(warnings_about(result.object, result.coverage, result.probe, counts=counts, **network))


def counted(result: Reconstruction, scan: Scan) -> float:
    """Photons in the frames that a result is made of."""
    return float(scan.frame_counts[frames_of(result, scan)].sum())


def frames_of(result: Reconstruction, scan: Scan) -> np.ndarray:
    """Indices of the frames that a result is made of."""
    return np.arange(len(scan)) if result.used_frames is None else np.flatnonzero(result.used_frames)


def scores_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome's numbers, ready for JSON."""
    record: dict[str, Any] = dict(frames_used=outcome.result.used, frames_dropped=outcome.result.dropped)
    if outcome.trust is not None:
        record |= dict(trust=outcome.trust.to_dict(), warnings=list(outcome.warnings))
    if outcome.scores is not None:
        record["object"] = outcome.scores.to_dict()
    if outcome.held_out_error is not None:
        record |= dict(held_out_error=outcome.held_out_error, shot_noise_error=outcome.shot_noise)
    if outcome.before is not None:
        record["before_refinement"] = scores_record(outcome.before)
    if outcome.fit:
        record["refinement"] = outcome.fit
    return record


def software() -> dict[str, Any]:
    """The versions of what computes."""
    backend = backend_name()
    names = ("keras", backend, "numpy", "scipy")
    versions = {name: version(name) for name in names} | {"python": platform.python_version()}
    return dict(ptycho=ptycho.__version__, versions=versions, backend=backend)


def provenance(scan: Scan) -> dict[str, Any]:
    """Where a result comes from: the scan, its measured dose, and the versions of what computed it."""
    return software() | dict(
        source=str(scan.source),
        frames=len(scan),
        counts_per_frame=scan.mean_counts,
        notes=list(scan.notes),
        **({} if scan.near_field is None else dict(near_field=scan.near_field.to_dict())),
        **({} if scan.pixel_size_m is None else dict(pixel_size_m=scan.pixel_size_m)),
        **({} if scan.beam is None else dict(beam=asdict(scan.beam))),
    )


def _write_json(path: Path, values: Any) -> None:
    replace_text(path, json.dumps(values, indent=1) + "\n")
