"""Networks of any size: shapes, independence of samples, symmetries, probes that come back as they were."""

from typing import get_args

import keras
import numpy as np
import pytest

from ptycho.backend import bfloat16_pays
from ptycho.config import ModelConfig
from ptycho.network.build import build_model
from ptycho.network.stages import FrameBatch, merge
from ptycho.network.symmetries import Symmetry
from ptycho.network.unet import Skips, UNet, depth_to_space, space_to_depth
from ptycho.physics.forward import frame_probes
from ptycho.physics.patches import extract, patch_index
from tests.helpers import complex_normal, frame_counts, normal, to_numpy

KINDS = [
    dict(architecture="consensus", stages=2),
    dict(architecture="single", stages=2),
    dict(architecture="cnn", stages=1),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["architecture"])


def probe_of(N, modes=1, photons=1e4):
    from ptycho.simulation.probes import make_probe

    return make_probe(N, photons=photons, modes=modes)


def batch(rng, groups, channels, N, canvas):
    """Groups of random counts at random places on their canvases."""
    return dict(
        counts=rng.poisson(5.0, (groups, channels, N, N)).astype("float32"),
        mask=np.ones((groups, N, N), "float32"),
        positions=rng.integers(N // 2, canvas - N + N // 2 + 1, (groups, channels, 2)).astype("int32"),
        subpixel=rng.uniform(-0.5, 0.5, (groups, channels, 2)).astype("float32"),
        canvas=np.zeros((groups, canvas, canvas), "float32"),
    )


def lively(model, scale=1.0, seed=5):
    """With random last layers: it does something."""
    rng = np.random.default_rng(seed)
    for net in model.nets:
        net.head.kernel.assign(scale * normal(rng, *net.head.kernel.shape))
    return model


def small(N=20, probe=None, **settings):
    settings = dict(stages=2, width=4) | settings
    return lively(build_model(ModelConfig(N=N, **settings), probe_of(N) if probe is None else probe))


def canvas_of(model, inputs):
    return to_numpy(model(inputs)["canvas"])


@every_kind
@pytest.mark.parametrize("N", [16, 17, 31, 48, 64, 65, 100, 129])
def test_any_size_runs(N, kind):
    model = build_model(ModelConfig(N=N, width=2, **kind), probe_of(N))
    out = model(batch(np.random.default_rng(0), 1, 2, N, N + 6))
    assert out["canvas"].shape == out["coverage"].shape == (1, N + 6, N + 6)
    assert out["patches"].shape == out["expected"].shape == (1, 2, N, N)
    assert all(np.isfinite(to_numpy(value)).all() for value in out.values())


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("N", [255, 512])
def test_large_sizes_run(N, kind):
    model = build_model(ModelConfig(N=N, width=2, **kind), probe_of(N))
    out = model(batch(np.random.default_rng(0), 1, 1, N, N + 2))
    assert np.isfinite(to_numpy(out["canvas"])).all()


@every_kind
@pytest.mark.parametrize("modes", [1, 2])
def test_what_comes_with_the_canvas_belongs_to_it(kind, modes):
    """Patches are read from it, counts expected of them, and light is that of the moved probes."""
    rng = np.random.default_rng(0)
    model = small(probe=probe_of(20, modes), probe_modes=modes, **kind)
    inputs = batch(rng, 2, 3, 20, 28)
    out = {name: to_numpy(value) for name, value in model(inputs).items()}
    np.testing.assert_array_equal(out["patches"], to_numpy(extract(out["canvas"], inputs["positions"], (20, 20))))
    probes, _ = frame_probes(probe_of(20, modes)[None, None], inputs["subpixel"])
    expected = frame_counts(out["patches"], probe_of(20, modes), inputs["subpixel"])
    np.testing.assert_allclose(out["expected"], expected, rtol=1e-4, atol=1e-4)
    brightest = (np.abs(probe_of(20, modes)) ** 2).sum(axis=0).max()
    weight = (np.abs(to_numpy(probes)) ** 2).sum(axis=2) / brightest
    light = np.zeros((2, 28, 28))
    for b, c in np.ndindex(2, 3):
        y, x = inputs["positions"][b, c] - 10
        light[b, y : y + 20, x : x + 20] += weight[b, c]
    np.testing.assert_allclose(out["coverage"], light, atol=1e-5)


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("architecture", ["consensus", "single"])
def test_an_untrained_network_says_flat(modes, architecture):
    """The start is an empty object, whatever the counts: 0.1 is a hundred times the spread of the last layer."""
    model = build_model(ModelConfig(N=32, stages=3, probe_modes=modes, architecture=architecture), probe_of(32, modes))
    assert np.abs(canvas_of(model, batch(np.random.default_rng(0), 1, 4, 32, 40)) - 1).max() < 0.1


@every_kind
def test_groups_do_not_mix(kind):
    """Group i of a batch gives what it gives alone, in any order (float32 rounding of other sum orders)."""
    rng = np.random.default_rng(0)
    model = small(**kind)
    inputs = batch(rng, 6, 3, 20, 28)
    whole = canvas_of(model, inputs)
    assert np.abs(whole[1:] - whole[:-1]).max(axis=(1, 2)).min() > 0.01
    tolerance = 1e-4 * np.abs(whole).max()
    order = rng.permutation(6)
    permuted = canvas_of(model, {k: v[order] for k, v in inputs.items()})
    np.testing.assert_allclose(permuted, whole[order], atol=tolerance)
    for i in range(6):
        alone = canvas_of(model, {k: v[i : i + 1] for k, v in inputs.items()})
        np.testing.assert_allclose(alone[0], whole[i], atol=tolerance)


@every_kind
def test_frames_of_a_group_may_come_in_any_order(kind):
    rng = np.random.default_rng(1)
    model = small(**kind)
    inputs = batch(rng, 1, 5, 20, 28)
    order = rng.permutation(5)
    shuffled = inputs | {k: inputs[k][:, order] for k in ("counts", "positions", "subpixel")}
    first, second = (canvas_of(model, z) for z in (inputs, shuffled))
    np.testing.assert_allclose(first, second, atol=1e-4 * np.abs(first).max())
    swapped = canvas_of(model, inputs | {"counts": inputs["counts"][:, order]})
    assert np.abs(swapped - first).max() > 0.01


@every_kind
def test_masked_pixels_are_not_seen(kind):
    rng = np.random.default_rng(2)
    model = small(**kind)
    inputs = batch(rng, 1, 3, 20, 28)
    inputs["mask"][0, 5:9, 7:12] = 0
    dirty = inputs | {"counts": inputs["counts"].copy()}
    dirty["counts"][0, :, 5:9, 7:12] = 1e6
    clean_out, dirty_out = (canvas_of(model, z) for z in (inputs, dirty))
    np.testing.assert_allclose(dirty_out, clean_out, rtol=1e-4)
    unmasked = canvas_of(model, dirty | {"mask": np.ones_like(inputs["mask"])})
    assert np.abs(unmasked - clean_out).max() > 0.01


@every_kind
def test_frames_off_the_canvas_are_not_looked_at(kind):
    """They fill a batch up to its size; what is left differs by rounding of sums in another order."""
    rng = np.random.default_rng(9)
    model = small(**kind)
    inputs = batch(rng, 2, 3, 20, 28)
    more = batch(rng, 2, 2, 20, 28) | {"positions": np.full((2, 2, 2), -(2**20), "int32")}
    filled = inputs | {k: np.concatenate([inputs[k], more[k]], axis=1) for k in ("counts", "positions", "subpixel")}
    first, second = (model(z) for z in (inputs, filled))
    for name in ("canvas", "coverage"):
        expected = to_numpy(first[name])
        np.testing.assert_allclose(to_numpy(second[name]), expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(to_numpy(second["patches"])[:, 3:], 0)


@every_kind
def test_subpixel_positions_of_zero_are_none(kind):
    model = small(**kind)
    inputs = batch(np.random.default_rng(3), 2, 3, 20, 28)
    none = {key: value for key, value in inputs.items() if key != "subpixel"}
    first = canvas_of(model, none)
    zero = canvas_of(model, inputs | {"subpixel": np.zeros((2, 3, 2), "float32")})
    np.testing.assert_allclose(zero, first, atol=1e-4 * np.abs(first).max())
    assert np.abs(canvas_of(model, inputs) - first).max() > 1e-3


@every_kind
def test_a_probe_that_comes_with_the_frames_replaces_the_own_one(kind):
    """Each group may have another; the own one given again changes nothing."""
    model = small(**kind)
    inputs = batch(np.random.default_rng(4), 2, 3, 20, 28)
    own, other = probe_of(20), np.roll(probe_of(20, photons=2e4), 2, axis=-1)
    given = lambda *probes: {"probe": np.stack(probes)}
    plain = canvas_of(model, inputs)
    tolerance = 1e-4 * np.abs(plain).max()
    np.testing.assert_allclose(canvas_of(model, inputs | given(own, own)), plain, atol=tolerance)
    foreign = canvas_of(small(probe=other, **kind), inputs)
    mixed = canvas_of(model, inputs | given(own, other))
    np.testing.assert_allclose(mixed, np.stack([plain[0], foreign[1]]), atol=1e-4 * np.abs(mixed).max())
    assert np.abs(foreign[1] - plain[1]).max() > 100 * tolerance


def speckled(photons, N=20):
    """A random probe: hardly a pixel of its pattern is dark, whatever the object."""
    probe = complex_normal(np.random.default_rng(12), N, N)
    return probe * np.float32(np.sqrt(photons) / np.linalg.norm(probe))


def bright_batch(rng, photons, N=20):
    """Noise-free counts of phase objects."""
    objects = np.exp(1j * rng.uniform(-1.5, 1.5, (2, 3, N, N))).astype("complex64")
    return batch(rng, 2, 3, N, N + 8) | {"counts": frame_counts(objects, speckled(photons, N)[None])}


@every_kind
def test_a_part_of_the_photons_gives_the_same_object_where_there_are_many(kind):
    """Counts x p at the exposure p.

    What p changes, the root of a mean less the mean root and the guard against dark pixels, are some tenths of
    sqrt(photons) a pixel. With 4^4 times the photons that is a 16th of the root: of what the objects differ by too.
    """
    differences = []
    for photons in (1e6, 4.0**4 * 1e6):
        model = small(probe=speckled(photons), **kind)
        inputs = bright_batch(np.random.default_rng(6), photons)
        whole = canvas_of(model, inputs)
        part = inputs | {"counts": inputs["counts"] * np.float32(0.3)}
        given = canvas_of(model, part | {"exposure": np.full(2, 0.3, "float32")})
        differences.append(np.linalg.norm(given - whole) / np.linalg.norm(whole))
        ignored = np.linalg.norm(canvas_of(model, part) - whole) / np.linalg.norm(whole)
        assert differences[-1] < ignored / 10
    assert differences[1] < differences[0] / 8 + 1e-5


@every_kind
def test_only_the_ratio_of_counts_to_probe_matters(kind):
    """Counts x k and a probe x sqrt(k) are the same experiment with longer exposure.

    The objects differ by tenths of sqrt(photons) in a pixel of 500, raised by two stages.
    """
    inputs = bright_batch(np.random.default_rng(7), 1e8)
    canvases = []
    for k in (1, 16):
        model = small(probe=speckled(1e8) * np.float32(k**0.5), **kind)
        canvases.append(canvas_of(model, inputs | {"counts": inputs["counts"] * k}))
    change = np.linalg.norm(canvases[1] - canvases[0])
    other = canvas_of(small(probe=speckled(1e8), **kind), inputs | {"counts": inputs["counts"] * 16})
    assert change < 0.01 * np.linalg.norm(other - canvases[0])


def test_every_view_comes_back():
    """Inwards, then outwards, is the identity for all 16, which are all different; view 0 is no view."""
    images = normal(np.random.default_rng(0), 2, 7, 7, 3)
    seen = []
    for number in range(Symmetry.COUNT):
        symmetry = Symmetry(Symmetry.arrays(number, 7))
        inside = symmetry.apply(images, [1, -1, 1])
        np.testing.assert_array_equal(to_numpy(symmetry.undo(inside, [1, -1, 1])), images)
        np.testing.assert_array_equal(to_numpy(symmetry.undo(symmetry.apply(images))), images)
        seen.append(to_numpy(inside))
    for i in range(Symmetry.COUNT):
        assert all((seen[i] != seen[j]).any() for j in range(i))
    np.testing.assert_array_equal(seen[0], images)
    np.testing.assert_array_equal(to_numpy(Symmetry({}).apply(images, [1, -1, 1])), images)
    np.testing.assert_array_equal(seen[8], images * np.array([1, -1, 1], "float32"))


def look(number, image):
    """The last two axes in a view, in numpy; conjugation left out."""
    image = image[..., ::-1, :] if number & 1 else image
    image = image[..., ::-1] if number & 2 else image
    return np.swapaxes(image, -1, -2) if number & 4 else image


@pytest.mark.parametrize("number", range(16))
@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind["architecture"])
def test_a_view_is_the_same_experiment_mirrored(number, kind):
    """Probe, frames and positions in a view give the object in this view: as the network in the view does.

    Odd sizes, so that flips keep the middle of a frame; a conjugate flips a pattern in both axes. Two stages of
    rounding of order 1e-6, which the nets raise to 1e-4 of the largest value at most.
    """
    N, side, conj = 17, 24, bool(number & 8)
    rng = np.random.default_rng(8)
    probe = np.roll(probe_of(N, photons=1e4), 2, axis=-1) * np.exp(0.1j * np.arange(N)[:, None])
    inputs = batch(rng, 1, 3, N, side)
    inputs["mask"][0, 2:5, 3:9] = 0
    in_view = lambda z: np.ascontiguousarray(look(number, z))
    at, move = inputs["positions"].copy(), inputs["subpixel"].copy()
    for axis in (0, 1):
        if number & (1, 2)[axis]:
            at[..., axis], move[..., axis] = side - 1 - at[..., axis], -move[..., axis]
    if number & 4:
        at, move = at[..., ::-1].copy(), move[..., ::-1].copy()
    pattern = lambda z: in_view(z[..., ::-1, ::-1] if conj else z)
    mirrored = inputs | dict(
        counts=pattern(inputs["counts"]), mask=pattern(inputs["mask"]), positions=at, subpixel=move
    )
    mirrored_probe = in_view(probe.conj() if conj else probe)
    own = Symmetry.arrays(number, side if kind["architecture"] == "consensus" else N)
    viewed = canvas_of(small(N, probe, **kind), inputs | own)
    expected = in_view(viewed.conj() if conj else viewed)
    tolerance = 1e-4 * np.abs(expected).max()
    actual = canvas_of(small(N, mirrored_probe, **kind), mirrored)
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    if number:
        assert np.abs(canvas_of(small(N, probe, **kind), inputs) - viewed).max() > 100 * tolerance


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind["architecture"])
def test_frames_on_their_own_are_merged_afterwards(kind):
    """One after another through a group of one, averaged by their light: the same object."""
    model = small(**kind)
    inputs = batch(np.random.default_rng(10), 1, 4, 20, 28)
    total, light = np.full((28, 28), 1e-3, complex), np.full((28, 28), 1e-3)
    for c in range(4):
        one = {k: v[:, c : c + 1] if k in ("counts", "positions", "subpixel") else v for k, v in inputs.items()}
        illumination = model.illumination(one)
        patch = to_numpy(model.single_frame_patches(one, illumination))[0, 0]
        weight = np.sum(np.abs(to_numpy(illumination.probes)[0, 0]) ** 2, axis=0)
        weight /= to_numpy(illumination.peak)[0, 0, 0]
        y, x = inputs["positions"][0, c] - 10
        total[y : y + 20, x : x + 20] += weight * patch
        light[y : y + 20, x : x + 20] += weight
    np.testing.assert_allclose(canvas_of(model, inputs)[0], total / light, atol=1e-4 * np.abs(total / light).max())


