"""Runs the notebooks of docs/notebooks and keeps in them what they show: ``python docs/notebooks.py``.

What libraries log on stderr depends on the machine, and is left out; pictures keep 128 colours, a third of their size.
"""

from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from PIL import Image


def smaller(png: str) -> str:
    """A picture, in base64, with 128 colours."""
    file = BytesIO()
    Image.open(BytesIO(b64decode(png))).convert("RGB").quantize(128).save(file, "png", optimize=True)
    return b64encode(file.getvalue()).decode()


for path in sorted(Path(__file__).with_suffix("").glob("*.ipynb")):
    notebook = nbformat.read(path, 4)
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, resources={"metadata": {"path": folder}}, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", ()):
                    output.data["image/png"] = smaller(output.data["image/png"])
    nbformat.write(notebook, path)
    print(path.name)
