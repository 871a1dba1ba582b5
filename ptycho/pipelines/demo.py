"""The demo: from a simulated scan to a scored image."""

import os
from pathlib import Path

from ptycho.config import DEMO, RunConfig, SimulationConfig
from ptycho.formats import write_scan
from ptycho.pipelines.assess import Outcome
from ptycho.pipelines.open import Log
from ptycho.pipelines.reconstruct import reconstruct_run
from ptycho.progress import Progress
from ptycho.simulation.simulate import simulate


def demo_run(folder: str | os.PathLike, run: RunConfig, *, progress: Progress | None = None, log: Log) -> Outcome:
    """Simulate a scan with known truth, train a network on it, reconstruct it and score the image."""
    scan = simulate(run.make(SimulationConfig))
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_scan(scan, Path(folder) / "scan.h5")
    log(f"simulated {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")
    return reconstruct_run(scan, folder, run.over("training", DEMO), auto=False, progress=progress)
