"""The network against PtychoPINN and iterative engines: images, speed, and how both depend on dose and overlap.

    PTYCHO_DATA=../shared/data python benchmarks/network.py quality            every condition, three seeds: hours
    PTYCHO_DATA=../shared/data python benchmarks/network.py quality --only "step 8, 6.9e4" --seeds 0
    PTYCHO_DATA=../shared/data python benchmarks/network.py speed
    python benchmarks/network.py sizes                                         `fast` at N 64, 128 and 256
    PTYCHO_DATA=../shared/data python benchmarks/network.py precision
    PTYCHO_DATA=../shared/data python benchmarks/network.py star
    PTYCHO_DATA=../shared/data python benchmarks/network.py trust
    python benchmarks/network.py table                                         what is recorded in network.jsonl

Each run is a line of ``network.jsonl``, with the commit that made it. The other programs' figures were measured once,
on the same machine and files (docs/results.md).
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from ptycho.config import ADAPTING, PRESETS, ModelConfig, Preset, SimulationConfig, TrainingConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects, uncertainty
from ptycho.evaluation.align import register
from ptycho.evaluation.calibration import calibration
from ptycho.evaluation.metrics import Metrics
from ptycho.evaluation.uncertainty import band_coverage, illuminated_pixels
from ptycho.formats import read_scan, write_scan
from ptycho.network.build import build_model
from ptycho.network.files import load_pretrained, save_model
from ptycho.reconstruction import reconstruct
from ptycho.simulation.simulate import simulate
from ptycho.training.train import train

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
    "step 8, 6.9e3": Condition(0.1, 1, "best", 30_000, "pretrained"),
    "step 8, 6.9e2": Condition(0.01, 1, "best", 24_000, "pretrained"),
    "step 24, 6.9e4": Condition(1.0, 3, "best", 24_000, "pretrained"),
    "step 32, 6.9e4": Condition(1.0, 4, "best", 9_000, "pretrained"),
    "60 s": Condition(1.0, 1, "best", 6_000),
    "each frame alone": Condition(1.0, 1, "fast", 120_000),
}
# SNR in dB: what is asked for, a flat object, converged LSQML with the probe given, PtychoPINN after 514 s.
OTHERS: dict[str, tuple[float, float, float | None, float | None]] = {
    "step 8, 6.9e4": (25.0, 11.0, 27.6, 12.4),
    "step 8, 6.9e3": (22.5, 11.0, 20.4, None),
    "step 8, 6.9e2": (18.0, 11.0, 12.6, None),
    "step 24, 6.9e4": (22.0, 11.0, 21.8, None),
    "step 32, 6.9e4": (17.5, 11.0, 14.9, None),
    "60 s": (19.0, 11.0, 17.9, None),
    "each frame alone": (17.5, 11.0, None, 12.4),
}

app = typer.Typer(add_completion=False)


def sim64(which: str, dose: float, every: int, seed: int = 0) -> Scan:
    """The simulated benchmark at another dose (binomial thinning), with every k-th position both ways.

    The seed is that of the noise, and of which k-th positions.
    """
    scan = read_scan(Path(os.environ["PTYCHO_DATA"]) / f"sim64_{which}.npz")
    kept = np.zeros((SIDE, SIDE), bool)
    kept[seed % every :: every, seed // every % every :: every] = True
    if dose < 1:
        counts = np.random.default_rng(seed).binomial(scan.counts.astype(int), dose).astype("uint16")
        scan = replace(scan, counts=counts, probe=(scan.probe * np.sqrt(dose)).astype("complex64"))
    return scan if every == 1 else scan.subset(kept.ravel())


@app.command()
def quality(
    only: Annotated[list[str] | None, typer.Option()] = None,
    seeds: Annotated[list[int] | None, typer.Option()] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for the networks, for refine.py prior.")] = None,
) -> None:
    """Train on sim64_train without its truth; judge on sim64_test, and on sim64_train itself."""
    for seed in seeds or (0, 1, 2):
        for name in only or CONDITIONS:
            at = CONDITIONS[name]
            scan = sim64("train", at.dose, at.every)
            if at.start:
                model, rate = load_pretrained(), ADAPTING
            else:
                model, rate = build_model(ModelConfig(N=64, seed=seed, **PRESETS[at.preset]), scan.probe), {}
            start = time.perf_counter()
            # No early stop, and no halving of the step size: the length of a run is that of its condition.
            history = train(model, scan, TrainingConfig(total_frames=at.frames, patience=1000, seed=seed, **rate))
            took = time.perf_counter() - start
            if keep:
                save_model(model, keep / f"{name}, seed {seed}.keras")
            entry = dict(condition=name, seed=seed, seconds=round(took, 1), frames=at.frames, epochs=len(history))
            for which in ("test", "train"):
                own = sim64(which, at.dose, at.every)
                for views in (1, VIEWS) if which == "test" else (1,):
                    scores = compare_objects(reconstruct(model, own, symmetries=views).object, own.object)
                    name_of = which if views == 1 else f"{which}, views {views}"
                    entry[name_of] = {key: round(float(getattr(scores, key)), 4) for key in KEYS}
            record(entry)


VIEWS = 8
"""Views averaged (``--views``) beside one alone."""

KEYS = ("snr_db", "amplitude_ssim", "phase_ssim", "phase_rms_rad")


@app.command()
def speed() -> None:
    """Frames a second of the whole program, from file to image, compilation apart; and of training. N 64, 128, 256."""
    for preset in PRESETS:
        for N, frames in ((64, 1681), (64, 1000), (64, 3000), (64, 10_000), (64, 30_000), (128, 1000), (256, 400)):
            subprocess.run([sys.executable, __file__, "speed-one", preset, str(N), str(frames)], check=True)


@app.command()
def speed_one(preset: Preset, n: int, frames: int) -> None:
    """One row of `speed`, in a process of its own: its memory is that of this size alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        scan = many_frames(frames) if n == 64 else simulate(SimulationConfig(N=n, positions=frames, step_px=n / 8))
        write_scan(scan, path)
        model = build_model(ModelConfig(N=n, **PRESETS[preset]), scan.probe)
        entry: dict = dict(condition=f"speed {preset}", N=n, frames=len(scan))
        if frames < 3000:
            history = train(model, scan, TrainingConfig(epochs=4))
            entry["training"] = round(len(scan) / float(np.median([e["seconds"] for e in history[1:]])))
        del scan
        before = peak_memory()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            reconstruct(model, read_scan(path))
            times.append(time.perf_counter() - start)
        entry |= dict(prediction=round(entry["frames"] / min(times[1:])), first_s=round(times[0] - min(times[1:]), 1))
        record(entry | dict(peak_mb_before=before, peak_mb=peak_memory()))


