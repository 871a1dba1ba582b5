import os
import zipfile

import keras
import pytest

from ptycho.config import ModelConfig
from ptycho.io import BadFile
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


def test_a_changed_byte_of_the_weights_is_one_line(tmp_path):
    path = save_model(model_of(), tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        # Keras stores the weights as they are: this is inside them, behind their header of 30 bytes and a name.
        place = archive.getinfo("model.weights.h5").header_offset + 1000
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"m\.keras is no model, or a damaged one \(Bad CRC-32"):
        load_model(path)


def test_damaged_and_hostile_files_are_one_line(tmp_path):
    good = save_model(model_of(), tmp_path / "good.keras")
    with zipfile.ZipFile(good) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    wide = contents["config.json"].replace(b'"width": 2', b'"width": 512')
    texts = contents["config.json"].replace(b'"N": 16', b'"N": "16"')
    os.mkfifo(tmp_path / "pipe.keras")

    def written(name, **changes):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as out:
            for member, data in (contents | changes).items():
                if data is not None:
                    out.writestr(member, data)
        return tmp_path / name

    (tmp_path / "cut.keras").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "text.keras").write_text("no archive")
    for path, said in (
        (tmp_path / "pipe.keras", "is no file"),
        (tmp_path, "is no file"),
        (tmp_path / "cut.keras", "damaged"),
        (tmp_path / "text.keras", "damaged"),
        (written("list.keras", **{"config.json": b"[]"}), "damaged"),
        (written("none.keras", **{"config.json": None}), "damaged"),
        (written("empty.keras", **{"model.weights.h5": b""}), "damaged"),
        (written("weightless.keras", **{"model.weights.h5": None}), "damaged"),
        (written("wide.keras", **{"config.json": wide}), "width 512"),
        (written("bomb.keras", bomb=bytes(10**8)), "claims to unpack to"),
        (
            written("types.keras", **{"config.json": texts}),
            "damaged",
        ),
    ):
        with pytest.raises(BadFile, match=said) as raised:
            load_model(path)
        assert "\n" not in str(raised.value)


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
