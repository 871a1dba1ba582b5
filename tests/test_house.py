"""The package's own numbers: names that mean something, short functions, constants where callers can set them."""

import ast
from pathlib import Path

import pytest

import ptycho
from benchmarks.house import GENERIC, bound_names, long_functions, modules, numbers

PACKAGE = Path(ptycho.__file__).parent


def test_names_are_the_fields_own():
    """Words without meaning, and those that the field has others for, are below 0.5 % of the bound names."""
    assert numbers(PACKAGE).generic_percent < 0.5


def test_functions_stay_short():
    """Of 70 lines at most without their docstrings; options of a command are long lists."""
    long = [
        f"{module.relative_to(PACKAGE)}: {name} has {length} lines"
        for module in modules(PACKAGE)
        if module.parent.name != "cli"
        for name, length in long_functions(ast.parse(module.read_text()), 70)
    ]
    assert long == []


@pytest.mark.parametrize(
    "line", ["found = 1", "for part in x: pass", "f = lambda light: 0", "def whole(): ...", "a.own = 2"]
)
def test_generic_names_are_noticed_wherever_they_are_bound(line):
    (name, _), *_ = [pair for pair in bound_names(ast.parse(line)) if pair[0] in GENERIC]
    assert name in line
