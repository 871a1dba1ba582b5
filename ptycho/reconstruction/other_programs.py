"""Engines of other programs on a scan, each program in an environment of its own: they disagree about what they need.

A script of `ptycho/reconstruction/programs` is run by the Python of that environment. It is given the scan in a NPZ
file, in the conventions of this package, and gives object and probe back in another, in the same conventions: whatever
the program does otherwise the script undoes, and a test of it on a scan whose truth is known says so.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.physics.grid import ObjectGrid
from ptycho.progress import Progress
from ptycho.reconstruction.tiles import COVERED

MARGIN_PX = 4
"""Pixels of object around what the frames see: some programs want one at least, and positions may move."""

SCRIPTS = Path(__file__).parent / "programs"


class Program(NamedTuple):
    """A program that reconstructs a scan."""

    title: str
    module: str
    """What it is imported as."""
    requirements: tuple[str, ...]
    """Arguments of ``pip install``, one call after the other."""
    python: str = ""
    """Name of the Python that it needs; empty: this one."""


PROGRAMS = {
    "phaser": Program("phaser", "phaser", ("phaserEM[jax]==0.3.1",)),
    "ptyrad": Program(
        "PtyRAD",
        "ptyrad",
        # Without its version torchvision, which PtyRAD requires, would bring another PyTorch.
        ("torch==2.13.0 torchvision==0.28.0", "ptyrad==1.0.0"),
        python="python3.12",
    ),
    "py4dstem": Program(
        "py4DSTEM",
        "py4DSTEM",
        # What its ptychography imports: all of its requirements are ten times as much.
        (
            "--no-deps py4DSTEM==0.14.18",
            "numpy==1.26.4 scipy==1.13.1 h5py==3.16.0 hdf5plugin==7.1.0 ncempy==1.11.1 matplotlib==3.9.4 "
            "scikit-image==0.24.0 scikit-learn==1.4.2 scikit-optimize==0.10.2 tqdm==4.67.1 dill==0.3.9 gdown==5.2.0 "
            "dask==2024.8.0 distributed==2024.8.0 emdfile==0.0.16 mpire==2.10.2 threadpoolctl==3.5.0 pylops==2.3.1 "
            "colorspacious==1.1.2",
        ),
    ),
    "ptylab": Program(
        "PtyLab",
        "PtyLab",
        (
            "--no-deps ptylab==0.3.7",
            "numpy==2.2.6 scipy==1.15.3 h5py==3.14.0 matplotlib==3.10.3 scikit-image==0.25.2 scikit-learn==1.7.0 "
            "tqdm==4.67.1 ipywidgets==8.1.8",
        ),
    ),
}
"""By the names of their scripts."""


class ProgramFailed(RuntimeError):
    """A program ended without a result; the message is its last line."""


class EngineRun(NamedTuple):
    """What an engine of another program made of a scan."""

    result: Reconstruction
    history: list[dict[str, Any]]
    """One entry an epoch: ``epoch`` (from 1), ``seconds``, and, where the program says it, ``loss``, its own."""
    setup_seconds: float
    """Time outside the epochs, without importing the package where it runs in this process."""
    note: str = ""
    """What a reader of its numbers should know."""


def default_environments() -> Path:
    """Where the environments are, unless told otherwise: ``PTYCHO_PROGRAMS``, or a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PTYCHO_PROGRAMS") or Path(cache) / "ptycho" / "programs")


def python_for(name: str, environments: Path) -> Path | None:
    """The Python that a program runs in: its own environment's, or this one where that has it; None: there is none."""
    python = _python(environments / name)
    if python.exists() and (environments / name / "installed").exists():
        return python
    return Path(sys.executable) if importlib.util.find_spec(PROGRAMS[name].module) else None


def install(name: str, environments: Path) -> Path:
    """Make the environment of a program, with pip and PyPI, where it is not there; its Python.

    Raises OSError where that fails, with the end of what pip said.
    """
    folder, python = environments / name, _python(environments / name)
    if not (folder / "installed").exists():
        needed = PROGRAMS[name].python or sys.executable
        if shutil.which(needed) is None:
            raise OSError(f"{PROGRAMS[name].title} needs {needed}, which is not here")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = [[needed, "-m", "venv", "--clear", str(folder)]]
        steps += [[*install, *requirement.split()] for requirement in PROGRAMS[name].requirements]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, env=_environment())
            if done.returncode:
                said = " ".join(done.stderr.split())[-300:]
                raise OSError(f"{PROGRAMS[name].title} cannot be installed in {folder}: {said}")
        (folder / "installed").touch()
    return python


