"""The notebooks of docs/ run from top to bottom, and show what the copies kept there show."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def shown(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """What each cell puts out, of ``stdout``, ``stderr`` and ``image/png``."""
    return [sorted({name for output in cell.get("outputs", ()) for name in kinds(output)}) for cell in notebook.cells]


def kinds(output: nbformat.NotebookNode) -> list[str]:
    return [output.name] if output.output_type == "stream" else [*output.data]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = nbformat.read(path, 4)
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    assert shown(notebook) == shown(kept)
    assert path.stat().st_size < 1e6
