"""How good is the image for a given dose, and does the likelihood of counts beat a loss of amplitudes when they are few?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ptycho.config import SimulationConfig, _Config
from ptycho.studies.arms import Arm, Row, Study

Loss = Literal["nll", "mae"]
LOSSES: dict[Loss, dict[str, Any]] = dict(
    nll=dict(training=dict(nll_weight=1.0, mae_weight=0.0), refine=dict(noise="poisson")),
    mae=dict(training=dict(nll_weight=0.0, mae_weight=1.0), refine=dict(noise="amplitude")),
)
"""Poisson negative log-likelihood, or mean absolute error of amplitudes; the refinement goes on with the same noise."""

REFERENCE = "lsqml"
"""The iterative method without a network that the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class DoseResponse(_Config):
    """What the dose-response study runs; by default a night on two cores."""

    doses: tuple[float, ...] = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
    """Photons in the probe per frame; of a measured scan the parts of its photons that are kept."""
    losses: tuple[Loss, ...] = ("nll", "mae")
    seeds: int = 3
    """Seeds 0, 1, ...: each has its own objects, noise, weights."""
    N: tuple[int, ...] = (64,)
    """Sides of the frames; probe and step grow along."""
    gridsize: int = 2
    train_frames: int = 2000
    test_frames: int = 512
    step: float = 0.125
    """Distance of neighbouring positions as a part of N."""
    file: str | None = None
    """A measured scan, instead of simulations."""
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    refine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("doses", "losses", "N"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            self._require(bool(getattr(self, name)), name, "one at least")
        self._require(set(self.losses) <= set(get_args(Loss)), "losses", f"some of {get_args(Loss)}")
        self._require(self.seeds >= 1, "seeds", "1 or more")
        self._require(self.file is None or max(self.doses) <= 1, "doses", "parts of a scan's photons, 1 at most")

    def arms(self) -> tuple[Arm, ...]:
        """An arm for each N, dose, seed and loss, and one of the iterative reference."""
        return tuple(
            arm for N in self.N for dose in self.doses for seed in range(self.seeds) for arm in self._of(N, dose, seed)
        )

    def _of(self, N: int, dose: float, seed: int) -> list[Arm]:
        data: dict[str, Any] = dict(seed=seed)
        if self.file is not None:
            data |= dict(file=self.file, kept=dose)
        else:
            simulation = SimulationConfig(N=N, photons=dose, step_px=self.step * N, jitter_px=self.step * N / 4)
            data |= dict(simulation=simulation, train_frames=self.train_frames, test_frames=self.test_frames)
        ending = f"{dose:.0e}-s{seed}".replace("e+0", "e").replace("e-0", "e-")
        if self.file is None:
            ending = f"N{N}-{ending}"
        network = [
            Arm(
                name=f"{loss}-{ending}",
                labels=dict(loss=loss, dose=dose),
                model=dict(gridsize=self.gridsize) | self.model,
                training=LOSSES[loss]["training"] | self.training,
                refine=LOSSES[loss]["refine"] | self.refine,
                **data,
            )
            for loss in self.losses
        ]
        alone = dict(method=REFERENCE) | {k: v for k, v in self.refine.items() if k in ("epochs", "seed", "withheld")}
        labels = dict(loss=REFERENCE, dose=dose)
        return [*network, Arm(name=f"{REFERENCE}-{ending}", labels=labels, start="empty", refine=alone, **data)]

    def study(self) -> Study:
        """The arms and their figures."""
        name = f"Dose response of {self.file or 'simulated scans'}"
        return Study("dose-response", name, self.arms(), draw)


MEASURED: dict[str, Any] = dict(doses=(1.0, 0.3, 0.1, 0.03, 0.01), seeds=1)
"""What a measured scan is run with, unless options say otherwise."""

QUICK: dict[str, Any] = dict(
    doses=(1e4, 1e9),
    seeds=1,
    train_frames=512,
    test_frames=256,
    model=dict(stages=4, width=8),
    training=dict(total_frames=5000),
)
"""The ends of the scale, with a small network and few frames."""


COLOURS = dict(nll="tab:blue", mae="tab:orange", lsqml="0.45")
TITLES = dict(nll="Poisson NLL", mae="amplitude MAE", lsqml="LSQML, no network")
SCORES = dict(snr_db="SNR (dB)", amplitude_ssim="amplitude SSIM", phase_ssim="phase SSIM", frc_half_nyquist="FRC 0.5")
BLIND_SCORES = dict(withheld_error="error on withheld frames", frc_to_full="FRC 0.5 to the image of all photons")


def draw(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """The classic panel, and the curves against measured counts per frame."""
    return [draw_panel(folder, rows), draw_curves(folder, rows)]


def draw_panel(folder: Path, rows: Sequence[Row]) -> Path:
    """For each dose a pattern on a log scale, and amplitude and phase by each loss; the first seed at the smallest N."""
    from matplotlib.figure import Figure

    from ptycho.plotting import levelled, shown_region
    from ptycho.reconstruction.result import Reconstruction

    first = min((row["N"], row["seed"]) for row in rows)
    shown = [row for row in rows if (row["N"], row["seed"]) == first]
    doses, losses = (list(dict.fromkeys(row[key] for row in shown)) for key in ("dose", "loss"))
    figure = Figure(figsize=(2.3 * len(doses) + 1, 2.2 * (1 + 2 * len(losses))), layout="constrained")
    axes = figure.subplots(1 + 2 * len(losses), len(doses), squeeze=False)
    for row in shown:
        column, line = doses.index(row["dose"]), 1 + 2 * losses.index(row["loss"])
        pattern = np.load(folder / row["folder"] / "pattern.npy")
        axes[0, column].imshow(np.log10(pattern + 1.0), cmap="magma")
        axes[0, column].set_title(f"{row['counts_per_frame']:.2g} counts a frame", fontsize=9)
        result = Reconstruction.load(folder / row["folder"] / "reconstruction.h5")
        view = levelled(result.object[shown_region(result.coverage)])
        for k, image in enumerate((np.abs(view), np.angle(view))):
            low, high = np.percentile(image, (0.5, 99.5))
            axes[line + k, column].imshow(image, cmap="gray", vmin=low, vmax=high)
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
    labels = ["pattern (log)", *(f"{TITLES[loss]}\n{kind}" for loss in losses for kind in ("amplitude", "phase"))]
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label, fontsize=9)
    figure.savefig(folder / "panel.png", dpi=90)
    return folder / "panel.png"


def draw_curves(folder: Path, rows: Sequence[Row]) -> Path:
    """Scores against measured counts per frame: mean and spread over seeds, network alone and refined, floor and bound."""
    from matplotlib.figure import Figure

    known = [key for key in (SCORES | BLIND_SCORES) if any(key in row["final"] for row in rows)]
    figure = Figure(figsize=(5.2 * len(known), 4.6), layout="constrained")
    for ax, key in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
        for loss, N in dict.fromkeys((row["loss"], row["N"]) for row in rows):
            own = [row for row in rows if (row["loss"], row["N"]) == (loss, N)]
            label = TITLES[loss] + (f", N {N}" if len({row["N"] for row in rows}) > 1 else "")
            for stage, style in (("network", ":o"), ("final", "-o")):
                if not all(key in row.get(stage, {}) for row in own) or (stage == "network" and loss == REFERENCE):
                    continue
                counts, low, mean, high = spread(own, lambda row, stage=stage: row[stage][key])
                name = label + (", network alone" if stage == "network" else "")
                line = ax.plot(counts, mean, style, color=COLOURS[loss], label=name, ms=4, alpha=0.9 if stage == "final" else 0.6)
                ax.fill_between(counts, low, high, color=line[0].get_color(), alpha=0.15, lw=0)
        for table, title, style in (("flat", "flat object", "k--"), ("bound", "shot-noise bound", "k-.")):
            own = [row for row in rows if key in row.get(table, {})]
            if own:
                counts, _, mean, _ = spread(own, lambda row, table=table: row[table][key])
                ax.plot(counts, mean, style, lw=1, label=title)
        ax.set_xscale("log")
        ax.set_xlabel("measured counts per frame")
        ax.set_ylabel((SCORES | BLIND_SCORES)[key])
        ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    figure.savefig(folder / "curves.png", dpi=90)
    return folder / "curves.png"


def spread(rows: Sequence[Row], score: Callable[[Row], float]) -> tuple[np.ndarray, ...]:
    """Mean counts, and least, mean and largest score of the rows of each dose, in the order of the counts."""
    doses = dict.fromkeys(row["dose"] for row in rows)
    groups = [[row for row in rows if row["dose"] == dose] for dose in doses]
    groups.sort(key=lambda group: np.mean([row["counts_per_frame"] for row in group]))
    counts = np.array([np.mean([row["counts_per_frame"] for row in group]) for group in groups])
    values = [[score(row) for row in group] for group in groups]
    return counts, *(np.array([f(v) for v in values]) for f in (min, np.mean, max))
