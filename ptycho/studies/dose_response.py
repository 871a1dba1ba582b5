"""The dose-response study: image quality over dose, by the Poisson likelihood and by a loss of amplitudes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ptycho.config import SimulationConfig
from ptycho.io import replaced
from ptycho.studies.cases import Case, Row, Study
from ptycho.studies.figures import SCORES, draw_curves
from ptycho.typed import Config

NETWORK: dict[str, Any] = dict(stages=4, width=8)
"""A quarter of the default network's operations a pixel; a group of 2 x 2 has five times as many pixels a frame."""

TRAINING: dict[str, Any] = dict(total_frames=20_000)
"""The length of a training, unless the number of epochs is given."""

Loss = Literal["nll", "mae"]
LOSSES: dict[Loss, dict[str, Any]] = dict(
    nll=dict(training=dict(nll_weight=1.0, mae_weight=0.0), refine=dict(noise="poisson")),
    mae=dict(training=dict(nll_weight=0.0, mae_weight=1.0), refine=dict(noise="amplitude")),
)
"""Poisson negative log-likelihood, or mean absolute error of amplitudes; the refinement has the same noise model."""

REFERENCE = "lsqml"
"""The iterative reference method, without a network."""


@dataclass(frozen=True, kw_only=True)
class DoseResponse(Config):
    """Settings of the dose-response study; the defaults take a night on two cores."""

    doses: tuple[float, ...] = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
    """Photons in the probe per frame; for a measured scan the fractions of its photons that are kept."""
    losses: tuple[Loss, ...] = ("nll", "mae")
    seeds: int = 3
    """Number of seeds 0, 1, ...: each has its own objects, noise and weights."""
    N: tuple[int, ...] = (64,)
    """Sides of the frames; probe and step are proportional to them."""
    gridsize: int = 2
    train_frames: int = 2000
    test_frames: int = 512
    step: float = 0.125
    """Distance of neighbouring positions as a fraction of N."""
    file: str | None = None
    """A measured scan, instead of simulations."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from `NETWORK`."""
    training: dict[str, Any] = field(default_factory=dict)
    refine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("doses", "losses", "N"):
            self._require(bool(getattr(self, name)), name, "one at least")
        self._require(self.seeds >= 1, "seeds", "1 or more")
        self._require(self.file is None or max(self.doses) <= 1, "doses", "parts of a scan's photons, 1 at most")

    def cases(self) -> tuple[Case, ...]:
        """A case for each N, dose, seed and loss, and one of the iterative reference."""
        return tuple(
            case
            for N in self.N
            for seed in range(self.seeds)
            for dose in self.doses
            for case in self._cases(N, dose, seed)
        )

    def _cases(self, N: int, dose: float, seed: int) -> list[Case]:
        data: dict[str, Any] = dict(seed=seed)
        if self.file is not None:
            data |= dict(file=self.file, kept=dose)
        else:
            simulation = SimulationConfig(N=N, photons=dose, step_px=self.step * N, jitter_px=self.step * N / 4)
            data |= dict(simulation=simulation, train_frames=self.train_frames, test_frames=self.test_frames)
        suffix = f"{dose:g}-s{seed}" if self.file else f"N{N}-{short(dose)}-s{seed}"
        network = [
            Case(
                name=f"{loss}-{suffix}",
                labels=dict(loss=loss, dose=dose),
                model=dict(gridsize=self.gridsize) | NETWORK | self.model,
                training=TRAINING | LOSSES[loss]["training"] | self.training,
                refine=LOSSES[loss]["refine"] | self.refine,
                **data,
            )
            for loss in self.losses
        ]
        reference = dict(method=REFERENCE) | {
            k: v for k, v in self.refine.items() if k in ("epochs", "seed", "held_out")
        }
        labels = dict(loss=REFERENCE, dose=dose)
        return [*network, Case(name=f"{REFERENCE}-{suffix}", labels=labels, start="empty", refine=reference, **data)]

    def study(self) -> Study:
        """The cases and their figures."""
        name = f"Dose response of {self.file or 'simulated scans'}"
        return Study("dose-response", name, self.cases(), conclude)


MEASURED: dict[str, Any] = dict(doses=(1.0, 0.3, 0.1, 0.03, 0.01), seeds=1)
"""Settings for a measured scan, which options override."""

QUICK: dict[str, Any] = dict(
    doses=(1e4, 1e9),
    seeds=1,
    train_frames=512,
    test_frames=256,
    training=dict(total_frames=5000),
)
"""The two ends of the scale, with few frames."""


def short(number: float) -> str:
    """A number in few letters, for names: 1e4 for 10000."""
    digits, power = f"{number:e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


COLOURS = dict(nll="tab:blue", mae="tab:orange", lsqml="0.45")
TITLES = dict(nll="Poisson NLL", mae="amplitude MAE", lsqml="LSQML, no network")


