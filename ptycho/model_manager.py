"""Networks on disk by the names that scripts for PtychoPINN use: ``wts.h5.zip`` holds a ``model.keras`` of ours.

The network that `ptycho.workflows.components` trained last is the one that `save` writes.
"""

import tempfile
import zipfile
from pathlib import Path

from ptycho.io import BadFile, opened_zip, replaced
from ptycho.network.build import PtychoNetwork
from ptycho.network.files import load_model, save_model

ARCHIVE, MEMBER = "wts.h5.zip", "model.keras"
_last: list[PtychoNetwork] = []


def remember(model: PtychoNetwork) -> None:
    """Make a network the one that `save` writes."""
    _last[:] = [model]


def save(out_prefix: str | Path) -> None:
    """Write the network trained last to ``wts.h5.zip`` in a folder; RuntimeError if none was."""
    if not _last:
        raise RuntimeError("no network was trained in this process: call ptycho.workflows.components.run_cdi_example")
    folder = Path(out_prefix)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, replaced(folder / ARCHIVE) as partial:
        model = save_model(_last[0], Path(made) / MEMBER)
        with zipfile.ZipFile(partial, "w") as archive:
            archive.write(model, MEMBER)


def load(folder: str | Path) -> PtychoNetwork:
    """What `save` wrote; BadFile where the archive holds no network of this package (of PtychoPINN itself, say)."""
    path = Path(folder) / ARCHIVE
    if not path.is_file():
        raise FileNotFoundError(f"there is no {ARCHIVE} in {folder}")
    try:
        with opened_zip(path) as archive, tempfile.TemporaryDirectory() as made:
            return load_model(archive.extract(MEMBER, made))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadFile(
            f"{path} holds no network of ptycho ({error}); weights of PtychoPINN itself cannot be used: train again"
        ) from error
