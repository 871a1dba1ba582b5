"""What README and docs tell people to type works: each page is run from top to bottom, in a folder of its own, on a
tiny scan. A block that nobody runs makes a test fail; what cannot run here is in `NOT_RUN`, with the reason."""

import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
import pytest
from markdown_it import MarkdownIt
from packaging.version import Version
from typer.main import get_command
from typer.testing import CliRunner

import ptycho
from ptycho import build_model
from ptycho.cli.app import app
from ptycho.config import SECTIONS, ModelConfig, RunConfig
from ptycho.config.config import InferenceConfig as OldInference
from ptycho.config.config import ModelConfig as OldModel
from ptycho.config.config import TrainingConfig as OldTraining
from ptycho.formats import write_scan
from ptycho.pipelines import open as opening

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]

SCANS = ["scan.h5", "star.h5", "siemens-star-small.npz.bz2", "cryo_rotavirus_A_48x48_bin2.npz"]
"""Files that readers of the pages bring along: here all are the tiny scan (formats are found by what is in a file)."""

SMALL = dict(stages=1, width=4, gridsize=2)
NETWORK = f"--epochs 1 {' '.join(f'--set model.{name}={value}' for name, value in SMALL.items())}"
REFINE = "--set refine.epochs=2 --set refine.h1_weight=0.1"  # with a weight given none is sought
FIT_ALONE = "--no-auto --no-half-sets --no-uncertainty"
SIZES = {
    "simulate": "--N 24 --positions 64 --set simulation.step_px=4.0",
    "demo": "--set simulation.N=24 --set simulation.positions=64 --set simulation.step_px=4.0"
    f" {NETWORK.replace('--epochs ', '--set training.epochs=')} {REFINE}",
    "train": NETWORK,
    "train --from pretrained": "--epochs 1",
    "reconstruct": f"{NETWORK} {REFINE} {FIT_ALONE}",
    "reconstruct --model new": f"{NETWORK} {REFINE} {FIT_ALONE}",
    "reconstruct --model": f"{REFINE} {FIT_ALONE}",
    "refine": f"--epochs 2 {FIT_ALONE}",
    "compare": "--epochs 1",
    "plan": "--N 24 --step 8",
    "study": "--dry-run",
}
"""What is added to commands, so that all pages take a minute or two; the pretrained network is a `SMALL` one."""

NOT_RUN = {
    "git clone": "needs the address of the repository",
    "pytest": "tests that run tests",
    "ruff": "linters, which `make lint` runs",
    "mypy": "linters, which `make lint` runs",
    "lint-imports": "linters, which `make lint` runs",
    "cd ptycho": "goes to where the clone is",
    "source .venv/bin/activate": "belongs to the shell",
    "from dask_jobqueue import SLURMCluster": "needs a cluster; it is compiled",
    "from dask_jobqueue import PBSCluster": "needs a cluster; it is compiled",
    "ptycho compare scan.h5 -o compared --engines lsqml,phaser": "installs programs",
    "ptycho compare FILE": "needs the programs, and minutes",
    "ptycho export pretrained --network": "needs PyTorch: test_onnx_network.py exports one",
    "import hyperspy.api as hs": "needs HyperSpy, as test_memory.py does; it is compiled",
    "KERAS_BACKEND=jax": "the tests run on another backend: `make test-jax`",
    "KERAS_BACKEND=torch": "the tests run on another backend: `make test-torch`",
    "ptycho reconstruct stem.npy": "minutes on frames with a sample in them: benchmarks/stem.py",
    "ptycho export image -o sent --formats tiff,emd": "of that image: test_export.py exports slices of electrons",
    "ptycho study dose-response -o study --scheduler": "needs a Dask scheduler at that address",
    "ptycho reconstruct scan.h5 -o image --model pretrained --no-refine --workers": "as test_distributed.py does",
    "ptycho refine scan.cxi -o image --focus-m": "needs a scan in the near field: test_near_field.py has some",
    "ptycho refine scan.cxi -o image --near-field-m": "needs a scan in the near field: test_near_field.py has some",
    "ptycho train scan.h5 -o network --set training.devices": "needs two devices: test_devices.py has virtual ones",
    "python benchmarks/": "minutes to hours, and needs the development scans",
    "python -m benchmarks.doctor": "test_checks.py plants the same faults",
    "python scripts/studies/": "a night",
}
"""Beginnings of commands, or of blocks of Python, that are not run, and why. Options of commands are looked at all the
same."""


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code of a page; indented ones, which name no language, are commands."""
    for token in MarkdownIt().parse((ROOT / page).read_text()):
        if token.type in ("fence", "code_block"):
            yield (token.info.split() or ["sh"])[0], token.content


def commands(text: str) -> Iterator[str]:
    """The commands of a block, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield shlex.join(words[:end])
            words = words[end + 1 :]


