"""Curves of scores over what a study varies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.io import replaced
from ptycho.studies.arms import Row

SCORES = dict(snr_db="SNR (dB)", amplitude_ssim="amplitude SSIM", phase_ssim="phase SSIM", frc_half_nyquist="FRC 0.5")
"""Scores against the truth that are drawn, with their titles; the last is a part of the Nyquist frequency."""

BLIND_SCORES = dict(held_out_error="error on held-out frames", frc_to_full="FRC 0.5 to the image of all photons")
"""The same where the truth is not known."""

STAGES = {"network": (":o", 0.6), "final": ("-o", 0.9)}
LIMITS = dict(flat=("flat object", "k--"), bound=("shot-noise bound", "k-."))


def draw_curves(
    folder: Path,
    rows: Sequence[Row],
    x: str,
    label: str,
    *,
    line: str = "loss",
    names: Mapping[Any, str],
    colours: Mapping[Any, str] | None = None,
) -> Path:
    """Scores over the column ``x``, a curve for each value of the column ``line`` and each N: ``curves.png``.

    Mean over seeds, with bars from the least to the largest; dotted the network alone; the score of a flat object, and
    the shot-noise bound where the rows have it.
    """
    from matplotlib.figure import Figure

    titles = SCORES | BLIND_SCORES
    known = [key for key in titles if any(key in row["final"] for row in rows)]
    figure = Figure(figsize=(4.6 * len(known), 4.8), layout="constrained")
    axes = figure.subplots(1, len(known), squeeze=False)[0]
    several = len({row["N"] for row in rows}) > 1
    lines = list(dict.fromkeys((row[line], row["N"]) for row in rows))
    for ax, key in zip(axes, known, strict=True):
        for number, (value, N) in enumerate(lines):
            own = [row for row in rows if (row[line], row["N"]) == (value, N)]
            colour = (colours or {}).get(value, f"C{number}")
            for stage, (style, alpha) in STAGES.items():
                scored = [row for row in own if key in row.get(stage, {})]
                if not scored or (stage == "network" and all(row["network"] == row["final"] for row in scored)):
                    continue
                name = (
                    names[value] + (f", N {N}" if several else "") + (", network alone" if stage == "network" else "")
                )
                at, low, mean, high = spread(scored, x, stage, key)
                bars = (mean - low, high - mean)
                marker = style.replace("o", "os^v"[sorted({n for _, n in lines}).index(N) % 4])
                ax.errorbar(at, mean, bars, fmt=marker, label=name, ms=4, capsize=2, color=colour, alpha=alpha)
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


def spread(rows: Sequence[Row], x: str, stage: str, key: str) -> tuple[np.ndarray, ...]:
    """Mean of x, and least, mean and largest score, over the rows that differ in seed only, in the order of x."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["name"].rsplit("-s", 1)[0], []).append(row)
    ordered = sorted(groups.values(), key=lambda group: np.mean([row[x] for row in group]))
    at = np.array([np.mean([row[x] for row in group]) for group in ordered])
    values = [[row[stage][key] for row in group] for group in ordered]
    return at, *(np.array([f(group) for group in values]) for f in (np.min, np.mean, np.max))
