"""A training on disk: what a killed run goes on from."""

import json
import os
from pathlib import Path

import numpy as np

from ptycho.config import TrainingConfig
from ptycho.hdf5_guard import require_bounded_tables
from ptycho.io import DamagedCheckpoint, read_json, replace_text, replaced, require_room
from ptycho.training.losses import PhysicsTraining
from ptycho.training.schedule import Epoch, History


class Checkpoint:
    """A folder with ``history.json``, the weights and optimizer state of the last epoch, and the best weights.

    The history is replaced last and at once, and names the epoch whose weights belong to it: a run killed at any
    moment finds a pair that fits.

    ``begin`` is a fingerprint of what is trained on what: a training of something else is not gone on with.
    """

    def __init__(self, folder: str | os.PathLike, config: TrainingConfig, begin: str = ""):
        self.folder, self.config, self.begin = Path(folder), config, begin
        self.folder.mkdir(parents=True, exist_ok=True)

    def weights(self, epoch: int | str) -> Path:
        """File of the weights of an epoch."""
        return self.folder / f"epoch-{epoch}.weights.h5"

    def clear(self) -> None:
        """Remove what an earlier training left: a resumed run must not take it for its own."""
        for old in ("history.json", *(path.name for path in self.folder.glob("epoch-*.weights.h5"))):
            (self.folder / old).unlink(missing_ok=True)

    def keep(self, trainer: PhysicsTraining, history: History) -> None:
        """Write the last epoch."""
        require_room(self.folder, bytes_of(trainer))
        with replaced(self.weights(len(history))) as partial:
            trainer.save_weights(partial)
        settings = dict(settings=self.config.to_dict(), begin=self.begin)
        replace_text(self.folder / "training.json", json.dumps(settings, indent=1))
        replace_text(self.folder / "history.json", json.dumps([epoch.to_dict() for epoch in history], indent=1))
        for old in self.folder.glob("epoch-*.weights.h5"):
            if old not in (self.weights(len(history)), self.weights("best")):
                old.unlink()

    def keep_best(self, trainer: PhysicsTraining) -> None:
        """Write the weights as the best so far."""
        require_room(self.folder, bytes_of(trainer))
        with replaced(self.weights("best")) as partial:
            trainer.save_weights(partial)

    def restore_best(self, trainer: PhysicsTraining) -> None:
        """Read what `keep_best` wrote."""
        trainer.load_weights(self.weights("best"))

    def restore(self, trainer: PhysicsTraining) -> History:
        """Weights, optimizer and history of the last epoch; none of them if there was no epoch yet."""
        if not (self.folder / "history.json").exists():
            return []
        config = self.config.to_dict()
        try:
            record = read_json(self.folder / "training.json")
            saved = record.get("settings", record)  # of a version that kept no fingerprint
            history = [Epoch.from_dict(values) for values in read_json(self.folder / "history.json")]
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise self._damaged(error) from error
        if saved != config:
            differ = sorted(k for k in saved | config if saved.get(k) != config.get(k))
            raise ValueError(
                f"{self.folder} holds a training with other settings ({', '.join(differ)}); "
                "resume with the same ones, or train into another folder"
            )
        if record.get("begin") != self.begin:
            raise ValueError(
                f"{self.folder} holds a training on another scan, or of another network; resume with the same ones, or "
                "train into another folder"
            )
        try:
            require_bounded_tables(self.weights(len(history)))
            trainer.load_weights(self.weights(len(history)))
        except Exception as error:  # Keras and HDF5 raise whatever they meet
            raise self._damaged(error) from error
        return history

    def _damaged(self, error: Exception) -> DamagedCheckpoint:
        return DamagedCheckpoint(f"the checkpoint in {self.folder} is damaged ({error}): begin anew, without --resume")


def bytes_of(trainer: PhysicsTraining) -> int:
    """What the file of its weights takes at most: 8 kB for each variable's place in the tables beside its values."""
    values = [*trainer.variables, *trainer.optimizer.variables]
    return 2**16 + sum(int(np.prod(value.shape)) * 8 + 2**13 for value in values)


class InMemory:
    """A `Checkpoint` for a training that leaves no files: it keeps the best weights, and starts anew."""

    def __init__(self) -> None:
        self.best: list = []

    def clear(self) -> None:
        """Forget the best weights."""
        self.best = []

    def keep(self, trainer: PhysicsTraining, history: History) -> None:
        """Nothing: the last epoch is in the trainer."""

    def keep_best(self, trainer: PhysicsTraining) -> None:
        """Keep the weights of the network."""
        self.best = trainer.network.get_weights()

    def restore_best(self, trainer: PhysicsTraining) -> None:
        """Set what `keep_best` kept."""
        trainer.network.set_weights(self.best)

    def restore(self, trainer: PhysicsTraining) -> History:
        """No history: there is nothing to go on from."""
        return []
