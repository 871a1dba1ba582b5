"""Few photons, little overlap: the fit from vacuum, and the same with the total variation that held-out photons choose.

    PTYCHO_DATA=../shared/data python benchmarks/photons.py sim64       four conditions of sim64_test, and all photons
    python benchmarks/photons.py cells                                  simulated cells, N 32, three objects, two doses

The probe is known. SNR of the object in dB, `compare_objects`; the truth is used by nothing before.
"""

import time

import numpy as np
import typer
from network import sim64

from ptycho.config import RefineConfig, SimulationConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.pipelines.prior import with_total_variation
from ptycho.refinement.from_network import photons_per_object_pixel
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate

app = typer.Typer(add_completion=False)

ROWS = {
    "6.9e2, 8 px": (0.01, 1),
    "6.9e3, 8 px": (0.1, 1),
    "6.9e4, 24 px": (1.0, 3),
    "6.9e4, 32 px": (1.0, 4),
    "6.9e4, 8 px": (1.0, 1),
}
"""Counts a frame and step: part of the photons, and every how many-th position is kept, both ways."""


def compare(name: str, scan: Scan) -> None:
    """Print one condition."""
    config = RefineConfig(noise="poisson")
    begin = time.perf_counter()
    plain = refine(scan, config)
    between = time.perf_counter()
    smoothed = with_total_variation(scan, config, plain, np.zeros(len(scan), bool))
    end = time.perf_counter()
    snr = lambda fit: compare_objects(fit.result.object, scan.object).snr_db
    print(
        f"{name}: {photons_per_object_pixel(scan):.0f} photons on an object pixel; "
        f"vacuum {snr(plain):.2f} dB in {between - begin:.0f} s, with total variation {snr(smoothed.fit):.2f} dB "
        f"in {end - between:.0f} s more, weight {smoothed.config.tv_weight:.3g}",
        flush=True,
    )


@app.command(name="sim64")
def sim64_rows() -> None:
    """`sim64_test` at several doses and steps."""
    for name, (dose, every) in ROWS.items():
        compare(name, sim64("test", dose, every))


@app.command()
def cells() -> None:
    """Cells, whose slow slopes total variation might eat."""
    for photons, seed in ((photons, seed) for photons in (500.0, 2000.0) for seed in (3, 4, 5)):
        settings = SimulationConfig(N=32, positions=225, step_px=3.0, jitter_px=1.0, photons=photons, seed=seed)
        compare(f"cells, {photons:.0f} counts a frame, seed {seed}", simulate(settings))


if __name__ == "__main__":
    app()
