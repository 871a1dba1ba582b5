"""What the pages of docs/ tell people to type works, in the order of each page, on a tiny scan."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptycho.cli import app
from ptycho.data.formats import write_scan

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["index.md", *(str(page.relative_to(DOCS)) for page in sorted((DOCS / "howto").glob("*.md")))]
SMALL = "--set model.stages=2 --set model.width=4 --set model.gridsize=2"


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def smaller(command: str) -> str:
    """The command, on frames of 24 pixels and for an epoch or two."""
    name = command.split()[0]
    if name == "simulate":
        return f"{command} --N 24 --positions 64 --set simulation.step_px=4.0"
    if name == "train" or (name == "reconstruct" and "--model" not in command):
        own = "" if "--from pretrained" in command else SMALL
        return f"{re.sub('--set training.total_frames=[0-9]+', '', command)} --epochs 1 {own}"
    return f"{command} --epochs 3" if name == "refine" else command


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::distributed")  # a busy machine is slow to answer
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_the_python_of_a_page_run(page, tmp_path, monkeypatch, small_scan):
    monkeypatch.chdir(tmp_path)
    write_scan(small_scan, Path("scan.h5"))
    ran = 0
    for language, text in blocks(page):
        if language == "python":
            exec(text, {})
            ran += 1
            continue
        for line in text.splitlines():
            command = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line.split("#")[0].strip())
            if command.startswith("ptycho "):
                result = CliRunner().invoke(app, shlex.split(smaller(command.removeprefix("ptycho "))))
                assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
                ran += 1
    assert ran, f"{page} shows nothing to run"
