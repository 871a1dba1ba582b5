"""What packages are made of says the same as pyproject.toml; what is asked of a report exists."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from typer.main import get_command

from ptycho.cli.app import app

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_conda_recipe_asks_for_what_the_wheel_does() -> None:
    # Templates of the recipe are values of no type here.
    recipe = yaml.safe_load((ROOT / "packaging" / "recipe.yaml").read_text().replace("${{ version }}", "0"))
    ours = {Requirement(text).name: str(Requirement(text).specifier) for text in PROJECT["dependencies"]}
    ours |= dict(python=PROJECT["requires-python"])
    theirs = dict(text.replace("matplotlib-base", "matplotlib").split(" ", 1) for text in recipe["requirements"]["run"])
    assert theirs == ours
    points = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == points
    assert recipe["about"]["license"] == PROJECT["license"] and recipe["about"]["summary"] == PROJECT["description"]


def test_the_image_installs_extras_that_there_are() -> None:
    text = (ROOT / "packaging" / "Dockerfile").read_text()
    extras = re.findall(r"whl\)\[(\w+)\]", text)
    assert extras and set(extras) <= set(PROJECT["optional-dependencies"])
    assert re.search(r"^USER (?!root)", text, re.MULTILINE), "nothing has to run as root"


def test_every_command_line_is_there() -> None:
    from importlib import import_module

    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_commands_that_there_are(form: Path) -> None:
    fields = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(fields)
    asked = re.findall(r"`?ptycho (\w+)([^`\n]*)", form.read_text())
    commands = get_command(app).commands
    for command, rest in asked:
        options = {name for parameter in commands[command].params for name in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, (command, rest)
    ids = [item["id"] for item in fields["body"] if "id" in item]
    assert len(ids) == len(set(ids)) and any(item.get("validations", {}).get("required") for item in fields["body"])


def test_what_the_paper_cites_is_in_its_bibliography() -> None:
    cited = set(re.findall(r"@([a-z]+\d{4})", (ROOT / "paper" / "paper.md").read_text()))
    listed = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "paper" / "paper.bib").read_text(), re.MULTILINE))
    assert cited == listed
