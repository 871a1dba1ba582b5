"""The refinement against pty-chi on the same scans, in turn on the same machine; and what else it can.

    PTYCHO_DATA=../shared/data python benchmarks/refine.py star          measured scan: time to given errors
    PTYCHO_DATA=../shared/data python benchmarks/refine.py sim           simulated scan, probe known: time, level
    PTYCHO_DATA=../shared/data python benchmarks/refine.py prior         few photons, little overlap
    PTYCHO_DATA=../shared/data python benchmarks/refine.py positions     positions with errors, an affine map
    PTYCHO_DATA=../shared/data python benchmarks/refine.py modes         powers of incoherent modes
    PTYCHO_DATA=../shared/data python benchmarks/refine.py cryo          half-set FRC of a weakly scattering sample
    PTYCHO_DATA=../shared/data python benchmarks/refine.py cost          time of an epoch beside a bare one, by modes
    PTYCHO_DATA=../shared/data python benchmarks/refine.py scaling       time and memory by frames

Each result is a line of ``refine.jsonl``, with the commit that made it. Times are those of epochs, the judging of each
included; ours of a second fit in the same process, the first is given apart (compilation).
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import typer
from network import CONDITIONS, many_frames, sim64

from ptycho.config import Multislice, RefineConfig, RunConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.evaluation.align import register
from ptycho.evaluation.frc import fourier_ring_correlation, frc_resolution
from ptycho.formats import read_scan
from ptycho.network.files import load_model, load_pretrained
from ptycho.pipelines.assess import assess
from ptycho.pipelines.open import open_scan
from ptycho.pipelines.refine import refine_config
from ptycho.reconstruction import reconstruct
from ptycho.reconstruction.pty_chi import run_ptychi
from ptycho.refinement.from_network import refine_network
from ptycho.refinement.refine import Refinement, refine
from ptycho.refinement.solver import Solver
from ptycho.refinement.unknowns import Object, Probe
from ptycho.simulation.probes import make_probe, with_modes
from ptycho.simulation.simulate import expected_batches, simulate

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
    return scan, scan.held_out_mask(10)


def seconds_until(fits: list[tuple[float, float]], level: float) -> float | None:
    """Of (seconds, error) along a fit: when the error is first as low as a level."""
    return next((round(seconds, 2) for seconds, error in fits if error <= level), None)


def fit_by_epochs(scan: Scan, config: RefineConfig, held_out, quality, epochs) -> tuple[list, Refinement, float]:
    """(seconds, quality) after several numbers of epochs of one and the same fit; the whole fit; seconds to compile."""
    begin = time.perf_counter()
    refine(scan, replace(config, epochs=max(6, min(epochs))), held_out=held_out)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    refine(scan, replace(config, epochs=max(6, min(epochs))), held_out=held_out)
    compile_s = first - (time.perf_counter() - begin)
    found = []
    for count in epochs:
        fit = refine(scan, replace(config, epochs=count), held_out=held_out)
        found.append((sum(entry["seconds"] for entry in fit.history), quality(fit.result)))
    return found, fit, compile_s


@app.command()
def star() -> None:
    """Error on frames 0, 10, 20, ...: ours when it is first as low as pty-chi's at its end, and at the end."""
    for modes, epochs, batch, counts in ((1, 20, 32, (7, 9, 11, 13)), (3, 40, 32, (6, 7, 9, 11))):
        scan, held_out = star_scan(modes)
        error = lambda result, scan=scan, held_out=held_out: assess(result, scan, held_out).held_out_error
        config = RefineConfig(probe_from=1, held_out=0.03)
        ours, _, compile_s = fit_by_epochs(scan, config, held_out, error, counts)
        theirs = run_ptychi(scan, engine="lsqml", epochs=epochs, batch_size=batch, held_out=held_out)
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
        scan, held_out = star_scan(modes)
        begin = time.perf_counter()
        fit = refine(scan, RefineConfig(probe_from=1), held_out=held_out)
        found = assess(fit.result, scan, held_out)
        record(
            condition=f"star, {modes} modes, to the end",
            error=round(found.held_out_error, 5),
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
def sim(network: Path | None = None) -> None:
    """sim64_test with its probe, from empty space and from the image of a network (the package's, or a file): SNR."""
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
    start = reconstruct(load_model(network).without_probe() if network else load_pretrained(), scan)
    for count in range(1, 11):
        warm = refine(scan, RefineConfig(epochs=count, noise="poisson", h1_weight=0.03), start=start).result
        cold = refine(scan, RefineConfig(epochs=count, noise="poisson")).result
        record(
            condition="sim64_test, epochs",
            model=network.stem if network else "pretrained",
            epochs=count,
            start=round(snr(start), 2),
            warm=round(snr(warm), 2),
            cold=round(snr(cold), 2),
        )


@app.command()
def prior(networks: Path | None = None, views: int = 8) -> None:
    """Few photons and little overlap: a network's image of sim64_test alone, and refined; and cold fits.

    The networks are those that ``network.py quality --keep FOLDER`` trained on sim64_train; without, the package's.
    """
    for name in ("step 8, 6.9e4", "step 8, 6.9e3", "step 8, 6.9e2", "step 24, 6.9e4", "step 32, 6.9e4"):
        paths = sorted(networks.glob(f"{name}, seed *.keras")) if networks else [None]
        if not paths:
            continue
        scan = sim64("test", CONDITIONS[name].dose, CONDITIONS[name].every)
        snr = lambda result, scan=scan: round(float(compare_objects(result.object, scan.object).snr_db), 2)
        cold = snr(refine(scan, RefineConfig(noise="poisson")).result)
        nothing = np.zeros(len(scan), bool)
        for path in paths:
            model = load_model(path).without_probe() if path else load_pretrained()
            alone = reconstruct(model, scan, symmetries=views)
            begin = time.perf_counter()
            fit = refine_network(
                model, scan, refine_config(RunConfig(), scan), alone, held_out=nothing, symmetries=views
            )
            record(
                condition=f"prior, {name}",
                model=path.stem if path else "pretrained",
                network=snr(alone),
                refined=snr(fit.result),
                cold=cold,
                seconds=round(time.perf_counter() - begin, 1),
            )


@app.command()
def positions() -> None:
    """sim64_train with errors of its positions: 1.5 pixels RMS, and a map of 2 % and one degree."""
    scan = sim64("train", 1.0, 1)
    snr = lambda result: round(float(compare_objects(result.object, scan.object).snr_db), 2)
    ideal = snr(refine(scan, RefineConfig(noise="poisson")).result)
    errors = np.random.default_rng(0).normal(size=scan.positions.shape) * 1.5 / np.sqrt(2)
    wrong = replace(scan, positions=scan.positions + errors, object=None)
    config = RefineConfig(positions_from=6, epochs=150, patience=15, noise="poisson")
    fit = refine(wrong, config)
    found = fit.result.positions_px - (wrong.positions - errors)
    left = found - found.mean(axis=0)
    record(
        condition="positions, 1.5 px RMS",
        before_px=round(float(np.sqrt((errors**2).sum(axis=1).mean())), 3),
        left_px=round(float(np.sqrt((left**2).sum(axis=1).mean())), 3),
        left_median_px=round(float(np.median(np.hypot(*left.T))), 3),
        left_95_percent_px=round(float(np.quantile(np.hypot(*left.T), 0.95)), 3),
        limit_px=round(position_limit(scan), 3),
        snr_db=snr(fit.result),
        true_positions_snr_db=ideal,
        epochs=len(fit.history) - 1,
    )
    angle, scale = np.deg2rad(1.0), 1.02
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = scan.positions.mean(axis=0)
    wrong = replace(scan, positions=(scan.positions - middle) @ turn.T + middle, object=None)
    fit = refine(wrong, RefineConfig(affine_from=6, epochs=150, patience=15, noise="poisson"))
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


def position_limit(scan: Scan, step_px: float = 0.05) -> float:
    """RMS error of positions that shot noise leaves, were object and probe known (Cramer-Rao), in pixels.

    A frame's Fisher information is ``4 sum (d sqrt(e)/dx)^2``, from central differences of its expected counts e.
    """
    roots = lambda shift: np.sqrt(
        np.concatenate(list(expected_batches(scan.object, scan.probe, scan.positions + shift)))
    )
    slopes = [(roots(d) - roots(-d)) / (2 * step_px) for d in step_px * np.eye(2)]
    information = np.stack([[4 * (a * b).sum(axis=(1, 2)) for b in slopes] for a in slopes]).transpose(2, 0, 1)
    return float(np.sqrt(np.trace(np.linalg.inv(information), axis1=1, axis2=2).mean()))


def partly_coherent(first: np.ndarray, spread: tuple[float, float], modes: int) -> np.ndarray:
    """Modes ``(modes, n, n)`` of unit norm of light ``(n, n)`` tilted at random: Gaussian, ``spread`` rad/px in y, x.

    This is the light of a source of finite size (Gauss-Schell); the same a blurred detector makes.
    """
    n = first.shape[-1]
    place = np.arange(n) - n // 2
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    tilted = [
        np.sqrt(u * v) * first * np.outer(np.exp(1j * spread[0] * a * place), np.exp(1j * spread[1] * b * place))
        for a, u in zip(nodes, weights, strict=True)
        for b, v in zip(nodes, weights, strict=True)
    ]
    rows = np.linalg.svd(np.reshape(tilted, (len(tilted), -1)), full_matrices=False)[2]
    return rows[:modes].reshape(modes, n, n)


@app.command()
def modes() -> None:
    """Powers of three simulated modes of 70, 20 and 10 %; the residual of tike's two modes without noise."""
    first = make_probe(64, 1e5, 0.55, None, 1)
    polynomials = with_modes(first, 3)
    polynomials = polynomials / np.sqrt((np.abs(polynomials) ** 2).sum(axis=(1, 2), keepdims=True))
    for name, units in (("polynomials", polynomials), ("tilts", partly_coherent(first[0], (0.05, 0.035), 3))):
        probe = (units * np.sqrt(1e5 * np.array([0.7, 0.2, 0.1]))[:, None, None]).astype("complex64")
        scan = simulate(SimulationConfig(N=64, positions=529, probe_modes=3), probe=probe)
        guess = replace(scan, probe=with_modes(first, 3), probe_known=False, object=None)
        fit = refine(guess, RefineConfig(probe_from=1, noise="poisson"))
        known = refine(replace(scan, object=None), RefineConfig(noise="poisson"))
        record(
            condition=f"modes, 70/20/10 %, {name}",
            powers=powers(fit.result),
            held_out_error=round(fit.history[fit.best]["held_out_error"], 5),
            probe_known=round(known.history[known.best]["held_out_error"], 5),
            epochs=len(fit.history) - 1,
        )
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
            epochs=600, patience=50, held_out=0.0, probe_from=None if guess is None else 1, focus=False
        )
        fit = refine(start, config)
        errors = [entry["error"] for entry in fit.history]
        record(condition=f"modes, tike_simulated_setup, probe {name}", error=float(f"{min(errors):.3g}"))


