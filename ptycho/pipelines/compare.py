"""One scan reconstructed by several methods, one after the other, and assessed alike."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from ptycho.config import RunConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import Metrics, Scores
from ptycho.output.images import save_png
from ptycho.output.report import save_comparison
from ptycho.pipelines.assess import Outcome, assess, with_residuals
from ptycho.pipelines.open import held_out_frames
from ptycho.pipelines.provenance import Record, provenance
from ptycho.pipelines.refine import refine_config
from ptycho.pipelines.write import write_json
from ptycho.progress import Progress
from ptycho.reconstruction.other_programs import (
    PROGRAMS,
    EngineRun,
    ProgramFailed,
    default_environments,
    install,
    python_for,
    run_program,
)
from ptycho.reconstruction.pty_chi import Engine, run_ptychi, why_not
from ptycho.refinement.refine import Refinement, refine

OURS = "refine"
"""The name of the package's own refinement among the methods; the others are engines of pty-chi, or other programs."""

PTYCHI: tuple[str, ...] = get_args(Engine)

SCORES = dict(snr_db="SNR (dB)", amplitude_ssim="amplitude SSIM", phase_rms_rad="phase rms (rad)")
"""Scores against the true object that the table shows, with their titles; the file has all."""

History = Sequence[Mapping[str, Any]]


class Entry(NamedTuple):
    """What one method made of the scan."""

    method: str
    outcome: Outcome
    history: History
    """One entry an epoch, as the method gives it; ``seconds`` in each."""
    setup_seconds: float
    """Time that no epoch accounts for. What compiles in its first epochs counts it there."""

    @property
    def title(self) -> str:
        """The method's name for readers."""
        return f"pty-chi {self.method}" if self.method in PTYCHI else self.method

    @property
    def epochs(self) -> int:
        """Passes over the frames; a program may give the time of all at once, ours begins with where it starts from."""
        return len(self.history) if self.method == OURS else self.history[-1]["epoch"]

    @property
    def seconds(self) -> float:
        """Time of all the epochs."""
        return sum(epoch["seconds"] for epoch in self.history)


class Comparison(NamedTuple):
    """The methods that came to an end, and a sentence about each of the others."""

    entries: list[Entry]
    notes: list[str]


