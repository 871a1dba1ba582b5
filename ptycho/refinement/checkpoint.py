"""The state of a fit in one file, replaced at once, from which a fit that was killed goes on."""

import json
import time
from pathlib import Path
from typing import TypedDict

import numpy as np

from ptycho.config import RefineConfig
from ptycho.data.fingerprint import fingerprint
from ptycho.io import DamagedCheckpoint, opened_zip, replaced
from ptycho.refinement.solver import Solver

Snapshot = dict[str, np.ndarray]


class FitEpoch(TypedDict):
    """An epoch of a fit, as it stands in ``history.json``."""

    epoch: int
    """0: what the fit started from."""
    error: float | None
    """``sum (sqrt(k) - sqrt(e))^2 / sum k`` of the frames fitted to, before the epoch's steps."""
    held_out_error: float | None
    """The same of the held-out frames after it; None without such frames."""
    shot_noise: float
    """What shot noise alone would leave of that error."""
    criterion: float
    """What the fit stops by: the held-out error, with Poisson noise a quarter of their deviance over their counts."""
    seconds: float


class Checkpoint:
    """``refinement.npz`` in a folder; ``every_s`` are the seconds between two savings at least."""

    def __init__(self, folder: Path, config: RefineConfig, solver: Solver, every_s: float = 2.0):
        self.path, self.config, self.begin = folder / "refinement.npz", config, beginning(solver)
        self.every_s, self.saved_at = every_s, -np.inf

    def save(self, solver: Solver, history: list[FitEpoch], best: Snapshot, last: bool) -> None:
        """Write the state of a fit, unless the last time was only just now."""
        if not last and time.monotonic() - self.saved_at < self.every_s:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        arrays = solver.snapshot() | {f"best.{name}": value for name, value in best.items()}
        texts = dict(history=json.dumps(history), config=json.dumps(self.config.to_dict()), begin=self.begin)
        with replaced(self.path) as partial:
            np.savez(partial, allow_pickle=False, **arrays, **{name: np.array(text) for name, text in texts.items()})
        self.saved_at = time.monotonic()

    def load(self, solver: Solver) -> tuple[list[FitEpoch], Snapshot]:
        """Bring a solver to where the last checkpoint was: its history and best state; none if there is no file."""
        if not self.path.exists():
            return [], {}
        try:
            with opened_zip(self.path):  # not packed
                pass
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            saved, begin = json.loads(str(arrays.pop("config"))), str(arrays.pop("begin"))
            history = json.loads(str(arrays.pop("history")))
            if not all(isinstance(value, np.ndarray) for value in arrays.values()):  # numpy hands out what is no array
                raise ValueError("it holds what is no array")
            if not (isinstance(saved, dict) and isinstance(history, list)):
                raise ValueError("it holds no settings, or no history")
        except Exception as error:  # of a damaged archive anything may be raised
            raise DamagedCheckpoint(f"{self.path} is damaged ({error}): begin anew, without --resume") from error
        if saved != self.config.to_dict():
            differ = sorted(key for key, value in self.config.to_dict().items() if saved.get(key) != value)
            raise ValueError(
                f"{self.path} holds a fit with other settings ({', '.join(differ)}); resume with the same ones, or "
                "into another folder"
            )
        if begin != self.begin:
            raise ValueError(
                f"{self.path} holds a fit of another scan, or one from another start or with other frames held out; "
                "resume with the same ones, or into another folder"
            )
        solver.restore({name: value for name, value in arrays.items() if not name.startswith("best.")})
        return history, {n.removeprefix("best."): value for n, value in arrays.items() if n.startswith("best.")}


def beginning(solver: Solver) -> str:
    """A hash of what a fit begins from, and of its frames."""
    scan, frames = solver.scan, np.concatenate([solver.frames, solver.held_out])
    state = solver.state.values()
    return fingerprint(frames, solver.held_out, scan.frame_counts[frames], scan.mask, scan.positions, *state)
