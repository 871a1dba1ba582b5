"""The arms of a study: what each simulates or reads, trains and fits, as values, and what it will take.

Nothing heavy is imported here, so that a dry run is over in a moment.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ptycho.config import ModelConfig, RefineConfig, SimulationConfig, TrainingConfig
from ptycho.typed import Config

Start = Literal["trained", "adapted", "pretrained", "empty"]
Row = dict[str, Any]
"""What is kept of an arm, see `ptycho.studies.runner.run_arm`."""


@dataclass(frozen=True, kw_only=True)
class Arm(Config):
    """One reconstruction of a study, from its data to its scores: all that its result depends on."""

    name: str
    """What it is called in tables; its folder begins with it."""
    labels: dict[str, Any] = field(default_factory=dict)
    """What tells it from the other arms, as columns of the table."""
    simulation: SimulationConfig | None = None
    """The scan, where it is simulated; its number of positions and its seed follow from the arm."""
    train_frames: int = 2000
    """Simulated frames to train on, the middle of a square raster."""
    test_frames: int = 512
    """Frames to be judged by: those in the middle of the same trajectory, of another object."""
    own_object: bool = False
    """Judge on the frames and the object that it was trained on instead."""
    file: str | None = None
    """The scan, where it is measured."""
    kept: float = 1.0
    """Part of a measured scan's photons that is kept (binomial thinning: a Poisson count stays one)."""
    hold_out_every: int = 10
    """Frames 0, k, 2 k, ... of a measured scan are kept from everything, and judge the result at full dose."""
    probe_error: dict[str, float] = field(default_factory=dict)
    """What is wrong with the probe that is given (`ptycho.studies.runner.wrong_probe`): ``defocus``, ``blur_px``,
    ``noise``."""
    start: Start = "trained"
    """A network trained from nothing, one that goes on from the package's, the package's as it is, or no network."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of `ModelConfig` that are not the defaults."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of `TrainingConfig` that are not the defaults."""
    refine: dict[str, Any] | None = field(default_factory=dict)
    """Settings of `RefineConfig` that are not the defaults; None: the network's image is the result."""
    seed: int = 0
    """Seed of objects, positions, noise, weights, and the order of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(bool(self.name) and not set(self.name) & set("/\\"), "name", "a name without slashes")
        self._require((self.simulation is None) != (self.file is None), "file", "a simulation or a file, and not both")
        self._require(self.file is None or Path(self.file).is_file(), "file", "a file that exists")
        self._require(0 < self.kept <= 1, "kept", "more than 0, up to 1")
        self._require(self.hold_out_every >= 2, "hold_out_every", "2 or more")
        self._require(self.train_frames >= 9, "train_frames", "9 or more")
        self._require(self.test_frames >= 4, "test_frames", "4 or more")
        self._require(self.start != "empty" or self.refine is not None, "refine", "settings with start 'empty'")
        unknown = set(self.probe_error) - {"defocus", "blur_px", "noise"}
        self._require(not unknown, "probe_error", "defocus, blur_px or noise")
        self.settings()  # raises what is wrong with them

    def settings(self) -> dict[str, Any]:
        """The settings of every stage, defaults filled in; without what follows from a file for the model."""
        model = ModelConfig.from_dict(dict(N=self.N or 64) | self.model).to_dict()
        return dict(
            model=model,
            training=TrainingConfig.from_dict(self.training).to_dict(),
            refine=None if self.refine is None else RefineConfig.from_dict(self.refine).to_dict(),
        )

    @property
    def N(self) -> int | None:
        """Side of the frames, where it is known before the data are read."""
        return self.simulation.N if self.simulation else self.model.get("N")

    @property
    def hash(self) -> str:
        """What the result depends on, in a few letters: everything but name and labels, defaults and data included."""
        values = self.to_dict() | self.settings()
        del values["name"], values["labels"]
        if self.file is not None:
            values["file"] = fingerprint(Path(self.file))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the folder for its files: another one where anything that matters is different."""
        return f"{self.name}-{self.hash[:8]}"


