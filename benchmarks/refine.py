"""The refinement against pty-chi on the same scans, in turn on the same machine; and what else it can.

    PTYCHO_DATA=../shared/data python benchmarks/refine.py star          measured scan: time to given errors
    PTYCHO_DATA=../shared/data python benchmarks/refine.py sim           simulated scan, probe known: time, level
    PTYCHO_DATA=../shared/data python benchmarks/refine.py prior         few photons, little overlap
    PTYCHO_DATA=../shared/data python benchmarks/refine.py positions     positions with errors, an affine map
    PTYCHO_DATA=../shared/data python benchmarks/refine.py modes         powers of incoherent modes
    PTYCHO_DATA=../shared/data python benchmarks/refine.py cryo          half-set FRC of a weakly scattering sample
    PTYCHO_DATA=../shared/data python benchmarks/refine.py cost          time and memory by frames and modes

Each result is a line of ``refine.jsonl``, with the commit that made it. Times are those of epochs, the judging of each
included; ours of a second fit in the same process, the first is given apart (compilation).
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import typer
from network import many_frames, sim64

from ptycho.checkpoint import load_pretrained
from ptycho.config import RefineConfig, RunConfig, SimulationConfig
from ptycho.data.formats import read_scan
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.evaluation.align import register
from ptycho.evaluation.frc import fourier_ring_correlation, frc_resolution
from ptycho.pretraining import adapted
from ptycho.reconstruction import Reconstruction, reconstruct
from ptycho.reconstruction.pty_chi import run_ptychi
from ptycho.reconstruction.refine.engine import Solver
from ptycho.reconstruction.refine.fit import Refinement, refine
from ptycho.runs import judge, open_scan, refine_config, refine_network
from ptycho.simulation.probes import make_probe, with_modes
from ptycho.simulation.simulate import simulate

RECORD = Path(__file__).with_suffix(".jsonl")
app = typer.Typer(add_completion=False)


def data(name: str) -> Path:
    return Path(os.environ["PTYCHO_DATA"]) / name


def record(**entry) -> None:
    """Add a line to the record, and show it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    line = json.dumps(entry | dict(commit=head.stdout.strip()))
    with RECORD.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def star_scan(modes: int) -> tuple[Scan, np.ndarray]:
    """siemens-star-small with its rough probe at the scale of the counts, and the frames withheld from all fits."""
    scan = open_scan(data("siemens-star-small.npz.bz2"), lambda text: None, modes)
    return scan, scan.withheld_mask(10)


def seconds_until(fits: list[tuple[float, float]], level: float) -> float | None:
    """Of (seconds, error) along a fit: when the error is first as low as a level."""
    return next((round(seconds, 2) for seconds, error in fits if error <= level), None)


def fit_by_epochs(scan: Scan, config: RefineConfig, withheld, quality, epochs) -> tuple[list, Refinement, float]:
    """(seconds, quality) after several numbers of epochs of one and the same fit; the whole fit; seconds to compile."""
    begin = time.perf_counter()
    refine(scan, replace(config, epochs=max(6, min(epochs))), withheld=withheld)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    refine(scan, replace(config, epochs=max(6, min(epochs))), withheld=withheld)
    compile_s = first - (time.perf_counter() - begin)
    found = []
    for count in epochs:
        fit = refine(scan, replace(config, epochs=count), withheld=withheld)
        found.append((sum(entry["seconds"] for entry in fit.history), quality(fit.result)))
    return found, fit, compile_s


