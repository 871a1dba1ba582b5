"""Training without ground truth: patches through the physics, compared with the measured counts."""

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from ptycho.backend import (
    free_trace_with,
    jit_compile,
    keep_freed_memory,
    replicas,
    split_over_devices,
    summed_over_replicas,
)
from ptycho.config import ModelConfig, TrainingConfig
from ptycho.data.grouping import blocks, group_extents, held_out_groups
from ptycho.data.scan import Scan
from ptycho.io import replace_text, replaced
from ptycho.network.architectures import View
from ptycho.network.build import PtychoNetwork, initialise, twin
from ptycho.physics.diffraction import expected_counts
from ptycho.physics.fourier import intensity, times_real
from ptycho.physics.noise import amplitude_error, poisson_nll
from ptycho.physics.patches import placed, split_positions
from ptycho.progress import Progress

History = list[dict[str, Any]]
Group = tuple[int, np.ndarray]
"""The number of a scan, and which of its frames."""


FRAMES_A_STEP = 36
CLIP_NORM = 1.0
OFFSETS = 8
"""Groups start at a random pixel out of 8 x 8 of their canvas: pooling must not learn where."""

FLOOR = 1e-3
"""Dark rate of the likelihood, over the mean counts of a pixel. A fixed one of 0.01 photons was a third of the mean at
690 counts a frame: the likelihood then asks for darker dark pixels, and the slow phase is lost (a start from the
pretrained network fell from 15.4 to 12.8 dB on its own object)."""

JUDGING_FRAMES = 2000
"""Frames that an epoch is judged by, at most: those of a large scan would take longer than the epoch."""

RESTARTS = 2
"""How often a training that collapses to a flat object starts again."""