def run_program(
    scan: Scan,
    name: str,
    python: Path,
    *,
    epochs: int = 30,
    held_out: np.ndarray | None = None,
    seed: int = 0,
    threads: int = 2,
    progress: Progress | None = None,
) -> EngineRun:
    """Reconstruct a scan by another program, from empty space, on the CPU.

    What is not named here is what the program's documentation recommends.

    Args:
        scan: P frames; its probe is the first guess, and stays where it is known.
        name: of `PROGRAMS`.
        python: of the environment that has the program.
        epochs: passes over the frames.
        held_out: ``(P,)`` bool: frames that the program is not given.
        seed: of the order of the frames.
        threads: that the program may use.
        progress: told of begin and end.

    Raises:
        ValueError: there is no such program, or no frame is left to fit to.
        ProgramFailed: it gave no result.
    """
    if name not in PROGRAMS:
        raise ValueError(f"program is {name!r}; expected one of {', '.join(PROGRAMS)}")
    used = np.arange(len(scan)) if held_out is None else np.flatnonzero(~np.asarray(held_out, bool))
    if not len(used):
        raise ValueError("all frames are held out: none is left to fit to")
    title, grid = PROGRAMS[name].title, ObjectGrid.around(scan.positions, scan.N, MARGIN_PX)
    placed = grid.on_grid(scan.positions)
    if progress:
        progress(title, 0, epochs, {})
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "scan.npz", Path(folder) / "result.npz"
        np.savez(
            given,
            counts=np.asarray(scan.counts[used], "float32") * scan.mask,
            mask=scan.mask,
            positions_px=placed[used],
            shape=np.array(grid.shape),
            probe=scan.probe,
            probe_known=scan.probe_known,
            pixel_size_m=scan.pixel_size_m or np.nan,
            wavelength_m=np.nan if scan.beam is None else scan.beam.wavelength_m,
            epochs=epochs,
            seed=seed,
        )
        begin = time.perf_counter()
        done = subprocess.run(
            [str(python), str(SCRIPTS / f"{name}.py"), str(given), str(made)],
            capture_output=True,
            text=True,
            cwd=folder,
            # Threads that wait by spinning take the time of the others where there are more of them than cores.
            env=_environment() | dict(OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="passive"),
        )
        wall = time.perf_counter() - begin
        if done.returncode or not made.exists():
            raise ProgramFailed(f"{title} failed: {_last_line(done.stderr)}")
        with np.load(made) as file:
            arrays = {key: file[key] for key in file.files}
    if progress:
        progress(title, epochs, epochs, {})
    seconds = np.atleast_1d(arrays["seconds"])
    return EngineRun(
        canvas_result(scan, grid, arrays["object"], arrays["probe"], used),
        _history(seconds, arrays.get("loss"), epochs),
        max(wall - float(seconds.sum()), 0.0),
        f"{title} {arrays['version']}: {arrays['note']}",
    )


def canvas_result(
    scan: Scan,
    grid: ObjectGrid,
    image: np.ndarray,
    probe: np.ndarray,
    used: np.ndarray,
    positions_px: np.ndarray | None = None,
) -> Reconstruction:
    """The reconstruction of an engine: object ``(H, W)`` on a grid, probe ``(M, N, N)``, and the frames it used.

    ``positions_px`` ``(P, 2)``, of all frames in pixels of the object, where it has corrected them.
    """
    positions_px = grid.on_grid(scan.positions) if positions_px is None else positions_px
    canvas = ObjectGrid((0, 0), (image.shape[0], image.shape[1]), probe.shape[-1])
    coverage = canvas.coverage(probe, positions_px[used])
    covered = coverage > COVERED
    made_of = np.zeros(len(scan), bool)
    made_of[used] = True
    return Reconstruction(
        object=np.where(covered, image, 0).astype("complex64"),
        probe=np.asarray(probe, "complex64"),
        positions_px=positions_px,
        coverage=np.where(covered, coverage, 0),
        origin_px=np.array(grid.origin),
        pixel_size_m=scan.pixel_size_m,
        used_frames=made_of,
        used=len(used),
        dropped=0,
    )


def _history(seconds: np.ndarray, loss: np.ndarray | None, epochs: int) -> list[dict[str, Any]]:
    if len(seconds) == 1:  # of all of them
        return [dict(epoch=epochs, seconds=float(seconds[0]))]
    history = [dict(epoch=epoch, seconds=float(value)) for epoch, value in enumerate(seconds, 1)]
    if loss is not None and len(loss) == len(history):
        history = [entry | dict(loss=float(value)) for entry, value in zip(history, loss, strict=True)]
    return history


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _environment() -> dict[str, str]:
    """Without what would make another Python look for this one's packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _last_line(text: str) -> str:
    said = text.strip().splitlines()
    return said[-1] if said else "it said nothing"
