"""Files as strangers bring them, each through the whole `ptycho reconstruct`: the right image, or a clear no.

    python benchmarks/strangers.py run -o strangers.jsonl          # all of them: hours; --every 5 takes each fifth
    python benchmarks/strangers.py table strangers.jsonl

Each is a small simulated scan, written as another program would write it, with one thing that is odd about it. It is
judged by frames 0, 10, 20, ... that the command has not seen, beside the same scan in our own format with nothing odd:

- right: the verdict "at the noise", or an error over shot noise of at most 1.2 times that of the sound scan;
- warned: an image with a warning, or the verdict that there is none;
- refused: a message that names the remedy that is listed here; without it the refusal counts as wrong;
- silent: an image said to be at the noise that predicts the true frames worse. There must be none.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import typer

from ptycho.config import NearField, SimulationConfig
from ptycho.data.beam import ELEMENTARY_CHARGE_C, Beam
from ptycho.data.scan import Scan
from ptycho.diagnostics.statistics import guessed_probe
from ptycho.formats import write_scan
from ptycho.simulation.simulate import simulate

Array = np.ndarray
PIXEL_M, DISTANCE_M, PHOTON, ELECTRON = 20e-9, 1.0, Beam(energy_eV=8000.0), Beam(energy_eV=3e5, particle="electron")
MM = 1e3

app = typer.Typer(add_completion=False)


@dataclass
class Stranger:
    """A file, and what should become of it."""

    path: Path
    sound: Scan
    """The scan as it is, in our conventions, without anything odd."""
    options: list[str] = field(default_factory=list)
    remedy: str = ""
    """What a refusal has to name; empty: the file can be read, and should be."""


Writer = Callable[[Path, int, np.random.Generator], Stranger]
KINDS: dict[str, tuple[Writer, int]] = {}
"""Of each kind what writes its variations, and how many there are."""


def kind(variations: int) -> Callable[[Writer], Writer]:
    def register(writer: Writer) -> Writer:
        KINDS[writer.__name__.replace("_", " ")] = writer, variations
        return writer

    return register


# --------------------------------------------------------------------------------------------------------- the scans


def scan_of(v: int, *, raster: bool = False, **changes: Any) -> Scan:
    """The v-th of some scans: size, frames, photons and sample differ."""
    settings: dict[str, Any] = dict(
        N=(32, 48, 40)[v % 3], photons=(3e4, 1e5, 1e6)[v // 2 % 3], positions=(144, 169)[v % 2], seed=v
    )
    settings |= dict(step_px=settings["N"] / 12, jitter_px=1.0, object_kind=("cells", "leaves")[v % 2])
    settings |= changes
    if raster:
        settings["jitter_px"] = 0.0
    return simulate(SimulationConfig(**settings))


def ours(path: Path, scan: Scan, **changes: Any) -> Path:
    """As our own HDF5, with other fields, also such as no scan would take."""
    plain = {name: changes.pop(name) for name in list(changes) if name in ("counts", "positions")}
    write_scan(replace(scan, object=None, **changes), path)
    with h5py.File(path, "r+") as file:
        for name, values in plain.items():
            key = {"counts": "counts", "positions": "positions_px"}[name]
            del file[key]
            file[key] = values
    return path


def detector_pixel(N: int) -> float:
    return PHOTON.wavelength_m * DISTANCE_M / (N * PIXEL_M)


DETECTOR = "entry_1/instrument_1/detector_1"


def cxi(path: Path, scan: Scan, **changes: Any) -> Path:
    """As CDTools writes it; ``changes`` are data sets by their paths, without ``entry_1``; None leaves one out."""
    side, (y, x) = detector_pixel(scan.N), scan.positions.T * PIXEL_M
    values = {
        "cxi_version": 160,
        f"{DETECTOR}/data": scan.counts,
        f"{DETECTOR}/distance": DISTANCE_M,
        f"{DETECTOR}/x_pixel_size": side,
        f"{DETECTOR}/y_pixel_size": side,
        f"{DETECTOR}/basis_vectors": [[0, -side], [-side, 0], [0, 0]],
        "entry_1/instrument_1/source_1/energy": 8000 * ELEMENTARY_CHARGE_C,
        "entry_1/sample_1/geometry_1/translation": np.stack([x, y, 0 * x], axis=1),
    }
    with h5py.File(path, "w") as file:
        for key, value in (values | changes).items():
            if value is not None:
                file[key] = value
        file["entry_1/data_1/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")
        file["entry_1/data_1/data"] = h5py.SoftLink(f"/{DETECTOR}/data")
    return path


def nexus(path: Path, scan: Scan, x: Array, y: Array, units: str | None, counts: Array | None = None) -> Path:
    """As NXcxi_ptycho, with positions as they are given."""
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry_1")
        entry.attrs["NX_class"], entry["definition"] = "NXentry", "NXcxi_ptycho"
        detector = entry.create_group("instrument_1/detector_1")
        detector["data"] = scan.counts if counts is None else counts
        for name, value in dict(distance=DISTANCE_M, x_pixel_size=0.0, y_pixel_size=0.0).items():
            detector[name] = value or detector_pixel(scan.N)
            detector[name].attrs["units"] = "m"
        entry["instrument_1/beam_1/incident_beam_energy"] = 8000.0
        entry["instrument_1/beam_1/incident_beam_energy"].attrs["units"] = "eV"
        moves = entry.create_group("sample_1/transformations")
        for name, values, vector in (("x", x, [1.0, 0, 0]), ("y", y, [0, 1.0, 0])):
            moves[name] = values
            moves[name].attrs.update(vector=vector, transformation_type="translation")
            if units:
                moves[name].attrs["units"] = units
    return path


def guessed(scan: Scan) -> Scan:
    """The scan with a rough probe of another scale."""
    blurred = scan.probe[:1] * np.exp(0.5j * np.hypot(*np.indices((scan.N, scan.N)) - scan.N / 2) / scan.N)
    return replace(scan, probe=3 * blurred.astype("complex64"), probe_known=False)


def unlit(scan: Scan) -> Scan:
    """The scan without its probe: of its frames a guess is made, as of those of a file without one."""
    return replace(scan, probe=guessed_probe(scan.counts), probe_known=False)


# --------------------------------------------------------------------------------------------------------- the kinds


@kind(24)
def sound(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """Nothing odd: our own formats, a probe given and guessed, one and three modes."""
    scan = scan_of(v, probe_modes=(1, 1, 3)[v % 3])
    scan = guessed(scan) if v % 4 == 3 else scan
    suffix = (".h5", ".npz", ".cxi")[v // 3 % 3]
    scan = replace(scan, pixel_size_m=PIXEL_M, beam=replace(PHOTON, distance_m=DISTANCE_M))
    return Stranger(write_scan(replace(scan, object=None), folder / f"a{suffix}"), scan)


@kind(24)
def bad_pixels(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """Hot pixels of the largest value of their dtype, at corners or anywhere, in files with and without a probe."""
    scan = scan_of(v)
    dtype = ("uint32", "uint16", "int32")[v % 3]
    counts = scan.counts.astype(dtype)
    for y, x in rng.integers(0, scan.N, (1 + v % 4, 2)) if v % 2 else [(2, 3)]:
        counts[:, y, x] = np.iinfo(dtype).max
    if v % 4 < 2:
        return Stranger(ours(folder / "a.h5", scan, counts=counts), scan)
    return Stranger(cxi(folder / "a.cxi", scan, **{f"{DETECTOR}/data": counts}), unlit(scan))


@kind(24)
def gaps(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """Gaps of the detector near its edges that hold -1, NaN, 0 or the largest value; with and without a mask."""
    scan = scan_of(v)
    gap = np.zeros((scan.N, scan.N), bool)
    gap[1 : 3 + v % 2], gap[:, scan.N - 5 : scan.N - 3] = True, True
    value, dtype = ((-1, "int32"), (np.nan, "float32"), (2**32 - 1, "uint32"), (65535, "uint16"))[v % 4]
    counts = scan.counts.astype(dtype)
    counts[:, gap] = value
    if v // 4 % 2:
        mask = {f"{DETECTOR}/mask": gap.astype("uint32")}
        return Stranger(cxi(folder / "a.cxi", scan, **{f"{DETECTOR}/data": counts}, **mask), unlit(scan))
    return Stranger(ours(folder / "a.h5", scan, counts=counts), scan)


@kind(36)
def geometry(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """Positions mirrored, exchanged, turned and scaled; a probe given and guessed."""
    scan = scan_of(v // 9, N=48, positions=225, photons=(1e5, 1e6)[v % 2])
    a = np.deg2rad((5, 12, -20)[v % 3])
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    maps = ([[0, 1], [1, 0]], [[1, 0], [0, -1]], [[-1, 0], [0, 1]], [[-1, 0], [0, -1]], turn, 1.05 * np.eye(2))
    maps = (*maps, 1.2 * np.eye(2), turn @ np.array([[0, 1], [1, 0]]), 0.93 * turn)
    positions = scan.positions @ np.array(maps[v % 9], float).T
    shown = guessed(scan) if v // 9 % 2 else scan
    return Stranger(ours(folder / "a.h5", shown, positions=positions), shown)


@kind(36)
def units(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """Positions in a NeXus file in many spellings of their units, and without."""
    scan = scan_of(v)
    spelt = ("m", "mm", "um", "µm", "microns", "micrometer", "MM", "millimetre", "nm", None, None, "pm")[v % 12]
    factor = (1, MM, 1e6, 1e6, 1e6, 1e6, MM, MM, 1e9, MM, 1e6, 1e12)[v % 12]
    y, x = scan.positions.T * PIXEL_M * factor
    shape = (slice(None), None, None) if v // 12 == 1 else ...
    return Stranger(
        nexus(folder / "a.nxs", scan, x[shape], y[shape], spelt), unlit(scan), remedy="" if spelt else "--position-unit"
    )


@kind(30)
def places(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """A lost position, more or fewer frames than positions, a buffer not filled, a large offset of the stage."""
    scan = scan_of(v)
    (y, x), counts, options, remedy = scan.positions.T * PIXEL_M, scan.counts, [], ""
    kept = np.arange(len(scan))
    match v % 6:
        case 0:
            x = np.where(np.arange(len(scan)) == 7 + v, np.nan, x)
        case 1:
            x, y, remedy = x[: -2 - v // 6], y[: -2 - v // 6], "--drop-unplaced"
        case 2:
            x, y, kept = x[: -2 - v // 6], y[: -2 - v // 6], kept[: -2 - v // 6]
            options = ["--drop-unplaced"]
        case 3:
            counts, remedy = counts[:-2], "--drop-unplaced"
        case 4:
            x, y = np.r_[x[:-20], np.zeros(20)], np.r_[y[:-20], np.zeros(20)]
        case 5:
            x, y = x + 12.3456e-3, y - 3.21e-3
    return Stranger(nexus(folder / "a.nxs", scan, x, y, "m", counts), unlit(scan.subset(kept)), options, remedy)


@kind(36)
def values(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """A CCD: dark subtracted or not, a dark in the file, wrapped round, gain, closed shutter."""
    scan = scan_of(v, photons=(1e5, 1e6)[v % 2])
    gain, dark = 8.0, 200.0
    raw = np.rint(scan.counts * gain + dark + rng.normal(0, 3, scan.counts.shape))
    saturated = np.minimum(raw, 65535).astype("uint16")
    path, given = folder / "a.h5", ["--gain", "8"]
    match v % 9:
        case 0:
            return Stranger(ours(path, scan, counts=(raw - dark).astype("float32")), scan, remedy="gain")
        case 1:
            return Stranger(ours(path, scan, counts=(raw - dark).astype("int16")), scan, given)
        case 2:
            # Where bright counts come near 65535 too, nothing can tell them from wrapped ones.
            wrapped = (raw - dark).astype("int32").astype("uint16")
            return Stranger(ours(path, scan, counts=wrapped), scan, given, "signed")
        case 3:
            return Stranger(ours(path, scan, counts=saturated), scan, given)
        case 4:
            file = {f"{DETECTOR}/data": saturated, f"{DETECTOR}/data_dark": np.full((scan.N,) * 2, dark)}
            return Stranger(cxi(folder / "a.cxi", scan, **file), unlit(scan), given)
        case 5:
            counts = scan.counts.copy()
            counts[::9] = 0
            return Stranger(ours(path, scan, counts=counts), scan)
        case 6:
            return Stranger(ours(path, scan, counts=np.sqrt(scan.counts).astype("float32")), scan, remedy="--mend")
        case 7:
            return Stranger(ours(path, scan, counts=np.roll(scan.counts, (4, -3), (1, 2))), scan)
        case _:
            return Stranger(ours(path, scan, counts=np.fft.ifftshift(scan.counts, axes=(1, 2))), scan, remedy="--mend")


def rastered(v: int, electron: bool, **changes: Any) -> tuple[Scan, tuple[int, int], float]:
    """A scan on a regular grid, its shape and its step in object pixels."""
    rows, columns, step = 12 + v % 3, 13, 3.0 + v % 2
    N = (32, 48)[v % 2]
    k = np.arange(N) - N // 2
    settings = dict(N=N, photons=(1e5, 1e6)[v // 2 % 2], seed=v) | changes
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2) * step
    probe = None
    if electron:
        # An aperture of a quarter of the frame, defocused by some radians at its edge
        r2 = np.add.outer(k**2, k**2) / (N / 4) ** 2
        wave = np.exp(-(r2**8)) * np.exp(1j * (0.0, 4.0, -4.0, 8.0)[v % 4] * r2)
        probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave)))[None]
        probe *= np.sqrt(settings["photons"] / (np.abs(probe) ** 2).sum())
    from ptycho.simulation.objects import make_object

    side = int(max(rows, columns) * step + 2 * N)
    sample = make_object(settings.pop("object_kind", "cells"), (side, side), np.random.default_rng(v))
    if electron:
        sample = np.exp(1j * np.angle(sample))
    scan = simulate(SimulationConfig(**settings), object=sample, probe=probe, positions=grid + N)
    return scan, (rows, columns), step


@kind(24)
def bare_arrays(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """4-D arrays without anything else; the user tells shape and step, or does not."""
    scan, (rows, columns), step = rastered(v, electron=False, N=32)
    data = scan.counts.reshape(rows, columns, scan.N, scan.N)
    path = folder / ("a.npy", "a.npz", "a.h5")[v % 3]
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".npz":
        np.savez(path, data=data)
    else:
        with h5py.File(path, "w") as file:
            file["data"] = data
    options = ["--scan-step", str(step), "px"]
    return Stranger(path, unlit(scan), options if v % 4 else [], "" if v % 4 else "--scan-step")


def emd(path: Path, data: Array, step_a: float, dq: float, q_units: str = "A^-1", **calibration: Any) -> Path:
    """As py4DSTEM 0.14 writes it."""
    facts = dict(Q_pixel_size=dq, R_pixel_size=step_a, Q_pixel_units=q_units, R_pixel_units="A") | calibration
    with h5py.File(path, "w") as file:
        file.attrs.update(emd_group_type="file", version_major=1, version_minor=0, authoring_program="py4DSTEM")
        root = file.create_group("datacube_root")
        root.attrs.update(emd_group_type="root", python_class="Root")
        bundle = root.create_group("metadatabundle")
        bundle.attrs["emd_group_type"] = "metadatabundle"
        known = bundle.create_group("calibration")
        known.attrs.update(emd_group_type="metadata", python_class="Calibration")
        for name, value in facts.items():
            entry = known.create_dataset(name, data=value)
            entry.attrs["type"] = {str: "string", bool: "bool"}.get(type(value), "number")
        cube = root.create_group("datacube")
        cube.attrs.update(emd_group_type="array", python_class="DataCube")
        cube["data"] = data
        for axis, (size, unit) in enumerate(((step_a, "A"), (step_a, "A"), (dq, q_units), (dq, q_units))):
            dim = cube.create_dataset(f"dim{axis}", data=np.arange(data.shape[axis]) * size)
            dim.attrs.update(name=("Rx", "Ry", "Qx", "Qy")[axis], units=unit)
    return path


@kind(32)
def electron_microscopes(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """py4DSTEM files: in focus and out of it, units of A^-1 and mrad, flips and rotation stored, off centre."""
    scan, (rows, columns), step = rastered(v, electron=True, photons=2e5)
    pixel_a = 0.2
    dq, options, remedy, facts, q_units = 1 / (scan.N * pixel_a), [], "", {}, "A^-1"
    data = scan.counts.reshape(rows, columns, scan.N, scan.N)
    match v // 4 % 8:
        case 1:
            dq, q_units, facts = dq * ELECTRON.wavelength_m * 1e13, "mrad", dict(energy=3e5)
        case 2:
            dq, q_units, options = dq * ELECTRON.wavelength_m * 1e13, "mrad", ["--voltage-kv", "300"]
        case 3:
            dq, q_units, remedy = dq * ELECTRON.wavelength_m * 1e13, "mrad", "--voltage-kv"
        case 4:
            data, facts = data.transpose(0, 1, 3, 2), dict(QR_flip=True, QR_rotation=0.0)
        case 5:
            data = np.roll(data, (5, -4), (2, 3))
            facts = dict(qx0_mean=scan.N / 2 + 5, qy0_mean=scan.N / 2 - 4)
        case 6:
            data = data[:, :, :, 4:-4]
        case 7:
            data = np.roll(data, (5, -4), (2, 3))
    path = emd(folder / "a.emd", data, step * pixel_a, dq, q_units, **facts)
    return Stranger(path, replace(scan, probe_known=False), options, remedy)


@kind(30)
def near_field(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """Full-field scans in the layout of CDTools, of a cone and of parallel light, with what is missing told or not."""
    from scipy.ndimage import gaussian_filter

    N, z2, side_m = 64, (0.5, 1.0, 2.0)[v % 3], 25e-6
    focus = (None, 0.02, -0.03, 0.05)[v % 4]
    magnification = 1.0 if focus is None else (focus + z2) / focus
    if focus is None:
        z2, side_m = 0.02 + 0.01 * (v % 3), 1e-6
    pixel = side_m / abs(magnification)
    near = NearField(distance_px=z2 / magnification / pixel, wavelength_px=PHOTON.wavelength_m / pixel, kind="fresnel")
    field = lambda size, width: (lambda f: f / f.std())(gaussian_filter(rng.normal(size=(size, size)), width))
    sample = np.exp(0.3j * (field(192, 4) + field(192, 1.5)))
    k = np.arange(N) - N // 2
    probe = np.exp(-((np.hypot.outer(k, k) / (0.4 * N)) ** 6)) * np.exp(0.3j * field(N, 6))
    probe *= np.sqrt((1e6, 1e5)[v % 2] / (np.abs(probe) ** 2).sum())
    steps = np.stack(np.meshgrid(*(np.linspace(-24, 24, 11),) * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    positions = 96 + steps + rng.uniform(-1.5, 1.5, steps.shape)
    config = SimulationConfig(N=N, near_field=near, seed=v)
    scan = simulate(config, object=sample, probe=probe, positions=positions)
    y, x = (positions * np.sign(magnification) * pixel).T
    changes = {
        f"{DETECTOR}/distance": z2,
        f"{DETECTOR}/x_pixel_size": side_m,
        f"{DETECTOR}/y_pixel_size": side_m,
        f"{DETECTOR}/basis_vectors": [[0, -side_m], [-side_m, 0], [0, 0]],
        "entry_1/sample_1/geometry_1/translation": np.stack([x, y, 0 * x], axis=1),
    }
    told = [f"--near-field-m={z2}"] if focus is None else [f"--focus-m={focus}"]
    asked = "--near-field-m" if focus is None else "--focus-m"
    path = cxi(folder / "a.cxi", scan, **changes)
    return Stranger(path, replace(scan, probe_known=False), *((told, "") if v % 2 else ([], asked)))


@kind(16)
def units_impossible(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """Positions whose unit cannot be true: a step beyond the window, or none at all."""
    scan = scan_of(v)
    factor = (1e3, 1e6, 1e-3, 1e-6)[v % 4]
    y, x = scan.positions.T * PIXEL_M * factor
    moved = np.stack([x, y, 0 * x], axis=1)
    path = cxi(folder / "a.cxi", scan, **{"entry_1/sample_1/geometry_1/translation": moved})
    return Stranger(path, unlit(scan), remedy="--position-unit")


@kind(16)
def virtual_data_sets(folder: Path, v: int, rng: np.random.Generator) -> Stranger:
    """A master whose last file is short or missing."""
    scan = scan_of(v)
    third = len(scan) // 3
    lengths = (third, third, len(scan) - 2 * third)
    there = [*lengths[:2], (lengths[2], lengths[2] // 2, 0, lengths[2])[v % 4]]
    layout, begin = h5py.VirtualLayout(scan.counts.shape, scan.counts.dtype), 0
    for number, (length, held) in enumerate(zip(lengths, there)):
        name = f"a_data_{number:06d}.h5"
        if held:
            with h5py.File(folder / name, "w") as file:
                file["entry/data/data"] = scan.counts[begin : begin + held]
        if not (v % 4 == 3 and number == 2):
            shape = (length, scan.N, scan.N)
            layout[begin : begin + length] = h5py.VirtualSource(name, "entry/data/data", shape)
        begin += length
    path = cxi(folder / "a.cxi", scan, **{f"{DETECTOR}/data": None})
    with h5py.File(path, "r+") as file:
        file[DETECTOR].create_virtual_dataset("data", layout)
    kept = np.arange(sum(there) if v % 4 != 3 else 2 * third)
    return Stranger(path, unlit(scan.subset(kept)))


# ------------------------------------------------------------------------------------------------------------ running


def ran(command: str, path: Path, folder: Path, options: list[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, scores and what a command said."""
    from typer.testing import CliRunner

    from ptycho.cli.app import app as ptycho

    words = [command, str(path), "-o", str(folder), "--hold-out-every", "10", *options]
    result = CliRunner().invoke(ptycho, words)
    crashed = result.exception is not None and not isinstance(result.exception, SystemExit)
    text = " ".join(result.output.split()) + (f" CRASH {result.exception!r}" if crashed else "")
    scores = folder / "scores.json"
    return result.exit_code, json.loads(scores.read_text()) if scores.exists() else {}, text