def bare(command: str) -> str:
    """A command without the variables that are set for it."""
    words = shlex.split(command)
    return shlex.join(itertools.dropwhile(re.compile("[A-Z_]+=").match, words))


def spoken(page: str) -> Iterator[str]:
    """Code in the running text of a page."""
    for token in MarkdownIt().enable("table").parse((ROOT / page).read_text()):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


def spoken_commands(page: str) -> list[str]:
    return [text for text in spoken(page) if re.match(r"(ptycho|make|python) [\w./-]+", text)]


def options(command: click.Command) -> set[str]:
    """All options of a command, and of the commands that it has."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*(options(child) for child in getattr(command, "commands", {}).values()))


def not_run(text: str) -> bool:
    return text.startswith(tuple(NOT_RUN))


def smaller(words: list[str]) -> list[str]:
    """A command of `ptycho`, on small frames and for an epoch or two."""
    text = re.sub(r" --set training.total_frames=\d+| --epochs \d+| --rate \d+", "", shlex.join(words))
    name = words[0]
    for special in ("train --from pretrained", "reconstruct --model", "reconstruct --model new"):
        if words[0] == special.split()[0] and special.removeprefix(words[0]) in text:
            name = special
    return shlex.split(f"{text} {SIZES.get(name, '')}")


def run_ptycho(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"ptycho {shlex.join(words)}\n{result.output}\n{result.exception!r}"


def look_at(command: str, monkeypatch) -> None:
    """Check the options of a command without running it: `--help` comes after them."""
    program, *words = shlex.split(bare(command))
    if program == "ptycho":
        run_ptycho([*words, "--help"])
    elif program == "make":
        made = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
    elif words[0] != "-m":
        script = ROOT / words[0]
        assert script.exists(), f"{command}: no such file"
        if "typer" in script.read_text() or "ptycho.cli.app" in script.read_text():
            monkeypatch.setattr(sys, "argv", [*words, "--help"])
            monkeypatch.syspath_prepend(str(script.parent))  # as Python does for a script
            with pytest.raises(SystemExit) as exit:
                runpy.run_path(str(script), run_name="__main__")
            assert exit.value.code == 0, command


def run(command: str, monkeypatch) -> None:
    """Run a command as a page has it, or see that it is one of those that are not run."""
    skipped = not_run(command) or not_run(bare(command))
    program, *words = shlex.split(bare(command))
    if program == "ptycho" and not skipped:
        run_ptycho(smaller(words))
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for name in words[1:]:
            found = re.fullmatch(r"(?:ptycho|\.)(?:\[(.*)\])?", name)
            assert found and set((found[1] or "").split(",")) <= {"", *extras}, f"{command}: no such extra"
    else:
        assert skipped or program == "make", f"nobody runs {command!r}"  # what make does CI runs
        if program in ("ptycho", "make", "python"):
            look_at(command, monkeypatch)


def check_toml(text: str) -> None:
    """Settings as ``--config`` takes them, each section by its own class."""
    for name, values in RunConfig.from_dict(tomllib.loads(text)).to_dict().items():
        SECTIONS[name].from_dict(dict(N=64) | values if name == "model" else values)


@pytest.fixture
def eager():
    """No traces and no compilation, which take most of the time where frames are few and small."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
