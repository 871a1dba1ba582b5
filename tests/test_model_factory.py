"""Models of every size side by side: the guarantees that old scripts need and never had."""

import gc
import json
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import psutil
import pytest

from ptycho import params
from ptycho.model import create_compiled_model, create_model_with_gridsize
from tests.helpers import frame_counts, normal, to_numpy

SMALL = {"stages": 1, "width": 4, "nphotons": 1e4}


def scans(rng, batch, gridsize, N):
    """Amplitudes of Poisson counts, and positions as old scripts give them."""
    channels = gridsize**2
    amplitude = np.sqrt(rng.poisson(3.0, (batch, N, N, channels))).astype("float32")
    positions = rng.uniform(-4, 4, (batch, 1, 2, channels)).astype("float32")
    return [amplitude, positions - positions.mean(axis=-1, keepdims=True)]


def targets(inputs):
    amplitude = inputs[0]
    return [np.zeros((*amplitude.shape[:3], 1), "float32"), amplitude, amplitude**2]


@pytest.mark.parametrize("sizes", [(128, 64), (64, 128)], ids=["128-64", "64-128"])
@pytest.mark.parametrize("xla", [None, "0", "1"])
def test_multi_n_model_creation(xla, sizes, monkeypatch):
    """The script that crashed PtychoPINN: a second model of another size in one process."""
    monkeypatch.delenv("USE_XLA_TRANSLATE", raising=False)
    if xla is not None:
        monkeypatch.setenv("USE_XLA_TRANSLATE", xla)
    monkeypatch.setitem(params.cfg, "N", 128)
    before = params.params()
    rng = np.random.default_rng(0)
    for N in sizes:
        autoencoder, diffraction_to_obj = create_model_with_gridsize(2, N)
        assert autoencoder.input_shape[0] == (None, N, N, 4)
        inputs = [rng.normal(size=(1, N, N, 4)), rng.normal(size=(1, 1, 2, 4))]
        image, amplitude, counts = autoencoder.predict(inputs, verbose=0)
        assert image.shape == (1, N, N, 1)
        assert image.dtype == np.complex64
        assert amplitude.shape == counts.shape == (1, N, N, 4)
        assert all(np.isfinite(out).all() for out in (image, amplitude, counts))
        np.testing.assert_array_equal(diffraction_to_obj.predict(inputs, verbose=0), image)
    assert params.params() == before


@pytest.mark.slow
@pytest.mark.parametrize("xla", ["0", "1"])
def test_models_of_two_sizes_train_in_turns(xla, monkeypatch):
    """Each of two interleaved models learns exactly as it does alone."""
    monkeypatch.setenv("USE_XLA_TRANSLATE", xla)

    def losses(*which):
        models = {N: create_compiled_model(2, N, **SMALL)[0] for N in which}
        data = {N: scans(np.random.default_rng(N), 4, 2, N) for N in which}
        out = {N: [] for N in which}
        for _ in range(2):
            for N in which:
                fit = models[N].fit(data[N], targets(data[N]), batch_size=2, shuffle=False, verbose=0)
                out[N].append(fit.history["loss"][0])
        return out

    together = losses(64, 32)
    assert np.isfinite([*together[64], *together[32]]).all()
    assert together[64][1] < together[64][0]
    assert together[32][1] < together[32][0]
    assert together[64] == pytest.approx(losses(64)[64], rel=1e-6)
    assert together[32] == pytest.approx(losses(32)[32], rel=1e-6)


def test_every_weight_gets_a_finite_gradient():
    overrides = SMALL | {"probe_trainable": True, "intensity_scale_trainable": True}
    model, _ = create_compiled_model(2, 32, **overrides)
    before = [np.array(to_numpy(v)) for v in model.trainable_variables]
    inputs = scans(np.random.default_rng(0), 2, 2, 32)
    model.fit(inputs, targets(inputs), batch_size=2, epochs=2, verbose=0)
    moved = {v.path: np.abs(to_numpy(v) - b).max() for v, b in zip(model.trainable_variables, before, strict=True)}
    assert np.isfinite(list(moved.values())).all()
    assert {"real", "imag", "log_scale"} <= {path.split("/")[-1] for path in moved}
    assert min(moved.values()) > 0, moved


