"""More questions, each a few arms: overlap, size of the training set, a wrong probe, learning with the truth."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ptycho.config import SimulationConfig
from ptycho.studies.arms import Arm, Row, Study
from ptycho.studies.dose_response import NETWORK, TOTAL_FRAMES, short
from ptycho.studies.figures import draw_curves


class Size(NamedTuple):
    """How much of everything a study takes."""

    frames: int = 1000
    test_frames: int = 400
    seeds: int = 2
    settings: dict[str, Any] = dict(model=NETWORK, training=dict(total_frames=TOTAL_FRAMES))  # noqa: RUF012


QUICK = Size(256, 196, 1, dict(model=NETWORK, training=dict(total_frames=4000)))


def overlap(size: Size) -> Study:
    """How far apart frames may be, and whether larger groups help then: step over N 0.06 to 0.5, gridsize 1, 2, 4."""
    arms = [
        _arm(size, f"g{g}-step{step:g}", dict(step=step, gridsize=g), seed, model=dict(gridsize=g), step=step)
        for g in (1, 2, 4)
        for step in (4.0, 8.0, 16.0, 24.0, 32.0)
        for seed in range(size.seeds)
    ]
    return _study(
        "overlap", "Overlap and size of the groups", arms, "step", "step (px of N 64)", "gridsize", "gridsize {}"
    )


def training_size(size: Size) -> Study:
    """In how few frames a network learns, on its own object and on another."""
    arms = [
        _arm(
            size,
            f"{name}-{frames}",
            dict(frames_given=frames, judged_on=name),
            seed,
            train_frames=frames,
            test_frames=min(frames, size.test_frames),
            own_object=name == "own",
            refine=None,
        )
        for name in ("own", "other")
        for frames in (size.frames // 16, size.frames // 4, size.frames, 4 * size.frames)
        for seed in range(size.seeds)
    ]
    label = "frames to train on"
    return _study("training-size", "Size of the training set", arms, "frames_given", label, "judged_on", "{} object")


def probe_error(size: Size) -> Study:
    """How wrong the probe may be that is given, where it is sought along and where it is believed."""
    errors: list[tuple[str, float, dict[str, float]]] = [("right", 0.0, {})]
    errors += [(f"defocus-{part:g}", part, dict(defocus=part)) for part in (0.25, 0.5, 0.75)]
    errors += [("blurred", 1.0, dict(blur_px=2.0)), ("noisy", 1.25, dict(noise=0.5))]
    ways: dict[str, dict[str, Any]] = dict(sought={}, believed=dict(probe_trainable=False))
    arms = [
        _arm(size, f"{way}-{name}", dict(error=at, probe=way), seed, probe_error=error, model=model)
        for way, model in ways.items()
        for name, at, error in errors
        for seed in range(size.seeds)
    ]
    label = "part of the defocus that is missing (1: blurred by 2 px, 1.25: half of it noise)"
    return _study("probe-error", "A wrong probe", arms, "error", label, "probe", "probe {}")


def supervised(size: Size) -> Study:
    """The same network taught by the truth and by the counts, over the dose, judged on another object."""
    ways = dict(truth=dict(nll_weight=0.0, realspace_weight=1.0), counts=dict(nll_weight=1.0))
    arms = [
        _arm(
            size,
            f"{name}-{short(dose)}",
            dict(taught_by=name, photons=dose),
            seed,
            training=way,
            photons=dose,
            refine=None,
        )
        for name, way in ways.items()
        for dose in (1e3, 1e4, 1e5, 1e6)
        for seed in range(size.seeds)
    ]
    return _study(
        "supervised", "Taught by the truth or by counts", arms, "photons", "photons", "taught_by", "by the {}"
    )


STUDIES: dict[str, Callable[[Size], Study]] = {
    "overlap": overlap,
    "training-size": training_size,
    "probe-error": probe_error,
    "supervised": supervised,
}


def _arm(
    size: Size,
    name: str,
    labels: dict[str, Any],
    seed: int,
    *,
    step: float = 8.0,
    photons: float = 1e5,
    **settings: Any,
) -> Arm:
    simulation = SimulationConfig(N=64, step_px=step, jitter_px=step / 4, photons=photons)
    values: dict[str, Any] = dict(train_frames=size.frames, test_frames=size.test_frames) | settings
    for section, given in size.settings.items():
        values[section] = given | values.get(section, {})
    return Arm(name=f"{name}-s{seed}", labels=labels, simulation=simulation, seed=seed, **values)


def _study(name: str, title: str, arms: Sequence[Arm], x: str, label: str, line: str, words: str) -> Study:
    return Study(name, title, tuple(arms), partial(_conclude, x=x, label=label, line=line, words=words))


def _conclude(
    folder: Path, rows: Sequence[Row], x: str, label: str, line: str, words: str
) -> tuple[list[Row], list[Path]]:
    names = {row[line]: words.format(row[line]) for row in rows}
    return list(rows), [draw_curves(folder, rows, x, label, line=line, names=names)]
