"""Old names work for one release, and each use of one is a warning that tells the new one."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import ptycho
from ptycho.config import RefineConfig, RunConfig
from ptycho.deprecation import KEYS, MODULES, renamed_keywords
from ptycho.deprecation import NAMES as RENAMED

VALUES = dict(withheld=0.1, drift_weight=0.5, anchor_weight=0.25, variation_from=3, variations=2)


@pytest.mark.parametrize(("old", "new"), KEYS["RefineConfig"].items())
def test_settings_have_their_old_names(old, new, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(f"[refine]\n{old} = {VALUES[old]}\n")
    for make in (
        lambda: RefineConfig(**{old: VALUES[old]}),
        lambda: RefineConfig.from_dict({old: VALUES[old]}),
        lambda: RunConfig().updated("refine", {old: VALUES[old]}).make(RefineConfig),
        lambda: RunConfig.from_toml(file).make(RefineConfig),
    ):
        with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
            assert make() == RefineConfig(**{new: VALUES[old]})
    with pytest.raises(ValueError, match=f"{new} is given twice"):
        RefineConfig(**{old: VALUES[old], new: VALUES[old]})


@pytest.mark.parametrize(("old", "new"), KEYS["functions"].items())
def test_keyword_arguments_have_their_old_names(old, new):
    called = renamed_keywords(lambda *arguments, **keywords: (arguments, keywords))
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}") as warned:
        assert called(1, **{old: 2}) == ((1,), {new: 2})
    assert warned[0].filename == __file__


NAMES = {
    "ptycho.calibration": "calibration",
    "ptycho.checkpoint": "load_model",
    "ptycho.comparison": "compare_run",
    "ptycho.data.checks": "examine",
    "ptycho.data.doctor": "rescale_probe",
    "ptycho.data.formats": "read_scan",
    "ptycho.data.mending": "mended",
    "ptycho.data.orientation": "turned",
    "ptycho.data.stored": "StoredFrames",
    "ptycho.evaluation": "Trust",
    "ptycho.evaluation.bound": "efficient_errors",
    "ptycho.evaluation.frames": "frame_error",
    "ptycho.evaluation.trust": "warnings_about",
    "ptycho.exports": "export",
    "ptycho.files": "BadFile",
    "ptycho.live": "live_page",
    "ptycho.network.layers": "UNet",
    "ptycho.pictures": "Object",
    "ptycho.plotting": "save_png",
    "ptycho.pretraining": "pretrain",
    "ptycho.reconstruction.blind": "find_probe",
    "ptycho.reconstruction.refine": "refine",
    "ptycho.reconstruction.refine.fit": "refine",
    "ptycho.reconstruction.result": "Reconstruction",
    "ptycho.reconstruction.spread": "predict_on",
    "ptycho.replay": "replay",
    "ptycho.report": "save_report",
    "ptycho.progress": "progress_bar",
    "ptycho.runs": "judge",
    "ptycho.training": "History",
}
"""A name that each of the old modules had."""


STILL_THERE = {"ptycho.evaluation", "ptycho.progress", "ptycho.training"}
"""Modules of an old name that hold something else now."""


@pytest.mark.parametrize("module", sorted(STILL_THERE))
def test_names_that_a_module_has_given_away(module):
    with pytest.warns(DeprecationWarning, match=f"{module}.{NAMES[module]} is now "):
        value = getattr(importlib.import_module(module), NAMES[module])
    name = RENAMED.get(f"{module}.{NAMES[module]}", NAMES[module])
    assert any(value is getattr(importlib.import_module(new), name, None) for new in MODULES[module])
    with pytest.raises(AttributeError, match="has 'nonsense'"):
        importlib.import_module(module).nonsense  # noqa: B018


def test_the_function_that_trains_is_where_it_was():
    from ptycho.training import train

    assert train is ptycho.train


def test_scans_and_outcomes_have_old_names_of_attributes(small_scan):
    with pytest.warns(DeprecationWarning, match="withheld_mask is now held_out_mask"):
        mask = small_scan.withheld_mask(10)
    np.testing.assert_array_equal(mask, small_scan.held_out_mask(10))


@pytest.mark.parametrize("module", sorted(MODULES.keys() - STILL_THERE))
def test_old_modules_give_what_they_had(module, monkeypatch):
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{module} is now {MODULES[module][0]}"):
        old = importlib.import_module(module)
    name = RENAMED.get(f"{module}.{NAMES[module]}", NAMES[module])
    value = getattr(old, NAMES[module])
    assert any(value is getattr(importlib.import_module(new), name, None) for new in MODULES[module])
    with pytest.raises(AttributeError, match="has 'nonsense'"):
        _ = old.nonsense


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", RENAMED)
def test_old_names_of_old_modules_too(name):
    module, _, name = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"ptycho\.nonsense"):
        importlib.import_module("ptycho.nonsense")


@pytest.mark.filterwarnings("ignore:the module")
def test_modules_of_an_old_package_too(monkeypatch):
    assert importlib.import_module("ptycho.data.formats.cxi").Path is Path