def compare_run(
    scan: Scan,
    folder: str | os.PathLike,
    *,
    engines: Sequence[str] = ("lsqml", "rpie"),
    hold_out_every: int | None = None,
    epochs: int | None = None,
    other_epochs: int = 30,
    batch_size: int | None = None,
    seed: int = 0,
    environments: str | os.PathLike | None = None,
    installs: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Refine a scan from vacuum, run engines of pty-chi and other programs on it, and leave all in the folder.

    All keep a probe that is known, and seek one that is a guess. Writes ``<method>.h5`` and ``<method>.png`` as each
    is done, ``comparison.json`` and ``report.html``.

    Args:
        scan, folder: what is reconstructed; where the results go.
        engines: of pty-chi, see `run_ptychi`, and names of other `PROGRAMS`; left out where they are not installed.
        hold_out_every: frames 0, k, 2 k, ... are kept from every fit, and judge the results.
        epochs: passes over the frames; None: as many as it takes, and ``other_epochs`` of the other engines, which
            have no stopping rule.
        batch_size: frames in a batch of pty-chi's engines, see `run_ptychi`.
        seed: of the order of the frames.
        environments: where each program has its environment, in a folder of its name; None: `default_environments`.
        installs: make the environments that are missing, by pip.
        progress: told of the progress.

    Raises:
        ValueError: there is no such engine.
    """
    unknown = [name for name in engines if name not in (*PTYCHI, *PROGRAMS)]
    if unknown:
        raise ValueError(
            f"no engine {', '.join(unknown)}; those of pty-chi are {', '.join(PTYCHI)}, "
            f"other programs are {', '.join(PROGRAMS)}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held_out = held_out_frames(scan, hold_out_every)
    record = provenance(scan) | dict(probe_known=scan.probe_known, modes=scan.modes, hold_out_every=hold_out_every or 0)
    others, notes = _other_engines(engines, Path(environments or default_environments()), installs)
    methods: dict[str, Callable[[], Refinement | EngineRun]] = {
        OURS: lambda: _refined(scan, held_out, epochs, seed, progress)
    }
    for name, engine in others.items():
        settings = dict(epochs=epochs or other_epochs, held_out=held_out, seed=seed, progress=progress)
        methods[name] = partial(engine, scan, **settings, **(dict(batch_size=batch_size) if name in PTYCHI else {}))
    entries = []
    for method, reconstruct in methods.items():
        begin = time.perf_counter()
        try:
            run = reconstruct()
        except (FloatingPointError, ProgramFailed) as error:
            notes.append(str(error))
            continue
        wall = time.perf_counter() - begin
        notes += run.notes if isinstance(run, Refinement) else [run.note] if run.note else []
        origin = record | dict(method=method, epochs=len(run.history))
        result, _ = with_residuals(replace(run.result, provenance=origin), scan)
        result.save(folder / f"{method}.h5")
        save_png(result, folder / f"{method}.png")
        entry = Entry(method, assess(result, scan, held_out), run.history, 0.0)
        entries.append(entry._replace(setup_seconds=wall - entry.seconds))
    record |= dict(methods=_methods_record(entries), notes=notes)
    if any(entry.method in PTYCHI for entry in entries):
        record |= dict(ptychi=version("ptychi"), torch=version("torch"), batch_size=batch_size)
    write_json(folder / "comparison.json", record)
    settings = provenance(scan) | dict(engines=list(engines), epochs=epochs, batch_size=batch_size, seed=seed)
    _write_page(folder, scan, entries, notes, settings)
    return Comparison(entries, notes)


def _other_engines(
    engines: Sequence[str], environments: Path, installs: bool
) -> tuple[dict[str, Callable[..., EngineRun]], list[str]]:
    """The engines that can run here, and a sentence about those that cannot."""
    ready: dict[str, Callable[..., EngineRun]] = {}
    notes: list[str] = []
    of_ptychi = [name for name in engines if name in PTYCHI]
    unavailable = why_not() if of_ptychi else None
    if unavailable:
        notes.append(f"without {', '.join(of_ptychi)}: {unavailable}")
    for name in engines:
        if name in PTYCHI:
            if not unavailable:
                ready[name] = partial(run_ptychi, engine=cast(Engine, name))
            continue
        try:
            python = install(name, environments) if installs else python_for(name, environments)
        except OSError as error:
            notes.append(f"without {name}: {error}")
            continue
        if python is None:
            notes.append(f"without {name}: it is not installed in {environments} (--install-engines does so)")
        else:
            ready[name] = partial(run_program, name=name, python=python)
    return ready, notes


def _write_page(folder: Path, scan: Scan, entries: Sequence[Entry], notes: Sequence[str], settings: Record) -> None:
    if entries:
        save_comparison(
            folder / "report.html",
            scan,
            {entry.method: entry.outcome.result for entry in entries},
            scores={entry.method: entry.outcome.scores for entry in entries if entry.outcome.scores is not None},
            rows=table(entries),
            histories={entry.method: entry.history for entry in entries},
            notes=notes,
            settings=settings | dict(refine=refine_config(RunConfig(), scan).to_dict()),
        )


def table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: times, scores where the truth is known (of a flat object last), errors of held-out frames."""
    outcome = entries[0].outcome
    titles = ["method", "epochs", "epochs (s)", "set-up (s)"]
    titles += [*SCORES.values()] if outcome.scores else []
    titles += ["held-out error", "of it shot noise"] if outcome.held_out_error is not None else []
    rows = [_row(entry) for entry in entries]
    if outcome.scores:
        rows.append(["flat object", "", "", "", *_scores(outcome.scores.flat)])
    return titles, [row + [""] * (len(titles) - len(row)) for row in rows]


def _row(entry: Entry) -> list[str]:
    scores, error, noise = entry.outcome.scores, entry.outcome.held_out_error, entry.outcome.shot_noise
    row = [entry.title, str(entry.epochs), f"{entry.seconds:.1f}", f"{entry.setup_seconds:.1f}"]
    return row + (_scores(scores) if scores else []) + ([f"{error:.4f}", f"{noise:.4f}"] if error is not None else [])


def _scores(scores: Metrics | Scores) -> list[str]:
    return [f"{getattr(scores, name):.3f}" for name in SCORES]


def _refined(scan: Scan, held_out: np.ndarray, epochs: int | None, seed: int, progress: Progress | None) -> Refinement:
    config = refine_config(RunConfig().updated("refine", dict(seed=seed, epochs=epochs)), scan)
    return refine(scan, config, held_out=held_out, progress=progress)


def _methods_record(entries: Sequence[Entry]) -> Record:
    """The methods' numbers, ready for JSON."""
    return {
        entry.method: dict(
            epochs=entry.epochs, seconds=entry.seconds, setup_seconds=entry.setup_seconds, history=entry.history
        )
        | entry.outcome.to_dict()
        for entry in entries
    }
