"""Models on disk: one Keras archive (JSON and HDF5, no pickle), loaded strictly."""

import hashlib
import os
from pathlib import Path

import keras

from ptycho.io import replaced
from ptycho.network.build import PtychoNetwork


def save_model(model: PtychoNetwork, path: str | os.PathLike) -> Path:
    """Write a network with its settings, weights, probe and scale to ``path`` (``*.keras``), at once."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        model.save(partial)
    return path


PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Networks that come with the package: made by ``ptycho pretrain``, each beside its SHA-256."""


def load_pretrained(name: str = "best") -> PtychoNetwork:
    """A network of the package that has learned from simulated scans, without a probe: it takes that of each scan.

    Raises ValueError if its file was damaged.
    """
    path = PRETRAINED / f"{name}.keras"
    expected = path.with_suffix(".sha256").read_text().split()[0]
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is not {expected}; install the package again")
    return load_model(path).without_probe()


def load_model(path: str | os.PathLike) -> PtychoNetwork:
    """Read a network that `save_model` wrote, bit for bit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or weights that do not fit its settings.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no model at {path}; `ptycho train SCAN -o RUN` leaves one in RUN/model.keras")
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if not isinstance(model, PtychoNetwork):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a network of ptycho")
    return model
