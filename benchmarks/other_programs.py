"""Files that other programs write themselves, read here: ``python benchmarks/other_programs.py``.

Each program is installed from PyPI into an environment of its own (``--environments``, kept for the next time), writes
scans of its own formats from the same simulated frames, and what is read back is compared with those. Formats whose
programs are not on PyPI are not among them.
"""

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ptycho.config import ReadConfig, SimulationConfig
from ptycho.data.beam import Beam
from ptycho.data.scan import Scan
from ptycho.formats import ReadOptions, read_scan
from ptycho.io import BadFile
from ptycho.simulation.simulate import simulate

N, RASTER, STEP_PX, MRAD, DETECTOR_PIXEL_M = 32, (10, 12), 4.0, 2.0, 75e-6
ELECTRONS, PHOTONS = Beam(energy_eV=3e5, particle="electron"), Beam(energy_eV=8e3, distance_m=1.0)
PIXEL_M = ELECTRONS.wavelength_m / (N * MRAD * 1e-3)
ELECTRON_MICROSCOPE = dict(voltage_kv=300.0, scan_step=(STEP_PX * PIXEL_M * 1e9, "nm"), detector_pixel=(MRAD, "mrad"))


@dataclass(frozen=True)
class Program:
    """What writes files: requirements of pip, and a script that is given the scans as NPZ and a folder."""

    name: str
    requirements: tuple[str, ...]
    script: str
    told: dict[str, dict[str, object]]
    """Of each file what a user has to tell besides."""


HEAD = """
import sys, warnings
import numpy as np
warnings.simplefilter("ignore")
scan, folder = np.load(sys.argv[1]), sys.argv[2]
frames = scan["frames"]  # (rows, columns, N, N)
"""

PROGRAMS = (
    Program(
        "py4DSTEM",
        ("py4dstem==0.14.18",),
        HEAD
        + """
import py4DSTEM
cube = py4DSTEM.DataCube(data=frames, name="datacube")
cube.calibration.set_R_pixel_size(float(scan["step_m"]) * 1e10); cube.calibration.set_R_pixel_units("A")
cube.calibration.set_Q_pixel_size(float(scan["mrad"])); cube.calibration.set_Q_pixel_units("mrad")
py4DSTEM.save(folder + "/py4dstem.h5", cube, mode="o")
""",
        {"py4dstem.h5": dict(voltage_kv=300.0)},
    ),
    Program(
        "HyperSpy with RosettaSciIO",
        ("rosettasciio[all]==0.15.0", "hyperspy==2.5.0"),
        HEAD
        + """
import hyperspy.api as hs
signal = hs.signals.Signal2D(frames)
for axis, name in zip(signal.axes_manager.navigation_axes, "xy"):
    axis.name, axis.scale, axis.units = name, float(scan["step_m"]) * 1e9, "nm"
for axis, name in zip(signal.axes_manager.signal_axes, ("kx", "ky")):
    axis.name, axis.scale, axis.units = name, float(scan["mrad"]), "mrad"
signal.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 300.0)
for suffix in ("hspy", "zspy"):
    signal.save(folder + "/hyperspy." + suffix, overwrite=True)
signal.save(folder + "/hyperspy.emd", overwrite=True)
axes = [dict(axis) for axis in signal.axes_manager.as_dictionary().values()]
few = hs.signals.Signal2D(np.minimum(frames, 255).astype("uint8"), axes=axes)  # blockfiles hold bytes
few.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 300.0)
few.save(folder + "/hyperspy.blo", overwrite=True)
signal.save(folder + "/hyperspy.tvips", overwrite=True)
signal.save(folder + "/hyperspy.prz", overwrite=True)
""",
        {
            "hyperspy.hspy": {},
            "hyperspy.zspy": {},
            "hyperspy.emd": dict(voltage_kv=300.0),
            "hyperspy.blo": dict(voltage_kv=300.0, detector_pixel=(MRAD, "mrad")),
            "hyperspy_000.tvips": dict(scan_shape=RASTER, **ELECTRON_MICROSCOPE),
            "hyperspy.prz": ELECTRON_MICROSCOPE,
        },
    ),
    Program(
        "CDTools",
        ("torch==2.13.0", "cdtools-py==0.3.2"),
        HEAD
        + """
import torch as t
from cdtools.datasets import Ptycho2DDataset
positions = scan["positions_m"]  # (y, x), of the beam on the sample
N, pixel = scan["counts"].shape[-1], float(scan["detector_pixel_m"])
translations = np.stack([-positions[:, 1], -positions[:, 0], np.zeros(len(positions))], axis=1)
basis = np.array([[0, -pixel], [-pixel, 0], [0, 0]])
corner = np.array([pixel * N / 2, pixel * N / 2, float(scan["distance_m"])])
data = Ptycho2DDataset(
    t.as_tensor(translations), t.as_tensor(scan["counts"].astype("float32")), wavelength=float(scan["wavelength_m"]),
    detector_geometry=dict(distance=float(scan["distance_m"]), basis=basis, corner=corner), mask=t.ones(N, N),
)
data.to_cxi(folder + "/cdtools.cxi")
""",
        {"cdtools.cxi": {}},
    ),
)


