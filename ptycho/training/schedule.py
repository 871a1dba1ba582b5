"""How long a training is, how its step size falls, and when it stops: functions of its history alone."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ptycho.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a training, as ``history.json`` holds it."""

    epoch: int
    """Its number, from 1."""
    loss: float
    """Mean over its steps."""
    validation_loss: float | None = None
    """Loss of the held-out groups after it; None without any."""
    flat_loss: float | None = None
    """That of the best flat object, likewise."""
    learning_rate: float = math.nan
    seconds: float = math.nan
    restarts: int = 0
    """How often a training that had collapsed to a flat object was started again before."""

    @property
    def score(self) -> float:
        """The loss that compares epochs: of the held-out groups, or of training where there are none."""
        return self.loss if self.validation_loss is None else self.validation_loss

    @property
    def losses(self) -> dict[str, float]:
        """What progress shows."""
        shown = {"loss": self.loss, "validated": self.validation_loss, "flat object": self.flat_loss}
        return {name: value for name, value in shown.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Epoch":
        """Inverse of `to_dict`."""
        return cls(**values)

    def __getitem__(self, key: str) -> Any:
        """``epoch["loss"]``, as when epochs were dictionaries: for one release."""
        return getattr(self, key)


History = list[Epoch]


class Plan(NamedTuple):
    """How long a training is."""

    epochs: int
    """At most."""
    frames: int
    """Shown in an epoch, about."""


def planned(config: TrainingConfig, frames: int, N: int, *, fewest_passes: int = 3, pieces: int = 10) -> Plan:
    """Epochs as set, or as many as show what `TrainingConfig.frames_to_show` says of ``frames`` frames.

    Where that is less than ``fewest_passes`` over the scan, an epoch is one of so many ``pieces`` of it.
    """
    if config.epochs is not None:
        return Plan(config.epochs, frames)
    total = config.frames_to_show(N)
    if total < fewest_passes * frames:
        return Plan(pieces, math.ceil(total / pieces))
    return Plan(round(total / frames), frames)


def best_epoch(history: Sequence[Epoch]) -> int | None:
    """Index of the last epoch of least loss; None before the first."""
    return max(range(len(history)), key=lambda k: (-history[k].score, k)) if history else None


def stalled_for(history: Sequence[Epoch]) -> int:
    """Epochs since the first one of least loss."""
    losses = [epoch.score for epoch in history]
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


def learning_rate(config: TrainingConfig, epoch: int, epochs: int, history: Sequence[Epoch]) -> float:
    """Step size of an epoch: ``r / 2^stalls (1 + cos(pi k / K)) / 2``, half a cosine, and half of it after each stall.

    A function of what has happened, with no memory of its own, so that a resumed run takes the same steps.
    """
    # Equal, not at least: a stall counts once, in the epoch in which it reaches the patience.
    stalls = sum(stalled_for(history[:k]) == config.patience for k in range(1, len(history) + 1))
    return config.learning_rate * 0.5**stalls * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def should_stop(history: Sequence[Epoch], patience: int) -> bool:
    """Whether the held-out loss has not fallen for twice the patience."""
    return stalled_for(history) >= 2 * patience
