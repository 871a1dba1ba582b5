"""The same fits by this package and by another checkout of it, to see that nothing got worse.

    git worktree add ../before 897d2df
    PTYCHO_DATA=../shared/data PYTHONPATH=../before python benchmarks/before_after.py
    PTYCHO_DATA=../shared/data PYTHONPATH=. python benchmarks/before_after.py

Twenty epochs each, so that both do the same work; of two fits in one process the median of the faster epochs, the
first and last four left out. Names of before the forward model became one (897d2df) are understood.
"""

import os
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from ptycho.config import RefineConfig
from ptycho.evaluation import compare_objects

try:
    from ptycho.formats import read_scan
    from ptycho.pipelines.assess import assess
    from ptycho.pipelines.open import open_scan
    from ptycho.refinement.refine import refine
except ImportError:
    from ptycho.data.formats import read_scan
    from ptycho.reconstruction.refine.fit import refine
    from ptycho.runs import judge as assess
    from ptycho.runs import open_scan

OLD = "withheld" in {field.name for field in fields(RefineConfig)}
HELD_OUT = "withheld" if OLD else "held_out"
EPOCHS = 17 if OLD else 20
"""The old code adds its last three epochs to those asked for."""


def twenty_epochs(scan, config, **options):
    """The fit, and the median time of its epochs in seconds."""
    config = replace(config, epochs=EPOCHS, patience=1000)
    refine(scan, replace(config, epochs=6), **options)
    fits = [refine(scan, config, **options) for _ in range(2)]
    times = zip(*([entry["seconds"] for entry in fit.history] for fit in fits), strict=True)
    return fits[-1], float(np.median([min(pair) for pair in times][4:-4]))


def main() -> None:
    folder = Path(os.environ["PTYCHO_DATA"])
    for modes in (1, 3):
        scan = open_scan(folder / "siemens-star-small.npz.bz2", lambda line: None, modes)
        held_out = getattr(scan, f"{HELD_OUT}_mask")(10)
        config = RefineConfig(probe_from=1, **{HELD_OUT: 0.03})
        fit, epoch = twenty_epochs(scan, config, **{HELD_OUT: held_out})
        error = getattr(assess(fit.result, scan, held_out), f"{HELD_OUT}_error")
        print(f"star, {modes} modes, cg: {epoch:.3f} s an epoch, error {error:.5f}", flush=True)
    scan = read_scan(folder / "sim64_test.npz")
    for method in ("cg", "lsqml"):
        fit, epoch = twenty_epochs(scan, RefineConfig(noise="poisson", method=method))
        snr = compare_objects(fit.result.object, scan.object).snr_db
        print(f"sim64_test, Poisson, {method}: {epoch:.3f} s an epoch, {snr:.2f} dB", flush=True)


if __name__ == "__main__":
    started = time.time()
    main()
    print(f"{time.time() - started:.0f} s in all")