def test_frames_together_are_not_frames_on_their_own():
    """The consensus of two frames at one place is not that of each: what `single` cannot do."""
    model = small()
    inputs = batch(np.random.default_rng(11), 1, 2, 20, 28)
    first = canvas_of(
        model, {k: v[:, :1] if k in ("counts", "positions", "subpixel") else v for k, v in inputs.items()}
    )
    y, x = inputs["positions"][0, 0]
    near = np.s_[:, y - 2 : y + 3, x - 2 : x + 3]
    assert np.abs(canvas_of(model, inputs) - first)[near].max() > 0.01


@every_kind
def test_two_sizes_interleaved_in_one_process(kind):
    """Each gives what it gave before the other was built."""
    rng = np.random.default_rng(3)
    inputs = {N: batch(rng, 2, 4, N, N + 8) for N in (24, 40)}
    models = {N: small(N, **kind) for N in inputs}
    first = {N: canvas_of(models[N], inputs[N]) for N in inputs}
    other = build_model(ModelConfig(N=32, stages=3, width=2, seed=9), probe_of(32))
    other(batch(rng, 1, 2, 32, 36))
    for N in inputs:
        # Sums over threads may come in another order.
        np.testing.assert_allclose(canvas_of(models[N], inputs[N]), first[N], atol=1e-5 * np.abs(first[N]).max())


