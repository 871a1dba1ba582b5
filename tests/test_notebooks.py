"""The notebooks of docs/ run from top to bottom, and show what the copies kept there show."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def shown(notebook: nbformat.NotebookNode) -> list[set[str]]:
    """What each cell puts out, of ``stdout`` and ``image/png``; what libraries log depends on the machine."""
    outputs = [cell.get("outputs", ()) for cell in notebook.cells]
    return [{name for out in cell for name in out.get("data", {out.get("name")})} - {"stderr"} for cell in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """For two epochs where it asks for more, on a simulated scan: `make notebooks` runs them in full, on the measured
    one, and keeps what they show."""
    monkeypatch.delenv("PTYCHO_DATA", raising=False)
    kept = nbformat.read(path, 4)
    notebook = nbformat.read(path, 4)
    asked = 0
    for cell in notebook.cells:
        cell.source, found = re.subn(r"\bepochs=\d+", "epochs=2", cell.source)
        asked += found
    assert asked, "no number of epochs to shorten"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    assert shown(notebook) == shown(kept)
    assert path.stat().st_size < 1e6
