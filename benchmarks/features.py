"""Does an image show what is there? Small features that are there or not, at random, and what images say of them.

    python benchmarks/features.py run -o features.jsonl      what is recorded already is not run again
    python benchmarks/features.py table features.jsonl

An organelle in cells, an atom of a lattice, a short wire between lines: 25 sites in each object, half of them occupied.
What an image says of a site is its phase against the object without any feature, weighted by the feature less its mean:
0 without it, 1 with all of its contrast. The truth serves that judge alone. AUC is the probability that an occupied
site says more than an empty one; an invented feature is an empty site that says more than one half.
"""

import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from photons import nobody, without_network

from ptycho.arrays import Complex, Float
from ptycho.config import RefineConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.physics.grid import ObjectGrid
from ptycho.pipelines.prior import try_denoiser
from ptycho.refinement.refine import refine
from ptycho.simulation.objects import make_object
from ptycho.simulation.simulate import simulate

app = typer.Typer(add_completion=False)

SIDE, APART, REACH = 216, 24, 8
"""Pixels of the object, between sites, and from a site to the end of the window that is looked at."""

DOSES, SEEDS = (7e2, 7e3, 7e4), (0, 1)


def spot(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An atom, or a granule of a cell, of 0.3 rad."""
    return 0.3 * np.exp(-(y**2 + x**2) / (2 * 1.6**2))


def wire(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Ten pixels long, three wide, of 0.2 rad."""
    return 0.2 * ((np.abs(y) <= 1) & (np.abs(x) <= 4.5))


def atoms(rng: np.random.Generator) -> Complex[np.ndarray, "H W"]:
    """A square lattice, 8 pixels apart, without the atoms at the sites."""
    y, x = np.mgrid[:SIDE, :SIDE]
    phase = np.zeros((SIDE, SIDE))
    empty = {tuple(site) for site in sites()}
    for site in np.stack(np.mgrid[4:SIDE:8, 4:SIDE:8], axis=-1).reshape(-1, 2):
        if tuple(site) not in empty:
            phase += spot(y - site[0], x - site[1])
    return np.exp(1j * phase).astype("complex64")


def sites() -> np.ndarray:
    """``(25, 2)``: on the lattice of `atoms`, in the middle of the field."""
    first = (SIDE - 4 * APART) // 2 // 8 * 8 + 4
    return np.stack(np.mgrid[:5, :5], axis=-1).reshape(-1, 2) * APART + first


KINDS: dict[str, tuple[Callable[[np.random.Generator], np.ndarray], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "organelle in cells": (lambda rng: make_object("cells", (SIDE, SIDE), rng), spot),
    "atom of a lattice": (atoms, spot),
    "wire between lines": (lambda rng: make_object("lines", (SIDE, SIDE), rng), wire),
}


def images(scan: Scan) -> dict[str, Reconstruction]:
    """The fit from vacuum, with total variation and what belongs to it, with the network, and the chosen one."""
    config = RefineConfig(noise="poisson")
    plain = refine(scan, config)
    smoothed = without_network(scan, config, plain)
    network = try_denoiser(scan, smoothed, nobody(scan))
    chosen = network.fit if network.liked else smoothed.fit
    fits = {"no prior": plain, "total variation": smoothed.fit, "network": network.fit, "chosen": chosen}
    return {name: fit.result for name, fit in fits.items()}


def said(result: Reconstruction, base: Complex[np.ndarray, "H W"], feature: Callable) -> Float[np.ndarray, " K"]:
    """What an image says of each site: 0 empty, 1 occupied."""
    grid = ObjectGrid(tuple(result.origin_px), result.object.shape, result.N)
    there = grid.placed(base, (0, 0), np.zeros_like(result.object))
    difference = result.object * there.conj()
    lit = result.coverage > 0.5 * result.coverage.max()
    difference *= np.exp(-1j * np.angle(difference[lit].sum()))
    y, x = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]
    weight = feature(y, x) - feature(y, x).mean()
    scale = (weight * feature(y, x)).sum()
    values = []
    for site in sites() - np.asarray(result.origin_px):
        top, left = np.rint(site).astype(int) - REACH
        window = difference[top : top + 2 * REACH + 1, left : left + 2 * REACH + 1]
        values.append((weight * np.angle(window)).sum() / scale)
    return np.array(values)


@app.command()
def run(output: Annotated[Path, typer.Option("-o")]) -> None:
    """Three kinds at three doses; a line of JSON for each scan."""
    records = map(json.loads, output.read_text().splitlines()) if output.exists() else ()
    done = {(each["kind"], each["photons"], each["seed"]) for each in records}
    for kind, photons, seed in product(KINDS, DOSES, SEEDS):
        if (kind, photons, seed) in done:
            continue
        make, feature = KINDS[kind]
        rng = np.random.default_rng(seed)
        base = make(rng)
        occupied = rng.permutation(np.arange(25) % 2).astype(bool)
        y, x = np.mgrid[:SIDE, :SIDE]
        phase = sum(feature(y - site[0], x - site[1]) for site in sites()[occupied])
        settings = SimulationConfig(N=64, positions=225, step_px=9.0, jitter_px=1.0, photons=photons, seed=seed)
        scan = simulate(settings, object=(base * np.exp(1j * phase)).astype("complex64"))
        begin = time.perf_counter()
        values = {name: said(result, base, feature).round(3).tolist() for name, result in images(scan).items()}
        record = dict(kind=kind, photons=photons, seed=seed, occupied=occupied.tolist(), values=values)
        with output.open("a") as file:
            file.write(json.dumps(record | dict(seconds=round(time.perf_counter() - begin, 1))) + "\n")


def area_under_curve(occupied: Float[np.ndarray, " K"], empty: Float[np.ndarray, " L"]) -> float:
    """The probability that an occupied site says more than an empty one."""
    return float((occupied[:, None] > empty).mean() + (occupied[:, None] == empty).mean() / 2)


@app.command()
def table(path: Path) -> None:
    """A row for each kind and dose: AUC, missed and invented features of each image."""
    records = [json.loads(text) for text in path.read_text().splitlines()]
    names = list(records[0]["values"])
    print(f"| feature | counts a frame | sites | {' | '.join(names)} |")
    print(f"|---|---|---|{'---|' * len(names)}")
    for kind, photons in product(KINDS, DOSES):
        rows = [each for each in records if (each["kind"], each["photons"]) == (kind, photons)]
        if not rows:
            continue
        occupied = np.concatenate([each["occupied"] for each in rows]).astype(bool)
        cells = []
        for name in names:
            values = np.concatenate([each["values"][name] for each in rows])
            missed, invented = (values[occupied] < 0.5).mean(), (values[~occupied] > 0.5).mean()
            auc = area_under_curve(values[occupied], values[~occupied])
            cells.append(f"{auc:.3f}; {100 * missed:.0f} %, {100 * invented:.0f} %")
        print(f"| {kind} | {photons:.0e} | {len(occupied)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app()
