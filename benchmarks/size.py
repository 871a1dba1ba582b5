"""A scan larger than memory: training and reconstruction under an enforced limit, beside a small scan in memory.

    python benchmarks/size.py compare 20        a scan of 20 GB in the folder for temporary files

The scan consists of copies, side by side, of a simulated one of 1024 frames of 128 pixels. The limit is the kernel's
on writable memory (RLIMIT_DATA), which holds all arrays.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import typer
from network import peak_memory

from ptycho.config import PRESETS, ModelConfig, SimulationConfig, TrainingConfig
from ptycho.formats import read_scan
from ptycho.network.build import build_model
from ptycho.reconstruction import reconstruct
from ptycho.simulation.simulate import simulate
from ptycho.training.train import train

app = typer.Typer(add_completion=False)
N, COPY = 128, 1024


@app.command()
def compare(gigabytes: float, limit_gb: float = 3.0, training_frames: int = 4000) -> None:
    """Write the scan, and run it and its first frames in separate processes; the file is deleted at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        frames = write_large(path, gigabytes)
        print(json.dumps(dict(frames=frames, gigabytes=round(path.stat().st_size / 2**30, 2))), flush=True)
        for used, limit in ((COPY * 4, 0.0), (frames, limit_gb)):
            command = [sys.executable, __file__, "one", str(path), str(used), str(limit), str(training_frames)]
            subprocess.run(command, check=True)


@app.command()
def one(path: Path, frames: int, limit_gb: float, training_frames: int) -> None:
    """Train and reconstruct; a limit of 0 is none, and the scan is read into memory."""
    if limit_gb:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 2**30),) * 2)
    begin = time.perf_counter()
    scan = read_scan(path)
    opened = time.perf_counter() - begin
    if frames < len(scan):
        scan = scan.subset(slice(0, frames))
        scan = replace(scan, counts=np.asarray(scan.counts))
    model = build_model(ModelConfig(N=N, **PRESETS["fast"]), scan.probe)
    train(model, scan.subset(slice(0, COPY)), TrainingConfig(epochs=2))  # compiles
    begin = time.perf_counter()
    history = train(model, scan, TrainingConfig(total_frames=training_frames, validation_fraction=0.0))
    total, epochs = time.perf_counter() - begin, sum(epoch["seconds"] for epoch in history)
    begin = time.perf_counter()
    result = reconstruct(model, scan)
    rate = len(scan) / (time.perf_counter() - begin)
    print(
        json.dumps(
            dict(frames=len(scan), stored=type(scan.counts).__name__, limit_gb=limit_gb or None, peak_mb=peak_memory())
            | dict(open_s=round(opened, 1), grouping_s=round(total - epochs, 1))
            | dict(training=round(training_frames / epochs, 1), prediction=round(rate, 1))
            | dict(object=result.object.shape, losses=[round(float(e["loss"]), 4) for e in history])
        ),
        flush=True,
    )


def write_large(path: Path, gigabytes: float) -> int:
    """A scan of about this size (uncompressed, in memory and on disk); returns its number of frames."""
    scan = simulate(SimulationConfig(N=N, positions=COPY, step_px=6.0, photons=1e5))
    copies = max(1, round(gigabytes * 2**30 / scan.counts.astype("uint16").nbytes))
    width = np.ptp(scan.positions[:, 1]) + 6
    with h5py.File(path, "w") as file:
        counts = file.create_dataset("counts", (copies * COPY, N, N), "uint16", chunks=(1, N, N))
        for k in range(copies):
            counts[k * COPY : (k + 1) * COPY] = scan.counts
        file["positions_px"] = np.concatenate([scan.positions + (0, k * width) for k in range(copies)])
        file["probe"] = scan.probe
    return copies * COPY


if __name__ == "__main__":
    app()
