"""Crystals under distorted scans: does `--lattice` find the pixel size to 0.1 %, and do its error bars hold?

    python benchmarks/lattice.py run -o lattice.jsonl --scans 40   # a line for each as it ends; goes on where it was
    python benchmarks/lattice.py table lattice.jsonl               # docs/results.md

Thin square and hexagonal crystals of random constants and directions, 80 kV, 25 mrad, 150 A of defocus, 1e5 electrons
an A^2, 40 x 40 frames of 64 x 64. What is told of the positions is a raster; where the beam really was, that is
scaled and sheared by 1 % (standard deviation of each of four entries), turned by 2 degrees, and drifts by 0.3 A along
a curve. The pixel size is told wrong by 1 % (standard deviation). `ptycho refine` has the frames, the raster, voltage,
semi-angle, defocus and the constant of the crystal.

The frames hardly tell the scale of a thin sample: with the positions, object and probe grow alike. So the image is as
large as the raster says, and what the lattice tells is checked by where the beam really was: distances between the
positions that the image has, times the pixel size by the lattice, against the true distances.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ptycho.config import SimulationConfig
from ptycho.data.beam import Beam, aperture_probe
from ptycho.data.reconstruction import Reconstruction
from ptycho.simulation.simulate import canvas_shape, simulate

app = typer.Typer(add_completion=False)
N, SIDE, STEP_A, PIXEL_A = 64, 40, 0.5, 0.2
BEAM = Beam(energy_eV=80e3, particle="electron")


def crystal(shape: tuple[int, int], constant_a: float, hexagonal: bool, angle: float) -> np.ndarray:
    """Transmission of a thin crystal with two kinds of columns, Gaussians of 0.35 A."""
    cell = np.array([[1.0, -0.5], [0.0, np.sqrt(0.75)]]) if hexagonal else np.eye(2)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    vectors = turned @ cell * constant_a / PIXEL_A
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    phase = np.zeros(shape)
    for u, v, height in ((0.0, 0.0, 0.5), (1 / 3, 2 / 3, 0.25) if hexagonal else (0.5, 0.5, 0.25)):
        offset = places @ np.linalg.inv(vectors).T - [u, v]
        apart = (offset - np.rint(offset)) @ vectors.T
        phase += height * np.exp(-(apart**2).sum(axis=-1) / (2 * (0.35 / PIXEL_A) ** 2))
    return np.exp(1j * phase)


def one(number: int, options: str) -> dict:
    """Simulate a scan, refine it, and compare."""
    rng = np.random.default_rng([11, number])
    hexagonal, constant, angle = bool(number % 2), rng.uniform(3.0, 4.2), rng.uniform(0, 2 * np.pi)
    raster = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).reshape(-1, 2)
    turn = np.deg2rad(rng.normal(0, 2))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = turned @ (np.eye(2) + rng.normal(0, 0.01, (2, 2)))
    s = np.linspace(-1, 1, len(raster))[:, None]
    drift_a = rng.normal(0, 0.15, 2) * s**2 + rng.normal(0, 0.15, 2) * s
    positions = (raster * STEP_A @ linear.T + drift_a) / PIXEL_A
    positions += N / 2 + 2 - positions.min(axis=0)
    shape = canvas_shape(positions, N)
    mrad = 1e3 * BEAM.wavelength_m / (N * PIXEL_A * 1e-10)
    probe = aperture_probe(N, 25 / mrad, 150e-10, BEAM.wavelength_m, PIXEL_A * 1e-10)
    probe = probe * np.sqrt(1e5 * STEP_A**2)
    settings = SimulationConfig(N=N, seed=number)
    scan = simulate(settings, object=crystal(shape, constant, hexagonal, angle), probe=probe, positions=positions)
    off = rng.normal(0, 0.01)  # of what is told of the detector's angle, and so of the object pixel
    with tempfile.TemporaryDirectory() as made:
        file, run = Path(made) / "scan.npy", Path(made) / "run"
        np.save(file, np.asarray(scan.counts).reshape(SIDE, SIDE, N, N))
        # The step is told in object pixels, so that it is as wrong as these.
        words = ["refine", str(file), "-o", str(run), "--hold-out-every", "10", "--force"]
        words += f"--voltage-kv 80 --semiangle-mrad {25 / (1 + off)} --defocus-a 150".split()
        words += f"--detector-pixel {mrad / (1 + off)} mrad --scan-step {STEP_A / PIXEL_A} px".split()
        words += ["--lattice", f"{constant}", *options.split()]
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "ptycho.cli", *words], capture_output=True, text=True)
        record = dict(number=number, hexagonal=hexagonal, seconds=round(time.perf_counter() - begin, 1))
        record |= dict(code=done.returncode, constant_a=constant, told_a=PIXEL_A * (1 + off))
        if not (run / "scores.json").exists():
            return record | dict(said=(done.stdout + done.stderr)[-500:])
        scores = json.loads((run / "scores.json").read_text())
        fitted = Reconstruction.load(run / "reconstruction.h5").positions_px
        rows = np.c_[scan.positions * PIXEL_A, np.ones(len(fitted))]
        scales = np.linalg.svd(np.linalg.lstsq(rows, fitted, rcond=None)[0][:2])[1]  # pixels of the image an A
        record |= dict(pixel_a=float(1 / scales.mean()), stretch=float(scales.max() / scales.min() - 1))
        return record | dict(verdict=scores["verdict"]["kind"], crystal=scores.get("crystal"))


@app.command()
def run(
    output: Annotated[Path, typer.Option("-o", "--output")],
    scans: int = 40,
    options: Annotated[str, typer.Option(help="More options of `ptycho refine`.")] = "",
) -> None:
    """A line of JSON for each scan."""
    done = len(output.read_text().splitlines()) if output.exists() else 0
    for number in range(done, scans):
        record = one(number, options)
        with output.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


@app.command()
def table(records: Path) -> None:
    """How far off the pixel size is, and how often the truth is within the error bars."""
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    found = [row for row in rows if row.get("crystal")]
    size = np.array([row["crystal"]["pixel_size_a"]["value"] / row["pixel_a"] - 1 for row in found])
    error = np.array([row["crystal"]["pixel_size_a"]["error"] / row["pixel_a"] for row in found])
    stretch = np.array(
        [
            [row["crystal"]["distortion"]["value"], row["crystal"]["distortion"]["error"], row["stretch"]]
            for row in found
            if "distortion" in row["crystal"]
        ]
    )
    told = np.array([row["told_a"] / row["pixel_a"] - 1 for row in found])
    print("| | |\n|---|---|")
    print(f"| scans with a lattice | {len(found)} of {len(rows)} |")
    print(f"| pixel size off, as told: root mean square | {100 * np.sqrt(np.mean(told**2)):.2f} % |")
    print(
        f"| by the lattice: root mean square, median, largest | {100 * np.sqrt(np.mean(size**2)):.3f} %, "
        f"{100 * np.median(abs(size)):.3f} %, {100 * abs(size).max():.3f} % |"
    )
    print(f"| its error bar, median | {100 * np.median(error):.3f} % |")
    for bars in (1, 2):
        print(f"| truth within {bars} error bars | {np.mean(abs(size) < bars * error):.1%} |")
    print(f"| stretch of the image, true median | {100 * np.median(stretch[:, 2]):.2f} % |")
    left = abs(stretch[:, 0] - stretch[:, 2])
    print(
        f"| by the lattice: median off, within 2 error bars | {100 * np.median(left):.3f} %, "
        f"{np.mean(left < 2 * stretch[:, 1]):.1%} |"
    )
    print(f"| seconds, median | {np.median([row['seconds'] for row in rows]):.1f} |")


if __name__ == "__main__":
    app()