@app.command()
def cryo() -> None:
    """Odd and even frames of cryo_rotavirus_A refined apart: where their ring correlation falls; a picture of all.

    Neighbours of the regular raster see the same pixels by the same parts of the probe, so that errors of the probe
    become a pattern with the period of the raster: told here by its power over that of other directions.
    """
    from ptycho.output.images import save_png

    scan = read_scan(data("cryo_rotavirus_A_48x48_bin2.npz"))
    for name, more in (("plain", {}), ("smooth", dict(h1_weight=0.3))):
        config = RefineConfig(probe_from=3, focus=False, noise="poisson", epochs=40, **more)
        halves = [refine(scan.subset(np.arange(len(scan)) % 2 == k), config).result.object for k in (0, 1)]
        whole = refine(scan, config)
        save_png(whole.result, RECORD.parents[1] / "docs" / f"cryo-{name}.png")
        fit = register(*halves, margin=INSIDE)
        curve = fourier_ring_correlation(fit.aligned, fit.truth)
        at = {f"frc_{what}": round(frc_resolution(*curve, level), 3) for what, level in (("half", 0.5), ("7th", 1 / 7))}
        side = np.array(whole.result.object.shape)
        middle = whole.result.object[tuple(slice(int(INSIDE * n), int((1 - INSIDE) * n)) for n in side)]
        record(
            condition=f"cryo, {name}", **at, raster=round(raster_power(middle, scan), 1), epochs=len(whole.history) - 1
        )


