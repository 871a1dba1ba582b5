import zipfile

import keras
import pytest

from ptycho.config import ModelConfig
from ptycho.network.build import build_model
from ptycho.network.files import load_model, save_model
from ptycho.simulation.probes import make_probe


def model_of(N=16, **settings):
    return build_model(ModelConfig(N=N, stages=2, width=2, **settings), make_probe(N))


def test_settings_come_back(tmp_path):
    model = model_of(probe_trainable=True, precision="mixed_bfloat16", seed=7)
    assert load_model(save_model(model, tmp_path / "m.keras")).settings == model.settings


def test_the_bundle_is_json_and_hdf5(tmp_path):
    save_model(model_of(), tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert {name.rsplit(".", 1)[-1] for name in archive.namelist()} <= {"json", "h5"}


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="ptycho train"):
        load_model(tmp_path / "nowhere.keras")
    keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "foreign.keras")
    with pytest.raises(ValueError, match="not a network of ptycho"):
        load_model(tmp_path / "foreign.keras")


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    """Weights of one network under the settings of another: refused, not skipped."""
    small, large = tmp_path / "small.keras", tmp_path / "large.keras"
    save_model(model_of(16), small)
    save_model(model_of(24), large)
    mixed = tmp_path / "mixed.keras"
    with zipfile.ZipFile(small) as a, zipfile.ZipFile(large) as b, zipfile.ZipFile(mixed, "w") as out:
        for name in a.namelist():
            out.writestr(name, (b if name.endswith(".h5") else a).read(name))
    with pytest.raises(ValueError, match="could not be loaded"):
        load_model(mixed)
