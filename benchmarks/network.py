"""The network against PtychoPINN and iterative engines: images, speed, and how both depend on dose and overlap.

    PTYCHO_DATA=../shared/data python benchmarks/network.py quality            every condition, three seeds: hours
    PTYCHO_DATA=../shared/data python benchmarks/network.py quality --only "step 8, 6.9e4" --seeds 0
    PTYCHO_DATA=../shared/data python benchmarks/network.py speed
    python benchmarks/network.py table                                         what is recorded in network.jsonl

Each run is a line of ``network.jsonl``, with the commit that made it. The other programs' figures were measured once,
on the same machine and files (docs/results.md).
"""

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from ptycho.checkpoint import load_pretrained
from ptycho.config import PRESETS, ModelConfig, Preset, TrainingConfig
from ptycho.data.formats import read_scan
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.network.build import build_model
from ptycho.pretraining import adapted
from ptycho.reconstruction import reconstruct
from ptycho.training import train

RECORD = Path(__file__).with_suffix(".jsonl")
SIDE = 41  # of the raster of sim64


class Condition(NamedTuple):
    """What is trained, and for how long. Frames, not seconds: a run does not depend on what else the machine does."""

    dose: float
    """As part of 6.9e4 counts a frame."""
    every: int
    """Every k-th position of the raster is kept, both ways."""
    preset: Preset
    frames: int
    """Shown in training in all."""
    start: str | None = None
    """``pretrained``: from the network that comes with the package, which has seen simulated scans with their truth."""


CONDITIONS = {
    "step 8, 6.9e4": Condition(1.0, 1, "best", 60_000),
    "step 8, 6.9e3": Condition(0.1, 1, "best", 40_000),
    "step 8, 6.9e2": Condition(0.01, 1, "best", 24_000),
    "step 8, 6.9e2, from pretrained": Condition(0.01, 1, "best", 24_000, "pretrained"),
    "step 24, 6.9e4": Condition(1.0, 3, "best", 30_000),
    "step 32, 6.9e4": Condition(1.0, 4, "best", 16_000),
    "60 s": Condition(1.0, 1, "best", 8_000),
    "each frame alone": Condition(1.0, 1, "fast", 100_000),
}
# SNR in dB: what is asked for, a flat object, converged LSQML with the probe given, PtychoPINN after 514 s.
OTHERS: dict[str, tuple[float, float, float | None, float | None]] = {
    "step 8, 6.9e4": (25.0, 11.0, 27.6, 12.4),
    "step 8, 6.9e3": (22.5, 11.0, 20.4, None),
    "step 8, 6.9e2": (18.0, 11.0, 12.6, None),
    "step 8, 6.9e2, from pretrained": (18.0, 11.0, 12.6, None),
    "step 24, 6.9e4": (22.0, 11.0, 21.8, None),
    "step 32, 6.9e4": (17.5, 11.0, 14.9, None),
    "60 s": (19.0, 11.0, 17.9, None),
    "each frame alone": (17.5, 11.0, None, 12.4),
}

app = typer.Typer(add_completion=False)


def sim64(which: str, dose: float, every: int) -> Scan:
    """The simulated benchmark at another dose (binomial thinning, seed 0), with every k-th position both ways."""
    scan = read_scan(Path(os.environ["PTYCHO_DATA"]) / f"sim64_{which}.npz")
    kept = np.zeros((SIDE, SIDE), bool)
    kept[::every, ::every] = True
    if dose < 1:
        counts = np.random.default_rng(0).binomial(scan.counts.astype(int), dose).astype("uint16")
        scan = replace(scan, counts=counts, probe=(scan.probe * np.sqrt(dose)).astype("complex64"))
    return scan if every == 1 else scan.subset(kept.ravel())


@app.command()
def quality(
    only: Annotated[list[str] | None, typer.Option()] = None,
    seeds: Annotated[list[int] | None, typer.Option()] = None,
) -> None:
    """Train on sim64_train without its truth; judge on sim64_test, and on sim64_train itself."""
    for name in only or CONDITIONS:
        at = CONDITIONS[name]
        for seed in seeds or (0, 1, 2):
            scan = sim64("train", at.dose, at.every)
            if at.start:
                model, rate = adapted(load_pretrained(), scan), dict(learning_rate=1e-3)
            else:
                model, rate = build_model(ModelConfig(N=64, seed=seed, **PRESETS[at.preset]), scan.probe), {}
            start = time.perf_counter()
            # No early stop, and no halving of the step size: the length of a run is that of its condition.
            history = train(model, scan, TrainingConfig(total_frames=at.frames, patience=1000, seed=seed, **rate))
            took = time.perf_counter() - start
            entry = dict(condition=name, seed=seed, seconds=round(took, 1), frames=at.frames, epochs=len(history))
            for which in ("test", "train"):
                own = sim64(which, at.dose, at.every)
                scores = compare_objects(reconstruct(model, own).object, own.object)
                entry[which] = {key: round(float(getattr(scores, key)), 4) for key in KEYS}
            record(entry)


KEYS = ("snr_db", "amplitude_ssim", "phase_ssim", "phase_rms_rad")


@app.command()
def speed() -> None:
    """Frames a second, whole program from arrays to image; compilation apart."""
    scan = sim64("test", 1.0, 1)
    for preset in PRESETS:
        model = build_model(ModelConfig(N=64, **PRESETS[preset]), scan.probe)
        history = train(model, scan, TrainingConfig(epochs=4))
        training = len(scan) / float(np.median([entry["seconds"] for entry in history[1:]]))
        times = []
        for _ in range(4):
            start = time.perf_counter()
            reconstruct(model, read_scan(Path(os.environ["PTYCHO_DATA"]) / "sim64_test.npz"))
            times.append(time.perf_counter() - start)
        record(
            dict(
                condition=f"speed {preset}",
                training=round(training),
                prediction=round(len(scan) / min(times[1:])),
                compilation_s=round(times[0] - min(times[1:]), 2),
            )
        )


def record(entry: dict) -> None:
    """Add a line to the record, and show it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    line = json.dumps(entry | dict(commit=head.stdout.strip()))
    with RECORD.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


@app.command()
def table() -> None:
    """The latest run of each condition and seed, as Markdown: mean and spread (largest less least) over the seeds."""
    entries: dict[str, dict[int, dict]] = {}
    for line in RECORD.read_text().splitlines():
        entry = json.loads(line)
        if entry["condition"] in CONDITIONS and entry["frames"] == CONDITIONS[entry["condition"]].frames:
            entries.setdefault(entry["condition"], {})[entry["seed"]] = entry
    print(
        "| condition | seeds | training, s | sim64_test, dB | spread | amplitude SSIM | own object, dB | asked |"
        " LSQML | PtychoPINN | flat |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, runs in entries.items():
        values = {w: np.array([[run[w][k] for k in KEYS] for run in runs.values()]) for w in ("test", "train")}
        asked, flat, engine, pinn = OTHERS[name]
        cells = [
            name,
            str(len(runs)),
            f"{max(run['seconds'] for run in runs.values()):.0f}",
            f"{values['test'][:, 0].mean():.2f}",
            f"{np.ptp(values['test'][:, 0]):.2f}",
            f"{values['test'][:, 1].mean():.3f}",
            f"{values['train'][:, 0].mean():.2f}",
            f"{asked}",
            f"{engine or ''}",
            f"{pinn or ''}",
            f"{flat}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    app()