INSIDE = 0.3
"""Part of the sides of cryo's object left out: its raster stands on a corner."""


def raster_power(image: np.ndarray, scan: Scan) -> float:
    """Power of an image's phase at the frequencies of a square raster, over the mean of all of about that length."""
    step = scan.positions[1] - scan.positions[0]
    spectrum = np.abs(np.fft.fft2(np.angle(image / image.mean()) * np.outer(*map(np.hanning, image.shape)))) ** 2
    y, x = np.meshgrid(*map(np.fft.fftfreq, image.shape), indexing="ij")
    one = step / (step @ step)
    near = [np.hypot(y - f[0], x - f[1]) < 2 / min(image.shape) for f in (one, -one, one[::-1] * (1, -1))]
    ring = abs(np.hypot(y, x) - np.hypot(*one)) < 4 / min(image.shape)
    return float(max(spectrum[n].max() for n in near) / spectrum[ring & ~np.any(near, axis=0)].mean())


@app.command()
def cost() -> None:
    """An epoch beside a bare one, in one run, by modes."""
    for name, scan, size in (("sim64_test", sim64("test", 1.0, 1), 64), ("star", star_scan(1)[0], 32)):
        jitter = np.random.default_rng(0).uniform(-0.4, 0.4, scan.positions.shape)
        moved = replace(scan, positions=scan.positions + jitter)
        runs = {"bare": bare_epoch(scan, size)}
        for modes in (1, 2, 3):
            for method in ("lsqml", "cg"):
                own = replace(moved, probe=with_modes(scan.probe, modes))
                runs[f"{method}, {modes} modes"] = an_epoch(own, method, size)
        times = in_turn(runs)
        for run, (wall, cpu) in times.items():
            record(
                condition=f"cost, {name}, {run}",
                epoch_s=round(wall, 3),
                cpu_s=round(cpu, 3),
                over_bare=round(wall / times["bare"][0], 2),
                cpu_over_bare=round(cpu / times["bare"][1], 2),
                two_ffts_s=round(two_ffts(scan), 3),
            )