@pytest.mark.parametrize("gridsize", [1, 2, 3])
def test_a_sample_does_not_depend_on_its_batch(gridsize):
    """B = 64 in one go, in parts of 1, 15, 16, 17, and permuted: the same sample gives the same object.

    Equal to float32 rounding: a batch of another size may be summed in another order.
    """
    autoencoder, model = create_model_with_gridsize(gridsize, 16, **SMALL)
    rng = np.random.default_rng(1)
    for net in autoencoder.get_layer("reconstruction").network.nets:
        net.head.kernel.assign(0.5 * normal(rng, *net.head.kernel.shape))
    inputs = scans(rng, 64, gridsize, 16)
    whole = model.predict(inputs, batch_size=64, verbose=0)
    assert whole.shape == (64, 16, 16, 1)
    tolerance = 1e-5 * np.abs(whole).max()
    differences = np.abs(whole[1:] - whole[:-1]).max(axis=(1, 2, 3))
    assert differences.min() > 100 * tolerance, "samples so alike that a mix-up would not show"
    for size in (1, 15, 16, 17):
        part = model.predict_on_batch([z[:size] for z in inputs])
        assert part.shape == (size, 16, 16, 1)
        np.testing.assert_allclose(part, whole[:size], atol=tolerance)
    order = rng.permutation(64)
    permuted = model.predict([z[order] for z in inputs], batch_size=64, verbose=0)
    np.testing.assert_allclose(permuted, whole[order], atol=tolerance)