class Study(NamedTuple):
    """Arms to compare, and how."""

    name: str
    title: str
    arms: tuple[Arm, ...]
    conclude: "Callable[[Path, Sequence[Row]], tuple[list[Row], list[Path]]]"
    """Called with the folder and the rows of the arms that are done: the rows with what it takes several arms to know,
    and the pictures that it has drawn into the folder."""


MIB = 2**20


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size, first and last MiB: enough to tell scans apart, and quick for large ones."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(MIB)
        file.seek(max(0, size - MIB))
        return hashlib.sha256(b"%d" % size + head + file.read()).hexdigest()


class Estimate(NamedTuple):
    """What an arm will take, roughly: within a factor of two on two cores without a GPU."""

    seconds: float
    memory_mb: float
    disk_mb: float


def checked(arms: Iterable[Arm]) -> tuple[Arm, ...]:
    """The arms; ValueError where there is none, or where two have one name."""
    arms = tuple(arms)
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not arms:
        raise ValueError(f"arms need names of their own: {', '.join(twice)}" if twice else "the study has no arms")
    return arms


# Seconds on two cores without AVX-512, from two settings: 81 frames/s of the default network at N 64 (docs/results.md),
# and 26 ms of processor time for a frame with 4 stages of width 8 and gridsize 2.
START_S, COMPILE_S = 5.0, 20.0
WIDTH_S = 2.3e-7
"""Of a stage in training, for each pixel of the canvas and channel of its first level."""
REFINE_S = 2e-7
"""Of an epoch of the refinement, for each pixel of a frame; about `REFINED` epochs are run, trials included."""
REFINED = 60


def estimate(arm: Arm, shape: tuple[int, int] | None = None) -> Estimate:
    """Time, memory and disk of an arm; ``shape`` is (frames, N) of a measured scan."""
    frames, N = shape if shape else (arm.train_frames, arm.N or 64)
    test = frames if shape or arm.own_object else arm.test_frames
    settings = arm.settings()
    model, training, refine = ModelConfig.from_dict(settings["model"]), settings["training"], settings["refine"]
    shown = TrainingConfig.from_dict(training).frames_to_show(N)
    if training["epochs"] is not None:
        shown = training["epochs"] * frames
    step = arm.simulation.step_px if arm.simulation else N / 8
    group = min(model.channels, frames)
    canvas = (N + step * sqrt(group) + 10) ** 2 / group  # pixels for each frame
    frame_s = WIDTH_S * model.stages * model.width * canvas
    seconds = START_S
    if arm.start in ("trained", "adapted"):
        seconds += COMPILE_S + shown * frame_s
    if arm.start != "empty":
        seconds += COMPILE_S / 2 + test * model.stages * model.width * N**2 * REFINE_S / 16
    if refine:
        seconds += COMPILE_S / 2 + min(REFINED, 2 * refine["epochs"]) * test * REFINE_S * N**2
    side = N + step * sqrt(test)
    memory = (
        900 + (frames + test) * N**2 * 4 / MIB + 40 * 8 * test * N**2 / MIB / 8 + 60 * model.stages * model.width / 128
    )
    disk = 4 + 3 * side**2 * 20 / MIB
    return Estimate(seconds, memory, disk)


def plan(study: Study, shapes: Mapping[str, tuple[int, int]] | None = None) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what a study will run, with the sum last; ``shapes`` are (frames, N) of the measured scans."""
    titles = ["arm", "N", "network, fit", "time", "MB", "MB on disk"]
    rows, total = [], Estimate(0, 0, 0)
    for arm in study.arms:
        shape = (shapes or {}).get(arm.file or "")
        takes = estimate(arm, shape)
        total = Estimate(total[0] + takes[0], max(total[1], takes[1]), total[2] + takes[2])
        N = shape[1] if shape else arm.N
        fit = "none" if arm.refine is None else arm.refine.get("method", "cg")
        rows.append([arm.name, str(N), f"{arm.start}, {fit}", *_takes(takes)])
    return titles, [*rows, [f"{len(study.arms)} arms", "", "", *_takes(total)]]


def _takes(takes: Estimate) -> list[str]:
    minutes = ceil(takes.seconds / 60)
    return [f"{minutes // 60}:{minutes % 60:02d} h", f"{takes.memory_mb:.0f}", f"{takes.disk_mb:.0f}"]
