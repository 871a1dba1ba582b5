import json

import pytest

from ptycho.config import ModelConfig, RunConfig, SimulationConfig, TrainingConfig


@pytest.mark.parametrize("config", [ModelConfig(N=64), TrainingConfig(epochs=3), SimulationConfig(N=32)])
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
        (lambda: ModelConfig(N=64, architecture="cnn"), r"stages is 8"),
        (lambda: ModelConfig(N=64, amplitude_activation="sigmoid"), r"amplitude_activation is 'sigmoid'"),
        (lambda: ModelConfig(N=64, gridsize=9), r"gridsize is 9"),
        (lambda: TrainingConfig(thinning=0.0), r"thinning is 0"),
        (lambda: TrainingConfig(thinning=1.1), r"thinning is 1.1"),
        (lambda: TrainingConfig(nll_weight=0.0), r"nll_weight is 0"),
        (lambda: TrainingConfig(validation_fraction=1.0), r"validation_fraction is 1"),
        (lambda: TrainingConfig(learning_rate=0.0), r"learning_rate is 0"),
        (lambda: SimulationConfig(photons=0.0), r"photons is 0"),
    ],
)
def test_impossible_values_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_run_settings_from_a_file_and_over_it(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[model]\nstages = 6\nwidth = 16\n[training]\nepochs = 2\n")
    run = RunConfig.from_toml(file).updated("model", {"width": 4, "seed": None})
    assert run.model == {"stages": 6, "width": 4}
    assert run.training == {"epochs": 2}
    file.write_text("[modle]\nstages = 6\n")
    with pytest.raises(ValueError, match="'modle'"):
        RunConfig.from_toml(file)
