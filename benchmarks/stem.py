"""Electrons: simulated 4D-STEM with exact truth, through `ptycho reconstruct` from the frames and the optics alone.

    PTYCHO_DATA=../shared/data python benchmarks/stem.py run thin                      MoS2, transposed, 15 degrees
    PTYCHO_DATA=../shared/data python benchmarks/stem.py run thin --defocus-off 100    defocus told wrong by 100 A
    PTYCHO_DATA=../shared/data python benchmarks/stem.py run thin --thinned 0.1        with a tenth of the electrons
    PTYCHO_DATA=../shared/data python benchmarks/stem.py run thick                     SrTiO3, 15.6 nm

A file with what a microscopist has (counts, step, voltage, semi-angle, detector pixel, defocus) is written first; of
the truth nothing is in it. The judge is `score_stem.py` beside the data: the correlation of the phase with the true
one, which it blurs by 0.3 A. An image that is sharper than that loses by it, so that the truth blurred by 0.15 A, and
image and truth blurred alike, stand beside it (the latter of a thin sample only: a thick one's phase winds). Then
rotation and scales of the fitted positions against the true ones, what the probe says of the lens, and, of the thin
sample, how far the columns with a vacancy, and the foreign atom, stand out from their like, in standard deviations of
these (d'); of the thick one d' of its oxygen columns against the gaps between strontium and titanium, and by how much
the titanium of each slice lies off its strontium (0.25 A along y in the lower half). False atoms are gaps (of MoS2 its
hollow sites) that are brighter than halfway from their mean to that of the dimmest whole columns, sulphur or oxygen;
missed ones are columns that are dimmer.
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
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

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
    thinned: Annotated[float, typer.Option(help="Part of the electrons that is kept, drawn one by one.")] = 1.0,
    seed: int = 0,
    options: Annotated[str, typer.Option(help="More options of `ptycho reconstruct`.")] = "",
    output: Annotated[Path | None, typer.Option("-o", help="Keep the run in this folder.")] = None,
) -> None:
    """One line of JSON: correlation, geometry, error of frames, seconds, verdict."""
    truth = np.load(DATA / f"stem_{scan}.npz")
    known = {name: truth[name] for name in KNOWN}
    known["defocus_A"] = known["defocus_A"] + (defocus_off or 0.0)
    if without_defocus:
        del known["defocus_A"]
    if thinned < 1:
        known["counts"] = np.random.default_rng(seed).binomial(known["counts"], thinned).astype("uint16")
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
        record = dict(scan=scan, thinned=thinned, seconds=round(seconds, 1), code=done.returncode) | judged(
            folder, truth
        )
        record["said"] = " ".join(done.stdout.split())[-700:]
    print(json.dumps(record))


def judged(folder: Path, truth: Any) -> dict[str, Any]:
    """What the judge says of a run, and how the positions lie against the true ones."""
    spec = importlib.util.spec_from_file_location("score_stem", DATA.parent / "score_stem.py")
    assert spec is not None and spec.loader is not None
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    with h5py.File(folder / "reconstruction.h5") as file:
        positions, image = file["positions_px"][()], file["object"][()]
        slices = file["slices"][()] if "slices" in file else None
    pixel = float(truth["object_pixel_A"])
    phase = np.angle(image * np.exp(-1j * np.angle(image[image != 0].mean())))
    alike = np.exp(1j * gaussian_filter(phase, 0.3 / pixel))
    score = lambda image, blur: judge.score(image, positions, truth, sigma=blur, verbose=False)[0]
    asked = score(image, 0.3)
    # positions in A = truth A + b, by least squares; A = R S
    known = np.c_[truth["positions_A"], np.ones(len(positions))]
    linear = np.linalg.lstsq(known, positions * pixel, rcond=None)[0][:2].T
    u, scales, v = np.linalg.svd(linear)
    turned = u @ v
    angle = float(np.rad2deg(np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])))
    scores = json.loads((folder / "scores.json").read_text())
    aberrations = scores.get("lens", {}).get("aberrations", [])
    return dict(
        correlation=round(asked["corr"], 4),
        correlation_015=round(score(image, 0.15)["corr"], 4),
        correlation_alike=None if "true_slices" in truth else round(score(alike, 0.3)["corr"], 4),
        frame_error=round(scores["held_out_error"], 4),
        lens=[f"{each['name']} {each['value_a']:.1f} +- {each['error_a']:.1f}" for each in aberrations],
        seen=seen(gaussian_filter(phase, 0.3 / pixel), positions, truth),
        thick=seen_in_depth(gaussian_filter(phase, 0.15 / pixel), slices, positions, truth),
        rotation_off_deg=round(angle, 2),
        scales=[round(float(scale), 4) for scale in scales],
        mirrored=bool(np.linalg.det(linear) < 0),
    )


def seen(phase: Any, positions: Any, truth: Any) -> dict[str, Any]:
    """d' of columns that lack an atom, and of the foreign atom, of a thin sample; false atoms and missed ones."""
    if "true_slices" in truth:
        return {}
    kinds, places = truth["atomic_numbers"], truth["atoms_A"][:, :2]
    true = truth["positions_A"]
    to_px = placement(positions, truth)
    inside = ((places > true.min(axis=0)) & (places < true.max(axis=0))).all(axis=1)
    kinds, places = kinds[inside], places[inside]
    columns: dict[tuple[int, ...], list[float]] = {}
    for members in {tuple(sorted(near)) for near in cKDTree(places).query_ball_point(places, 0.3)}:
        at = np.append(places[list(members)].mean(axis=0), 1) @ to_px
        value = map_coordinates(phase, at[:, None], order=3)[0]
        columns.setdefault(tuple(sorted(kinds[list(members)].tolist())), []).append(float(value))
    pairs = dict(vacancy=((16,), (16, 16)), tungsten=((74,), (42,)))
    found = {name: pair for name, pair in pairs.items() if all(kind in columns for kind in pair)}
    apart = lambda few, like: abs(np.mean(columns[few]) - np.mean(columns[like])) / np.std(columns[like])
    heavy, light = places[np.isin(kinds, (42, 74))], places[kinds == 16]
    pairs_near = [(site, other) for site in heavy for other in light if 0.5 < np.hypot(*(site - other)) < 2.2]
    if not pairs_near:  # neither MoS2 nor WS2: nothing is known of gaps
        return {}
    hollow = within_scan(np.unique([(2 * site - other).round(1) for site, other in pairs_near], axis=0), truth)
    dark = map_coordinates(phase, (np.c_[hollow, np.ones(len(hollow))] @ to_px).T, order=3)
    faults = false_and_missed(dark, np.array(columns.get((16, 16), [])))
    return {name: round(float(apart(*pair)), 1) for name, pair in found.items()} | faults