@app.command()
def star() -> None:
    """Error on frames 0, 10, 20, ...: ours when it is first as low as pty-chi's at its end, and at the end."""
    for modes, epochs, batch, counts in ((1, 20, 32, (7, 9, 11, 13)), (3, 40, 32, (11, 15, 20, 25))):
        scan, withheld = star_scan(modes)
        error = lambda result, scan=scan, withheld=withheld: judge(result, scan, withheld).withheld_error
        config = RefineConfig(probe_from=1, withheld=0.03)
        ours, _, compile_s = fit_by_epochs(scan, config, withheld, error, counts)
        theirs = run_ptychi(scan, engine="lsqml", epochs=epochs, batch_size=batch, withheld=withheld)
        theirs_s, level = sum(e["seconds"] for e in theirs.history), error(theirs.result)
        record(
            condition=f"star, {modes} modes, cold",
            ptychi_error=round(level, 5),
            ptychi_s=round(theirs_s, 1),
            ours_s=seconds_until(ours, level),
            ours_s_to_published=seconds_until(ours, {1: 0.0152, 3: 0.0102}[modes]),
            compile_s=round(compile_s, 1),
            along=[(round(s, 2), round(e, 5)) for s, e in ours],
        )
    for modes in (1, 3, 8):
        scan, withheld = star_scan(modes)
        begin = time.perf_counter()
        fit = refine(scan, RefineConfig(probe_from=1), withheld=withheld)
        found = judge(fit.result, scan, withheld)
        record(
            condition=f"star, {modes} modes, to the end",
            error=round(found.withheld_error, 5),
            shot_noise=round(found.shot_noise, 5),
            epochs=len(fit.history) - 1,
            seconds=round(time.perf_counter() - begin, 1),
            powers=powers(fit.result),
        )


def powers(result: Reconstruction) -> list[float]:
    """Part of the light in each mode."""
    each = (np.abs(result.probe) ** 2).sum(axis=(1, 2))
    return [round(float(part), 4) for part in each / each.sum()]


@app.command()
def sim() -> None:
    """sim64_test with its probe, from empty space, and from the pretrained network's image: SNR by time."""
    scan = sim64("test", 1.0, 1)
    snr = lambda result: float(compare_objects(result.object, scan.object).snr_db)
    theirs = {}
    for epochs in (10, 30):
        run = run_ptychi(scan, engine="lsqml", epochs=epochs, batch_size=16, probe_fixed=True)
        theirs[epochs] = (round(sum(e["seconds"] for e in run.history), 1), round(snr(run.result), 2))
    for noise in ("amplitude", "poisson"):
        ours, _, compile_s = fit_by_epochs(scan, RefineConfig(noise=noise), None, snr, (4, 5, 6, 7, 8, 10, 60))
        best = max(value for _, value in ours)
        record(
            condition=f"sim64_test, probe known, cold, {noise}",
            ptychi=theirs,
            to_27_6_s=next((round(s, 2) for s, value in ours if value >= 27.6), None),
            best=round(best, 2),
            compile_s=round(compile_s, 1),
            along=[(round(s, 2), round(value, 2)) for s, value in ours],
        )
    start = reconstruct(adapted(load_pretrained(), scan), scan)
    for count in range(4, 10):
        warm = refine(scan, RefineConfig(epochs=count, noise="poisson", drift_weight=0.03), start=start).result
        cold = refine(scan, RefineConfig(epochs=count, noise="poisson")).result
        record(condition="sim64_test, epochs", epochs=count, warm=round(snr(warm), 2), cold=round(snr(cold), 2))


@app.command()
def prior(views: int = 8) -> None:
    """Few photons and little overlap: the pretrained network's image of sim64_test alone, refined, and cold fits."""
    for name, dose, every in (
        ("step 8, 6.9e4", 1.0, 1),
        ("step 8, 6.9e3", 0.1, 1),
        ("step 8, 6.9e2", 0.01, 1),
        ("step 24, 6.9e4", 1.0, 3),
        ("step 32, 6.9e4", 1.0, 4),
    ):
        scan = sim64("test", dose, every)
        snr = lambda result, scan=scan: round(float(compare_objects(result.object, scan.object).snr_db), 2)
        model, nothing = adapted(load_pretrained(), scan), np.zeros(len(scan), bool)
        alone = reconstruct(model, scan, views=views)
        begin = time.perf_counter()
        fit = refine_network(model, scan, refine_config(RunConfig(), scan), alone, withheld=nothing, views=views)
        took = time.perf_counter() - begin
        cold = refine(scan, RefineConfig(noise="poisson")).result
        record(
            condition=f"prior, {name}",
            network=snr(alone),
            refined=snr(fit.result),
            cold=snr(cold),
            seconds=round(took, 1),
        )


