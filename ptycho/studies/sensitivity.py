"""How the result depends on overlap, size of the training set, errors of the probe, and supervision by the truth."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ptycho.config import SimulationConfig
from ptycho.studies.cases import Case, Row, Study
from ptycho.studies.dose_response import NETWORK, TRAINING, short
from ptycho.studies.figures import draw_curves


class Size(NamedTuple):
    """The size of a study."""

    frames: int = 1000
    test_frames: int = 400
    seeds: int = 2
    settings: dict[str, Any] = dict(model=NETWORK, training=TRAINING)  # noqa: RUF012


QUICK = Size(256, 196, 1, dict(model=NETWORK, training=dict(total_frames=4000)))


def overlap(size: Size) -> Study:
    """How far apart frames may be, and whether larger groups help then: step over N 0.06 to 0.5, gridsize 1, 2, 4."""
    cases = [
        _case(size, f"g{g}-step{step:g}", dict(step=step, gridsize=g), seed, model=dict(gridsize=g), step=step)
        for g in (1, 2, 4)
        for step in (4.0, 8.0, 16.0, 24.0, 32.0)
        for seed in range(size.seeds)
    ]
    return _study(
        "overlap", "Overlap and size of the groups", cases, "step", "step (px of N 64)", "gridsize", "gridsize {}"
    )


def training_size(size: Size) -> Study:
    """How many frames a network needs for training, judged on its own object and on another."""
    cases = [
        _case(
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
    return _study("training-size", "Size of the training set", cases, "frames_given", label, "judged_on", "{} object")


def probe_error(size: Size) -> Study:
    """How wrong the given probe may be, if it is fitted and if it is fixed."""
    errors: list[tuple[str, float, dict[str, float]]] = [("right", 0.0, {})]
    errors += [(f"defocus-{error:g}", error, dict(defocus=error)) for error in (0.25, 0.5, 0.75)]
    errors += [("blurred", 1.0, dict(blur_px=2.0)), ("noisy", 1.25, dict(noise=0.5))]
    treatments: dict[str, dict[str, Any]] = dict(sought={}, believed=dict(probe_trainable=False))
    cases = [
        _case(size, f"{treatment}-{name}", dict(error=at, probe=treatment), seed, probe_error=error, model=model)
        for treatment, model in treatments.items()
        for name, at, error in errors
        for seed in range(size.seeds)
    ]
    label = "fraction of the defocus that is missing (1: blurred by 2 px, 1.25: noise of half the amplitude)"
    return _study("probe-error", "A wrong probe", cases, "error", label, "probe", "probe {}")


def supervised(size: Size) -> Study:
    """The same network supervised by the truth and by the counts, over the dose, judged on another object."""
    losses = dict(truth=dict(nll_weight=0.0, realspace_weight=1.0), counts=dict(nll_weight=1.0))
    cases = [
        _case(
            size,
            f"{name}-{short(dose)}",
            dict(taught_by=name, photons=dose),
            seed,
            training=loss,
            photons=dose,
            refine=None,
        )
        for name, loss in losses.items()
        for dose in (1e3, 1e4, 1e5, 1e6)
        for seed in range(size.seeds)
    ]
    return _study(
        "supervised", "Taught by the truth or by counts", cases, "photons", "photons", "taught_by", "by the {}"
    )


STUDIES: dict[str, Callable[[Size], Study]] = {
    "overlap": overlap,
    "training-size": training_size,
    "probe-error": probe_error,
    "supervised": supervised,
}


def _case(
    size: Size,
    name: str,
    labels: dict[str, Any],
    seed: int,
    *,
    step: float = 8.0,
    photons: float = 1e5,
    **settings: Any,
) -> Case:
    simulation = SimulationConfig(N=64, step_px=step, jitter_px=step / 4, photons=photons)
    values: dict[str, Any] = dict(train_frames=size.frames, test_frames=size.test_frames) | settings
    for section, given in size.settings.items():
        values[section] = given | values.get(section, {})
    return Case(name=f"{name}-s{seed}", labels=labels, simulation=simulation, seed=seed, **values)


def _study(name: str, title: str, cases: Sequence[Case], x: str, label: str, group: str, template: str) -> Study:
    return Study(name, title, tuple(cases), partial(_conclude, x=x, label=label, group=group, template=template))


def _conclude(
    folder: Path, rows: Sequence[Row], x: str, label: str, group: str, template: str
) -> tuple[list[Row], list[Path]]:
    names = {row[group]: template.format(row[group]) for row in rows}
    return list(rows), [draw_curves(folder, rows, x, label, group=group, names=names)]
