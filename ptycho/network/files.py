"""Models on disk: one Keras archive (JSON and HDF5, no pickle), loaded strictly."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import keras

from ptycho.config import Preset
from ptycho.hdf5_guard import require_bounded_tables
from ptycho.io import BadFile, opened_zip, replaced
from ptycho.network.build import PtychoNetwork

WEIGHTS = "model.weights.h5"
"""In the archive."""


def save_model(model: PtychoNetwork, path: str | os.PathLike) -> Path:
    """Write a network with its settings, weights, probe and scale to ``path`` (``*.keras``), at once."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        model.save(partial)
    return path


PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Networks that come with the package: made by ``ptycho pretrain``, each beside its SHA-256."""

PACKAGED: dict[str, Preset] = {"pretrained": "best", "pretrained-fast": "fast"}
"""Names by which users ask for the networks of the package, which are called as their presets."""


def load_pretrained(name: Preset = "best") -> PtychoNetwork:
    """A network of the package that has learned from simulated scans, without a probe: it takes that of each scan.

    Raises ValueError if its file was damaged.
    """
    path = PRETRAINED / f"{name}.keras"
    require_intact(path)
    return _loaded(path).without_probe()


def require_intact(path: Path) -> None:
    """ValueError where a file of the package is not the one whose SHA-256 stands beside it."""
    expected = path.with_suffix(".sha256").read_text().split()[0]
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is not {expected}; install the package again")


def load_model(path: str | os.PathLike) -> PtychoNetwork:
    """Read a network that `save_model` wrote, bit for bit.

    Raises:
        FileNotFoundError: there is no such file.
        BadFile: the file holds something else, or weights that do not fit its settings.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no model at {path}; `ptycho train SCAN -o RUN` leaves one in RUN/model.keras")
    if not path.is_file():
        raise BadFile(f"{path} is no file; give the model.keras of a run")
    _check_size(path)
    return _loaded(path)


def _loaded(path: Path) -> PtychoNetwork:
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever it meets in a damaged or foreign file
        raise BadFile(f"{path} is no model, or a damaged one ({error}); train it again") from error
    if not isinstance(model, PtychoNetwork):
        raise BadFile(f"{path} holds a {type(model).__name__}, not a network of ptycho")
    return model


def _check_size(path: Path, *, most_expansion: int = 20) -> None:
    """BadFile where the network would take much more memory than its weights in the file are: it would be made first;
    or where HDF5 would come to no end with these.

    Keras stores weights as they are; of a width w a convolution alone has 9 w^2 of 4 bytes.
    """
    try:
        with opened_zip(path, most_expansion) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            settings = json.loads(archive.read("config.json")).get("config", {}).get("settings", {})
            with tempfile.TemporaryDirectory() as folder:
                if WEIGHTS in sizes:
                    require_bounded_tables(Path(archive.extract(WEIGHTS, folder)))
    except BadFile:
        raise
    except Exception as error:
        raise BadFile(f"{path} is no model, or a damaged one ({error}); train it again") from error
    width = settings.get("width", 1) if isinstance(settings, dict) else 1
    weights = sizes.get(WEIGHTS, 0)
    if isinstance(width, int) and 4 * 9 * width**2 > max(weights, 2**20):
        raise BadFile(f"{path} tells of a network of width {width}, and has {weights} bytes of weights for it")