@app.command()
def sizes() -> None:
    """What the speed of `fast` at each N is worth: on cells, as it comes, and trained as by default on 400 frames of
    other cells, from there and from nothing."""
    print("| N | prediction, frames/s | as it comes | frames shown | training, s | trained | from nothing | flat |")
    print("|---|---|---|---|---|---|---|---|")
    for n in (64, 128, 256):
        settings = SimulationConfig(N=n, positions=400, step_px=n / 8, jitter_px=n / 32, photons=1e5 * (n / 64) ** 2)
        own, other = (simulate(replace(settings, seed=seed)) for seed in (1, 2))
        network = load_pretrained("fast")
        reconstruct(network, other)  # compiles
        begin = time.perf_counter()
        untrained = compare_objects(reconstruct(network, other).object, other.object)
        columns = [f"{n}", f"{len(other) / (time.perf_counter() - begin):.0f}", _shown(untrained)]
        for start, rate in ((network, ADAPTING), (None, {})):
            model, config = (
                build_model(ModelConfig(N=n, **PRESETS["fast"]), own.probe, start=start),
                TrainingConfig(**rate),
            )
            begin = time.perf_counter()
            train(model, own, config)
            if start is not None:
                columns += [f"{config.frames_to_show(n)}", f"{time.perf_counter() - begin:.0f}"]
            columns.append(_shown(compare_objects(reconstruct(model, other).object, other.object)))
        print(f"| {' | '.join([*columns, _shown(untrained.flat)])} |", flush=True)


def _shown(scores: Metrics) -> str:
    return f"{scores.snr_db:.1f} dB, {scores.phase_ssim:.2f}"


