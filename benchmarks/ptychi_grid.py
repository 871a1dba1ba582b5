"""pty-chi's LSQML at its best on the objects of ``photons.py unseen``: a grid of its settings, the best stop granted.

    python benchmarks/ptychi_grid.py run -o ptychi.jsonl                  what is recorded already is not run again
    python benchmarks/ptychi_grid.py table ptychi.jsonl unseen.jsonl      beside what `refine` chooses by itself

The grid: Gaussian or Poisson noise, momentum or none, random or compact batches, and its total variation in four
weights: 32 settings. All of them run on the camera, at each dose under each probe; on the other nine objects the four
that were best there. A setting's score is the highest SNR with the truth of all epochs looked at (`STOPS`), which no
user could know: nothing of the kind is granted to `refine`. Compact batches are not seeded: their scores vary by some
tenths of a dB.
"""

import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from photons import unseen_cases

from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.physics.grid import ObjectGrid
from ptycho.reconstruction import pty_chi
from ptycho.reconstruction.other_programs import MARGIN_PX, canvas_result

app = typer.Typer(add_completion=False)

STOPS = (2, 5, 10, 20, 40, 60)
"""Epochs after which the image is judged."""

GRID = [
    dict(noise=noise, momentum=momentum, batches=batches, tv=tv)
    for noise, momentum, batches, tv in product(
        ("gaussian", "poisson"), (0.0, 0.5), ("random", "compact"), (0.0, 1e-3, 1e-2, 3e-2)
    )
]
TUNED_ON, KEPT = "camera", 4


def best_of(scan: Scan, setting: dict[str, Any]) -> tuple[float, int]:
    """The highest SNR of all stops, and its epoch; -inf where it diverges before the first."""
    plain_options, scores = pty_chi._options, [(-np.inf, 0)]
    grid = ObjectGrid.around(scan.positions, scan.N, MARGIN_PX)  # that `run_ptychi` reconstructs on

    def options(api: Any, *words: Any) -> Any:
        made = plain_options(api, *words)
        made.reconstructor_options.noise_model = api.NoiseModels(setting["noise"])
        made.reconstructor_options.momentum_acceleration_gain = setting["momentum"]
        made.reconstructor_options.batching_mode = api.BatchingModes(setting["batches"])
        made.object_options.total_variation.enabled = setting["tv"] > 0
        made.object_options.total_variation.weight = setting["tv"]
        return made

    def judged(task: Any, epochs: int, *_: Any) -> list[dict[str, Any]]:
        for epoch in range(1, epochs + 1):
            task.run(1)
            if epoch in STOPS:
                image = task.get_data_to_cpu("object", as_numpy=True)[0]
                if not np.isfinite(image).all():
                    break
                result = canvas_result(scan, grid, image, scan.probe, np.arange(len(scan)))
                scores.append((compare_objects(result.object, scan.object).snr_db, epoch))
        return [dict(epoch=epochs, seconds=0.0, loss=0.0)]

    with mock.patch.object(pty_chi, "_options", options), mock.patch.object(pty_chi, "_iterate", judged):
        pty_chi.run_ptychi(scan, engine="lsqml", epochs=STOPS[-1], threads=1)
    return max(scores)


@app.command()
def run(output: Annotated[Path, typer.Option("-o", "--output")], only: str = "") -> None:
    """The whole grid on one object, its best settings on the others; a line of JSON for each scan."""
    records = [json.loads(text) for text in output.read_text().splitlines()] if output.exists() else []
    settings = {condition(each["name"]): each["settings"] for each in records if each["name"].startswith(TUNED_ON)}
    cases = sorted(unseen_cases(), key=lambda case: not case[0].startswith(TUNED_ON))
    for title, make in cases:
        if only not in title or title in {each["name"] for each in records}:
            continue
        scan = make()
        tried = settings.get(condition(title), GRID)
        scores = [best_of(scan, setting) for setting in tried]
        order = np.argsort([-snr for snr, _ in scores])[:KEPT]
        record = dict(
            name=title,
            settings=[tried[index] for index in order],
            snr=[round(float(scores[index][0]), 2) for index in order],
            epochs=[scores[index][1] for index in order],
        )
        if title.startswith(TUNED_ON):
            settings[condition(title)] = record["settings"]
        with output.open("a") as file:
            file.write(json.dumps(record) + "\n")


def condition(title: str) -> str:
    """Dose and probe, of a scan's name."""
    return title.split(", ", 1)[1]


@app.command()
def table(path: Path, ours: Path) -> None:
    """By dose and probe: medians of both, what is gained over pty-chi, and its best settings on the camera."""
    chosen = {each["name"]: each["chosen"] for each in map(json.loads, ours.read_text().splitlines())}
    theirs = {each["name"]: each for each in map(json.loads, path.read_text().splitlines())}
    rows = defaultdict(list)
    for name in theirs.keys() & chosen.keys():
        rows[condition(name)].append(name)
    print("| counts a frame, probe | scans | pty-chi, best | `refine` | gain: least, largest | best settings |")
    print("|---|---|---|---|---|---|")
    for heading, names in sorted(rows.items()):
        gain = [chosen[name] - theirs[name]["snr"][0] for name in names]
        best = theirs[f"{TUNED_ON}, {heading}"]["settings"][0]
        print(
            f"| {heading} | {len(names)} | {np.median([theirs[name]['snr'][0] for name in names]):.1f} "
            f"| {np.median([chosen[name] for name in names]):.1f} | {min(gain):.1f}, {max(gain):.1f} "
            f"| {best['noise']}, momentum {best['momentum']:g}, {best['batches']}, {best['tv']:g} |"
        )


if __name__ == "__main__":
    app()