@app.command()
def positions() -> None:
    """sim64_train with errors of its positions: 1.5 pixels RMS, and a map of 2 % and one degree."""
    scan = sim64("train", 1.0, 1)
    snr = lambda result: round(float(compare_objects(result.object, scan.object).snr_db), 2)
    ideal = snr(refine(scan, RefineConfig()).result)
    errors = np.random.default_rng(0).normal(size=scan.positions.shape) * 1.5 / np.sqrt(2)
    wrong = replace(scan, positions=scan.positions + errors, object=None)
    config = RefineConfig(positions_from=6, epochs=150, patience=15)
    fit = refine(wrong, config)
    found = fit.result.positions_px - (wrong.positions - errors)
    left = found - found.mean(axis=0)
    record(
        condition="positions, 1.5 px RMS",
        before_px=round(float(np.sqrt((errors**2).sum(axis=1).mean())), 3),
        left_px=round(float(np.sqrt((left**2).sum(axis=1).mean())), 3),
        left_median_px=round(float(np.median(np.hypot(*left.T))), 3),
        snr_db=snr(fit.result),
        true_positions_snr_db=ideal,
        epochs=len(fit.history) - 1,
    )
    angle, scale = np.deg2rad(1.0), 1.02
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = scan.positions.mean(axis=0)
    wrong = replace(scan, positions=(scan.positions - middle) @ turn.T + middle, object=None)
    fit = refine(wrong, RefineConfig(affine_from=6, epochs=150, patience=15))
    centred = lambda p: p - p.mean(axis=0)
    matrix = np.linalg.lstsq(centred(scan.positions), centred(fit.result.positions_px), rcond=None)[0].T
    record(
        condition="positions, 2 % and 1 degree",
        scale_left_percent=round(100 * (float(np.sqrt(np.linalg.det(matrix))) - 1), 3),
        rotation_left_degrees=round(float(np.rad2deg(np.arctan2(matrix[1, 0] - matrix[0, 1], np.trace(matrix)))), 3),
        snr_db=snr(fit.result),
        true_positions_snr_db=ideal,
        epochs=len(fit.history) - 1,
    )


@app.command()
def modes() -> None:
    """Powers of three simulated modes of 70, 20 and 10 %; the residual of tike's two modes without noise."""
    first = make_probe(64, 1e5, 0.55, None, 1)
    three = with_modes(first, 3)
    norms = np.sqrt((np.abs(three) ** 2).sum(axis=(1, 2), keepdims=True))
    probe = (three / norms * np.sqrt(1e5 * np.array([0.7, 0.2, 0.1]))[:, None, None]).astype("complex64")
    scan = simulate(SimulationConfig(N=64, positions=529, probe_modes=3), probe=probe)
    guess = replace(scan, probe=with_modes(first, 3), probe_known=False, object=None)
    fit = refine(guess, RefineConfig(probe_from=1, epochs=120, noise="poisson"))
    record(condition="modes, 70/20/10 %", powers=powers(fit.result), epochs=len(fit.history) - 1)
    with np.load(data("tike_simulated_setup.npz")) as file:
        small = file["probe"][0, 0]
        frames = np.fft.fftshift(file["diffraction"], axes=(1, 2))
        side = frames.shape[-1]
        padded = np.zeros((len(small), side, side), "complex64")
        padded[:, : small.shape[-1], : small.shape[-1]] = small
        scan = Scan(
            counts=frames.astype("float32"),
            positions=file["positions_px"].astype(float) + side // 2,
            probe=padded,
        )
    for name, guess in (("known", None), ("guessed", with_modes(padded[:1] * 1.1, 2))):
        start = scan if guess is None else replace(scan, probe=guess, probe_known=False)
        config = RefineConfig(
            epochs=600, patience=50, withheld=0.0, probe_from=None if guess is None else 1, focus=False
        )
        fit = refine(start, config)
        errors = [entry["error"] for entry in fit.history]
        record(condition=f"modes, tike_simulated_setup, probe {name}", error=float(f"{min(errors):.3g}"))


