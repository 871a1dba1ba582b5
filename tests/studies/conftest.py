"""One study of four tiny arms at two N, run through the command line, that the tests look at."""

from pathlib import Path

import pytest

from tests.cli.test_app import run
from tests.conftest import run_graphs_as_traced

TINY = (
    "--N 24,32 --doses 1e4 --losses nll --seeds 1 --n-train 64 --n-test 49 --nepochs 2"
    " --set model.stages=1 --set model.width=4 --set refine.epochs=6"
)


@pytest.fixture(scope="session")
def studied(tmp_path_factory) -> Path:
    run_graphs_as_traced()  # the first test of a process has this only after the fixtures of the session
    folder = tmp_path_factory.mktemp("study")
    run(f"study dose-response -o {folder} {TINY}")
    return folder