def times(scores: dict[str, Any]) -> float:
    """The deciding error over shot noise."""
    judgement = scores["judgement"]
    errors = judgement["deviance" if judgement["sparse"] else "amplitude"]
    return errors["error"] / errors["shot_noise"]


def outcome(stranger: Stranger, folder: Path) -> dict[str, Any]:
    """What became of a stranger, beside the sound scan."""
    begin = time.monotonic()
    code, scores, text = ran("reconstruct", stranger.path, folder / "run", stranger.options)
    row: dict[str, Any] = dict(code=code, seconds=round(time.monotonic() - begin, 1), remedy=stranger.remedy)
    if code not in (0, 3) or "CRASH" in text:
        named = bool(stranger.remedy) and stranger.remedy in text
        return row | dict(outcome="refused" if named else "refused, no remedy", said=text[-400:])
    if "judgement" not in scores:
        return row | dict(outcome="unjudged", said=text[-400:])
    ratio, decision = times(scores), scores["verdict"]["kind"]
    row |= dict(ratio=round(ratio, 3), verdict=decision, notes=scores.get("notes", []))
    if ratio <= 1.2:  # shot noise leaves 1: no sound scan gives less
        return row | dict(outcome="right")
    path = write_scan(replace(stranger.sound, object=None), folder / "sound.h5")
    of_sound = times(ran("refine", path, folder / "sound", [])[1])
    row |= dict(sound=round(of_sound, 3))
    if ratio <= 1.2 * of_sound:
        return row | dict(outcome="right")
    warned = code == 3 or decision != "at the noise"
    return row | dict(outcome="warned" if warned else "silent", said=text[-400:])