def conclude(folder: Path, rows: Sequence[Row]) -> tuple[list[Row], list[Path]]:
    """The rows with the shot-noise bound, or with the correlation with the image of all photons; and the figures."""
    known = "flat" in rows[0]
    rows = with_bound(folder, rows) if known else with_correlation(folder, rows)
    names = {row["loss"]: TITLES[row["loss"]] for row in rows}
    curves = draw_curves(folder, rows, "counts_per_frame", "measured counts per frame", names=names, colours=COLOURS)
    return rows, [draw_panel(folder, rows), curves]


def with_bound(folder: Path, rows: Sequence[Row]) -> list[Row]:
    """Rows with the scores of a ``bound``: those of an image with the error of the best unbiased method.

    The error is drawn once for each N, for the object of one case (`efficient_errors`), and kept in ``bound-N<N>.npz``;
    at k times the photons it is ``1 / sqrt(k)`` times as large.
    """
    from ptycho.data.reconstruction import Reconstruction
    from ptycho.evaluation import compare_objects
    from ptycho.evaluation.cramer_rao import efficient_errors
    from ptycho.studies.data import scans

    scores: dict[tuple[int, float], dict[str, float]] = {}
    for row in rows:
        path, case = folder / f"bound-N{row['N']}.npz", Case.from_dict(row["config"])
        if not path.exists():
            scan = scans(case).test
            assert scan.object is not None  # it is simulated
            rng = np.random.default_rng(0)
            truth = Reconstruction.bare(scan.object, scan.probe, scan.positions, near_field=scan.near_field)
            error = efficient_errors(truth, rng, mask=scan.mask)[0]
            np.savez(path, truth=scan.object, error=error, dose=row["dose"])
        key = row["N"], row["dose"]
        if key not in scores:
            with np.load(path) as bound:
                image = bound["truth"] + bound["error"] * np.sqrt(bound["dose"] / row["dose"])
                values = compare_objects(image, bound["truth"])
            scores[key] = {name: getattr(values, name) for name in SCORES}
    return [row | dict(bound=scores[row["N"], row["dose"]]) for row in rows]


def with_correlation(folder: Path, rows: Sequence[Row]) -> list[Row]:
    """Rows with ``frc_to_full``: the frequency (over Nyquist) up to which an image agrees with that of the same method
    and seed at full dose. The two share photons: images of independent photons would agree less.
    """
    from ptycho.data.reconstruction import Reconstruction
    from ptycho.evaluation.align import register
    from ptycho.evaluation.metrics import frc_half_nyquist

    image = lambda row: Reconstruction.load(folder / row["folder"] / "reconstruction.h5").object
    full = {(row["loss"], row["seed"]): image(row) for row in rows if row["dose"] == 1}
    results = []
    for row in rows:
        final = dict(row["final"])
        if row["dose"] < 1 and (row["loss"], row["seed"]) in full:
            fit = register(image(row), full[row["loss"], row["seed"]])
            final["frc_to_full"] = frc_half_nyquist(fit.aligned, fit.truth)
        results.append(row | dict(final=final))
    return results


def draw_panel(folder: Path, rows: Sequence[Row]) -> Path:
    """For each dose a pattern on a log scale, and amplitude and phase by each loss, of the first seed and least N."""
    from matplotlib.figure import Figure

    from ptycho.data.reconstruction import Reconstruction
    from ptycho.images import contrast_limits, displayed_images

    first = min((row["N"], row["seed"]) for row in rows)
    drawn = [row for row in rows if (row["N"], row["seed"]) == first]
    doses, losses = (list(dict.fromkeys(row[key] for row in drawn)) for key in ("dose", "loss"))
    figure = Figure(figsize=(2.3 * len(doses) + 1, 2.2 * (1 + 2 * len(losses))), layout="constrained")
    axes = figure.subplots(1 + 2 * len(losses), len(doses), squeeze=False)
    for row in drawn:
        column, top = doses.index(row["dose"]), 1 + 2 * losses.index(row["loss"])
        pattern = np.load(folder / row["folder"] / "pattern.npy")
        axes[0, column].imshow(np.log10(pattern + 1.0), cmap="magma")
        axes[0, column].set_title(f"{row['counts_per_frame']:.2g} counts a frame", fontsize=9)
        result = Reconstruction.load(folder / row["folder"] / "reconstruction.h5")
        pair = displayed_images(result.object, result.coverage)
        for k, image in enumerate(pair.values()):
            low, high = contrast_limits(image)
            axes[top + k, column].imshow(image, cmap="gray", vmin=low, vmax=high)
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
    labels = ["pattern (log)", *(f"{TITLES[loss]}\n{kind}" for loss in losses for kind in ("amplitude", "phase"))]
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label, fontsize=9)
    with replaced(folder / "panel.png") as partial:
        figure.savefig(partial, dpi=90)
    return folder / "panel.png"
