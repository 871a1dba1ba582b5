"""Electrons: simulated 4D-STEM with exact truth, through `ptycho reconstruct` from the frames and the optics alone.

    PTYCHO_DATA=../shared/data python benchmarks/stem.py run thin                      MoS2, transposed, 15 degrees
    PTYCHO_DATA=../shared/data python benchmarks/stem.py run thin --defocus-off 100    defocus told wrong by 100 A
    PTYCHO_DATA=../shared/data python benchmarks/stem.py run thick                     SrTiO3, 15.6 nm

A file with what a microscopist has (counts, step, voltage, semi-angle, detector pixel, defocus) is written first; of
the truth nothing is in it. The judge is `score_stem.py` beside the data: the correlation of the phase with the true
one, blurred by 0.3 A; and rotation and scales of the fitted positions against the true ones.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import typer

DATA = Path(os.environ.get("PTYCHO_DATA", "../shared/data"))
KNOWN = ("counts", "scan_step_A", "voltage_kV", "semi_angle_mrad", "detector_pixel_mrad", "defocus_A")

app = typer.Typer(add_completion=False)


@app.callback()
def main() -> None:
    """The head of this file says what there is."""


@app.command()
def run(
    scan: str,
    defocus_off: Annotated[float | None, typer.Option(help="A, added to the defocus that is told.")] = None,
    without_defocus: bool = False,
    options: Annotated[str, typer.Option(help="More options of `ptycho reconstruct`.")] = "",
    output: Annotated[Path | None, typer.Option("-o", help="Keep the run in this folder.")] = None,
) -> None:
    """One line of JSON: correlation, geometry, error of frames, seconds, verdict."""
    truth = np.load(DATA / f"stem_{scan}.npz")
    known = {name: truth[name] for name in KNOWN}
    known["defocus_A"] = known["defocus_A"] + (defocus_off or 0.0)
    if without_defocus:
        del known["defocus_A"]
    with tempfile.TemporaryDirectory() as made:
        folder = output or Path(made) / "run"
        np.savez(Path(made) / "scan.npz", **known)
        words = ["reconstruct", str(Path(made) / "scan.npz"), "-o", str(folder), "--hold-out-every", "10", "--force"]
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "ptycho.cli", *words, *options.split()], capture_output=True, text=True
        )
        seconds = time.perf_counter() - begin
        if not (folder / "reconstruction.h5").exists():
            raise SystemExit(f"no result, exit code {done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        record = dict(scan=scan, seconds=round(seconds, 1), code=done.returncode) | judged(folder, truth)
        record["said"] = " ".join(done.stdout.split())[-700:]
    print(json.dumps(record))


def judged(folder: Path, truth: Any) -> dict[str, Any]:
    """What the judge says of a run, and how the positions lie against the true ones."""
    spec = importlib.util.spec_from_file_location("score_stem", DATA.parent / "score_stem.py")
    assert spec is not None and spec.loader is not None
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    score = judge.ptycho_run(str(folder), str(DATA / f"stem_{Path(truth.fid.name).stem.removeprefix('stem_')}.npz"))[0]
    with h5py.File(folder / "reconstruction.h5") as file:
        positions = file["positions_px"][()]
        pixel = float(truth["object_pixel_A"])
    # positions in A = truth A + b, by least squares; A = R S
    known = np.c_[truth["positions_A"], np.ones(len(positions))]
    linear = np.linalg.lstsq(known, positions * pixel, rcond=None)[0][:2].T
    u, scales, v = np.linalg.svd(linear)
    turned = u @ v
    angle = float(np.rad2deg(np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])))
    return dict(
        correlation=round(score["corr"], 4),
        rotation_off_deg=round(angle, 2),
        scales=[round(float(scale), 4) for scale in scales],
        mirrored=bool(np.linalg.det(linear) < 0),
    )


if __name__ == "__main__":
    app()
