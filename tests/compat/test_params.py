import subprocess
import sys

import pytest

from ptycho import params


def test_the_defaults_old_scripts_rely_on():
    assert params.cfg == {
        "N": 128,
        "gridsize": 2,
        "offset": 4,
        "batch_size": 16,
        "nepochs": 60,
        "n_filters_scale": 2,
        "max_position_jitter": 10,
        "nphotons": 1e9,
        "mae_weight": 0,
        "nll_weight": 1,
        "tv_weight": 0,
        "realspace_weight": 0,
        "object.big": True,
        "probe.big": False,
        "probe.mask": True,
        "probe.trainable": False,
        "intensity_scale.trainable": False,
        "amp_activation": "sigmoid",
        "gaussian_smoothing_sigma": 0,
        "use_xla_translate": True,
    }
    assert type(params.cfg) is dict


def test_get_and_set_and_the_dictionary_are_one():
    params.set("probe.trainable", True)
    assert params.cfg["probe.trainable"] is True
    params.cfg["N"] = 64
    assert params.get("N") == 64


def test_params_is_a_copy():
    copy = params.params()
    assert copy == params.cfg
    copy["N"] = 1
    assert params.get("N") == 128


def test_an_unknown_key_names_those_like_it():
    with pytest.raises(KeyError, match=r"gridsze.*'gridsize'"):
        params.get("gridsze")
    with pytest.raises(KeyError, match=r"zzz.*nphotons"):
        params.get("zzz")


def test_setting_an_unknown_key_warns_and_keeps_it():
    with pytest.warns(UserWarning, match=r"'probe\.trainble' has no effect.*'probe\.trainable'"):
        params.set("probe.trainble", True)
    assert params.get("probe.trainble") is True


def test_the_settings_load_no_framework():
    heavy = "{'keras', 'numpy', 'tensorflow', 'jax', 'torch'}"
    script = f"import sys, ptycho.params; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
