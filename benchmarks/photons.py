"""Few photons, little overlap: the fit from vacuum, with the total variation that held-out photons choose, and with the
network that takes out noise where held-out frames like it, as `refine` does it by itself.

    PTYCHO_DATA=../shared/data python benchmarks/photons.py sim64       four conditions of sim64_test, and all photons
    python benchmarks/photons.py cells                                  simulated cells, N 32, three objects, two doses
    python benchmarks/photons.py unseen -o unseen.jsonl                 ten objects that no network has seen: see there
    python benchmarks/photons.py gains unseen.jsonl                     what is recorded there, as a table
    python benchmarks/photons.py overlap                                lines and cells from 62 % to none, beside rPIE
    python benchmarks/photons.py projections                            fits led out of wrong minima, or left there
    PTYCHO_DATA=../shared/data python benchmarks/photons.py star        the uncertainty of the measured star, by halves
    python benchmarks/photons.py halves                                 half-set FRC beside that with the truth

The probe is known. SNR of the object in dB, `compare_objects`; the truth is used by nothing before.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from network import sim64
from skimage import data

from ptycho.config import RefineConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.evaluation.half_sets import agreement
from ptycho.evaluation.uncertainty import band_coverage, illuminated_pixels
from ptycho.physics.grid import ObjectGrid
from ptycho.pipelines.assess import assess_fully
from ptycho.pipelines.bootstrap import error_map
from ptycho.pipelines.half_sets import half_sets, paired
from ptycho.pipelines.open import open_scan
from ptycho.pipelines.precision import with_error_map
from ptycho.pipelines.prior import Smoothed, try_denoiser, with_flatness, with_slow_phase, with_total_variation
from ptycho.reconstruction.pty_chi import run_ptychi
from ptycho.refinement.from_network import PLENTY, photons_per_object_pixel
from ptycho.refinement.refine import Refinement, refine
from ptycho.simulation.objects import make_object
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


def compare(name: str, scan: Scan, quiet: bool = False) -> dict[str, Any]:
    """Print one condition: SNR of the three fits, and the seconds of each beside the ones before."""
    config = RefineConfig(noise="poisson")
    begin = time.perf_counter()
    plain = refine(scan, config)
    between = time.perf_counter()
    smoothed = with_total_variation(scan, config, plain, np.zeros(len(scan), bool))
    end = time.perf_counter()
    snr = lambda fit: compare_objects(fit.result.object, scan.object).snr_db
    plenty = photons_per_object_pixel(scan) >= PLENTY
    freed = with_slow_phase(scan, smoothed, np.zeros(len(scan), bool))
    flattened = with_flatness(scan, freed, np.zeros(len(scan), bool))
    trial = None if plenty else try_denoiser(scan, flattened, np.zeros(len(scan), bool))
    chosen, config = flattened.fit, flattened.config
    if trial is not None and trial.liked:
        chosen, config = trial.fit, trial.config
    ready = time.perf_counter()
    sigma, _ = error_map(scan, config, chosen.result, epochs=chosen.best)
    record = dict(
        name=name,
        photons=round(photons_per_object_pixel(scan), 1),
        flat=round(compare_objects(np.ones_like(scan.object), scan.object).snr_db, 2),
        vacuum=round(snr(plain), 2),
        tv=round(snr(smoothed.fit), 2),
        freed=round(snr(freed.fit), 2),
        flattened=round(snr(flattened.fit), 2),
        red=None if trial is None else round(snr(trial.fit), 2),
        gains=None if trial is None else [round(trial.by_frames, 2), round(trial.by_photons, 2)],
        chosen=round(snr(chosen), 2),
        ssim=round(compare_objects(chosen.result.object, scan.object).amplitude_ssim, 3),
        flat_weight=flattened.config.flat_weight,
        slow_phase=flattened.config.slow_phase > 0,
        weight=float(f"{smoothed.config.tv_weight:.3g}"),
        network=config.red_weight > 0,
        within=within(chosen.result, scan, sigma),
        seconds=[round(b - a, 1) for a, b in pairwise((begin, between, end, ready, time.perf_counter()))],
    )
    if not quiet:
        print(json.dumps(record), flush=True)
    return record


def within(result: Reconstruction, scan: Scan, sigma: np.ndarray) -> list[float]:
    """Parts of the well-lit pixels whose error is within one and two sigma: 0.63 and 0.98 of complex Gaussian ones."""
    grid = ObjectGrid(tuple(result.origin_px), result.object.shape, scan.N)
    truth = grid.placed(scan.object, (0, 0), np.zeros_like(result.object))
    where = illuminated_pixels(result.coverage) & (truth != 0)
    phase = np.vdot(truth[where], result.object[where])
    inside = band_coverage(result.object, truth * (phase / abs(phase)), sigma, where)
    return [round(inside[f"within_{k}_sigma"], 3) for k in (1, 2)]


@app.command(name="sim64")
def sim64_rows(seeds: int = 3, only: str = "") -> None:
    """`sim64_test` at several doses and steps; the seeds are of the noise, and of which positions are kept."""
    for name, (dose, every) in ROWS.items():
        for seed in range(seeds if dose < 1 or every > 1 else 1):
            if only in name:
                compare(f"{name}, seed {seed}", sim64("test", dose, every, seed))


@app.command()
def cells() -> None:
    """Cells, whose slow slopes total variation might eat."""
    for photons, seed in ((photons, seed) for photons in (500.0, 2000.0) for seed in (3, 4, 5)):
        settings = SimulationConfig(N=32, positions=225, step_px=3.0, jitter_px=1.0, photons=photons, seed=seed)
        compare(f"cells, {photons:.0f} counts a frame, seed {seed}", simulate(settings))


def unseen_objects(side: int = 216) -> dict[str, np.ndarray]:
    """Ten objects of five families that neither network nor denoiser has learned from, ``(side, side)`` complex."""
    crop = lambda image: np.asarray(image, float)[:side, :side] / 255.0
    grey = lambda image: np.asarray(image, float).mean(axis=-1)
    photographs = dict(camera=data.camera(), astronaut=grey(data.astronaut()), coffee=grey(data.coffee()))
    textures = dict(brick=data.brick(), grass=data.grass(), gravel=data.gravel())
    objects = {name: (1 - 0.4 * crop(image)) * np.exp(0.8j * crop(image)) for name, image in photographs.items()}
    objects |= {name: (1 - 0.2 * crop(image)) * np.exp(0.6j * crop(image)) for name, image in textures.items()}
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:side, :side].astype(float)
    # A square lattice of atoms, 9 pixels apart, one in twelve missing
    atoms = np.zeros((side, side))
    for site in np.stack(np.mgrid[4:side:9, 4:side:9], axis=-1).reshape(-1, 2):
        if rng.random() > 1 / 12:
            atoms += np.exp(-((y - site[0]) ** 2 + (x - site[1]) ** 2) / (2 * 1.6**2))
    objects["atoms"] = np.exp(0.5j * atoms)
    # An integrated circuit: wires along y and x in two layers, and contacts
    wires = np.zeros((2, side, side))
    for layer in range(2):
        for start in range(4, side - 8, 14):
            begin, end = np.sort(rng.integers(0, side, 2))
            cut = (slice(begin, end), slice(start, start + 6))
            wires[layer][cut if layer else cut[::-1]] = 1
    objects["circuit"] = (1 - 0.15 * wires.sum(0)) * np.exp(-0.5j * wires.sum(0))
    immuno = data.immunohistochemistry()
    objects["tissue"] = (1 - 0.4 * (1 - crop(grey(immuno)))) * np.exp(0.9j * (1 - crop(grey(immuno))))
    objects["gold balls"] = make_object("gold_balls", (side, side), rng)
    return {name: image.astype("complex64") for name, image in objects.items()}


@app.command()
def unseen(
    output: Annotated[Path, typer.Option("-o", "--output")], only: str = "", every: int = 1, seed: int = 0
) -> None:
    """Ten unseen objects at three doses, under two probes; what is recorded already is not done again."""
    done = {json.loads(line)["name"] for line in output.read_text().splitlines()} if output.exists() else set()
    for number, (title, make) in enumerate(unseen_cases(seed)):
        if title in done or only not in title or number % every:
            continue
        record = compare(title, make())
        with output.open("a") as file:
            file.write(json.dumps(record) + "\n")


def unseen_cases(seed: int = 0) -> list[tuple[str, Callable[[], Scan]]]:
    """Names of the scans of `unseen`, and what simulates each."""
    made = unseen_objects()
    return [
        (
            f"{name}, {photons:.0e} counts, {waves:.0f} waves",
            lambda image=made[name], photons=photons, waves=waves: simulate(
                SimulationConfig(N=64, positions=225, step_px=9.0, photons=photons, defocus=waves, seed=seed),
                object=image,
            ),
        )
        for photons in (7e2, 7e3, 7e4)
        for waves in (1.0, 3.0)
        for name in made
    ]


@app.command()
def overlap(seed: int = 0) -> None:
    """Lines and cells under a flat disc and out of focus, 1e5 photons a frame; beside pty-chi's rPIE, its best stop.

    Linear overlap is 1 - step / diameter, of the disc of the probe's effective area. Without overlap no frame tells the
    phase of another.
    """
    print("| object, probe | overlap | frames | flat | rPIE | vacuum | chosen | its amplitude SSIM | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind, waves in (("lines", 0.0), ("lines", None), ("cells", 0.0), ("cells", None)):
        for part in (0.62, 0.4, 0.2, 0.0):
            settings = SimulationConfig(N=64, positions=64, object_kind=kind, defocus=waves, seed=seed)
            step = (1 - part) * simulate(replace(settings, positions=4)).probe_diameter_px
            side = max(8, round(150 / step))
            scan = simulate(replace(settings, positions=side**2, step_px=step, jitter_px=1.0))
            stops = [run_ptychi(scan, engine="rpie", epochs=epochs).result for epochs in (10, 30, 100, 200)]
            rpie = max(compare_objects(stop.object, scan.object).snr_db for stop in stops)
            row = compare(f"{kind}, {'flat disc' if waves == 0 else 'out of focus'}", scan, quiet=True)
            print(
                f"| {row['name']} | {part:.2f} | {len(scan)} | {row['flat']:.1f} | {rpie:.1f} | {row['vacuum']:.1f} "
                f"| **{row['chosen']:.1f}** | {row['ssim']:.2f} | {sum(row['seconds']):.0f} |",
                flush=True,
            )


@app.command()
def projections(seeds: int = 3) -> None:
    """36 frames that overlap by a quarter or a half, 1e5 photons each, and 64 of 1e9: fits without a prior that
    reflected projections lead out of wrong minima, beside the same fits left where they end."""
    print("| frames | overlap | photons | object | before | led out | flat |")
    print("|---|---|---|---|---|---|---|")
    settings = SimulationConfig(N=48, positions=36, step_px=14.0, jitter_px=1.0, photons=1e5)
    for name, kinds, scanned in (
        ("48 px, flat disc", ("lines", "cells"), replace(settings, defocus=0.0)),
        ("64 px, flat disc", ("lines", "cells"), replace(settings, N=64, step_px=20.0, defocus=0.0)),
        ("64 px, out of focus", ("lines", "cells"), replace(settings, N=64, step_px=26.0)),
        ("64 px, flat disc", ("lines",), replace(settings, N=64, positions=225, step_px=8.0, photons=1e9, defocus=0.0)),
    ):
        for kind in kinds:
            scans = [simulate(replace(scanned, object_kind=kind, seed=seed)) for seed in range(seeds)]
            before, after, flat = (
                [f"{each:.1f}" for each in column] for column in zip(*map(led_out, scans), strict=True)
            )
            columns = (name, f"{scans[0].overlap:.2f}", f"{scanned.photons:.0e}", kind)
            columns += (", ".join(before), f"**{', '.join(after)}**", flat[0])
            print(f"| {' | '.join(columns)} |", flush=True)


def led_out(scan: Scan) -> tuple[float, float, float]:
    """SNR of a fit left where it ends, of the same led out of there, and of a flat object."""
    config = RefineConfig(noise="poisson")
    with mock.patch("ptycho.refinement.refine.may_be_stuck", lambda *_: False):
        left = refine(scan, config)
    images = left.result.object, refine(scan, config).result.object, np.ones_like(scan.object)
    before, after, flat = (compare_objects(image, scan.object).snr_db for image in images)
    return before, after, flat


@app.command()
def star(modes: int = 8) -> None:
    """The uncertainty of a measured scan: two images of half of the frames each, with the probe that all of them give.

    Where both errors are Gaussian and as large as said, 0.632 and 0.982 of the pixels differ by one and two sigma of
    the difference, ``sqrt(sigma_1^2 + sigma_2^2)``. What both halves have alike, of the probe, is not in that.
    """
    scan = open_scan(Path(os.environ["PTYCHO_DATA"]) / "siemens-star-small.npz.bz2", print, modes=modes)
    whole = refine(scan, RefineConfig(probe_from=1))
    known = scan.with_probe(whole.result.probe)
    print("| part of the photons | frames | residuals over shot noise | within 1 sigma | within 2 sigma |")
    print("|---|---|---|---|---|")
    for part in (1.0, 0.1, 0.01):
        thinned = known if part == 1 else at_part(known, part)
        config = RefineConfig(noise="poisson")
        images = []
        for frames in paired(scan.positions, np.random.default_rng(0)):
            half = thinned.subset(frames)
            chosen = without_network(half, config, refine(half, config))
            outcome = assess_fully(chosen.fit.result, half, nobody(half), (), (), chosen.fit)
            outcome = with_error_map(outcome, half, chosen.config, chosen.fit.best, None)
            images.append(outcome.result)
        inside = " | ".join(f"{value:.2f}" for value in agreeing(*images))
        print(f"| {part:g} | {len(half)} | {np.sqrt(outcome.trust.median_ratio):.2f} | {inside} |", flush=True)


def nobody(scan: Scan) -> np.ndarray:
    """No frame is held out."""
    return np.zeros(len(scan), bool)


def without_network(scan: Scan, config: RefineConfig, plain: Refinement) -> Smoothed:
    """A fit from vacuum, with total variation, slow phase and flatness as far as the data like each."""
    smoothed = with_total_variation(scan, config, plain, nobody(scan))
    return with_flatness(scan, with_slow_phase(scan, smoothed, nobody(scan)), nobody(scan))


def at_part(scan: Scan, part: float) -> Scan:
    """A scan with a part of its photons, drawn one by one."""
    counts = np.random.default_rng(0).binomial(scan.counts[:].astype(int), part).astype("uint16")
    return replace(scan, counts=counts, probe=(scan.probe * np.sqrt(part)).astype("complex64"))


def agreeing(one: Reconstruction, other: Reconstruction) -> list[float]:
    """Parts of the pixels that are well lit in both images and differ by one and two sigma at most."""
    grid = ObjectGrid(tuple(one.origin_px), one.object.shape, one.N)
    moved = lambda array: grid.placed(array, other.origin_px, np.zeros(grid.shape, array.dtype))
    image, sigma, coverage = moved(other.object), moved(other.uncertainty), moved(other.coverage)
    where = illuminated_pixels(one.coverage) & illuminated_pixels(coverage)
    phase = np.vdot(image[where], one.object[where])
    band = np.hypot(one.uncertainty, sigma)
    inside = band_coverage(one.object, image * (phase / abs(phase)), band, where)
    return [inside[f"within_{k}_sigma"] for k in (1, 2)]


@app.command()
def halves() -> None:
    """The resolution of `sim64_test` by two halves of the data, beside the truth: conditions as above.

    Of the half-set correlation F that of the whole with the truth is sqrt(2 F / (1 + F)) (Rosenthal & Henderson 2003).
    """
    config = RefineConfig(noise="poisson")
    print("| counts, step | halves of | half bit | FRC with truth 0.5 at | expected - true FRC | s |")
    print("|---|---|---|---|---|---|")
    for name, (dose, every) in ROWS.items():
        scan = sim64("test", dose, every)
        fit = refine(scan, config)
        begin = time.perf_counter()
        found = half_sets(scan, config, fit.result, np.zeros(len(scan), bool))
        seconds = time.perf_counter() - begin
        truth = compare_objects(fit.result.object, scan.object).correlation
        halved = np.clip(np.interp(truth.frequency, *found.correlation[:2]), 0, 1)
        difference = np.mean(np.sqrt(2 * halved / (1 + halved)) - truth.correlation)
        half = agreement(truth.frequency, truth.correlation, np.full(len(truth.frequency), 0.5))
        print(f"| {name} | {found.halves} | {found.half_bit:.2f} | {half:.2f} | {difference:+.2f} | {seconds:.1f} |")


@app.command()
def gains(file: Path) -> None:
    """A table of what the chosen prior gains over total variation, by dose."""
    records = [json.loads(line) for line in file.read_text().splitlines()]
    print("| counts a frame | scans | vacuum | total variation | chosen | gain: median | lowest | highest | taken |")
    print("|---|---|---|---|---|---|---|---|---|")
    for dose in dict.fromkeys(record["name"].split(", ")[1] for record in records):
        rows = [record for record in records if record["name"].split(", ")[1] == dose]
        gain = [row["chosen"] - row["tv"] for row in rows]
        median = lambda key, rows=rows: f"{np.median([row[key] for row in rows]):.1f}"
        print(
            f"| {dose.split()[0]} | {len(rows)} | {median('vacuum')} | {median('tv')} | {median('chosen')} "
            f"| {np.median(gain):.2f} | {min(gain):.2f} | {max(gain):.2f} | {sum(row['network'] for row in rows)} |"
        )


if __name__ == "__main__":
    app()
