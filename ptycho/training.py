"""Training without ground truth: patches through the physics, compared with the measured counts."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ptycho.backend import free_trace_with, jit_compile
from ptycho.config import TrainingConfig
from ptycho.data.grouping import group_extent, neighbour_groups, withheld_groups
from ptycho.data.scan import Scan
from ptycho.network.build import PtychoNetwork
from ptycho.physics.diffraction import expected_counts
from ptycho.physics.noise import amplitude_error, poisson_nll
from ptycho.physics.patches import extract, split_positions

History = list[dict[str, Any]]
Report = Callable[[str, float, float, str], None]
"""Called as ``report(what, done, total, note)`` while something takes its time."""

FRAMES_A_STEP = 16


def train(
    model: PtychoNetwork,
    scan: Scan,
    config: TrainingConfig | None = None,
    *,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> History:
    """Fit a network to a scan, in place, by the physics alone; no true object is looked at.

    Args:
        model: from `build_model`, with the scan's N and probe modes.
        scan: counts, positions and mask to learn from. Its probe is not used: the model has its own.
        config: see `TrainingConfig`.
        folder: where ``history.json`` and a checkpoint are written after every epoch.
        resume: go on from the checkpoint in ``folder``; the result is that of an uninterrupted run.
        report: told of the progress.

    Returns:
        One entry an epoch: ``epoch``, ``loss``, ``validation_loss`` (None without validation frames),
        ``learning_rate``, ``seconds``. The model is left with the weights of the epoch of least validation loss.

    Raises:
        ValueError: the scan does not fit the model, or the loss stops being a number.
    """
    config = config or TrainingConfig()
    batches = Batches(scan, model.settings.channels, model.settings.N, config)
    trainer = PhysicsTraining(model, config, scan.mean_counts)
    trainer.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate, name="adam"), jit_compile=jit_compile(config.jit_compile)
    )
    trainer.optimizer.build(trainer.trainable_variables)
    checkpoint = Checkpoint(folder, config) if folder is not None else None
    history: History = []
    if checkpoint and resume:
        history = checkpoint.restore(trainer)
    elif checkpoint:
        checkpoint.clear()
    best = min(range(len(history)), key=lambda k: judged(history[k])) if history else None
    epochs = planned_epochs(config, batches.training_frames, scan.N)
    for epoch in range(len(history), epochs):
        if should_stop(history, config.patience):
            break
        start = time.perf_counter()
        trainer.optimizer.learning_rate = learning_rate(config, epoch, epochs, history)
        progress = _Progress(report, epoch, epochs, history)
        fit = trainer.fit(batches.epoch(epoch), verbose=0, shuffle=False, callbacks=[progress])
        entry = dict(
            epoch=epoch + 1,
            loss=fit.history["loss"][0],
            validation_loss=validation_loss(trainer, batches),
            learning_rate=float(trainer.optimizer.learning_rate),
            seconds=round(time.perf_counter() - start, 3),
        )
        if not math.isfinite(entry["loss"]):
            raise ValueError(
                f"the training loss is {entry['loss']} in epoch {epoch + 1}: lower learning_rate "
                f"({config.learning_rate}), and check the scale of the probe against the counts"
            )
        history.append(entry)
        if best is None or judged(entry) <= judged(history[best]):
            best = epoch
            if checkpoint:
                checkpoint.keep_best(trainer)
            else:
                weights = model.get_weights()
        if checkpoint:
            checkpoint.keep(trainer, history)
    if history and best != len(history) - 1:
        if checkpoint:
            checkpoint.restore_best(trainer)
        else:
            model.set_weights(weights)
    return history


class PhysicsTraining(keras.Model):
    """A network with its physics loss, as Keras' `fit` wants it. Lives for one training; the network stays."""

    def __init__(self, network: PtychoNetwork, config: TrainingConfig, mean_counts: float):
        super().__init__()
        self.network, self.config = network, config
        self.pixel_mean = mean_counts / network.settings.N**2
        self.built = True

    def call(self, inputs):
        free_trace_with(self)
        return self.network(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean over the stages, so that each of them learns to give an image."""
        probe = self.network.probe(x["fractions"])
        terms = [
            self.data_loss(x, expected_counts(patches, probe)) + self.object_loss(x, canvas)
            for patches, canvas in zip(y_pred["patches"], y_pred["canvases"], strict=True)
        ]
        return sum(terms) / len(terms)

    def data_loss(self, x, expected):
        """Disagreement of expected counts ``(B, C, N, N)`` with the measured ones, masked pixels left out."""
        mask = ops.expand_dims(x["mask"], 1)
        loss = 0.0
        if self.config.nll_weight:
            # Less that of a perfect model, so that it says how far there is to go: shot noise alone leaves about 1/2.
            nll = poisson_nll(x["counts"], expected) - poisson_nll(x["counts"], x["counts"])
            nll = ops.mean(nll * mask)
            loss = loss + self.config.nll_weight * nll / self.pixel_mean
        if self.config.mae_weight:
            mae = ops.mean(amplitude_error(x["counts"], expected) * mask)
            loss = loss + self.config.mae_weight * mae / self.pixel_mean**0.5
        return loss

    def object_loss(self, x, canvas):
        """What is asked of the merged object ``(B, H, W)`` itself: smoothness, nearness to the truth."""
        loss = 0.0
        if self.config.tv_weight:
            loss = loss + self.config.tv_weight * total_variation(canvas)
        if self.config.realspace_weight:
            loss = loss + self.config.realspace_weight * ops.mean(ops.abs(canvas - x["truth"]) * x["lit"])
        return loss


def total_variation(image):
    """Mean absolute difference of neighbouring pixels of a complex image ``(B, H, W)``, both directions."""
    tiny = 1e-12
    size = lambda z: ops.mean(ops.sqrt(ops.real(z) ** 2 + ops.imag(z) ** 2 + tiny))
    return size(image[:, 1:] - image[:, :-1]) + size(image[:, :, 1:] - image[:, :, :-1])


class Batches:
    """The batches of a scan: groups of neighbours, drawn anew for each epoch from (seed, epoch) alone."""

    def __init__(self, scan: Scan, channels: int, side: int, config: TrainingConfig):
        if side != scan.N:
            raise ValueError(f"the scan's frames have N {scan.N}, the model N {side}; build a model for the scan")
        if config.realspace_weight and scan.object is None:
            raise ValueError("realspace_weight needs a scan with its true object; this scan has none")
        self.scan, self.config = scan, config
        self.group = min(channels, len(scan))
        fraction = config.validation_fraction
        rng = np.random.default_rng([config.seed, 0])
        self.validation_groups, self.training_index = withheld_groups(scan.positions, self.group, fraction, rng)
        self.batch = config.batch_groups or max(1, FRAMES_A_STEP // self.group)
        nearest = neighbour_groups(scan.positions[self.training_index], self.group, rng)
        extent = group_extent(scan.positions[self.training_index], nearest)
        if len(self.validation_groups):
            extent = max(extent, group_extent(scan.positions, self.validation_groups))
        self.canvas_side = 8 * math.ceil((scan.N + extent + 2) / 8)

    @property
    def training_frames(self) -> int:
        return len(self.training_index)

    def epoch(self, epoch: int) -> "_Sequence":
        """About one pass over the training frames, in whole batches."""
        rng = np.random.default_rng([self.config.seed, 1, epoch])
        steps = math.ceil(self.training_frames / (self.group * self.batch))
        groups = neighbour_groups(self.scan.positions[self.training_index], self.group, rng, groups=steps * self.batch)
        return _Sequence(self, self.training_index[groups])

    def validation(self) -> "_Sequence":
        """The withheld groups, the last batch filled up with the first groups."""
        missing = -len(self.validation_groups) % self.batch
        return _Sequence(self, np.concatenate([self.validation_groups, self.validation_groups[:1].repeat(missing, 0)]))

    def arrays(self, groups: np.ndarray) -> dict[str, np.ndarray]:
        """One batch of groups ``(B, C)`` as the network takes it."""
        scan, side = self.scan, self.canvas_side
        positions, fractions = split_positions(scan.positions[groups])
        origin = positions.min(axis=1, keepdims=True) - scan.N // 2
        canvas = (len(groups), side, side)
        arrays = dict(
            counts=scan.counts[groups].astype("float32"),
            mask=np.broadcast_to(scan.mask.astype("float32"), (len(groups), *scan.mask.shape)),
            positions=positions - origin,
            fractions=fractions,
            canvas=np.zeros(canvas, "float32"),
        )
        if self.config.realspace_weight:
            arrays["truth"], arrays["lit"] = self.truth(origin[:, 0], canvas)
        return arrays

    def truth(self, origins: np.ndarray, canvas: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The true object on each group's canvas, and where it is known."""
        centre = (origins + canvas[1] // 2)[:, None].astype("int32")
        cut = lambda image: np.array(
            ops.convert_to_numpy(extract(np.broadcast_to(image, (len(origins), *image.shape)), centre, canvas[1:]))[
                :, 0
            ]
        )
        assert self.scan.object is not None
        return cut(self.scan.object), cut(np.ones(self.scan.object.shape, "float32"))


class _Sequence(keras.utils.PyDataset):
    def __init__(self, batches: Batches, groups: np.ndarray):
        super().__init__()
        self.batches, self.groups = batches, groups

    def __len__(self):
        return len(self.groups) // self.batches.batch

    def __getitem__(self, k):
        size = self.batches.batch
        return (self.batches.arrays(self.groups[k * size : (k + 1) * size]),)


def validation_loss(trainer: PhysicsTraining, batches: Batches) -> float | None:
    """Loss on the withheld groups; None where the scan is too small to withhold any."""
    if not len(batches.validation_groups):
        return None
    return trainer.evaluate(batches.validation(), verbose=0, return_dict=True)["loss"]


def judged(entry: dict[str, Any]) -> float:
    """The loss that an epoch is judged by: of validation, or of training where there is none."""
    return entry["loss"] if entry["validation_loss"] is None else entry["validation_loss"]


def planned_epochs(config: TrainingConfig, frames: int, N: int) -> int:
    """Epochs to run at most: as set, or as many as show ``total_frames`` frames."""
    total = config.total_frames or min(20_000, 1_280_000 // N)
    return config.epochs if config.epochs is not None else max(3, round(total / frames))


def stalled_for(history: History) -> int:
    """Epochs since the one of least loss."""
    losses = [judged(entry) for entry in history]
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


def learning_rate(config: TrainingConfig, epoch: int, epochs: int, history: History) -> float:
    """Step size of an epoch: half a cosine over the planned epochs, and half of it after each stall.

    A function of what has happened, with no memory of its own, so that a resumed run takes the same steps.
    """
    stalls = sum(stalled_for(history[:k]) == config.patience for k in range(1, len(history) + 1))
    return config.learning_rate * 0.5**stalls * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def should_stop(history: History, patience: int) -> bool:
    """Whether validation has not got better for twice the patience."""
    return stalled_for(history) >= 2 * patience


class Checkpoint:
    """A folder with ``history.json``, the weights and optimizer state of the last epoch, and the best weights.

    The history is replaced last and at once, and names the epoch whose weights belong to it: a run killed at any
    moment finds a pair that fits.
    """

    def __init__(self, folder: str | os.PathLike, config: TrainingConfig):
        self.folder, self.config = Path(folder), config
        self.folder.mkdir(parents=True, exist_ok=True)

    def weights(self, epoch: int | str) -> Path:
        return self.folder / f"epoch-{epoch}.weights.h5"

    def clear(self) -> None:
        """Remove what an earlier training left: a resumed run must not take it for its own."""
        for old in ("history.json", *(path.name for path in self.folder.glob("epoch-*.weights.h5"))):
            (self.folder / old).unlink(missing_ok=True)

    def keep(self, trainer: PhysicsTraining, history: History) -> None:
        trainer.save_weights(self.weights(len(history)))
        _replace(self.folder / "training.json", json.dumps(self.config.to_dict(), indent=1))
        _replace(self.folder / "history.json", json.dumps(history, indent=1))
        for old in self.folder.glob("epoch-*.weights.h5"):
            if old not in (self.weights(len(history)), self.weights("best")):
                old.unlink()

    def keep_best(self, trainer: PhysicsTraining) -> None:
        temporary = self.folder / "new-best.weights.h5"
        trainer.save_weights(temporary)
        temporary.replace(self.weights("best"))

    def restore_best(self, trainer: PhysicsTraining) -> None:
        trainer.load_weights(self.weights("best"))

    def restore(self, trainer: PhysicsTraining) -> History:
        """Weights, optimizer and history of the last epoch; none of them if there was no epoch yet."""
        if not (self.folder / "history.json").exists():
            return []
        saved = json.loads((self.folder / "training.json").read_text())
        if saved != self.config.to_dict():
            differ = sorted(k for k in saved | self.config.to_dict() if saved.get(k) != self.config.to_dict().get(k))
            raise ValueError(
                f"{self.folder} holds a training with other settings ({', '.join(differ)}); "
                "resume with the same ones, or train into another folder"
            )
        history = json.loads((self.folder / "history.json").read_text())
        trainer.load_weights(self.weights(len(history)))
        return history


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


class _Progress(keras.callbacks.Callback):
    """Passes the batches of one epoch on to a report."""

    def __init__(self, report: Report | None, epoch: int, epochs: int, history: History):
        super().__init__()
        self.report, self.epoch, self.epochs, self.history = report, epoch, epochs, history

    def on_train_batch_end(self, batch, logs=None):
        if self.report is None:
            return
        steps = self.params["steps"]
        note = f"loss {logs['loss']:.4f}"
        if self.history:
            note += f", validated {judged(self.history[-1]):.4f}"
        self.report("training", self.epoch + (batch + 1) / steps, self.epochs, note)
