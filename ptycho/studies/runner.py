"""Runs the cases of a study, here or on the workers of a Dask cluster, and keeps their results.

A study's folder has a folder for each case, ``results.csv`` and ``results.json`` with one row a case, the figures, and
``report.html``. A case is finished when its ``row.json`` exists, which is written last and atomically: a study that was
killed continues where it was, even in the middle of a training.
"""

import gc
import json
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho.cluster import dask_client
from ptycho.config import RunConfig
from ptycho.io import BadFile, DamagedCheckpoint, read_json, replace_text, replaced
from ptycho.pipelines.assess import Outcome, assess
from ptycho.pipelines.provenance import provenance, software
from ptycho.pipelines.reconstruct import reconstruct_run
from ptycho.pipelines.refine import refine_run
from ptycho.pipelines.train import train_network
from ptycho.progress import Progress
from ptycho.studies.cases import Case, Row, Study, checked
from ptycho.studies.data import Data, scans
from ptycho.studies.page import write_summary
from ptycho.studies.tables import flattened, summary, write_rows
from ptycho.training.schedule import History


def run_case(case: Case, folder: Path, progress: Progress | None = None) -> Row:
    """Train, reconstruct and evaluate a case in its own folder; continues where an earlier process was stopped.

    The row has ``name``, ``hash``, ``seed``, the labels, ``N``, ``counts_per_frame`` (measured), the scores ``network``
    (before refinement) and ``final`` beside those of a ``flat`` object, or the errors of held-out frames at full dose;
    ``losses`` of the epochs, ``seconds`` (training over all processes), ``peak_memory_mb`` and versions.
    """
    if row := finished(case, folder):
        return row
    reset_peak_memory()
    begin = time.perf_counter()
    data = scans(case)
    try:
        outcome, history = _reconstruct(case, data, folder / case.folder, progress)
    except DamagedCheckpoint as damage:
        warnings.warn(f"{case.name} runs anew: {damage}", UserWarning, stacklevel=2)
        forget_checkpoints(folder / case.folder)
        outcome, history = _reconstruct(case, data, folder / case.folder, progress)
    with replaced(folder / case.folder / "pattern.npy") as partial:
        np.save(partial, data.test.counts[len(data.test) // 2])
    row = dict(name=case.name, hash=case.hash, seed=case.seed, **case.labels, N=data.test.N, start=case.start)
    row |= dict(frames_trained=len(data.train) if history else 0, frames=len(data.test))
    row |= dict(counts_per_frame=data.test.mean_counts) | scores(case, outcome, data)
    row |= dict(epochs=len(history), losses=[epoch.loss for epoch in history])
    seconds = dict(training=sum(epoch.seconds for epoch in history), arm=time.perf_counter() - begin)
    row |= dict(seconds=seconds, peak_memory_mb=round(peak_memory()))
    row |= {key: value for key, value in provenance(data.test).items() if key in ("ptycho", "backend", "versions")}
    row |= dict(folder=case.folder, config=case.to_dict(), files=sizes(folder / case.folder))
    replace_text(folder / case.folder / "row.json", json.dumps(row, indent=1))
    forget_checkpoints(folder / case.folder)  # a finished case does not go on
    gc.collect()  # networks are in reference cycles with their traces
    return row


def forget_checkpoints(folder: Path) -> None:
    """Remove what a case could go on from."""
    for checkpoint in list(folder.rglob("checkpoint")):
        shutil.rmtree(checkpoint)


def _reconstruct(case: Case, data: Data, folder: Path, progress: Progress | None) -> tuple[Outcome, History]:
    """The result of a case, and the history of its training."""
    run = RunConfig(
        model=dict(seed=case.seed) | case.model,
        training=dict(seed=case.seed) | case.training,
        refine=dict(seed=case.seed) | (case.refine or {}),
    )
    hold_out_every = data.hold_out_every
    if case.start == "empty":
        return refine_run(data.test, folder, run, resume=True, hold_out_every=hold_out_every, progress=progress), []
    network, history = "pretrained", History()
    if case.start != "pretrained":
        network, start = str(folder / "network"), "pretrained" if case.start == "adapted" else None
        history = train_network(data.train, network, run, start=start, resume=True, progress=progress).history
    outcome = reconstruct_run(
        data.test,
        folder,
        run,
        model_folder=network,
        refined=case.refine is not None,
        symmetries=1,  # the same at every dose
        hold_out_every=hold_out_every,
        progress=progress,
    )
    return outcome, history


def scores(case: Case, outcome: Outcome, data: Data) -> Row:
    """Scores of a case's image, and of the network's image that the refinement started from."""
    record: Row = {}
    network = outcome if case.refine is None else outcome.before
    for stage, result in (("network", network), ("final", outcome)):
        if result is None:
            continue
        if result.scores is not None:
            values = {name: value for name, value in result.scores.to_dict().items() if isinstance(value, float)}
            record |= {stage: values, "flat": asdict(result.scores.flat)}
        if data.hold_out_every:
            brighter = replace(result.result, probe=result.result.probe / np.sqrt(case.kept))
            full = assess(brighter, data.full, data.full.held_out_mask(data.hold_out_every))
            errors = dict(held_out_error=full.held_out_error, shot_noise_error=full.shot_noise)
            record[stage] = record.get(stage, {}) | errors
    return record


def finished(case: Case, folder: Path) -> Row | None:
    """The row of a finished case, with its present name and labels; None if it is not finished.

    Nor is one of which a file was lost or cut.
    """
    path = folder / case.folder / "row.json"
    if not path.exists():
        return None
    row = read_json(path)
    if not isinstance(row, dict):
        raise BadFile(f"{path} is no row of a study: remove it, and the case runs anew")
    return row | case.labels if row.get("hash") == case.hash and is_whole(row, path.parent) else None


def is_whole(row: Row, folder: Path) -> bool:
    """Whether the files of a finished case are there, of the sizes that they had."""
    there = dict(sizes(folder))
    files = row.get("files") or []  # none of a version that did not keep them
    return all(there.get(name) == size for name, size in files)


def sizes(folder: Path) -> list[list[Any]]:
    """Paths and sizes in bytes of the results in a case's folder and below; without checkpoints: one that was cut is
    noticed."""
    kinds = (".h5", ".keras", ".npy", ".npz")
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in kinds and "checkpoint" not in path.parts)
    return [[path.relative_to(folder).as_posix(), path.stat().st_size] for path in files]


class Failure(NamedTuple):
    """A case that failed, and why."""

    name: str
    error: str
    """In a line."""
    traceback: str = ""


def attempt(case: Case, folder: Path, progress: Progress | None = None) -> Row | Failure:
    """`run_case`; any exception becomes a `Failure`, so that the other cases continue."""
    try:
        return run_case(case, folder, progress)
    except Exception as error:
        return Failure(case.name, f"{type(error).__name__}: {error}", traceback.format_exc())


class Results(NamedTuple):
    """The results of a study."""

    rows: list[Row]
    """Of the finished cases, in their order."""
    failures: list[Failure]
    figures: list[Path]


def run_study(
    study: Study,
    folder: Path,
    *,
    scheduler: str | None = None,
    workers: int = 0,
    only_finished: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> Results:
    """Run the cases that are not finished, and write the results of all.

    Args:
        study, folder: the study, and the folder of its results.
        scheduler: address of a Dask scheduler whose workers see ``folder`` and the scan files at the same paths.
        workers: number of processes on this machine instead; 0 runs all cases in this process, one after the other.
        only_finished: run nothing, and write the results of the finished cases.
        progress, say: called with the progress within a case, and with a line for each finished case.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cases = checked(study.cases)
    outcomes: dict[str, Row | Failure] = {case.name: row for case in cases if (row := finished(case, folder))}
    if outcomes:
        say(f"{len(outcomes)} of {len(cases)} arms are done already")
    remaining = [] if only_finished else [case for case in cases if case.name not in outcomes]
    if scheduler or workers:
        running = _on_dask(remaining, folder, scheduler, workers)
    else:
        running = ((case, attempt(case, folder, progress)) for case in remaining)
    for case, outcome in running:
        outcomes[case.name] = outcome
        if isinstance(outcome, Failure):
            replace_text(folder / f"{case.name}.error.txt", outcome.traceback or outcome.error)
            say(f"{case.name}: FAILED, {outcome.error}")
        else:
            (folder / f"{case.name}.error.txt").unlink(missing_ok=True)
            say(f"{case.name}: {summary(outcome)}")
        write_rows(folder, _rows(cases, outcomes))
    rows = _rows(cases, outcomes)
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    rows, figures = study.conclude(folder, rows) if rows else ([], [])
    write_rows(folder, rows)
    failed = [f"{failure.name}: {failure.error}" for failure in failures]
    settings = software() | {case.name: case.to_dict() | case.settings() for case in cases}
    write_summary(folder, study.title, [flattened(row) for row in rows], failed, figures, settings)
    return Results(rows, failures, figures)


def _rows(cases: Sequence[Case], outcomes: Mapping[str, Row | Failure]) -> list[Row]:
    """The rows of the finished cases, in their order."""
    return [row for row in (outcomes.get(case.name) for case in cases) if isinstance(row, dict)]


def _on_dask(
    cases: Sequence[Case], folder: Path, scheduler: str | None, workers: int
) -> Iterator[tuple[Case, Row | Failure]]:
    """Cases as they finish, each a task: one whose worker dies runs again on another, from its last checkpoint."""
    with dask_client(scheduler, workers) as client:
        from distributed import as_completed

        tasks = {client.submit(attempt, case, folder, key=case.folder, pure=False): case for case in cases}
        for task in as_completed(tasks):
            error = task.exception()
            outcome = Failure(tasks[task].name, f"{type(error).__name__}: {error}") if error else task.result()
            yield tasks[task], outcome


def reset_peak_memory() -> None:
    """Reset `peak_memory`, where the system (Linux) and its permissions allow."""
    if sys.platform == "linux":
        # Without the permission, the peak is that of the process since its start, as on other systems.
        with suppress(PermissionError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Peak memory of this process since `reset_peak_memory`, in MB."""
    if sys.platform == "linux":
        status = dict(entry.split(":", 1) for entry in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
