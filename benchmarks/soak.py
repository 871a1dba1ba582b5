"""Many runs in one process, and a live page open for an hour: memory flat, no thread and no file left open.

    python benchmarks/soak.py runs --count 200      # simulate, train, reconstruct, refine, four sizes in turn
    python benchmarks/soak.py page --minutes 60     # a fit of simulated scans after another, one client all the time

Memory is that of the process (resident), after the collector has run. What compiles, and the networks' first of each
size, is over after the first runs: the growth is a line fitted to those after a quarter of them.
"""

import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from live import browser

from ptycho.config import ModelConfig, RefineConfig, SimulationConfig, TrainingConfig
from ptycho.network.build import build_model
from ptycho.output.live import live_page
from ptycho.reconstruction import reconstruct
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate
from ptycho.training.train import train

app = typer.Typer(add_completion=False)
SIZES = (24, 32, 48, 64)


def memory_mb() -> float:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def told(records: list[dict], unit: str) -> None:
    """Print what the later three quarters have grown by."""
    later = records[len(records) // 4 :]
    x = np.array([record["at"] for record in later], float)
    slope, _ = np.polyfit(x, [record["mb"] for record in later], 1)
    first, last = later[0], later[-1]
    print(f"memory {first['mb']:.0f} -> {last['mb']:.0f} MB, {slope:+.3f} MB a {unit}")
    for name in ("threads", "files"):
        print(f"{name} {first[name]} -> {last[name]}")


def state(at: float) -> dict:
    return dict(at=at, mb=memory_mb(), threads=threading.active_count(), files=open_files())


@app.command()
def runs(count: int = 200, output: Annotated[Path | None, typer.Option("-o", "--output")] = None) -> None:
    """Runs of the library, one after the other."""
    records = []
    for number in range(count):
        N = SIZES[number % len(SIZES)]
        scan = simulate(SimulationConfig(N=N, positions=64, step_px=N / 6, seed=number))
        model = build_model(ModelConfig(N=N, gridsize=2, stages=1, width=4, seed=number), scan.probe)
        train(model, scan, TrainingConfig(epochs=1))
        start = reconstruct(model, scan)
        refine(scan, RefineConfig(epochs=3), start=start)
        del model, start, scan
        records.append(state(number))
        print(json.dumps(records[-1]), flush=True)
        if output is not None:
            output.write_text(json.dumps(records))
    told(records, "run")


@app.command()
def page(minutes: float = 60.0) -> None:
    """Fits, watched by a client through one live page after the other; each page is open as long as its fit."""
    records, begin = [], time.monotonic()
    scans = [simulate(SimulationConfig(N=64, positions=256, seed=seed)) for seed in range(3)]
    addresses: list[str] = []
    number = 0
    while time.monotonic() - begin < 60 * minutes:
        scan = scans[number % len(scans)]
        with (
            live_page(scan, lambda *numbers: None, say=addresses.append) as progress,
            browser(addresses[-1].removeprefix("live: "), "client"),
        ):
            refine(scan, RefineConfig(epochs=60, patience=1000), progress=progress)
        number += 1
        records.append(state((time.monotonic() - begin) / 60))
        print(json.dumps(records[-1]), flush=True)
    told(records, "minute")


if __name__ == "__main__":
    app()
