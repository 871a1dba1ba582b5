"""Runs the arms of a study, here or on the workers of a Dask cluster, and keeps what came out.

A study's folder has a folder for each arm, ``results.csv`` and ``results.json`` with one row an arm, the figures, and
``report.html``. An arm is done when its ``row.json`` is there, which is written last and at once: a study that was
killed goes on where it was, in the middle of a training too.
"""

import csv
import gc
import io
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from math import ceil, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from ptycho.cluster import dask_client
from ptycho.config import RunConfig
from ptycho.data.frames import chunks
from ptycho.data.scan import Scan
from ptycho.io import replace_text, replaced
from ptycho.pipelines.assess import Outcome, assess
from ptycho.pipelines.open import open_scan
from ptycho.pipelines.provenance import provenance, software
from ptycho.pipelines.reconstruct import reconstruct_run
from ptycho.pipelines.refine import refine_run
from ptycho.pipelines.train import train_network
from ptycho.progress import Progress
from ptycho.simulation.probes import probe_diameter
from ptycho.simulation.simulate import MARGIN_PX, simulate
from ptycho.studies.arms import Arm, Row, Study, checked
from ptycho.studies.summary import write_summary
from ptycho.training.batches import thin_counts
from ptycho.training.schedule import History

Say = Callable[[str], None]


class Data(NamedTuple):
    """The scans of an arm."""

    train: Scan
    """To train on."""
    test: Scan
    """To reconstruct."""
    full: Scan
    """``test`` with all its photons, to be judged by."""
    hold_out_every: int | None
    """Frames 0, k, 2 k, ... of ``test`` are kept from everything."""


def scans(arm: Arm) -> Data:
    """Read or simulate what an arm works on; two arms that differ in their loss only get the same counts."""
    if arm.file is not None:
        full = open_scan(arm.file, lambda text: None, arm.model.get("probe_modes"))
        test = with_part_of_photons(full, arm.kept, np.random.default_rng([arm.seed, 11]))
        test = wrong_probe(test, arm.probe_error, arm.seed)
        held_out = test.held_out_mask(arm.hold_out_every)
        return Data(test.subset(~held_out), test, full, arm.hold_out_every)
    assert arm.simulation is not None
    settings = replace(arm.simulation, positions=ceil(sqrt(arm.train_frames)) ** 2, seed=2 * arm.seed)
    scan = simulate(settings)
    train = scan.subset(middle(scan.positions, arm.train_frames))
    test = train
    if not arm.own_object:
        positions = train.positions[middle(train.positions, arm.test_frames)]
        corner = np.floor(positions.min(axis=0)) - settings.N // 2 - MARGIN_PX
        test = simulate(replace(settings, seed=2 * arm.seed + 1), positions=positions - corner)
    train, test = (wrong_probe(data, arm.probe_error, arm.seed) for data in (train, test))
    return Data(train, test, test, None)


