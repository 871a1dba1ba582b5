"""Curves of scores over the variable of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ptycho.io import replaced
from ptycho.studies.cases import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = dict(snr_db="SNR (dB)", amplitude_ssim="amplitude SSIM", phase_ssim="phase SSIM", frc_half_nyquist="FRC 0.5")
"""Scores against the truth that are drawn, with their titles; the last is a fraction of the Nyquist frequency."""

BLIND_SCORES = dict(held_out_error="error on held-out frames", frc_to_full="FRC 0.5 to the image of all photons")
"""The same where the truth is not known."""

LIMITS = dict(flat=("flat object", "k--"), bound=("shot-noise bound", "k-."))
"""Scores that are drawn for comparison: name and style."""


class Curve(NamedTuple):
    """Rows that are drawn as one curve, and how."""

    name: str
    rows: Sequence[Row]
    colour: str
    marker: str


def draw_curves(
    folder: Path,
    rows: Sequence[Row],
    x: str,
    label: str,
    *,
    group: str = "loss",
    names: Mapping[Any, str],
    colours: Mapping[Any, str] | None = None,
) -> Path:
    """Scores over the column ``x``, a curve for each value of the column ``group`` and each N: ``curves.png``.

    Mean over seeds, with bars from the smallest to the largest; dotted the network alone; also the score of a flat
    object, and the shot-noise bound if the rows have it.
    """
    from matplotlib.figure import Figure

    titles = SCORES | BLIND_SCORES
    known = [key for key in titles if any(key in row["final"] for row in rows)]
    figure = Figure(figsize=(4.6 * len(known), 4.8), layout="constrained")
    axes = figure.subplots(1, len(known), squeeze=False)[0]
    curves = _curves(rows, group, names, colours or {})
    for ax, key in zip(axes, known, strict=True):
        for curve in curves:
            _draw_curve(ax, curve, x, key)
        for stage, (name, style) in LIMITS.items():
            scored = [row for row in rows if key in row.get(stage, {})]
            if scored:
                at, _, mean, _ = spread(scored, x, stage, key)
                ax.plot(at, mean, style, lw=1, label=name)
        values = [row[x] for row in rows]
        if max(values) > 20 * min(values) > 0:
            ax.set_xscale("log")
        ax.set_xlabel(label)
        ax.set_ylabel(titles[key])
        ax.grid(alpha=0.3)
    handles = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
    with replaced(folder / "curves.png") as partial:
        figure.savefig(partial, dpi=90)
    return folder / "curves.png"


def _curves(rows: Sequence[Row], group: str, names: Mapping[Any, str], colours: Mapping[Any, str]) -> list[Curve]:
    """A curve for each value of the column ``group`` and each N, which has its own marker."""
    sides = sorted({row["N"] for row in rows})
    curves = []
    for number, (value, N) in enumerate(dict.fromkeys((row[group], row["N"]) for row in rows)):
        members = [row for row in rows if (row[group], row["N"]) == (value, N)]
        name = names[value] + (f", N {N}" if len(sides) > 1 else "")
        curves.append(Curve(name, members, colours.get(value, f"C{number}"), "os^v"[sides.index(N) % 4]))
    return curves


def _draw_curve(axes: "Axes", curve: Curve, x: str, key: str) -> None:
    """A score before and after the refinement, where the two differ."""
    for stage, ending, style, alpha in (("network", ", network alone", ":", 0.6), ("final", "", "-", 0.9)):
        scored = [row for row in curve.rows if key in row.get(stage, {})]
        if not scored or (stage == "network" and all(row["network"] == row["final"] for row in scored)):
            continue
        at, low, mean, high = spread(scored, x, stage, key)
        axes.errorbar(
            at,
            mean,
            (mean - low, high - mean),
            fmt=style + curve.marker,
            label=curve.name + ending,
            ms=4,
            capsize=2,
            color=curve.colour,
            alpha=alpha,
        )


def spread(rows: Sequence[Row], x: str, stage: str, key: str) -> tuple[np.ndarray, ...]:
    """Mean of x, and smallest, mean and largest score, over the rows that differ only in seed, in the order of x."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["name"].rsplit("-s", 1)[0], []).append(row)
    ordered = sorted(groups.values(), key=lambda group: np.mean([row[x] for row in group]))
    at = np.array([np.mean([row[x] for row in group]) for group in ordered])
    values = [[row[stage][key] for row in group] for group in ordered]
    return at, *(np.array([f(group) for group in values]) for f in (np.min, np.mean, np.max))