@app.command()
def scaling() -> None:
    """Time and memory by frames, each in a process of its own."""
    for method in ("cg", "lsqml"):
        for frames in (500, 1000, 2000, 4000, 8000):
            subprocess.run([sys.executable, __file__, "cost-one", method, str(frames)], check=True)


@app.command()
def cost_one(method: str, frames: int) -> None:
    """One row of `scaling`, in a process of its own: epochs as a fit has them, lsqml in 16 batches."""
    scan = many_frames(frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    wall, cpu = in_turn({method: an_epoch(scan, method, -(-frames // 16))})[method]
    record(
        condition=f"cost by frames, {method}",
        frames=frames,
        epoch_ms_per_1000_frames=round(1e6 * wall / frames, 1),
        cpu_ms_per_1000_frames=round(1e6 * cpu / frames, 1),
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        before_mb=before,
        counts_mb=scan.counts.nbytes >> 20,
        counts_dtype=str(scan.counts.dtype),
    )


def in_turn(runs: dict[str, Callable[[], object]], times: int = 3) -> dict[str, tuple[float, float]]:
    """Least seconds, and least processor seconds, of each function, run in turn, after a first time that compiles."""
    for run in runs.values():
        run()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: (min(wall for wall, _ in own), min(cpu for _, cpu in own)) for name, own in found.items()}


def an_epoch(scan: Scan, method: str, size: int) -> Callable[[], object]:
    """An epoch of object and probe, batches of ``size`` frames for lsqml; ``cg4`` is cg with four slices."""
    thick = Multislice(slices=4, spacing_px=20.0, wavelength_px=0.1) if method == "cg4" else None
    solver = Solver(scan, np.arange(len(scan)), np.arange(0), multislice=thick)
    if method.startswith("cg"):
        return lambda: solver.cg_step((Object(), Probe()))
    return lambda: solver.minibatch_epoch(method, ["object", "probe"], size)


def bare_epoch(scan: Scan, size: int) -> Callable[[], object]:
    """The least that an engine does: rPIE of the object alone at whole pixels, an epoch in one compiled call.

    TensorFlow only; gather, two FFTs, sums by segment, nothing is judged.
    """
    import tensorflow as tf

    side, probe = scan.N, tf.constant(scan.probe[0])
    whole = np.rint(scan.positions).astype("int32")
    corners, shape = whole - whole.min(axis=0), tuple(int(n) for n in np.ptp(whole, axis=0) + side)
    roots = np.fft.ifftshift(np.sqrt(scan.counts.astype("float32")), axes=(1, 2))
    light, pixel = tf.abs(probe) ** 2, np.arange(side)
    rng = np.random.default_rng(0)

    @tf.function(jit_compile=True)
    def epoch(image, order, corners, roots):
        for k in tf.range(len(scan) // size):
            frames = tf.slice(order, [k * size], [size])
            corner = tf.gather(corners, frames)
            y, x = corner[:, 0, None] + pixel, corner[:, 1, None] + pixel
            index = tf.reshape(y[:, :, None] * shape[1] + x[:, None, :], (-1,))
            patches = tf.reshape(tf.gather(tf.reshape(image, (-1,)), index), (size, side, side))
            waves = tf.signal.fft2d(patches * probe) / side
            excess = tf.cast(tf.gather(roots, frames) / (tf.abs(waves) + 1e-6) - 1, "complex64")
            asked = tf.math.conj(probe) * tf.signal.ifft2d(waves * excess) * side
            total = lambda each, index=index: tf.reshape(
                tf.math.unsorted_segment_sum(tf.reshape(each, (-1,)), index, shape[0] * shape[1]), shape
            )
            below = total(tf.tile(light[None], (size, 1, 1))) + 0.1 * tf.reduce_max(light)
            image = image + total(asked) / tf.cast(below, "complex64")
        return image

    start = tf.ones(shape, "complex64")
    return lambda: epoch(start, rng.permutation(len(scan)).astype("int32"), corners, roots).numpy()


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