def within_scan(places: np.ndarray, truth: Any) -> np.ndarray:
    """Those of some places that the scan reaches."""
    true = truth["positions_A"]
    return places[((places > true.min(axis=0)) & (places < true.max(axis=0))).all(axis=1)]


def false_and_missed(dark: np.ndarray, bright: np.ndarray) -> dict[str, str]:
    """Gaps brighter, and columns dimmer, than halfway between the means of both."""
    middle = (dark.mean() + bright.mean()) / 2
    sign = np.sign(bright.mean() - dark.mean())
    false, missed = (sign * (dark - middle) > 0).sum(), (sign * (bright - middle) < 0).sum()
    return dict(false_atoms=f"{false} of {len(dark)}", missed=f"{missed} of {len(bright)}")


def placement(positions: Any, truth: Any) -> np.ndarray:
    """``(3, 2)``: (y, x, 1) in A to pixels of the image, by least squares of the positions."""
    true = truth["positions_A"]
    return np.linalg.lstsq(np.c_[true, np.ones(len(true))], positions, rcond=None)[0]


def seen_in_depth(phase: Any, slices: Any, positions: Any, truth: Any, cell_A: float = 3.905) -> dict[str, Any]:
    """d' of the oxygen columns of SrTiO3, and how far the titanium of each slice is off, along y and x in A."""
    if "true_slices" not in truth:
        return {}
    to_px = placement(positions, truth)
    atoms, kinds = truth["atoms_A"], truth["atomic_numbers"]
    upper = atoms[:, 2] < float(truth["thickness_A"]) / 2
    columns = {
        kind: np.unique(atoms[upper & (kinds == number), :2].round(2), axis=0)
        for kind, number in dict(Sr=38, Ti=22, O=8).items()
    }
    within = lambda places: within_scan(places, truth)
    strontium, titanium = columns["Sr"], within(columns["Ti"])
    nearest, _ = cKDTree(columns["Ti"]).query(columns["O"])
    oxygen = within(columns["O"][nearest > 1.0])  # those without titanium above or below
    half = cell_A / 4 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    gaps = within((titanium[:, None] + half).reshape(-1, 2))
    value = lambda places: map_coordinates(phase, (np.c_[places, np.ones(len(places))] @ to_px).T, order=3)
    bright, dark = value(oxygen), value(gaps)
    separation = abs(bright.mean() - dark.mean()) / np.sqrt((bright.var() + dark.var()) / 2)
    found: dict[str, Any] = dict(oxygen=round(float(separation), 1)) | false_and_missed(dark, bright)
    if slices is not None:
        grid = np.stack(np.meshgrid(*[np.linspace(-0.8, 0.8, 17)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
        centres = lambda image, places: np.array([centroid(image, place + grid, to_px) - place for place in places])
        for layer in slices:
            image = np.angle(layer * np.exp(-1j * np.angle(layer[layer != 0].mean())))
            off = centres(image, titanium).mean(axis=0) - centres(image, within(strontium)).mean(axis=0)
            found.setdefault("titanium_off_A", []).append(off.round(3).tolist())
    return found


def centroid(phase: Any, places: np.ndarray, to_px: np.ndarray) -> np.ndarray:
    """Of the phase above its median over some places, in A."""
    values = map_coordinates(phase, (np.c_[places, np.ones(len(places))] @ to_px).T, order=1)
    weights = np.clip(values - np.median(values), 0, None)
    return (weights[:, None] * places).sum(axis=0) / weights.sum()


if __name__ == "__main__":
    app()