@pytest.mark.parametrize("xla", [False, True])
def test_true_patches_merge_into_the_object_in_place(xla, monkeypatch):
    """Frame c at r_c sees the object around r_c; scripts give -(r_c - mean r), in (x, y).

    With the true patches in place of the network's, the object and the intensities must be the true ones: this
    fixes order and sign. Asymmetric object, sub-pixel positions, odd N.
    """
    from ptycho.physics.patches import split_positions
    from ptycho.simulation.probes import make_probe

    monkeypatch.setenv("USE_XLA_TRANSLATE", str(int(xla)))
    N, rng = 33, np.random.default_rng(3)
    wide = np.exp(1j * rng.normal(size=(3 * N, 3 * N)) * 0.2).astype("complex64")
    wide[50:54, 40:43] *= 0.2
    offsets = np.array([[-3.2, 1.0], [3.4, -4.3], [2.3, 5.6], [-2.5, -2.3]])
    assert np.allclose(offsets.mean(axis=0), 0)
    middle = 3 * N // 2
    whole, subpixel = split_positions(offsets)
    corners = whole + middle - N // 2
    patches = np.stack([wide[y : y + N, x : x + N] for y, x in corners])
    probe = make_probe(N, photons=1e6)
    counts = frame_counts(patches, probe, subpixel)
    autoencoder, _ = create_model_with_gridsize(2, N, probe=probe, **(SMALL | {"stages": 1, "architecture": "single"}))
    layer = autoencoder.get_layer("reconstruction")
    monkeypatch.setattr(layer.network, "single_frame_patches", lambda *_: keras.ops.convert_to_tensor(patches[None]))
    amplitude = np.sqrt(counts).transpose(1, 2, 0)[None]
    image, _, predicted = layer([amplitude, -offsets[:, ::-1].T[None, None].astype("float32")])
    lit = np.s_[N // 2 - 4 : N // 2 + 5, N // 2 - 4 : N // 2 + 5]
    expected = wide[middle - N // 2 :, middle - N // 2 :][:N, :N]
    # Where all four probes are bright, the empty object that a merge starts from weighs 1e-3 of them or less.
    np.testing.assert_allclose(to_numpy(image)[0, :, :, 0][lit], expected[lit], atol=4e-3)
    error = np.sum((np.sqrt(to_numpy(predicted)[0].transpose(2, 0, 1)) - np.sqrt(counts)) ** 2) / counts.sum()
    assert error < 1e-3


@pytest.mark.slow
def test_two_threads_build_and_use_models():
    rng = np.random.default_rng(2)
    jobs = {(1, 16): scans(rng, 3, 1, 16), (2, 24): scans(rng, 3, 2, 24)}
    alone = {}
    for (gridsize, N), inputs in jobs.items():
        alone[N] = create_model_with_gridsize(gridsize, N, **SMALL)[1].predict(inputs, verbose=0)
    results, errors = {}, []

    def work(gridsize, N, inputs):
        try:
            for _ in range(2):
                model = create_compiled_model(gridsize, N, **SMALL)[0]
                results[N] = model.predict(inputs, verbose=0)[0]
                model.fit(inputs, targets(inputs), verbose=0)
        except Exception as error:  # handed to the main thread, which fails
            errors.append(error)

    threads = [threading.Thread(target=work, args=(*size, inputs)) for size, inputs in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for N, expected in alone.items():
        np.testing.assert_allclose(results[N], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_deleted_models_free_their_memory():
    """Build, train and delete 15 models. After a few (pools filled) more of them add nothing.

    One kept trace is 10 MB here, what TensorFlow keeps of a new set of variable names 2.4 MB: 80 MB or 19 MB for the
    eight between the medians, which a pool that was just emptied does not move.
    """
    process = psutil.Process()
    inputs = scans(np.random.default_rng(0), 2, 2, 16)

    def cycle():
        model = create_compiled_model(2, 16, **(SMALL | {"stages": 1}))[0]
        model.fit(inputs, targets(inputs), verbose=0)
        del model
        gc.collect()
        return process.memory_info().rss / 1e6

    gc.freeze()  # what there is already is none of the models', and need not be searched through each time
    used = [cycle() for _ in range(15)]
    assert np.median(used[-5:]) - np.median(used[2:7]) < 10, [round(u) for u in used]


@pytest.mark.slow
def test_saved_model_gives_the_same_in_a_fresh_process(tmp_path):
    """Trained weights, probe and scale bit for bit; outputs up to rounding. In one process they are the same,
    another's differ by half a unit at the most (measured; why is not known)."""
    overrides = SMALL | {"probe_trainable": True, "intensity_scale_trainable": True}
    model, _ = create_compiled_model(2, 24, **overrides)
    inputs = scans(np.random.default_rng(5), 2, 2, 24)
    untrained = model.predict(inputs, verbose=0)
    model.fit(inputs, targets(inputs), epochs=2, verbose=0)
    expected = model.predict(inputs, verbose=0)
    assert np.abs(expected[0] - untrained[0]).max() > 0
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "inputs.npz", *inputs)
    code = """
import sys, numpy as np, keras, ptycho.model
model = keras.saving.load_model(sys.argv[1] + "/model.keras", safe_mode=True)
z = np.load(sys.argv[1] + "/inputs.npz")
np.savez(sys.argv[1] + "/outputs.npz", *model.predict([z["arr_0"], z["arr_1"]], verbose=0))
np.savez(sys.argv[1] + "/weights.npz", *model.get_weights())
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=os.environ | {"PYTHONPATH": "."})
    with np.load(tmp_path / "weights.npz") as reloaded:
        for k, weight in enumerate(model.get_weights()):
            np.testing.assert_array_equal(reloaded[f"arr_{k}"], weight)
    with np.load(tmp_path / "outputs.npz") as reloaded:
        for k, out in enumerate(expected):
            # The stage, the image made of it, and the physics after it each pass on an error of about one unit.
            few = 4 * np.finfo("float32").eps * np.abs(out).max()
            np.testing.assert_allclose(reloaded[f"arr_{k}"], out, rtol=0, atol=few)


@pytest.mark.slow
def test_two_doses_in_one_process_are_each_as_alone():
    """The scale of one model must not reach the next (low-dose arms once ran 316 times off)."""

    def prediction(photons):
        rng = np.random.default_rng(0)
        model, _ = create_compiled_model(1, 16, **(SMALL | {"nphotons": photons}))
        amplitude = np.sqrt(rng.poisson(photons / 16**2, (2, 16, 16, 1))).astype("float32")
        inputs = [amplitude, np.zeros((2, 1, 2, 1), "float32")]
        model.fit(inputs, targets(inputs), verbose=0)
        return model.predict(inputs, verbose=0)[2]

    low = prediction(1e4)
    high = prediction(1e9)
    # Threads may sum in another order from run to run: rounding, where the mix-up was a factor of 316.
    np.testing.assert_allclose(prediction(1e4), low, atol=1e-5 * low.max())
    assert high.mean() / low.mean() == pytest.approx(1e5, rel=0.5)


def test_importing_builds_nothing():
    """Importing the legacy modules makes no variable, seeds nothing and changes no setting."""
    code = """
import json, random
import numpy as np
import keras  # the framework draws random numbers at its import
state = random.getstate(), np.random.get_state()[1].tolist()
import ptycho.params; before = dict(ptycho.params.cfg)
import gc, ptycho.model, ptycho.tf_helper, ptycho.projective_warp_xla
print(json.dumps(dict(
    models=sum(isinstance(o, (keras.Model, keras.Variable)) for o in gc.get_objects()),
    same=before == ptycho.params.cfg,
    seeds=state == (random.getstate(), np.random.get_state()[1].tolist()))))
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(out) == {"models": 0, "same": True, "seeds": True}


def test_lazy_models_warn_once_and_follow_the_settings(monkeypatch):
    import ptycho.model

    monkeypatch.setattr(ptycho.model, "_lazy", {})
    monkeypatch.setitem(params.cfg, "N", 16)
    monkeypatch.setitem(params.cfg, "gridsize", 1)
    with pytest.warns(DeprecationWarning, match="create_model_with_gridsize"):
        autoencoder = ptycho.model.autoencoder
    assert autoencoder.input_shape[0] == (None, 16, 16, 1)
    assert ptycho.model.autoencoder is autoencoder
    assert ptycho.model.diffraction_to_obj.input_shape == autoencoder.input_shape
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ptycho.model.nonsense


def test_overrides_touch_one_model_only():
    before = params.params()
    learned, _ = create_model_with_gridsize(1, 16, probe_trainable=True, n_filters_scale=1)
    fixed, _ = create_model_with_gridsize(1, 16)
    assert params.params() == before
    assert len(learned.trainable_variables) == len(fixed.trainable_variables) + 2
    assert learned.count_params() < fixed.count_params()
    with pytest.raises(ValueError, match="no setting 'n_filter_scale'"):
        create_model_with_gridsize(1, 16, n_filter_scale=1)
    with pytest.warns(UserWarning, match="no effect"):
        create_model_with_gridsize(1, 16, gaussian_smoothing_sigma=1.0)


def test_all_losses_train():
    weights = {"mae_weight": 1.0, "nll_weight": 1.0, "tv_weight": 0.1, "realspace_weight": 1.0}
    inputs = scans(np.random.default_rng(0), 2, 1, 16)
    values = {}
    for name in weights:
        chosen = dict.fromkeys(weights, 0.0) | {name: weights[name]}
        model, _ = create_compiled_model(1, 16, **(SMALL | chosen))
        values[name] = model.fit(inputs, targets(inputs), epochs=2, verbose=0).history["loss"]
    both, _ = create_compiled_model(1, 16, **(SMALL | weights))
    first = both.fit(inputs, targets(inputs), verbose=0).history["loss"][0]
    assert all(np.isfinite(v).all() for v in values.values())
    assert first == pytest.approx(sum(v[0] for v in values.values()), rel=1e-4)


@pytest.mark.parametrize("architecture", ["consensus", "cnn"])
def test_an_architecture_by_name(architecture):
    stages = {} if architecture == "cnn" else {"stages": 2}
    model, _ = create_model_with_gridsize(2, 24, architecture=architecture, nphotons=1e4, **stages)
    image = model.predict(scans(np.random.default_rng(0), 2, 2, 24), verbose=0)[0]
    assert image.shape == (2, 24, 24, 1)
    assert np.isfinite(image).all()
    assert keras.backend.standardize_dtype(image.dtype) == "complex64"
