"""What the one forward model brings: unknowns stay in the result, thick samples, near field through the network.

    python benchmarks/forward.py faults       background, varying probe: the error by fit and by report
    python benchmarks/forward.py thick        four slices fitted with four and with one
    python benchmarks/forward.py near         a near-field scan by the pretrained network, and by the fit alone
    python benchmarks/forward.py stopping     where a fit stops, and what going on would gain

Simulated scans with fixed seeds; times are those of a shared machine.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import typer

from ptycho.config import Multislice, NearField, RefineConfig, RunConfig, SimulationConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.pipelines.reconstruct import reconstruct_run
from ptycho.pipelines.refine import refine_run
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate

app = typer.Typer(add_completion=False)


def drawn(scan: Scan, expected: np.ndarray, seed: int = 1) -> Scan:
    """The scan with Poisson counts around others, without its truth."""
    counts = np.random.default_rng(seed).poisson(expected).astype("uint16")
    return replace(scan, counts=counts, object=None)


@app.command()
def faults() -> None:
    """Errors on held-out frames by the fit and by the report, over shot noise."""
    scan = simulate(SimulationConfig(N=48, positions=289, step_px=6.0, photons=2e4, noise=False))
    strength = 1 + 0.3 * np.random.default_rng(1).standard_normal(len(scan)).clip(-2, 2)
    cases = dict(
        background=(drawn(scan, scan.counts + 5.0), dict(background_from=2, background_blur_px=2.0)),
        opr=(drawn(scan, scan.counts * (strength**2)[:, None, None]), dict(opr_from=3)),
    )
    for name, (case, settings) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            refine_run(case, folder, RunConfig().updated("refine", dict(noise="poisson") | settings), hold_out_every=7)
            scores = json.loads((Path(folder) / "scores.json").read_text())
        best = min((e for e in scores["refinement"] if e["held_out_error"] is not None), key=lambda e: e["criterion"])
        print(
            f"{name}: fit {best['held_out_error']:.4f} (shot noise {best['shot_noise']:.4f}), report "
            f"{scores['held_out_error']:.4f} ({scores['shot_noise_error']:.4f}), frames of the fit at "
            f"{scores['trust']['median_ratio']:.3g} times the shot noise"
        )


@app.command()
def thick() -> None:
    """A scan of four slices, fitted by four and by one."""
    sample = Multislice(slices=4, spacing_px=60.0, wavelength_px=0.15)
    scan = simulate(
        SimulationConfig(N=32, positions=196, step_px=2.5, jitter_px=1.0, photons=1e6, seed=4, multislice=sample)
    )
    for slices, multislice in ((1, None), (4, sample)):
        fit = refine(scan, RefineConfig(noise="poisson", multislice=multislice))
        entry = fit.history[fit.best]
        epochs = np.median([e["seconds"] for e in fit.history[6:]])
        print(
            f"{slices} slices: fitted {entry['error']:.6f}, held out {entry['held_out_error']:.6f}, shot noise "
            f"{entry['shot_noise']:.6f}, {len(fit.history) - 1} epochs of {1e3 * epochs:.0f} ms"
        )


@app.command()
def near() -> None:
    """A near-field scan through the package's own network, and by the fit from vacuum."""
    near_field = NearField(distance_px=900.0, wavelength_px=0.03)
    scan = simulate(SimulationConfig(N=64, positions=225, step_px=6.0, near_field=near_field))
    for name, run in (
        (
            "network",
            lambda folder: reconstruct_run(scan, folder, RunConfig(), model_folder="pretrained", refined=False),
        ),
        ("network, refined", lambda folder: reconstruct_run(scan, folder, RunConfig(), model_folder="pretrained")),
        ("fit from vacuum", lambda folder: refine_run(scan, folder, RunConfig())),
    ):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            scores = run(folder).scores
        print(
            f"{name}: SNR {scores.snr_db:.1f} dB (flat {scores.flat.snr_db:.1f}), phase SSIM {scores.phase_ssim:.2f}, "
            f"{time.perf_counter() - begin:.0f} s"
        )


@app.command()
def stopping() -> None:
    """The default stop, beside the one before (patience 5, a thousandth) and a fit that goes on."""
    scan = simulate(SimulationConfig())
    for name, settings in (
        ("default", {}),
        ("patience 5, 1e-3", dict(patience=5, tolerance=1e-3)),
        ("goes on to 120 epochs", dict(patience=120, epochs=120)),
    ):
        begin = time.perf_counter()
        fit = refine(scan, RefineConfig(noise="poisson", **settings))
        score = compare_objects(fit.result.object, scan.object).snr_db
        print(f"{name}: best epoch {fit.best}, SNR {score:.1f} dB, {time.perf_counter() - begin:.1f} s {fit.notes}")


if __name__ == "__main__":
    app()