@pytest.mark.filterwarnings("ignore:::distributed")  # a busy machine is slow to answer
@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))])
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch, small_scan, eager):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        opening, "load_pretrained", lambda name: build_model(ModelConfig(N=24, **SMALL), small_scan.probe)
    )
    for name in SCANS:
        write_scan(small_scan, tmp_path / name, format="hdf5")
    y, x = np.indices((24, 24)) - 12
    bright_field = np.random.default_rng(0).poisson(40.0 * (np.hypot(y, x) < 7), (4, 5, 24, 24))
    np.save(tmp_path / "stem.npy", bright_field.astype("uint16"))
    names: dict = {}
    for language, text in blocks(page):
        if language == "sh":
            for command in commands(text):
                run(command, monkeypatch)
        elif language == "python":
            code = compile(re.sub(r"epochs=\d+", "epochs=1", text), page, "exec")
            if not not_run(text):
                exec(code, names)
        elif language == "toml":
            check_toml(text)
        else:
            assert language == "text", f"{page} has a block of {language!r}, which nobody runs"


@pytest.mark.parametrize("page", [page for page in PAGES if spoken_commands(page)])
def test_the_commands_in_the_text_of_a_page_have_their_options(page, monkeypatch):
    """In the text there are placeholders and options without their values."""
    for text in spoken_commands(page):
        program, *words = text.split()
        if program != "ptycho":
            look_at(text, monkeypatch)
        elif not words[0].startswith("-"):
            known = options(get_command(app).commands[words[0]])
            assert {word for word in words if word.startswith("-")} <= known, f"{page} speaks of {text}"


def test_the_options_and_settings_in_the_text_exist():
    known = options(get_command(app)) | {"--help"}
    # Those of the commands that users of PtychoPINN type
    known |= {f"--{field.name}" for config in (OldModel, OldTraining, OldInference) for field in fields(config)}
    known |= {"--n_images", "--test_data", "--input-file", "--output-file", "--n-images", "--n-photons"}
    settings = {f"{name}.{field.name}" for name, config in SECTIONS.items() for field in fields(config)}
    for page in PAGES:
        for text in spoken(page):
            for name in re.findall(r"(?<!\S)--[a-z][\w-]*", text):
                assert name in known, f"{page} speaks of {text}"
            for name in re.findall(r"--set (\w+\.\w+)=", text):
                assert name in settings | {"section.name"}, f"{page} speaks of {text}"


def test_the_tests_that_pages_name_exist():
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    for page in PAGES:
        for text in spoken(page):
            for name in re.findall(r"(?<![\w-])test_\w+(?:\.py)?", text):
                known = (
                    name in files if name.endswith(".py") else any(f"def {name}(" in code for code in files.values())
                )
                assert known, f"{page} speaks of {text}"
            for path in re.findall(r"\btests/[\w/.]+", text):
                assert (ROOT / path).exists(), f"{page} speaks of {text}"


def test_what_is_not_run_is_on_a_page():
    shown = []
    for language, text in itertools.chain.from_iterable(blocks(page) for page in PAGES):
        found = [*commands(text)] if language == "sh" else [text]
        shown += [*found, *(bare(command) for command in found if language == "sh")]
    assert [beginning for beginning in NOT_RUN if not any(text.startswith(beginning) for text in shown)] == []


def test_a_new_block_that_cannot_run_fails(monkeypatch):
    for command in ("ptycho nonsense", "ptycho info --nonsense", "make nonsense", "pip install 'ptycho[nonsense]'"):
        with pytest.raises(AssertionError):
            run(command, monkeypatch)
    with pytest.raises(AssertionError, match="nobody runs"):
        run("qsub job.sh", monkeypatch)


def test_version_is_the_same_everywhere():
    """That of the next tag: what comes from the history, .devN of the next patch at least, is not beyond it."""
    version = Version(re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1])
    assert Version(re.search(r"^## (\S+)", (ROOT / "CHANGES.md").read_text(), re.MULTILINE)[1]) == version
    assert Version(Version(ptycho.__version__).base_version) <= version
    fallback = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]["fallback-version"]
    assert Version(Version(fallback).base_version) == version
