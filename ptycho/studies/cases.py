"""The cases of a study (its arms) as values: what each simulates or reads, trains and refines.

Imports nothing heavy, so that a dry run takes a moment.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ptycho.config import ModelConfig, RefineConfig, SimulationConfig, TrainingConfig
from ptycho.typed import Config

Start = Literal["trained", "adapted", "pretrained", "empty"]
Row = dict[str, Any]
"""The record of a case, ready for JSON: see `ptycho.studies.runner.run_case`."""


@dataclass(frozen=True, kw_only=True)
class Case(Config):
    """One reconstruction of a study, from its data to its scores: everything that its result depends on."""

    name: str
    """Its name in tables, and the beginning of its folder's name."""
    labels: dict[str, Any] = field(default_factory=dict)
    """What distinguishes it from the other cases, as columns of the table."""
    simulation: SimulationConfig | None = None
    """The scan, if simulated; its number of positions and its seed follow from the case."""
    train_frames: int = 2000
    """Simulated training frames, from the centre of a square raster."""
    test_frames: int = 512
    """Simulated frames to reconstruct: the centre of the same trajectory, on another object."""
    own_object: bool = False
    """Reconstruct the training frames and their object instead."""
    file: str | None = None
    """The scan, if measured."""
    kept: float = 1.0
    """Fraction of a measured scan's photons that is kept (binomial thinning: a Poisson count stays one)."""
    hold_out_every: int = 10
    """Frames 0, k, 2 k, ... of a measured scan are held out, and evaluate the result at full dose."""
    probe_error: dict[str, float] = field(default_factory=dict)
    """Errors of the given probe (`ptycho.studies.data.wrong_probe`): ``defocus``, ``blur_px``, ``noise``."""
    start: Start = "trained"
    """A network trained from random weights, the package's network trained further or unchanged, or no network."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of `ModelConfig` other than the defaults."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of `TrainingConfig` other than the defaults."""
    refine: dict[str, Any] | None = field(default_factory=dict)
    """Settings of `RefineConfig` other than the defaults; None: the network's image is the result."""
    seed: int = 0
    """Seed of objects, positions, noise, weights and the order of the data."""

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
        self.settings()  # raises ValueError for invalid ones

    def settings(self) -> dict[str, Any]:
        """The settings of every stage with their defaults, without those of the model that follow from a file."""
        model = ModelConfig.from_dict(dict(N=self.N or 64) | self.model).to_dict()
        return dict(
            model=model,
            training=TrainingConfig.from_dict(self.training).to_dict(),
            refine=None if self.refine is None else RefineConfig.from_dict(self.refine).to_dict(),
        )

    @property
    def N(self) -> int | None:
        """Side of the frames, if known before the data are read."""
        return self.simulation.N if self.simulation else self.model.get("N")

    @property
    def hash(self) -> str:
        """A hash of everything that the result depends on, defaults and data included: all but name and labels."""
        values = self.to_dict() | self.settings()
        del values["name"], values["labels"]
        if self.file is not None:
            values["file"] = fingerprint(Path(self.file))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the folder for its files; it depends on everything that the result depends on."""
        return f"{self.name}-{self.hash[:8]}"


class Study(NamedTuple):
    """Cases to compare, and how."""

    name: str
    title: str
    cases: tuple[Case, ...]
    conclude: "Callable[[Path, Sequence[Row]], tuple[list[Row], list[Path]]]"
    """From the folder and the rows of the finished cases: the rows with the results that take several cases, and the
    figures that it has drawn in the folder."""


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size, first and last MiB: enough to distinguish scans, and fast for large ones."""
    size, block = path.stat().st_size, 2**20
    with path.open("rb") as file:
        head = file.read(block)
        file.seek(max(0, size - block))
        return hashlib.sha256(b"%d" % size + head + file.read()).hexdigest()


def checked(cases: Iterable[Case]) -> tuple[Case, ...]:
    """The cases; ValueError if there are none, or if two have the same name."""
    cases = tuple(cases)
    names = [case.name for case in cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not cases:
        raise ValueError("the study has no arms")
    if repeated:
        raise ValueError(f"arms need names of their own: {', '.join(repeated)}")
    return cases