def python_of(program: Program, environments: Path) -> Path:
    """The interpreter of the program's own environment, which is made if it is not there."""
    folder = environments / "-".join(requirement.partition("[")[0] for requirement in program.requirements)
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True)
        for requirement in program.requirements:  # PyTorch first: what depends on it would bring another
            subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)
        (folder / "installed").touch()
    return python


def simulated() -> tuple[Scan, Scan]:
    """Electrons on a raster that is not square, and X-rays at any positions."""
    settings = SimulationConfig(N=N, positions=100, step_px=STEP_PX, jitter_px=1.0, photons=1e4, seed=1)
    points = np.stack(np.mgrid[: RASTER[0], : RASTER[1]], axis=-1).reshape(-1, 2) * STEP_PX + N / 2
    raster = replace(simulate(settings, positions=points), beam=ELECTRONS, pixel_size_m=PIXEL_M)
    pixel = PHOTONS.object_pixel_m(N, DETECTOR_PIXEL_M)
    return raster, replace(simulate(replace(settings, seed=2)), beam=PHOTONS, pixel_size_m=pixel)


def written(folder: Path, raster: Scan, anywhere: Scan) -> Path:
    """The scans as the scripts of the programs take them, in metres."""
    path, step = folder / "scans.npz", STEP_PX * PIXEL_M
    np.savez(
        path, frames=raster.counts.reshape(*RASTER, raster.N, raster.N), step_m=step, mrad=MRAD,
        counts=anywhere.counts, positions_m=anywhere.positions * anywhere.pixel_size_m,
        wavelength_m=PHOTONS.wavelength_m, distance_m=PHOTONS.distance_m, detector_pixel_m=DETECTOR_PIXEL_M,
    )  # fmt: skip
    return path


def difference(read: Scan, wrote: Scan) -> str:
    """What differs between a scan that was read and the one that was written; empty where nothing does."""
    if read.counts.shape != wrote.counts.shape:
        return f"frames {read.counts.shape}, not {wrote.counts.shape}"
    if not np.array_equal(np.minimum(wrote.counts, np.max(read.counts)), np.asarray(read.counts[:])):
        return "other counts"
    found, wanted = (scan.positions - scan.positions.mean(axis=0) for scan in (read, wrote))
    off = float(np.abs(found - wanted).max())
    if off > 0.01:
        return f"positions {off:.3g} px off"
    pixel = (read.pixel_size_m or 0.0) / (wrote.pixel_size_m or 1.0)
    return "" if abs(pixel - 1) < 1e-3 else f"pixels {pixel:.4g} times as large"


@dataclass(frozen=True)
class Row:
    """A file, and how it is read."""

    file: str
    program: str
    told: str
    found: str

    def markdown(self) -> str:
        return f"| `{self.file}` | {self.program} | {self.told or 'nothing'} | {self.found} |"


def rows_of(program: Program, environments: Path, folder: Path) -> Iterator[Row]:
    """What becomes of each file of a program."""
    raster, anywhere = simulated()
    scans = written(folder, raster, anywhere)
    python = python_of(program, environments)
    version = program.requirements[-1].partition("==")[2]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", program.script, scans, folder], capture_output=True, text=True, env=own)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    for file, told in program.told.items():
        options = ReadOptions.of(ReadConfig(**told))
        if not (folder / file).exists():
            found = "the program did not write it"
        else:
            wrote = anywhere if file.endswith(".cxi") else raster
            try:
                found = difference(read_scan(folder / file, options=options), wrote) or "read"
            except BadFile as error:
                found = str(error).replace(f"{folder}/", "")
        yield Row(file, f"{program.name} {version}", ", ".join(f"`--{k.replace('_', '-')}`" for k in told), found)


def main(environments: Annotated[Path, typer.Option(help="Folder that keeps the environments.")] = Path(".programs")):
    """A table of files, who wrote them, and how they are read."""
    print("| file | written by | told besides | here |\n|---|---|---|---|")
    for program in PROGRAMS:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(program, environments, Path(folder)):
                print(row.markdown(), flush=True)


if __name__ == "__main__":
    typer.run(main)