@app.command()
def precision(frames: int = 8000) -> None:
    """The same training in float32, in mixed_bfloat16, and compiled by XLA: frames a second, losses, and the image."""
    scan = sim64("train", 1.0, 1)
    ways: dict[str, tuple[dict, dict]] = {
        "float32": (dict(precision="float32"), {}),
        "mixed_bfloat16": (dict(precision="mixed_bfloat16"), {}),
        "float32, XLA": (dict(precision="float32"), dict(jit_compile=True)),
    }
    for preset in PRESETS:
        for name, (network, fit) in ways.items():
            model = build_model(ModelConfig(N=64, **(PRESETS[preset] | network)), scan.probe)
            history = train(model, scan, TrainingConfig(total_frames=frames, **fit))
            image = reconstruct(model, sim64("test", 1.0, 1)).object
            record(
                dict(condition=f"precision {preset}, {name}", frames=frames)
                # An epoch of few frames is a part of the scan.
                | dict(training=round(frames / len(history) / float(np.median([e["seconds"] for e in history[1:]]))))
                | dict(losses=[round(float(e["validation_loss"]), 4) for e in history])
                | dict(snr_db=round(compare_objects(image, sim64("test", 1.0, 1).object).snr_db, 2))
            )


def peak_memory() -> int:
    """Most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def many_frames(count: int) -> Scan:
    """The frames of sim64_test over and over, each time beside the others: a long, narrow scan."""
    scan = sim64("test", 1.0, 1)
    copies = -(-count // len(scan))
    width = np.ptp(scan.positions[:, 1]) + 8
    positions = np.concatenate([scan.positions + (0, k * width) for k in range(copies)])[:count]
    counts = np.tile(scan.counts, (copies, 1, 1))[:count]
    return replace(scan, counts=counts, positions=positions, object=None)


@app.command()
def star() -> None:
    """siemens-star-small from its rough probe, frames 0, 10, 20, ... withheld: the whole command, and its image."""
    path = Path(os.environ["PTYCHO_DATA"]) / "siemens-star-small.npz.bz2"
    ways = {
        "pretrained, no training": ["--model", "pretrained"],
        "pretrained, no training, 3 modes": ["--model", "pretrained", "--modes", "3"],
        "from pretrained, 8 epochs": ["--from", "pretrained", "--epochs", "8"],
        "from nothing, 12 epochs": ["--epochs", "12"],
    }
    command = [str(Path(sys.executable).with_name("ptycho")), "reconstruct", str(path), "--no-refine"]
    command += ["--hold-out-every", "10"]
    for name, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            subprocess.run([*command, "-o", folder, *options], check=True)
            took = time.perf_counter() - start
            scores = json.loads((Path(folder) / "scores.json").read_text())
        record(dict(condition=f"star, {name}", seconds=round(took, 1), held_out_error=scores["held_out_error"]))


@app.command()
def trust(views: int = 8) -> None:
    """The share of pixels of sim64 whose error lies within one and two sigma, of the pretrained network."""
    for name in ("step 8, 6.9e4", "step 8, 6.9e3", "step 8, 6.9e2", "step 24, 6.9e4"):
        at = CONDITIONS[name]
        scan = sim64("test", at.dose, at.every)
        model = load_pretrained()
        result = reconstruct(model, scan, symmetries=views)
        factor = calibration(model, scan, result, symmetries=views)
        sigma = uncertainty(result.spread, result.coverage, result.probe, factor)
        fit = register(result.object, scan.object)
        low = np.array(fit.origin_px)
        corner = np.rint(np.array(scan.positions - result.positions_px)[0]).astype(int)
        here = tuple(slice(a, a + b) for a, b in zip(low - corner, fit.truth.shape, strict=True))
        lit = illuminated_pixels(result.coverage)[here]
        shares = band_coverage(fit.aligned, fit.truth, abs(fit.gauge.scale) * sigma[here], lit)
        shares = {key: round(share, 3) for key, share in shares.items()}
        record(dict(condition=f"trust, {name}", views=views, factor=round(factor, 3)) | shares)


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
        "| condition | seeds | frames shown | sim64_test, dB | spread | by 8 views | amplitude SSIM | own object, dB |"
        " asked | LSQML | PtychoPINN | flat |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, runs in entries.items():
        values = {w: np.array([[run[w][k] for k in KEYS] for run in runs.values()]) for w in ("test", "train")}
        asked, flat, engine, pinn = OTHERS[name]
        views = [run[f"test, views {VIEWS}"]["snr_db"] for run in runs.values() if f"test, views {VIEWS}" in run]
        cells = [
            name,
            str(len(runs)),
            f"{CONDITIONS[name].frames}",
            f"{values['test'][:, 0].mean():.2f}",
            f"{np.ptp(values['test'][:, 0]):.2f}",
            f"{np.mean(views):.2f}" if views else "",
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