def strangers(every: int, offset: int, only: str) -> Iterator[tuple[str, int, Writer]]:
    """Every so-many-th of: the first variation of each kind, the second of each kind, and so on."""
    listed = [(v, name, writer) for name, (writer, variations) in KINDS.items() for v in range(variations)]
    listed.sort(key=lambda stranger: stranger[0])  # stable: the kinds stay in their order
    for v, name, writer in listed[offset::every]:
        if only in name:
            yield name, v, writer


@app.command()
def run(
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("strangers.jsonl"),
    every: int = 1,
    offset: int = 0,
    only: str = "",
) -> None:
    """Every so-many-th stranger; a line of JSON for each."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    done = {tuple(json.loads(line)["stranger"]) for line in output.read_text().splitlines()} if output.exists() else ()
    for name, v, writer in strangers(every, offset, only):
        if (name, v) in done:
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            stranger = writer(folder, v, np.random.default_rng([v, 7]))
            row = dict(stranger=(name, v), options=stranger.options) | outcome(stranger, folder)
        with output.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = {key: value for key, value in row.items() if key in ("outcome", "ratio", "sound", "verdict", "seconds")}
        print(
            name, v, shown, row.get("said", "")[-200:] if row["outcome"] not in ("right", "refused") else "", flush=True
        )


OUTCOMES = ("right", "refused", "warned", "silent", "refused, no remedy", "unjudged")


@app.command()
def table(record: Annotated[Path, typer.Argument()] = Path("strangers.jsonl")) -> None:
    """The confusion table by kind, with times."""
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    print(f"| kind | strangers | {' | '.join(OUTCOMES)} | median s |\n|{'---|' * (len(OUTCOMES) + 3)}")
    for name in [*KINDS, "all"]:
        of_kind = [row for row in rows if name in ("all", row["stranger"][0])]
        if of_kind:
            counts = Counter(row["outcome"] for row in of_kind)
            seconds = np.median([row["seconds"] for row in of_kind])
            found = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
            print(f"| {name} | {len(of_kind)} | {found} | {seconds:.1f} |")


if __name__ == "__main__":
    app()