def test_same_seed_same_weights():
    make = lambda seed: build_model(ModelConfig(N=16, seed=seed), probe_of(16)).get_weights()
    for a, b in zip(make(1), make(1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(make(1), make(2), strict=True))


def test_a_fixed_probe_comes_back_bit_for_bit():
    probe = complex_normal(np.random.default_rng(0), 2, 21, 21) * 37.123
    model = build_model(ModelConfig(N=21, probe_modes=2), probe)
    np.testing.assert_array_equal(to_numpy(model.probe.value()), probe)


def test_settings_that_do_not_go_with_the_architecture_are_refused():
    with pytest.raises(ValueError, match=r"stages is 8; expected 1 to 1 with architecture='cnn'"):
        build_model(ModelConfig(N=64, architecture="cnn"), probe_of(64))
    with pytest.raises(ValueError, match=r"amplitude_activation is 'sigmoid'"):
        build_model(ModelConfig(N=64, amplitude_activation="sigmoid"), probe_of(64))


def test_a_network_without_a_probe_needs_that_of_the_frames():
    model = build_model(ModelConfig(N=20, stages=2, width=4))
    assert model.probe is None
    inputs = batch(np.random.default_rng(4), 2, 3, 20, 28)
    with pytest.raises(ValueError, match=r"inputs\['probe'\] is missing"):
        model(inputs)
    owner = build_model(ModelConfig(N=20, stages=2, width=4), probe_of(20), start=model)
    np.testing.assert_array_equal(canvas_of(model, inputs | {"probe": probe_of(20)[None]}), canvas_of(owner, inputs))
    with pytest.raises(ValueError, match="needs a probe"):
        build_model(ModelConfig(N=20, probe_trainable=True))


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
    index = patch_index(positions, (4, 4), (8, 10))
    nothing = np.zeros((1, 2, 4, 4), "float32")
    canvas = to_numpy(merge(patches, FrameBatch(nothing, nothing, None, weight, index, (8, 10))))[0]
    total, norm = np.full((8, 10), 1e-3, complex), np.full((8, 10), 1e-3)
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


@pytest.mark.parametrize("skips", get_args(Skips))
def test_every_weight_of_a_unet_has_its_part_and_levels_meet(skips):
    rng = np.random.default_rng(0)
    net = UNet((4, 8, 8), outputs=3, skips=skips)
    net.build((None, 16, 16, 2))
    net.initialise(rng)
    images = rng.standard_normal((1, 16, 16, 2)).astype("float32")
    out = to_numpy(net(images))
    for weight in net.weights:
        before = to_numpy(weight)
        weight.assign(before + 0.1)
        assert np.abs(to_numpy(net(images)) - out).max() > 1e-6, weight.path
        weight.assign(before)
    np.testing.assert_array_equal(to_numpy(net(images)), out)
    # With nothing from the coarsest level, what is left came across.
    for weight in net.down[-1].weights:
        weight.assign(0.0 * weight)
    assert (np.ptp(to_numpy(net(images))) > 1e-6) == (skips != "none")


def test_a_network_takes_the_precision_that_the_machine_is_faster_with():
    """``auto`` is settled when the network is built, and saved with it as what it is."""
    probe = np.ones((1, 16, 16), "complex64")
    network = build_model(ModelConfig(N=16, stages=1, width=4, precision="auto"), probe)
    expected = "mixed_bfloat16" if bfloat16_pays() else "float32"
    assert network.settings.precision == expected
    assert network.nets[0].first.dtype_policy.name == expected
    assert bfloat16_pays() is bfloat16_pays()  # timed once