@app.command()
def cryo() -> None:
    """Odd and even frames of cryo_rotavirus_A refined apart: where their ring correlation falls; a picture of all."""
    from ptycho.plotting import save_png

    scan = read_scan(data("cryo_rotavirus_A_48x48_bin2.npz"))
    for name, more in (("plain", {}), ("held smooth", dict(drift_weight=0.3))):
        halves = []
        for half in (0, 1):
            own = scan.subset(np.arange(len(scan)) % 2 == half)
            halves.append(
                refine(own, RefineConfig(probe_from=3, focus=False, noise="poisson", epochs=40, **more)).result
            )
        both = [half.object for half in halves]
        whole = refine(scan, RefineConfig(probe_from=3, focus=False, noise="poisson", epochs=40, **more))
        save_png(whole.result, RECORD.with_name(f"cryo {name}.png"))
        fit = register(both[0], both[1])
        curve = fourier_ring_correlation(fit.aligned, fit.truth)
        at = {
            f"frc_{label}": round(frc_resolution(*curve, level), 3) for label, level in (("half", 0.5), ("7th", 1 / 7))
        }
        record(condition=f"cryo, {name}", **at, nyquist_px=2, epochs=len(whole.history) - 1)


@app.command()
def cost() -> None:
    """Seconds an epoch beside two FFTs of all frames, by modes; seconds and memory by frames."""
    for name, scan in (("sim64_test", sim64("test", 1.0, 1)), ("star", star_scan(1)[0])):
        fft = two_ffts(scan)
        for modes in (1, 2, 3):
            own = replace(scan, probe=with_modes(scan.probe, modes))
            moved = replace(
                own, positions=own.positions + np.random.default_rng(0).uniform(-0.4, 0.4, own.positions.shape)
            )
            for method in ("lsqml", "rpie", "cg"):
                record(
                    condition=f"cost, {name}, {method}, {modes} modes",
                    epoch_s=round(epoch_seconds(moved, method), 3),
                    two_ffts_s=round(fft, 3),
                )
    for frames in (500, 1000, 2000, 4000, 8000):
        subprocess.run([sys.executable, __file__, "cost-one", str(frames)], check=True)


@app.command()
def cost_one(frames: int) -> None:
    """One row of `cost` by frames, in a process of its own."""
    scan = many_frames(frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds = epoch_seconds(scan, "lsqml")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    record(
        condition="cost by frames",
        frames=frames,
        epoch_ms_per_1000_frames=round(1e6 * seconds / frames, 1),
        peak_mb=peak,
        before_mb=before,
        counts_mb=scan.counts.nbytes >> 20,
    )


def epoch_seconds(scan: Scan, method: str) -> float:
    """Shortest of three epochs of object and probe, after one that compiles."""
    solver = Solver(scan, np.arange(len(scan)), np.arange(0))
    unknowns = ["object", "probe"]
    size = max(16, min(64, -(-len(scan) // 16)))
    step = (
        (lambda: solver.together(unknowns)) if method == "cg" else (lambda: solver.stochastic(method, unknowns, size))
    )
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def two_ffts(scan: Scan) -> float:
    """Seconds for two compiled FFTs of all frames: what no engine can undercut."""
    from ptycho.backend import compiled
    from ptycho.physics.fourier import dft, inverse_dft

    pair = compiled(lambda waves: inverse_dft(dft(waves)))
    waves = np.ones((64, scan.N, scan.N), "complex64")
    pair(waves)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(-(-len(scan) // 64)):
            np.asarray(pair(waves))
        times.append(time.perf_counter() - begin)
    return min(times)


if __name__ == "__main__":
    app()
