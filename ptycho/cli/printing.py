"""What commands print: sentences, tables, scores."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:  # heavy, and here only for their types
    from ptycho.evaluation import Scores
    from ptycho.pipelines.assess import Outcome

NO_IMAGE = 3
"""Exit code of a run whose verdict is that there is no image."""


def one_line(error: Exception, most: int = 1200) -> str:
    """An error's text in a line of a terminal: neither control characters of a file in it, nor more than is read.

    What is too long loses its middle: the file is named at the start, the remedy at the end.
    """
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    return text if len(text) <= most else f"{text[: most - 300]} ... {text[-300:]}"


def log(text: str) -> None:
    """Print a sentence, as wide as the terminal."""
    from rich.console import Console

    Console().print(text, markup=False, highlight=False)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str | float]]) -> None:
    """Print a table; numbers with three decimals."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*titles)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row))
    Console().print(table)


def print_scores(scores: "Scores", before: "Scores | None" = None) -> None:
    """Print scores beside those of a flat object, and of what a refinement started from."""
    rows: Sequence[Sequence[str | float]] = scores.rows()
    titles = ["score", "reconstruction", "flat object"]
    if before is not None:
        titles = ["score", "before", "refined", "flat object"]
        rows = [(name, old, new, flat) for (name, new, flat), (_, old, _) in zip(rows, before.rows(), strict=True)]
    print_table(titles, rows)
    if not scores.gauge.registered:
        log("warning: the reconstruction could not be registered with the truth; the centres were aligned")


def print_held_out_error(outcome: "Outcome", every: int) -> None:
    """Print the error of the held-out frames 0, k, 2 k, ..., with what shot noise makes of it."""
    before = "" if outcome.before is None else f", {outcome.before.held_out_error:.4f} before the refinement"
    log(
        f"error on frames 0, {every}, {2 * every}, ...: {outcome.held_out_error:.4f}{before} "
        f"(about {outcome.shot_noise:.4f} from shot noise alone; {outcome.mean_frame_error:.4f} by predicting the mean "
        "of the other frames)"
    )
    if outcome.judgement is not None and outcome.judgement.uncovered:
        log(f"{outcome.judgement.uncovered} held-out frames show what the others do not cover: left out")


def print_outcome(outcome: "Outcome", folder: Path) -> None:
    """Print how good a run's result is, what to beware of, and where it is."""
    if outcome.scores is not None:
        print_scores(outcome.scores, None if outcome.before is None else outcome.before.scores)
    if outcome.held_out_error is not None:
        print_held_out_error(outcome, outcome.result.provenance["hold_out_every"])
    if outcome.fit:
        powers = (abs(outcome.result.probe) ** 2).sum(axis=(1, 2))
        if len(powers) > 1:
            log("power of the probe modes: " + ", ".join(f"{100 * power:.1f} %" for power in powers / powers.sum()))
        seconds = sum(entry["seconds"] for entry in outcome.fit)
        log(f"refined in {len(outcome.fit) - 1} epochs, {seconds:.1f} s")
    if outcome.trust is not None:
        log(outcome.trust.sentence())
    for warning in outcome.warnings:
        log(f"warning: {warning}")
    if outcome.verdict is not None and outcome.verdict.sentence not in outcome.warnings:
        log(outcome.verdict.sentence)
    for note in outcome.notes:
        log(note)
    for measured in (outcome.half_sets, outcome.lens, outcome.crystal):
        if measured is not None:
            log(measured.sentence())
    log(f"{outcome.result.used} frames used, {outcome.result.dropped} dropped; results in {folder}")
    log(f"next: ptycho view {folder}")


def finish(outcome: "Outcome", folder: Path, force: bool) -> None:
    """Print the outcome of a run; exit code 3 where it is no image, unless with ``force``."""
    print_outcome(outcome, folder)
    if outcome.is_image or force:
        return
    log(f"no image was written: {folder / 'report.html'} shows what came out; --force writes it all the same")
    raise typer.Exit(NO_IMAGE)