def train(
    model: PtychoNetwork,
    scans: Scan | Sequence[Scan],
    config: TrainingConfig | None = None,
    *,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> History:
    """Fit a network to a scan or several, in place, by the physics alone (unless ``realspace_weight`` says otherwise).

    Args:
        model: from `build_model`, with the scans' N and probe modes.
        scans: counts, positions and masks to learn from. The model's own probe is used with a single scan; with
            several, each comes with its own.
        config: see `TrainingConfig`.
        folder: where ``history.json`` and a checkpoint are written after every epoch.
        resume: go on from the checkpoint in ``folder``; the result is that of an uninterrupted run.
        progress: told of the progress.

    Returns:
        One entry an epoch: ``epoch``, ``loss``, ``validation_loss`` (None without validation frames),
        ``flat_loss`` (that of the best flat object, likewise), ``learning_rate``, ``seconds``, ``restarts`` (how often
        a training that had collapsed to a flat object was started again). The model is left with the weights of
        the epoch of least validation loss.

    Raises:
        ValueError: the scans do not fit the model or each other, the loss stops being a number, or there are not as
            many devices as ``config`` asks for.
    """
    config = config or TrainingConfig()
    keep_freed_memory()
    batches = Batches([scans] if isinstance(scans, Scan) else scans, model.settings, config)
    checkpoint = Checkpoint(folder, config) if folder is not None else None
    if config.devices == 1:
        return _train(model, batches, checkpoint, resume, progress)
    with split_over_devices(config.devices):  # which only holds for what is built in it
        copy = twin(model)
        history = _train(copy, batches, checkpoint, resume, progress)
    model.set_weights(copy.get_weights())
    model.trained_for = copy.trained_for
    return history


def _train(
    model: PtychoNetwork, batches: "Batches", checkpoint: "Checkpoint | None", resume: bool, progress: Progress | None
) -> History:
    config = batches.config
    trainer = PhysicsTraining(model, config)
    trainer.compile(
        optimizer=_Adam(config.learning_rate, global_clipnorm=CLIP_NORM, name="adam"),
        jit_compile=jit_compile(config.jit_compile),
    )
    trainer.optimizer.build(trainer.trainable_variables)
    history: History = []
    if checkpoint and resume:
        history = checkpoint.restore(trainer)
    elif checkpoint:
        checkpoint.clear()
    best = min(range(len(history)), key=lambda k: judged(history[k])) if history else None
    epochs = batches.plan.epochs
    restarts = history[-1]["restarts"] if history else 0
    flat, flat_stays = None, not (model.settings.probe_trainable or model.settings.scale_trainable)
    for epoch in range(len(history), epochs):
        if should_stop(history, config.patience):
            break
        start = time.perf_counter()
        trainer.optimizer.learning_rate = learning_rate(config, epoch, epochs, history)
        callback = _EpochProgress(progress, epoch, epochs, history)
        fit = trainer.fit(batches.epoch(epoch), verbose=0, shuffle=False, callbacks=[callback])
        if flat is None or not flat_stays:
            flat = flat_loss(trainer, batches)
        entry = dict(
            epoch=epoch + 1,
            loss=fit.history["loss"][0],
            validation_loss=validation_loss(trainer, batches),
            flat_loss=flat,
            learning_rate=float(ops.convert_to_numpy(trainer.optimizer.learning_rate)),
            seconds=round(time.perf_counter() - start, 3),
            restarts=restarts,
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
        if has_collapsed(history, epochs) and contrast(trainer, batches) < FLAT:
            if restarts < RESTARTS and epoch + 1 < epochs:
                restarts += 1
                warnings.warn(
                    f"the network gives a flat object after {epoch + 1} epochs (validation loss "
                    f"{judged(entry):.4g}, a flat object has {entry['flat_loss']:.4g}): starting again",
                    UserWarning,
                    stacklevel=3,
                )
                restart(trainer, restarts)
            else:
                warnings.warn(
                    f"the network gives a flat object, {restarts} new starts notwithstanding: the frames may not tell "
                    "the sample from an empty one; check the probe, the positions and the counts per frame",
                    UserWarning,
                    stacklevel=3,
                )
        if checkpoint:
            checkpoint.keep(trainer, history)
        if progress:
            progress("training", epoch + 1, epochs, _numbers(history))
    for name, (least, most) in conditions(batches.scans).items():
        low, high = model.trained_for.get(name, (least, most))
        model.trained_for[name] = [min(low, least), max(high, most)]
    if history and best != len(history) - 1:
        if checkpoint:
            checkpoint.restore_best(trainer)
        else:
            model.set_weights(weights)
    return history


def conditions(scans: Sequence[Scan]) -> dict[str, tuple[float, float]]:
    """What a network trained on these scans knows: least and most of each quantity that matters to it."""
    kinds: dict[str, Callable[[Scan], float]] = {
        "N": lambda scan: scan.N,
        "counts_per_frame": lambda scan: scan.mean_counts,
        "probe_diameter_px": lambda scan: scan.probe_diameter_px,
        "step_px": lambda scan: scan.step_px,
    }
    values = {name: [float(kind(scan)) for scan in scans] for name, kind in kinds.items()}
    return {name: (min(found), max(found)) for name, found in values.items()}


FAR = 3.0
"""A network is used far from what it was trained for from this factor on."""


def far_from_training(model: PtychoNetwork, scan: Scan) -> list[str]:
    """Sentences about what in a scan is far (`FAR`) from all that a network was trained for; empty if nothing is."""
    found = []
    for name, (value, _) in conditions([scan]).items():
        low, high = model.trained_for.get(name, (value, value))
        if not low / FAR <= value <= high * FAR:
            label = name.replace("_px", " in pixels").replace("_", " ")
            found.append(
                f"{label} {value:.4g} is far from what the network was trained for ({low:.4g} to {high:.4g}): "
                "train it on this scan (ptycho train --from)"
            )
    return found


class PhysicsTraining(keras.Model):
    """A network with its physics loss, as Keras' `fit` wants it. Lives for one training; the network stays."""

    def __init__(self, network: PtychoNetwork, config: TrainingConfig):
        super().__init__()
        self.network, self.config = network, config
        self.built = True

    def call(self, inputs):
        free_trace_with(self)
        return self.network(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # Keras adds up the losses of replicas.
        return (self.data_loss(x, y_pred["expected"]) + self.object_loss(x, y_pred)) / replicas()

    def data_loss(self, x, expected):
        """Disagreement of expected counts ``(B, C, N, N)`` with the measured ones, masked pixels left out."""
        mask = ops.expand_dims(ops.convert_to_tensor(x["mask"]), 1)
        counts = ops.multiply(x["target"], mask)
        expected = ops.multiply(expected, judged_share(self.config) * mask)
        mean = ops.mean(counts, axis=(1, 2, 3), keepdims=True) + 1e-6
        loss = 0.0
        if self.config.nll_weight:
            # Less that of a perfect model, so that it says how far there is to go: shot noise alone leaves about 1/2.
            floor = FLOOR * mean
            nll = poisson_nll(counts, expected, floor) - poisson_nll(counts, counts, floor)
            loss = loss + self.config.nll_weight * ops.mean(nll / mean)
        if self.config.mae_weight:
            loss = loss + self.config.mae_weight * ops.mean(amplitude_error(counts, expected) / ops.sqrt(mean))
        return loss

    def object_loss(self, x, y):
        """What is asked of the object ``(B, H, W)`` itself: smoothness, nearness to the truth."""
        loss = 0.0
        if self.config.tv_weight:
            loss = loss + self.config.tv_weight * total_variation(y["canvas"])
        if self.config.realspace_weight:
            lit = x["lit"] * ops.minimum(y["light"], 1.0)
            loss = loss + self.config.realspace_weight * distance(y["canvas"], x["truth"], lit)
        return loss


class _Adam(keras.optimizers.Adam):
    """Adam that clips the gradient of the whole batch: Keras clips the one of each replica, then adds them up."""

    def _clip_gradients(self, grads):
        return [grad / replicas() for grad in super()._clip_gradients(summed_over_replicas(grads))]


def distance(canvas, truth, weight):
    """Mean over the groups of ``|canvas - truth|``, each with a weight ``(B, H, W)`` and its best phase taken out."""
    overlap = ops.sum(times_real(truth * ops.conj(canvas), weight), axis=(-2, -1), keepdims=True)
    phase = ops.stop_gradient(times_real(overlap, ops.rsqrt(intensity(overlap) + 1e-12)))
    error = ops.sqrt(intensity(canvas * phase - truth) + 1e-8)
    return ops.mean(ops.sum(error * weight, axis=(-2, -1)) / (ops.sum(weight, axis=(-2, -1)) + 1e-6))


def total_variation(image):
    """Mean absolute difference of neighbouring pixels of a complex image ``(B, H, W)``, both directions."""
    tiny = 1e-12
    size = lambda z: ops.mean(ops.sqrt(ops.real(z) ** 2 + ops.imag(z) ** 2 + tiny))
    return size(image[:, 1:] - image[:, :-1]) + size(image[:, :, 1:] - image[:, :, :-1])


def judged_share(config: TrainingConfig) -> float:
    """Photons that a prediction is judged by, over those that it is made from."""
    return (1.0 - config.thinning) / config.thinning if config.thinning < 1 else 1.0


class Batches:
    """The batches of scans: groups of neighbours, drawn anew for each epoch from (seed, epoch) alone."""

    def __init__(self, scans: Sequence[Scan], settings: ModelConfig, config: TrainingConfig):
        _check_scans(scans, settings, config)
        self.scans, self.settings, self.config = list(scans), settings, config
        self.group = min(settings.channels, *(len(scan) for scan in scans))
        usual = max(1, FRAMES_A_STEP // self.group)
        self.batch = config.batch_groups or config.devices * math.ceil(usual / config.devices)
        rng = np.random.default_rng([config.seed, 0])
        self.training_index: list[np.ndarray] = []
        self.blocks: list[np.ndarray] = []
        validation, sides = [], [0.0]
        judging = min(config.validation_fraction, JUDGING_FRAMES / sum(len(scan) for scan in scans))
        for number, scan in enumerate(scans):
            held_out, index = held_out_groups(scan.positions, self.group, judging, rng)
            self.training_index.append(index)
            self.blocks.append(index[blocks(scan.positions[index], self.group)])
            validation += [(number, group) for group in held_out]
            sides += list(group_extents(scan.positions, held_out))
        self.validation_groups = validation
        self.validation_side = _canvas_side(settings.N + max(sides))
        extents = [group_extents(scan.positions, own) for scan, own in zip(scans, self.blocks, strict=True)]
        # Blocks that reach over a hole of the scan would make all canvases larger: those are left out.
        most = max(np.quantile(own, 0.8) for own in extents)
        self.blocks = [own[extent <= most] for own, extent in zip(self.blocks, extents, strict=True)]
        self.canvas_side = _canvas_side(settings.N + most + OFFSETS)
        self.subpixel = any(split_positions(scan.positions)[1].any() for scan in scans)
        self.training_frames = sum(len(index) for index in self.training_index)
        self.plan = planned(config, self.training_frames, settings.N)

    def epoch(self, epoch: int) -> "_Sequence":
        """As many frames as planned, mostly one pass over them, in whole batches."""
        rng = np.random.default_rng([self.config.seed, 1, epoch])
        steps = math.ceil(self.plan.frames / (self.group * self.batch))
        shares = np.array([len(index) for index in self.training_index]) / self.training_frames
        wanted = rng.multinomial(steps * self.batch, shares) if len(shares) > 1 else [steps * self.batch]
        groups: list[Group] = []
        for number, count in enumerate(wanted):
            own = self.blocks[number]
            rows = np.resize(rng.permutation(len(own)), count)
            groups += [(number, own[row]) for row in rows]
        rng.shuffle(groups)
        return _Sequence(self, groups, [self.config.seed, 2, epoch], training=True)

    def validation(self) -> "_Sequence":
        """The held-out groups, the last batch filled up with the first group; always the same photons thinned out."""
        missing = -len(self.validation_groups) % self.batch
        groups = self.validation_groups + self.validation_groups[:1] * missing
        return _Sequence(self, groups, [self.config.seed, 3], training=False)

    def arrays(self, groups: list[Group], rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
        """One batch of groups as the network takes it, with what its object is judged by."""
        parts = [self.group_arrays(self.scans[number], members, rng, training) for number, members in groups]
        arrays: dict[str, np.ndarray] = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        if training and self.config.augment and self.settings.architecture != "cnn":
            side = self.canvas_side if self.settings.architecture == "consensus" else self.settings.N
            rows = len(groups) if self.config.devices > 1 else 1  # what is split over devices has a row for each group
            view = View.arrays(int(rng.integers(View.COUNT)), side)
            arrays |= {name: np.repeat(own, rows, axis=0) for name, own in view.items()}
        return arrays

    def group_arrays(self, scan: Scan, members: np.ndarray, rng: np.random.Generator, training: bool):
        """The arrays of one group, without the batch axis."""
        positions, fractions = split_positions(scan.positions[members])
        offset = rng.integers(OFFSETS, size=2) if training else 0
        side = self.canvas_side if training else self.validation_side
        origin = positions.min(axis=0) - scan.N // 2 - offset
        canvas = np.zeros((side, side), "float32")
        seen, target = thinned(scan.counts[members], self.config.thinning, rng)
        arrays = dict(
            counts=seen,
            target=target,
            mask=scan.mask.astype("float32"),
            positions=(positions - origin).astype("int32"),
            canvas=canvas,
            exposure=np.float32(self.config.thinning),
        )
        if self.subpixel:
            arrays["fractions"] = fractions
        if len(self.scans) > 1:
            arrays["probe_parts"] = np.stack([scan.probe.real, scan.probe.imag])
        if self.config.realspace_weight:
            arrays["truth"], arrays["lit"] = true_object(scan, origin, canvas.shape)
        return arrays


def _canvas_side(side: float) -> int:
    """Rounded up to whole tiles of the U-Nets, with a pixel to spare for the rounding of positions."""
    return 8 * math.ceil((side + 2) / 8)


def thinned(counts: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts split at random into seen ones and those to judge by; float32.

    Each photon is seen with probability ``share``: the two parts of a Poisson count are independent Poisson counts.
    Counts that are not whole are rounded up or down at random, without bias. With a share of 1 both are the counts.
    """
    if share == 1:
        counts = counts.astype("float32")
        return counts, counts
    whole = counts
    if counts.dtype.kind == "f":
        floor = np.floor(counts)
        whole = floor + (rng.random(counts.shape, "float32") < counts - floor)
    whole = np.maximum(whole, 0).astype("int64")
    seen = rng.binomial(whole, share)
    return seen.astype("float32"), (whole - seen).astype("float32")


def true_object(scan: Scan, origin: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The true object on a canvas whose first pixel is at ``origin``, and where it is known."""
    assert scan.object is not None
    truth = placed(scan.object, -origin, np.zeros(shape, "complex64"))
    return truth, placed(np.ones(scan.object.shape), -origin, np.zeros(shape, "float32"))


def _check_scans(scans: Sequence[Scan], settings: ModelConfig, config: TrainingConfig) -> None:
    if not scans:
        raise ValueError("there is no scan to train on; give one at least")
    for scan in scans:
        scan.require_far_field()
        if scan.N != settings.N:
            raise ValueError(f"the scan's frames have N {scan.N}, the model N {settings.N}; build a model for the scan")
        if config.realspace_weight and scan.object is None:
            raise ValueError("realspace_weight needs a scan with its true object; this scan has none")
        if len(scans) > 1 and scan.modes != settings.probe_modes:
            raise ValueError(
                f"a scan has {scan.modes} probe modes, the model {settings.probe_modes}; give them all one"
            )
    if len(scans) > 1 and (settings.probe_trainable or settings.scale_trainable):
        raise ValueError("several scans come with their own probes: set probe_trainable and scale_trainable to False")


class _Sequence(keras.utils.PyDataset):
    def __init__(self, batches: Batches, groups: list[Group], seed: list[int], training: bool):
        super().__init__()
        self.batches, self.groups, self.seed, self.training = batches, groups, seed, training

    def __len__(self):
        return len(self.groups) // self.batches.batch

    def __getitem__(self, k):
        size = self.batches.batch
        rng = np.random.default_rng([*self.seed, k])
        return (self.batches.arrays(self.groups[k * size : (k + 1) * size], rng, self.training),)


def validation_loss(trainer: PhysicsTraining, batches: Batches) -> float | None:
    """Loss on the held-out groups; None where the scan is too small to hold any out."""
    if not len(batches.validation_groups):
        return None
    return trainer.evaluate(batches.validation(), verbose=0, return_dict=True)["loss"]


def flat_loss(trainer: PhysicsTraining, batches: Batches) -> float | None:
    """Loss on the held-out groups of a flat object of the best transmission.

    None where there are no such groups, and where the loss looks at more than the counts.
    """
    config = trainer.config
    if not batches.validation_groups or config.realspace_weight or config.tv_weight:
        return None
    sequence, total = batches.validation(), 0.0
    for k in range(len(sequence)):
        (x,) = sequence[k]
        probe, _ = trainer.network.illuminate({key: x[key] for key in x if key != "fractions"})
        ones = np.ones((len(x["counts"]), 1, *x["counts"].shape[-2:]), "complex64")
        empty = ops.convert_to_numpy(expected_counts(ones, probe))
        mask = x["mask"][:, None]
        light = (empty * mask * np.ones_like(x["target"])).sum(axis=(1, 2, 3), keepdims=True)
        share = judged_share(trainer.config)
        transmission = (x["target"] * mask).sum(axis=(1, 2, 3), keepdims=True) / (share * light)
        judging = {key: ops.convert_to_tensor(x[key]) for key in ("target", "mask")}
        total += float(trainer.data_loss(judging, ops.convert_to_tensor((empty * transmission).astype("float32"))))
    return total / len(sequence)


def has_collapsed(history: History, epochs: int) -> bool:
    """Whether a training that is a quarter through, since it began, fits no better than a flat object.

    Short ones, of less than six epochs, are not judged.
    """
    entry = history[-1]
    since = sum(e["restarts"] == entry["restarts"] for e in history)
    if entry["flat_loss"] is None or epochs < 6 or since != max(3, math.ceil(epochs / 4)):
        return False
    best = min(judged(e) for e in history if e["restarts"] == entry["restarts"])
    return best > entry["flat_loss"] * (1 - COLLAPSED)


COLLAPSED = 1e-3
"""A loss that is not lower than a flat object's by this part of it is a flat object's."""


FLAT = 0.02
"""Contrast below which an object is flat to the eye."""


def contrast(trainer: PhysicsTraining, batches: Batches) -> float:
    """Root mean square of the object less its mean, over the mean, where there is light; on the first held-out groups.

    What tells a network that gives a flat object from one that has not learned enough to beat it.
    """
    (x,) = batches.validation()[0]
    out = trainer.network({key: ops.convert_to_tensor(value) for key, value in x.items()})
    canvas = ops.convert_to_numpy(out["canvas"])
    weight = ops.convert_to_numpy(ops.minimum(out["light"], 1.0))
    canvas, weight = np.array(canvas), np.array(weight)
    mean = (canvas * weight).sum(axis=(1, 2), keepdims=True) / weight.sum(axis=(1, 2), keepdims=True)
    spread = (np.abs(canvas - mean) ** 2 * weight).sum() / weight.sum()
    return float(np.sqrt(spread) / np.abs(mean).mean())


def restart(trainer: PhysicsTraining, number: int) -> None:
    """New initial weights of the stages, and an optimizer that has seen nothing."""
    settings = trainer.network.settings
    initialise(trainer.network, np.random.SeedSequence([settings.seed, number]))
    for variable in trainer.optimizer.variables:
        if variable is not trainer.optimizer._learning_rate:
            variable.assign(ops.zeros_like(variable))


def judged(entry: dict[str, Any]) -> float:
    """The loss that an epoch is judged by: of validation, or of training where there is none."""
    return entry["loss"] if entry["validation_loss"] is None else entry["validation_loss"]


class Plan(NamedTuple):
    """How long a training is."""

    epochs: int
    """At most."""
    frames: int
    """Shown in an epoch, about."""


FEWEST_PASSES, PARTS = 3, 10
"""Passes over a scan that are at least made where there is time for them; where there is not, epochs of a part each."""


def planned(config: TrainingConfig, frames: int, N: int) -> Plan:
    """Epochs as set, or as many as show what `TrainingConfig.frames_to_show` says of ``frames`` frames."""
    if config.epochs is not None:
        return Plan(config.epochs, frames)
    total = config.frames_to_show(N)
    if total < FEWEST_PASSES * frames:
        return Plan(PARTS, math.ceil(total / PARTS))
    return Plan(round(total / frames), frames)


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
        replace_text(self.folder / "training.json", json.dumps(self.config.to_dict(), indent=1))
        replace_text(self.folder / "history.json", json.dumps(history, indent=1))
        for old in self.folder.glob("epoch-*.weights.h5"):
            if old not in (self.weights(len(history)), self.weights("best")):
                old.unlink()

    def keep_best(self, trainer: PhysicsTraining) -> None:
        with replaced(self.weights("best")) as partial:
            trainer.save_weights(partial)

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


class _EpochProgress(keras.callbacks.Callback):
    """Passes the batches of one epoch on to a report."""

    def __init__(self, progress: Progress | None, epoch: int, epochs: int, history: History):
        super().__init__()
        self.progress, self.epoch, self.epochs, self.history = progress, epoch, epochs, history

    def on_train_batch_end(self, batch, logs=None):
        steps = self.params["steps"]
        if self.progress is None or batch + 1 == steps:  # the epoch is told of once it is judged
            return
        numbers = _numbers(self.history) | dict(loss=float(logs["loss"]))
        self.progress("training", self.epoch + (batch + 1) / steps, self.epochs, numbers)


def _numbers(history: History) -> dict[str, float]:
    """What to tell of the last epoch of a history: its losses, and beside them that of a flat object."""
    if not history:
        return {}
    names = dict(loss="loss", validation_loss="validated", flat_loss="flat object")
    return {name: history[-1][key] for key, name in names.items() if history[-1][key] is not None}