def middle(positions: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` positions ``(P, 2)`` nearest to the middle of a scan, a square of them, in order."""
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    return np.sort(np.argsort(np.abs(positions - centre).max(axis=1), kind="stable")[:count])


def with_part_of_photons(scan: Scan, part: float, rng: np.random.Generator) -> Scan:
    """The scan as it would have been with a ``part`` of its exposure: each photon is kept with this probability."""
    if part == 1:
        return scan
    counts = np.concatenate([thin_counts(chunk, part, rng)[0].astype("uint32") for chunk in chunks(scan.counts)])
    return replace(scan, counts=counts, probe=(scan.probe * np.sqrt(part)).astype("complex64"))


def wrong_probe(scan: Scan, error: dict[str, float], seed: int) -> Scan:
    """A scan whose probe is a guess, wrong in some ways; the scan itself without any.

    ``defocus``: this part of it is taken away, where the probe is an aperture's light out of focus (a beam whose far
    field has the radius r in cycles per pixel is ``2 r lambda z`` wide at a distance z from its focus); ``blur_px``:
    its real and imaginary part are blurred by a Gaussian; ``noise``: complex Gaussian noise of this part of it, pixel
    by pixel. The photons stay.
    """
    if not error:
        return scan
    probe = scan.probe.astype(np.complex128)
    if error.get("defocus"):
        waves, frequency = np.fft.fft2(probe), np.fft.fftfreq(scan.N)
        radius = probe_diameter(np.fft.fftshift(waves[0])) / scan.N / 2
        walk = error["defocus"] * probe_diameter(probe[0]) / (2 * radius)
        probe = np.fft.ifft2(waves * np.exp(1j * np.pi * walk * (frequency[:, None] ** 2 + frequency**2)))
    if error.get("blur_px"):
        sigma = (0, error["blur_px"], error["blur_px"])
        probe = gaussian_filter(probe.real, sigma) + 1j * gaussian_filter(probe.imag, sigma)
    if error.get("noise"):
        rng = np.random.default_rng([seed, 12])
        scatter = rng.normal(size=probe.shape) + 1j * rng.normal(size=probe.shape)
        probe = probe + error["noise"] * scatter / np.sqrt(2) * np.abs(scan.probe)
    probe *= np.sqrt(scan.photons / np.sum(np.abs(probe) ** 2))
    return scan.with_probe(probe.astype("complex64"), known=False)


def run_arm(arm: Arm, folder: Path, progress: Progress | None = None) -> Row:
    """Train, reconstruct and judge; goes on where an earlier process was stopped, and leaves all in its own folder.

    The row has ``name``, ``hash``, ``seed``, the labels, ``N``, ``counts_per_frame`` (measured), the scores ``network``
    (before refinement) and ``final`` beside those of a ``flat`` object, or the errors of held-out frames at full dose;
    ``losses`` of the epochs, ``seconds`` (training over all processes), ``peak_memory_mb`` and versions.
    """
    own = folder / arm.folder
    if row := finished(arm, folder):
        return row
    reset_peak_memory()
    begin = time.perf_counter()
    data = scans(arm)
    run = RunConfig(
        model=dict(seed=arm.seed) | arm.model,
        training=dict(seed=arm.seed) | arm.training,
        refine=dict(seed=arm.seed) | (arm.refine or {}),
    )
    ways: dict[str, Any] = dict(hold_out_every=data.hold_out_every, progress=progress)
    history: History = []
    if arm.start == "empty":
        outcome = refine_run(data.test, own, run, resume=True, **ways)
    else:
        network = "pretrained" if arm.start == "pretrained" else str(own / "network")
        if arm.start != "pretrained":
            start = "pretrained" if arm.start == "adapted" else None
            history = train_network(data.train, network, run, start=start, resume=True, progress=progress).history
        ways |= dict(model_folder=network, refined=arm.refine is not None, symmetries=1)  # the same at every dose
        outcome = reconstruct_run(data.test, own, run, **ways)
    with replaced(own / "pattern.npy") as partial:
        np.save(partial, data.test.counts[len(data.test) // 2])
    row = dict(name=arm.name, hash=arm.hash, seed=arm.seed, **arm.labels, N=data.test.N, start=arm.start)
    row |= dict(frames_trained=len(data.train) if history else 0, frames=len(data.test))
    row |= dict(counts_per_frame=data.test.mean_counts) | scores(arm, outcome, data)
    row |= dict(epochs=len(history), losses=[epoch.loss for epoch in history])
    seconds = dict(training=sum(epoch.seconds for epoch in history), arm=time.perf_counter() - begin)
    row |= dict(seconds=seconds, peak_memory_mb=round(peak_memory()))
    row |= {key: value for key, value in provenance(data.test).items() if key in ("ptycho", "backend", "versions")}
    row |= dict(folder=arm.folder, config=arm.to_dict())
    replace_text(own / "row.json", json.dumps(row, indent=1))
    gc.collect()  # networks are in cycles with their traces
    return row


def scores(arm: Arm, outcome: Outcome, data: Data) -> Row:
    """Scores of an arm's image, and of what the refinement started from."""
    found: Row = {}
    network = outcome if arm.refine is None else outcome.before
    for stage, at in (("network", network), ("final", outcome)):
        if at is None:
            continue
        if at.scores is not None:
            values = at.scores.to_dict()
            found |= {stage: {k: v for k, v in values.items() if isinstance(v, float)}, "flat": asdict(at.scores.flat)}
        if data.hold_out_every:
            brighter = replace(at.result, probe=at.result.probe / np.sqrt(arm.kept))
            full = assess(brighter, data.full, data.full.held_out_mask(data.hold_out_every))
            errors = dict(held_out_error=full.held_out_error, shot_noise_error=full.shot_noise)
            found[stage] = found.get(stage, {}) | errors
    return found


def finished(arm: Arm, folder: Path) -> Row | None:
    """The row of an arm that is done, under the name and labels that it has now."""
    path = folder / arm.folder / "row.json"
    if not path.exists():
        return None
    row = json.loads(path.read_text())
    return row | arm.labels if row["hash"] == arm.hash else None


class Failure(NamedTuple):
    """An arm that came to no end, and why."""

    name: str
    error: str
    """In a line."""
    traceback: str = ""


def attempt(arm: Arm, folder: Path, progress: Progress | None = None) -> Row | Failure:
    """`run_arm`; whatever goes wrong in it is a `Failure`, so that the other arms go on."""
    try:
        return run_arm(arm, folder, progress)
    except Exception as error:
        return Failure(arm.name, f"{type(error).__name__}: {error}", traceback.format_exc())


class Results(NamedTuple):
    """What a study came to."""

    rows: list[Row]
    """Of the arms that are done, in their order."""
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
    say: Say = print,
) -> Results:
    """Run the arms that are not done yet, and write the results of all.

    Args:
        study, folder: what to run; where the results go.
        scheduler: address of a Dask scheduler whose workers see ``folder`` and the scan files at the same paths.
        workers: processes on this machine instead; 0: everything in this process, arm after arm.
        only_finished: run nothing, and write the results of what is done.
        progress, say: told of the progress within an arm; told of each arm that is done.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    arms = checked(study.arms)
    found: dict[str, Row | Failure] = {arm.name: done for arm in arms if (done := finished(arm, folder))}
    if found:
        say(f"{len(found)} of {len(arms)} arms are done already")
    left = [] if only_finished else [arm for arm in arms if arm.name not in found]
    if scheduler or workers:
        outcomes = _on_dask(left, folder, scheduler, workers)
    else:
        outcomes = ((arm, attempt(arm, folder, progress)) for arm in left)
    for arm, outcome in outcomes:
        found[arm.name] = outcome
        if isinstance(outcome, Failure):
            replace_text(folder / f"{arm.name}.error.txt", outcome.traceback or outcome.error)
            say(f"{arm.name}: FAILED, {outcome.error}")
        else:
            (folder / f"{arm.name}.error.txt").unlink(missing_ok=True)
            say(f"{arm.name}: {told(outcome)}")
        write_rows(folder, _rows(arms, found))
    rows = _rows(arms, found)
    failures = [outcome for outcome in found.values() if isinstance(outcome, Failure)]
    rows, figures = study.conclude(folder, rows) if rows else ([], [])
    write_rows(folder, rows)
    failed = [f"{failure.name}: {failure.error}" for failure in failures]
    settings = software() | {arm.name: arm.to_dict() | arm.settings() for arm in arms}
    write_summary(folder, study.title, [flattened(row) for row in rows], failed, figures, settings)
    return Results(rows, failures, figures)


def _rows(arms: Sequence[Arm], found: Mapping[str, Row | Failure]) -> list[Row]:
    """The rows of the arms that are done, in their order."""
    return [row for row in (found.get(arm.name) for arm in arms) if isinstance(row, dict)]


def _on_dask(
    arms: Sequence[Arm], folder: Path, scheduler: str | None, workers: int
) -> Iterator[tuple[Arm, Row | Failure]]:
    """Arms as they are done, each a task: one whose worker dies runs again on another, from its last checkpoint."""
    with dask_client(scheduler, workers) as client:
        from distributed import as_completed

        tasks = {client.submit(attempt, arm, folder, key=arm.folder, pure=False): arm for arm in arms}
        for task in as_completed(tasks):
            lost = task.exception()
            yield tasks[task], Failure(tasks[task].name, f"{type(lost).__name__}: {lost}") if lost else task.result()


def told(row: Row) -> str:
    """An arm's row in a line."""
    final = row.get("final", {})
    shown = ", ".join(f"{k} {final[k]:.4g}" for k in ("snr_db", "frc_half_nyquist", "held_out_error") if k in final)
    return f"{row['counts_per_frame']:.3g} counts a frame, {shown}, {row['seconds']['arm']:.0f} s"


TABLE = dict(snr_db="SNR (dB)", frc_half_nyquist="FRC 0.5", held_out_error="held-out error")
"""Scores in the table of a study, with their titles; the files have all."""


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for a terminal: each score of the final image, and in brackets that of the network alone; on the
    last row the mean of flat objects."""
    scores = [name for name in TABLE if any(name in row["final"] for row in rows)]

    def shown(row: Row, name: str) -> str:
        network, final = (row.get(stage, {}).get(name) for stage in ("network", "final"))
        text = "" if final is None else f"{final:.3g}"
        return text if network is None or network == final else f"{text} ({network:.3g})"

    lines = [
        [row["name"], f"{row['counts_per_frame']:.2g}", *(shown(row, name) for name in scores)]
        + [f"{row['seconds']['arm']:.0f}"]
        for row in rows
    ]
    flat = [[row["flat"][name] for row in rows if name in row.get("flat", {})] for name in scores]
    if any(flat):
        lines.append(["flat object", "", *(f"{np.mean(values):.3g}" if values else "" for values in flat), ""])
    return ["arm", "counts", *(TABLE[name] for name in scores), "time (s)"], lines


def flattened(row: Row, prefix: str = "") -> Row:
    """A row with the values of its tables as columns of their own; lists and the config left out."""
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, dict) and key != "config":
            flat |= flattened(value, f"{prefix}{key}.")
        elif not isinstance(value, dict | list):
            flat[prefix + key] = value
    return flat


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """``results.json`` with everything, ``results.csv`` with what fits into columns."""
    replace_text(folder / "results.json", json.dumps(list(rows), indent=1))
    table = [flattened(row) for row in rows]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in table for key in row)))
    writer.writeheader()
    writer.writerows(table)
    replace_text(folder / "results.csv", out.getvalue())


def reset_peak_memory() -> None:
    """Let `peak_memory` begin anew, where the system can (Linux) and may."""
    if sys.platform == "linux":
        # Without the right to, the peak is that of the whole process, as elsewhere.
        with suppress(PermissionError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Most memory that this process has held since `reset_peak_memory`, in MB."""
    if sys.platform == "linux":
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
