"""Networks of any size: shapes, independence of samples, probes that come back as they were."""

import keras
import numpy as np
import pytest

from ptycho.config import ModelConfig
from ptycho.network.build import PRIOR, build_model, merge
from ptycho.network.layers import UNet, depth_to_space, space_to_depth
from tests.helpers import complex_normal, normal, to_numpy


def probe_of(N, modes=1, photons=1e4):
    from ptycho.simulation.probes import make_probe

    return make_probe(N, photons=photons, modes=modes)


def batch(rng, groups, channels, N, canvas):
    """Groups of random counts at random places on their canvases."""
    return dict(
        counts=rng.poisson(5.0, (groups, channels, N, N)).astype("float32"),
        mask=np.ones((groups, N, N), "float32"),
        positions=rng.integers(N // 2, canvas - N + N // 2 + 1, (groups, channels, 2)).astype("int32"),
        fractions=rng.uniform(-0.5, 0.5, (groups, channels, 2)).astype("float32"),
        canvas=np.zeros((groups, canvas, canvas), "float32"),
    )


@pytest.mark.parametrize("N", [16, 17, 31, 48, 64, 65, 100, 129])
def test_any_size_runs(N):
    model = build_model(ModelConfig(N=N, stages=2, width=2), probe_of(N))
    out = model(batch(np.random.default_rng(0), 1, 2, N, N + 6))
    assert [z.shape for z in out["canvases"]] == [(1, N + 6, N + 6)] * 2
    assert [z.shape for z in out["patches"]] == [(1, 2, N, N)] * 2
    assert np.isfinite(to_numpy(out["canvases"][-1])).all()


@pytest.mark.slow
@pytest.mark.parametrize("N", [255, 512])
def test_large_sizes_run(N):
    model = build_model(ModelConfig(N=N, stages=2, width=2), probe_of(N))
    out = model(batch(np.random.default_rng(0), 1, 1, N, N + 2))
    assert np.isfinite(to_numpy(out["canvases"][-1])).all()


@pytest.mark.parametrize("modes", [1, 3])
def test_an_untrained_network_says_flat(modes):
    """The start is an empty object, whatever the counts: 0.1 is a hundred times the spread of the last layer."""
    model = build_model(ModelConfig(N=32, stages=3, probe_modes=modes), probe_of(32, modes))
    out = model(batch(np.random.default_rng(0), 1, 4, 32, 40))
    assert np.abs(to_numpy(out["canvases"][-1]) - 1).max() < 0.1


def test_groups_do_not_mix():
    """Group i of a batch gives what it gives alone, in any order (float32 rounding of other sum orders)."""
    rng = np.random.default_rng(0)
    model = build_model(ModelConfig(N=20, stages=2, width=4), probe_of(20))
    for variable in model.nets[0].head.weights + model.nets[1].head.weights:
        variable.assign(0.3 * normal(rng, *variable.shape))
    inputs = batch(rng, 6, 3, 20, 28)
    whole = to_numpy(model(inputs)["canvases"][-1])
    assert np.abs(whole[1:] - whole[:-1]).max(axis=(1, 2)).min() > 0.01
    tolerance = 1e-4 * np.abs(whole).max()
    order = rng.permutation(6)
    permuted = to_numpy(model({k: v[order] for k, v in inputs.items()})["canvases"][-1])
    np.testing.assert_allclose(permuted, whole[order], atol=tolerance)
    for i in range(6):
        alone = to_numpy(model({k: v[i : i + 1] for k, v in inputs.items()})["canvases"][-1])
        np.testing.assert_allclose(alone[0], whole[i], atol=tolerance)


def test_frames_of_a_group_may_come_in_any_order():
    rng = np.random.default_rng(1)
    model = build_model(ModelConfig(N=20, stages=2, width=4), probe_of(20))
    inputs = batch(rng, 1, 5, 20, 28)
    order = rng.permutation(5)
    shuffled = inputs | {k: inputs[k][:, order] for k in ("counts", "positions", "fractions")}
    first, second = (to_numpy(model(z)["canvases"][-1]) for z in (inputs, shuffled))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_masked_pixels_are_not_seen():
    rng = np.random.default_rng(2)
    model = build_model(ModelConfig(N=20, stages=2, width=4), probe_of(20))
    for net in model.nets:
        net.head.weights[0].assign(0.3 * normal(rng, *net.head.weights[0].shape))
    inputs = batch(rng, 1, 3, 20, 28)
    inputs["mask"][0, 5:9, 7:12] = 0
    dirty = inputs | {"counts": inputs["counts"].copy()}
    dirty["counts"][0, :, 5:9, 7:12] = 1e6
    clean_out, dirty_out = (to_numpy(model(z)["canvases"][-1]) for z in (inputs, dirty))
    np.testing.assert_allclose(dirty_out, clean_out, rtol=1e-4)
    unmasked = to_numpy(model(dirty | {"mask": np.ones_like(inputs["mask"])})["canvases"][-1])
    assert np.abs(unmasked - clean_out).max() > 0.01


def test_two_sizes_interleaved_in_one_process():
    """Eager and compiled, each gives what it gave before the other was built."""
    rng = np.random.default_rng(3)
    inputs = {N: batch(rng, 2, 4, N, N + 8) for N in (24, 40)}
    models = {N: build_model(ModelConfig(N=N, stages=2, width=4), probe_of(N)) for N in inputs}
    first = {N: to_numpy(models[N](inputs[N])["canvases"][-1]) for N in inputs}
    other = build_model(ModelConfig(N=32, stages=3, width=2, seed=9), probe_of(32))
    other(batch(rng, 1, 2, 32, 36))
    for N in inputs:
        np.testing.assert_array_equal(to_numpy(models[N](inputs[N])["canvases"][-1]), first[N])


def test_same_seed_same_weights():
    make = lambda seed: build_model(ModelConfig(N=16, seed=seed), probe_of(16)).get_weights()
    for a, b in zip(make(1), make(1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(make(1), make(2), strict=True))


def test_a_fixed_probe_comes_back_bit_for_bit():
    probe = complex_normal(np.random.default_rng(0), 2, 21, 21) * 37.123
    model = build_model(ModelConfig(N=21, probe_modes=2), probe)
    np.testing.assert_array_equal(to_numpy(model.probe.value()), probe)


def test_bad_probes_are_refused():
    config = ModelConfig(N=32)
    with pytest.raises(ValueError, match=r"shape \(1, 16, 16\)"):
        build_model(config, probe_of(16))
    with pytest.raises(ValueError, match="zero everywhere"):
        build_model(config, np.zeros((32, 32)))


def test_merge_is_a_weighted_mean_on_an_empty_canvas():
    rng = np.random.default_rng(0)
    patches, weight = complex_normal(rng, 1, 2, 4, 4), rng.uniform(0.5, 1, (1, 2, 4, 4)).astype("float32")
    positions = np.array([[[3, 3], [3, 5]]], "int32")
    canvas = to_numpy(merge(patches, weight, positions, (8, 10)))[0]
    total, norm = np.full((8, 10), PRIOR, complex), np.full((8, 10), PRIOR)
    for patch, w, (y, x) in zip(patches[0], weight[0], positions[0], strict=True):
        total[y - 2 : y + 2, x - 2 : x + 2] += w * patch
        norm[y - 2 : y + 2, x - 2 : x + 2] += w
    np.testing.assert_allclose(canvas, total / norm, atol=1e-6)
    assert canvas[0, 0] == 1


def test_space_to_depth_keeps_blocks_together_and_inverts():
    images = np.arange(2 * 4 * 6 * 3, dtype="float32").reshape(2, 4, 6, 3)
    blocks = to_numpy(space_to_depth(images, 2))
    assert blocks.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(blocks[1, 1, 2].reshape(2, 2, 3), images[1, 2:4, 4:6])
    np.testing.assert_array_equal(to_numpy(depth_to_space(keras.ops.convert_to_tensor(blocks), 2)), images)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_unet_keeps_the_size_and_gives_float32(precision):
    net = UNet((4, 8, 8), block=2, outputs=3, precision=precision)
    net.build((None, 19, 19, 2))
    out = net(normal(np.random.default_rng(0), 2, 19, 19, 2))
    assert out.shape == (2, 19, 19, 3)
    assert keras.backend.standardize_dtype(out.dtype) == "float32"


def test_only_the_ratio_of_counts_to_probe_matters():
    """Counts x k and a probe x sqrt(k) are the same experiment with longer exposure: the object is the same.

    To 1e-3: `data_residual` takes 1e-3 photons as dark, and a pixel has 25 on average here.
    """
    from ptycho.physics.diffraction import expected_counts

    rng = np.random.default_rng(4)
    inputs = batch(rng, 1, 3, 20, 28)
    empty = to_numpy(expected_counts(np.ones((20, 20), "complex64"), probe_of(20)))
    inputs["counts"] = (empty * rng.uniform(0.2, 1.0, inputs["counts"].shape)).astype("float32")
    canvases = []
    for k in (1, 16):
        model = build_model(ModelConfig(N=20, stages=2, width=4), probe_of(20) * np.float32(k**0.5))
        for net in model.nets:
            net.head.kernel.assign(2.0 * normal(np.random.default_rng(5), *net.head.kernel.shape))
        canvases.append(to_numpy(model(inputs | {"counts": inputs["counts"] * k})["canvases"][-1]))
    assert np.abs(canvases[0] - 1).max() > 0.1
    assert np.abs(canvases[1] - canvases[0]).mean() < 1e-3
