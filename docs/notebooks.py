"""Runs the notebooks of docs/notebooks and keeps in them what they show: ``python docs/notebooks.py``.

What libraries log on stderr depends on the machine, and is left out.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

for path in sorted(Path(__file__).with_suffix("").glob("*.ipynb")):
    notebook = nbformat.read(path, 4)
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, resources={"metadata": {"path": folder}}, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)
    print(path.name)
