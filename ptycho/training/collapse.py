"""A training that collapses to a flat object: how it is noticed, and how it starts again."""

import math

import numpy as np
from keras import ops

from ptycho.network.build import initialise
from ptycho.physics.forward import Diffraction
from ptycho.training.batches import Batches
from ptycho.training.losses import PhysicsTraining, target_exposure
from ptycho.training.schedule import History


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
        # Where a flat object is illuminated makes no difference.
        probes, transfer, _ = trainer.network.illumination({key: x[key] for key in x if key != "subpixel"})
        # Vacuum, the flat object of transmission 1
        expected = ops.convert_to_numpy(Diffraction((), probes, transfer).expected)
        mask = x["mask"][:, None]
        photons = (expected * mask * np.ones_like(x["target"])).sum(axis=(1, 2, 3), keepdims=True)
        # The transmission t of least Poisson loss: sum t e = sum k.
        measured = (x["target"] * mask).sum(axis=(1, 2, 3), keepdims=True)
        transmission = measured / (target_exposure(config) * photons)
        measurement = {key: ops.convert_to_tensor(x[key]) for key in ("target", "mask")}
        flat = ops.convert_to_tensor((expected * transmission).astype("float32"))
        total += float(trainer.data_loss(measurement, flat))
    return total / len(sequence)


def has_collapsed(history: History, epochs: int, *, margin: float = 1e-3, shortest: int = 6) -> bool:
    """Whether a training that is a quarter through, since it began, fits no better than a flat object.

    A loss that is not lower than a flat object's by the ``margin`` (as a part of it) is a flat object's. Trainings of
    less than ``shortest`` epochs are not judged.
    """
    last = history[-1]
    attempt = [epoch for epoch in history if epoch.restarts == last.restarts]
    if last.flat_loss is None or epochs < shortest or len(attempt) != max(3, math.ceil(epochs / 4)):
        return False
    return min(epoch.score for epoch in attempt) > last.flat_loss * (1 - margin)


def is_flat(trainer: PhysicsTraining, batches: Batches, *, least_contrast: float = 0.02) -> bool:
    """Whether the network gives a flat object: what tells that from a network that has not learned enough to beat it.

    Its `contrast` on the first held-out groups is less than ``least_contrast``, which the eye does not see.
    """
    return contrast(trainer, batches) < least_contrast


def contrast(trainer: PhysicsTraining, batches: Batches) -> float:
    """Root mean square of the object less its mean, over the mean, where it is illuminated; on held-out groups."""
    (x,) = batches.validation()[0]
    out = trainer.network({key: ops.convert_to_tensor(value) for key, value in x.items()})
    canvas = np.array(ops.convert_to_numpy(out["canvas"]))
    weight = np.array(ops.convert_to_numpy(ops.minimum(out["coverage"], 1.0)))
    mean = (canvas * weight).sum(axis=(1, 2), keepdims=True) / weight.sum(axis=(1, 2), keepdims=True)
    # sqrt(sum w |o - <o>|^2 / sum w) / |<o>|
    variance = (np.abs(canvas - mean) ** 2 * weight).sum() / weight.sum()
    return float(np.sqrt(variance) / np.abs(mean).mean())


def restart(trainer: PhysicsTraining, number: int) -> None:
    """New initial weights of the stages, and an optimizer without a past."""
    settings = trainer.network.settings
    initialise(trainer.network, np.random.SeedSequence([settings.seed, number]))
    for variable in trainer.optimizer.variables:
        # Moments and the number of steps go back to 0; the schedule sets the learning rate.
        if variable is not trainer.optimizer._learning_rate:
            variable.assign(ops.zeros_like(variable))
