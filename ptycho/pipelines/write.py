"""The files that a run leaves: the image, its scores, the settings that made it, a figure and a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import Check
from ptycho.io import replace_text
from ptycho.output.figures import save_figure
from ptycho.output.images import save_png
from ptycho.output.report import save_report
from ptycho.pipelines.assess import Outcome
from ptycho.pipelines.provenance import Record
from ptycho.training.schedule import History


def write_json(path: Path, values: Any) -> None:
    """Values as indented JSON, in a file that appears at once."""
    replace_text(path, json.dumps(values, indent=1) + "\n")


def write_image(folder: Path, outcome: Outcome, force: bool = False) -> None:
    """``reconstruction.h5``, ``object.png`` and ``scores.json``.

    Where the verdict is that there is no image, the first two are not written, unless with ``force``; those of an
    earlier run are removed, so that nobody takes them for this one's.
    """
    if outcome.is_image or force:
        outcome.result.save(folder / "reconstruction.h5")
        save_png(outcome.result, folder / "object.png")
    else:
        for name in ("reconstruction.h5", "object.png"):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "scores.json", outcome.to_dict())


def write_run(
    folder: Path,
    scan: Scan,
    outcome: Outcome,
    settings: Record,
    checks: Sequence[Check],
    training: History,
    *,
    force: bool = False,
) -> None:
    """`write_image`, ``figure.png`` and ``report.html``; the run's ``settings`` are shown on the page.

    ``training`` is the network's; the loss curve of the figure is the refinement's where there is none.
    """
    write_image(folder, outcome, force)
    result, fit = outcome.result, (outcome.fit or [])[1:]  # the first entry is what the fit started from
    epochs = [epoch.to_dict() for epoch in training]
    curve = epochs or [
        dict(epoch=entry["epoch"], loss=entry["error"], validation_loss=entry["held_out_error"]) for entry in fit
    ]
    save_figure(result, scan.counts[len(scan) // 2], curve, folder / "figure.png", title=str(scan.source))
    save_report(
        folder / "report.html",
        scan,
        result,
        scores=outcome.scores,
        verdict=outcome.verdict,
        judgement=outcome.judgement,
        lens=outcome.lens,
        half_sets=outcome.half_sets,
        findings=outcome.sentences()[0 if outcome.verdict is None else 1 :],
        training=epochs,
        fit=fit,
        smoothing=outcome.smoothing,
        settings=settings | result.provenance,
        checks=checks,
    )
