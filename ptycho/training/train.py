"""Training without ground truth: patches through the physics, compared with the measured counts."""

import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from ptycho.backend import (
    jit_compile,
    keep_freed_memory,
    replicas,
    require_own_threads,
    shared_out,
    split_over_devices,
    summed_over_replicas,
)
from ptycho.config import TrainingConfig
from ptycho.data.fingerprint import fingerprint, measured
from ptycho.data.frames import Workers
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.network.build import PtychoNetwork, restored
from ptycho.network.domain import widen
from ptycho.progress import Progress
from ptycho.training.batches import Batches, BatchSequence
from ptycho.training.checkpoint import Checkpoint, InMemory
from ptycho.training.collapse import flat_loss, has_collapsed, is_flat, restart
from ptycho.training.losses import PhysicsTraining
from ptycho.training.schedule import Epoch, History, best_epoch, learning_rate, should_stop


@renamed_keywords
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
        model: from `build_model`.
        scans: counts, positions and masks to learn from. A probe of the model's own is used with a single scan; several
            scans, and networks without a probe, take those of the scans.
        config: see `TrainingConfig`.
        folder: where ``history.json`` and a checkpoint are written after every epoch.
        resume: go on from the checkpoint in ``folder``; the result is that of an uninterrupted run.
        progress: called with the progress.

    Returns:
        The epochs. The model is left with the weights of the one of least held-out loss.

    Raises:
        ValueError: the scans do not fit the model or each other, the loss is not finite, there are not as many devices
            as ``config`` asks for, or the checkpoint is of another scan, network or training.
    """
    require_own_threads()
    config = config or TrainingConfig()
    keep_freed_memory()
    scans = [scans] if isinstance(scans, Scan) else scans
    has_probe = model.probe is not None
    batches = Batches(scans, model.settings, config, has_probe=has_probe)
    checkpoint: Checkpoint | InMemory = InMemory()
    if folder is not None:
        checkpoint = Checkpoint(folder, config, fingerprint(str(model.settings), *measured(scans)))
    if config.devices == 1:
        return _train(model, batches, checkpoint, resume, progress)
    with split_over_devices(config.devices):  # which only holds for what is built in it
        copy = restored(model.settings, model.get_weights(), model.trained_for, has_probe=has_probe)
        history = _train(copy, batches, checkpoint, resume, progress)
    model.set_weights(copy.get_weights())
    model.trained_for = copy.trained_for
    return history


def _train(
    model: PtychoNetwork, batches: Batches, checkpoint: Checkpoint | InMemory, resume: bool, progress: Progress | None
) -> History:
    config, epochs = batches.config, batches.plan.epochs
    trainer = compiled_trainer(model, config)
    history: History = []
    if resume:
        history = checkpoint.restore(trainer)
    else:
        checkpoint.clear()
    restarts = history[-1].restarts if history else 0
    flat, flat_changes = None, model.settings.probe_trainable or model.settings.scale_trainable

    for epoch in range(len(history), epochs):
        if should_stop(history, config.patience):
            break
        start = time.perf_counter()
        # Set at the start of each epoch from the history, so that a resumed run has the same.
        trainer.optimizer.learning_rate = learning_rate(config, epoch, epochs, history)
        loss = train_epoch(trainer, batches, epoch, history, progress)
        # Of all that a training changes, the loss of a flat object depends on the probe only.
        if flat is None or flat_changes:
            flat = flat_loss(trainer, batches)
        history.append(
            Epoch(
                epoch=epoch + 1,
                loss=loss,
                validation_loss=validation_loss(trainer, batches),
                flat_loss=flat,
                learning_rate=float(ops.convert_to_numpy(trainer.optimizer.learning_rate)),
                seconds=round(time.perf_counter() - start, 3),
                restarts=restarts,
            )
        )
        if best_epoch(history) == epoch:
            checkpoint.keep_best(trainer)
        if has_collapsed(history, epochs) and is_flat(trainer, batches):
            restarts = start_again(trainer, history, epochs)
        checkpoint.keep(trainer, history)
        if progress:
            progress("training", epoch + 1, epochs, history[-1].losses)

    widen(model, batches.scans)
    # The last epoch is rarely the best.
    if history and best_epoch(history) != len(history) - 1:
        checkpoint.restore_best(trainer)
    return history


def compiled_trainer(model: PtychoNetwork, config: TrainingConfig, clip_norm: float = 1.0) -> PhysicsTraining:
    """The trainer of a network, with Adam on gradients of the norm ``clip_norm`` at most."""
    trainer = PhysicsTraining(model, config)
    trainer.compile(
        optimizer=_Adam(config.learning_rate, global_clipnorm=clip_norm, name="adam"),
        jit_compile=jit_compile(config.jit_compile),
    )
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer


def train_epoch(
    trainer: PhysicsTraining, batches: Batches, epoch: int, history: History, progress: Progress | None
) -> float:
    """One pass over the batches of an epoch; its loss. ValueError where that is not finite."""
    losses = history[-1].losses if history else {}
    sequence, sum_of_losses = batches.epoch(epoch), 0.0
    # Not by Keras' `fit`: TensorFlow keeps what it makes of every data set of generators, batches and scan, for ever.
    for number, (inputs,) in enumerate(in_turn(sequence), 1):
        sum_of_losses += float(trainer.train_on_batch(shared_out(inputs), return_dict=True)["loss"])
        loss = sum_of_losses / number
        if progress and number < len(sequence):  # the last is shown with the epoch's held-out loss
            progress("training", epoch + number / len(sequence), batches.plan.epochs, losses | dict(loss=loss))
    if not math.isfinite(loss):
        raise ValueError(
            f"the training loss is {loss} in epoch {epoch + 1}: lower learning_rate "
            f"({batches.config.learning_rate}), and check the scale of the probe against the counts"
        )
    return loss


def validation_loss(trainer: PhysicsTraining, batches: Batches) -> float | None:
    """Loss on the held-out groups; None where the scan is too small to hold any out."""
    if not batches.validation_groups:
        return None
    sequence, sum_of_losses = batches.validation(), 0.0
    for (inputs,) in in_turn(sequence):
        sum_of_losses += float(trainer.test_on_batch(shared_out(inputs), return_dict=True)["loss"])
    return sum_of_losses / len(sequence)


def in_turn(sequence: BatchSequence) -> Iterator[tuple[dict[str, np.ndarray]]]:
    """The batches of an epoch; the next ones are made while the network works on the last."""
    return Workers(1).ahead(sequence.__getitem__, range(len(sequence)))


def start_again(trainer: PhysicsTraining, history: History, epochs: int, *, most: int = 2) -> int:
    """Start a training that has collapsed again, at most ``most`` times; warns, and returns how often it now has."""
    last, restarts = history[-1], history[-1].restarts
    if restarts < most and last.epoch < epochs:
        warnings.warn(
            f"the network gives a flat object after {last.epoch} epochs (validation loss {last.score:.4g}, a flat "
            f"object has {last.flat_loss:.4g}): starting again",
            UserWarning,
            stacklevel=4,
        )
        restart(trainer, restarts + 1)
        return restarts + 1
    warnings.warn(
        f"the network gives a flat object in spite of {restarts} new starts: the frames may not distinguish the sample "
        "from a flat one; check the probe, the positions and the counts per frame",
        UserWarning,
        stacklevel=4,
    )
    return restarts


class _Adam(keras.optimizers.Adam):
    """Adam that clips the gradient of the complete batch: Keras clips that of each replica, then adds them up."""

    def _clip_gradients(self, grads):
        # Each replica now has the sum; the optimizer adds them up once more.
        return [grad / replicas() for grad in super()._clip_gradients(summed_over_replicas(grads))]
