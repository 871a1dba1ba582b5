"""The cost of a study before it runs: time, memory and disk of each case, within a factor of two."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import NamedTuple

from ptycho.config import ModelConfig, TrainingConfig
from ptycho.studies.cases import Case, Study


class Cost(NamedTuple):
    """What a case takes on two cores without a GPU."""

    seconds: float
    memory_mb: float
    disk_mb: float


@dataclass(frozen=True)
class Rates:
    """Seconds on two cores without AVX-512.

    From two measurements: 81 frames/s of the default network at N 64 (docs/results.md), and 26 ms of processor time a
    frame with 4 stages of width 8 and gridsize 2.
    """

    start_s: float = 5.0
    compile_s: float = 20.0
    width_s: float = 2.3e-7
    """A stage in training, for each canvas pixel and channel of its first level."""
    pixel_s: float = 2e-7
    """An epoch of the refinement, for each pixel of a frame."""
    refine_epochs: int = 60
    """Epochs of a typical refinement, trials included."""


def cost_of(case: Case, shape: tuple[int, int] | None = None, rates: Rates | None = None) -> Cost:
    """The cost of a case; ``shape`` is (frames, N) of a measured scan."""
    rates, mib = rates or Rates(), 2**20
    frames, N = shape if shape else (case.train_frames, case.N or 64)
    test = frames if shape or case.own_object else case.test_frames
    settings = case.settings()
    model, training, refine = ModelConfig.from_dict(settings["model"]), settings["training"], settings["refine"]
    presented = TrainingConfig.from_dict(training).frames_to_show(N)
    if training["epochs"] is not None:
        presented = training["epochs"] * frames
    step = case.simulation.step_px if case.simulation else N / 8
    group = min(model.channels, frames)
    canvas = (N + step * sqrt(group) + 10) ** 2 / group  # pixels for each frame
    seconds = rates.start_s
    if case.start in ("trained", "adapted"):
        seconds += rates.compile_s + presented * rates.width_s * model.stages * model.width * canvas
    if case.start != "empty":
        seconds += rates.compile_s / 2 + test * model.stages * model.width * N**2 * rates.pixel_s / 16
    if refine:
        epochs = min(rates.refine_epochs, 2 * refine["epochs"])
        seconds += rates.compile_s / 2 + epochs * test * rates.pixel_s * N**2
    side = N + step * sqrt(test)
    memory = (
        900 + (frames + test) * N**2 * 4 / mib + 40 * 8 * test * N**2 / mib / 8 + 60 * model.stages * model.width / 128
    )
    return Cost(seconds, memory, disk_mb=4 + 3 * side**2 * 20 / mib)


def plan(study: Study, shapes: Mapping[str, tuple[int, int]] | None = None) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the cost of each case, with the sum last; ``shapes`` are (frames, N) of the measured scans."""
    titles = ["arm", "N", "network, fit", "time", "MB", "MB on disk"]
    rows, total = [], Cost(0, 0, 0)
    for case in study.cases:
        shape = (shapes or {}).get(case.file or "")
        cost = cost_of(case, shape)
        total = Cost(total.seconds + cost.seconds, max(total.memory_mb, cost.memory_mb), total.disk_mb + cost.disk_mb)
        N = shape[1] if shape else case.N
        fit = "none" if case.refine is None else case.refine.get("method", "cg")
        rows.append([case.name, str(N), f"{case.start}, {fit}", *_cells(cost)])
    return titles, [*rows, [f"{len(study.cases)} arms", "", "", *_cells(total)]]


def _cells(cost: Cost) -> list[str]:
    minutes = ceil(cost.seconds / 60)
    return [f"{minutes // 60}:{minutes % 60:02d} h", f"{cost.memory_mb:.0f}", f"{cost.disk_mb:.0f}"]
