import json
from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import (
    PRESETS,
    SECTIONS,
    ModelConfig,
    NearField,
    PretrainingConfig,
    RefineConfig,
    RunConfig,
    SimulationConfig,
    TrainingConfig,
)

NEAR = NearField(distance_px=1200.0, wavelength_px=0.005, kind="fresnel")


@pytest.mark.parametrize(
    "config",
    [ModelConfig(N=64), TrainingConfig(epochs=3), SimulationConfig(N=32), NEAR, SimulationConfig(near_field=NEAR)],
)
def test_json_round_trip(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_setting_is_named():
    with pytest.raises(ValueError, match="TrainingConfig has no setting 'epoch'; it has epochs"):
        TrainingConfig.from_dict({"epoch": 3})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ModelConfig(N=8), r"N is 8"),
        (lambda: ModelConfig(N=64, gridsize=0), r"gridsize is 0"),
        (lambda: ModelConfig(N=64, architecture="resnet"), r"architecture is 'resnet'"),
        (lambda: ModelConfig(N=64, gridsize=9), r"gridsize is 9"),
        (lambda: TrainingConfig(thinning=0.0), r"thinning is 0"),
        (lambda: TrainingConfig(thinning=1.1), r"thinning is 1.1"),
        (lambda: TrainingConfig(nll_weight=0.0), r"nll_weight is 0"),
        (lambda: TrainingConfig(validation_fraction=1.0), r"validation_fraction is 1"),
        (lambda: TrainingConfig(learning_rate=0.0), r"learning_rate is 0"),
        (lambda: SimulationConfig(photons=0.0), r"photons is 0"),
        (lambda: SimulationConfig(near_field=3.0), r"near_field is 3.0; expected a NearField"),
        (lambda: SimulationConfig(near_field={"distance": 3.0}), r"NearField has no setting 'distance'"),
        (lambda: NearField(distance_px=0.0, wavelength_px=0.1), r"distance_px is 0"),
        (lambda: NearField(distance_px=float("inf"), wavelength_px=0.1), r"distance_px is inf"),
        (lambda: NearField(distance_px="5", wavelength_px=0.1), r"distance_px is '5'"),
        (lambda: NearField(distance_px=9.0, wavelength_px=-0.1), r"wavelength_px is -0.1"),
        (lambda: NearField(distance_px=9.0, wavelength_px=0.1, kind="far"), r"kind is 'far'"),
    ],
)
def test_impossible_values_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("refine", dict(epochs="abc"), "RefineConfig.epochs is 'abc'; expected an integer"),
        ("refine", dict(epochs=3.0), "RefineConfig.epochs is 3.0; expected an integer"),
        ("refine", dict(epochs=True), "RefineConfig.epochs is True; expected an integer"),
        ("refine", dict(probe_from="x"), "RefineConfig.probe_from is 'x'; expected an integer, or None"),
        ("refine", dict(tv_weight=False), "RefineConfig.tv_weight is False; expected a number"),
        ("refine", dict(focus=1), "RefineConfig.focus is 1; expected true or false"),
        ("refine", dict(method="sgd"), "method is 'sgd'; expected one of 'cg', 'lsqml', 'rpie', 'adam'"),
        ("refine", dict(batching=[1]), r"batching is \[1\]; expected one of 'compact', 'random'"),
        ("refine", dict(epoch=3), "RefineConfig has no setting 'epoch'; it has method, "),
        ("pretraining", dict(step=[0.1]), r"step is \[0.1\]; expected a list \(a number, a number\)"),
        ("pretraining", dict(step=0.1), r"step is 0.1; expected a list"),
        ("simulation", dict(near_field=3), "near_field is 3; expected a NearField, or None"),
        ("model", dict(N="64"), "ModelConfig.N is '64'; expected an integer"),
    ],
)
def test_a_run_refuses_values_of_another_type(section, values, message):
    for make in (
        lambda: RunConfig(**{section: values}),
        lambda: RunConfig().updated(section, values),
        lambda: SECTIONS[section].from_dict(values),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_values_become_those_of_their_field():
    config = PretrainingConfig(scans=np.int64(3), step=[np.float32(0.25), 1], photons=(10, 100))
    assert config == PretrainingConfig(scans=3, step=(0.25, 1.0), photons=(10.0, 100.0))
    assert [type(value) for value in (config.scans, *config.step, *config.photons)] == [int, *[float] * 4]
    run = RunConfig(pretraining=dict(step=[0.25, 1]), refine=dict(l2_weight=1))
    assert run.pretraining == dict(step=(0.25, 1.0)) and type(run.refine["l2_weight"]) is float
    assert replace(config, scans=4).scans == 4


@pytest.mark.parametrize("values", PRESETS.values())
def test_presets_are_settings_of_a_network(values):
    assert ModelConfig(N=64, **values).to_dict() == ModelConfig(N=64).to_dict() | values


def test_a_run_makes_configs_over_defaults():
    run = RunConfig(refine=dict(epochs=7)).over("refine", dict(epochs=3, patience=2))
    assert run.make(RefineConfig, patience=1, seed=5) == RefineConfig(epochs=7, patience=2, seed=5)


def test_run_settings_from_a_file_and_over_it(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[model]\nstages = 6\nwidth = 16\n[training]\nepochs = 2\n")
    run = RunConfig.from_toml(file).updated("model", {"width": 4, "seed": None})
    assert run.model == {"stages": 6, "width": 4}
    assert run.training == {"epochs": 2}
    file.write_text("[modle]\nstages = 6\n")
    with pytest.raises(ValueError, match="'modle'"):
        RunConfig.from_toml(file)


def test_a_near_field_is_a_table_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[simulation.near_field]\ndistance_px = 1200\nwavelength_px = 5e-3\nkind = "fresnel"\n')
    assert SimulationConfig.from_dict(RunConfig.from_toml(file).simulation).near_field == NEAR
