import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from ptycho.params import cfg
from ptycho.tf_helper import Translation, should_use_xla, translate
from tests.helpers import EPS, assert_near, complex_normal, gradient, normal, slope, to_numpy, translated

KINDS = {"real": normal, "complex": complex_normal}
both_paths = pytest.mark.parametrize("use_xla", [False, True], ids=["plain", "xla"])


def moved_reference(images, translations):
    """Channel by channel, in double precision; translations are (dx, dy)."""
    out = np.empty(images.shape, complex if np.iscomplexobj(images) else float)
    for b, c in np.ndindex(images.shape[0], images.shape[-1]):
        out[b, ..., c] = translated(images[b, ..., c], translations[b, 1], translations[b, 0])
    return out


@pytest.mark.parametrize("text", ["0", "false", "no", "False", "NO"])
def test_environment_turns_xla_off(monkeypatch, text):
    monkeypatch.setenv("USE_XLA_TRANSLATE", text)
    monkeypatch.setitem(cfg, "use_xla_translate", True)
    assert should_use_xla() is False


@pytest.mark.parametrize("text", ["1", "true", "yes", "TRUE", "Yes"])
def test_environment_turns_xla_on(monkeypatch, text):
    monkeypatch.setenv("USE_XLA_TRANSLATE", text)
    monkeypatch.setitem(cfg, "use_xla_translate", False)
    assert should_use_xla() is True


def test_any_other_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("USE_XLA_TRANSLATE", "maybe")
    with pytest.raises(ValueError, match=r"USE_XLA_TRANSLATE is 'maybe'"):
        should_use_xla()


def test_without_environment_the_settings_decide(monkeypatch):
    monkeypatch.delenv("USE_XLA_TRANSLATE", raising=False)
    for value in (False, True):
        monkeypatch.setitem(cfg, "use_xla_translate", value)
        assert should_use_xla() is value
    monkeypatch.delitem(cfg, "use_xla_translate")
    assert should_use_xla() is True


@both_paths
@pytest.mark.parametrize("kind", KINDS)
def test_zero_translation_is_the_exact_identity(kind, use_xla):
    """Also in the last row and column."""
    images = KINDS[kind](np.random.default_rng(0), 3, 7, 6, 2)
    zero = np.zeros((3, 2), "float32")
    np.testing.assert_array_equal(to_numpy(Translation(use_xla=use_xla)([images, zero])), images)
    np.testing.assert_array_equal(to_numpy(translate(images, zero, use_xla=use_xla)), images)


@both_paths
def test_positive_dx_moves_content_to_the_right_and_positive_dy_down(use_xla):
    image = np.zeros((1, 5, 6, 1), "float32")
    image[0, 1, 2, 0] = 1
    moved = to_numpy(Translation(use_xla=use_xla)([image, np.array([[3, 2]], "float32")]))
    assert np.argwhere(moved).tolist() == [[0, 1 + 2, 2 + 3, 0]]
    assert moved.sum() == 1


@both_paths
@pytest.mark.parametrize("kind", KINDS)
def test_sub_pixel_translations_match_the_bilinear_reference(kind, use_xla):
    """A source coordinate (below 16) rounds to 16 eps of a pixel, times the difference of neighbours."""
    rng = np.random.default_rng(1)
    images, translations = KINDS[kind](rng, 4, 7, 6, 3), rng.uniform(-7, 7, (4, 2)).astype("float32")
    moved = to_numpy(Translation(use_xla=use_xla)([images, translations]))
    assert moved.dtype == images.dtype
    atol = 8 * 16 * EPS * np.abs(images).max()
    np.testing.assert_allclose(moved, moved_reference(images, translations), rtol=0, atol=atol)


@both_paths
@pytest.mark.parametrize("batch", [1, 15, 16, 17, 64])
def test_an_image_does_not_depend_on_the_rest_of_its_batch(batch, use_xla):
    rng = np.random.default_rng(2)
    images, translations = normal(rng, batch, 5, 6, 4), rng.uniform(-2, 2, (batch, 2)).astype("float32")
    layer = Translation(use_xla=use_xla)
    together = to_numpy(layer([images, translations]))
    assert together.shape == images.shape
    others = np.arange(batch) != batch - 1
    images[others], translations[others] = np.nan, 1.5
    np.testing.assert_array_equal(to_numpy(layer([images, translations]))[-1], together[-1])
    # Alone, compiled for another shape: the order of the four products may differ.
    assert_near(to_numpy(layer([images[-1:], translations[-1:]]))[0], together[-1], 4)


@both_paths
@pytest.mark.parametrize("number", [1, 2, 5])
def test_batches_that_differ_are_an_error(number, use_xla):
    """Also a single translation: it is not broadcast."""
    images, translations = np.ones((4, 5, 5, 1), "float32"), np.zeros((number, 2), "float32")
    with pytest.raises(ValueError, match=f"4 images, but {number} translations"):
        Translation(use_xla=use_xla)([images, translations])
    with pytest.raises(ValueError, match=f"4 images, but {number} translations"):
        translate(images, translations, use_xla=use_xla)


@pytest.mark.parametrize(
    ("images", "translations", "message"),
    [
        ((4, 5, 5), (4, 2), "images"),
        ((4, 5, 5, 1), (4, 3), "translations"),
        ((4, 5, 5, 1), (4, 1, 2), "translations"),
    ],
)
def test_other_shapes_are_an_error(images, translations, message):
    with pytest.raises(ValueError, match=f"{message} have shape"):
        translate(np.ones(images, "float32"), np.zeros(translations, "float32"), use_xla=False)


def test_a_lone_array_and_a_negative_jitter_are_errors():
    with pytest.raises(ValueError, match=r"\[images, translations\]"):
        Translation(use_xla=False)(np.ones((4, 5, 5, 1), "float32"))
    with pytest.raises(ValueError, match="jitter_stddev is -1"):
        Translation(-1)


@both_paths
def test_gradients_flow_to_images_and_translations(use_xla):
    rng = np.random.default_rng(3)
    images, weights = normal(rng, 2, 5, 6, 2), normal(rng, 2, 5, 6, 2)
    translations = np.array([[0.3, -1.4], [1.45, 0.7]], "float32")
    layer = Translation(use_xla=use_xla)

    def loss(i, t):
        return ops.sum(ops.multiply(layer([i, t]), weights))

    by_image, by_translation = gradient(loss, images, translations)
    # Linear in the images: the gradient applied to other images is the loss of those.
    other = normal(rng, 2, 5, 6, 2)
    value = np.sum(moved_reference(other, translations) * weights)
    scale = np.linalg.norm(weights) * np.linalg.norm(other)
    np.testing.assert_allclose(np.sum(by_image.astype(float) * other), value, rtol=0, atol=32 * EPS * scale)

    def reference(t):
        return float(np.sum(moved_reference(images.astype(float), t) * weights))

    expected = [slope(reference, translations, np.eye(4)[k].reshape(2, 2)) for k in range(4)]
    scale = np.linalg.norm(weights) * np.linalg.norm(images)
    np.testing.assert_allclose(by_translation.ravel(), expected, rtol=0, atol=64 * EPS * scale)


@both_paths
def test_complex_images_have_gradients_too(use_xla):
    rng = np.random.default_rng(4)
    images, weights = complex_normal(rng, 2, 5, 6, 1), complex_normal(rng, 2, 5, 6, 1)
    translations = np.array([[0.3, -1.4], [1.45, 0.7]], "float32")
    layer = Translation(use_xla=use_xla)

    def loss(re, im):
        moved = layer([ops.view_as_complex(ops.stack([re, im], axis=-1)), translations])
        return ops.sum(ops.multiply(ops.real(moved), weights.real) + ops.multiply(ops.imag(moved), weights.imag))

    real, imag = gradient(loss, images.real.copy(), images.imag.copy())
    # The operator is real: each part is moved on its own.
    for grad, part in ((real, weights.real.copy()), (imag, weights.imag.copy())):
        (alone,) = gradient(lambda i, w=part: ops.sum(ops.multiply(layer([i, translations]), w)), images.real.copy())
        assert_near(grad, alone, 8)


def regression_model(use_xla, jitter_stddev=0.0):
    """Images times a learned gain, moved: the least network that has to differentiate through the layer."""
    images, translations = keras.Input((6, 7, 2)), keras.Input((2,))
    gain = keras.layers.Conv2D(2, 1, use_bias=False, kernel_initializer="zeros")(images)
    moved = Translation(jitter_stddev, use_xla=use_xla)([gain, translations])
    assert moved.shape == (None, 6, 7, 2)
    return keras.Model([images, translations], moved)


@both_paths
def test_a_model_with_unknown_batch_trains_through_the_layer(use_xla):
    """A last batch of another size included; the gain it has to find is the identity."""
    rng = np.random.default_rng(5)
    images, translations = normal(rng, 20, 6, 7, 2), rng.uniform(-1, 1, (20, 2)).astype("float32")
    target = moved_reference(images, translations).astype("float32")
    model = regression_model(use_xla)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    untrained = np.mean(target**2)
    model.fit([images, translations], target, batch_size=8, epochs=40, verbose=0)
    assert model.evaluate([images, translations], target, verbose=0) < 0.05 * untrained
    assert model.predict([images, translations], batch_size=16, verbose=0).shape == target.shape


@both_paths
@pytest.mark.parametrize("misfit", [(4, 1), (4, 3), (4, 8)])
def test_batches_that_differ_do_not_pass_in_a_graph_either(use_xla, misfit):
    """Where sizes are unknown until a graph runs (TensorFlow) the error is the backend's; but it is one."""
    model = regression_model(use_xla)

    def batches():
        """Of different sizes, so that the graph leaves them open; the third does not fit together."""
        for images, translations in ((4, 4), (3, 3), misfit):
            yield ((np.ones((images, 6, 7, 2), "float32"), np.zeros((translations, 2), "float32")),)

    with pytest.raises(Exception, match=r"4 images, but \d translations|ConcatOp : Dimension|[Cc]oncat"):
        model.predict(batches(), steps=3, verbose=0)


@both_paths
def test_a_saved_model_gives_the_same_numbers(tmp_path, use_xla):
    rng = np.random.default_rng(6)
    inputs = [normal(rng, 3, 6, 7, 2), rng.uniform(-2, 2, (3, 2)).astype("float32")]
    model = regression_model(use_xla, jitter_stddev=0.5)
    model.set_weights([normal(rng, *w.shape) if w.ndim == 4 else w for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))
    layer = loaded.layers[-1]
    assert isinstance(layer, Translation)
    assert (layer.jitter_stddev, layer.use_xla) == (0.5, use_xla)


def test_jitter_moves_images_in_training_only():
    """Measured as the centre of mass of a spot: mean 0 and the standard deviation asked for."""
    number, stddev = 4000, 0.4
    spot = np.zeros((number, 9, 9, 1), "float32")
    spot[:, 4, 4] = 1
    layer = Translation(stddev, use_xla=False, seed=1)
    still = np.zeros((number, 2), "float32")
    np.testing.assert_array_equal(to_numpy(layer([spot, still])), spot)
    np.testing.assert_array_equal(to_numpy(layer([spot, still], training=False)), spot)
    jittered = to_numpy(layer([spot, still], training=True))[..., 0]
    at = np.arange(9) - 4
    offsets = np.stack([(jittered * at).sum((1, 2)), (jittered * at[:, None]).sum((1, 2))])
    # Bilinear weights keep the centre of mass; five standard errors of a mean and of a standard deviation.
    assert np.abs(offsets.mean(1)).max() < 5 * stddev / np.sqrt(number)
    assert np.abs(offsets.std(1) / stddev - 1).max() < 5 / np.sqrt(2 * number)
    assert not np.array_equal(jittered, to_numpy(layer([spot, still], training=True))[..., 0])


def test_the_layer_is_exact_under_mixed_precision():
    """bfloat16 translations would round 10.3 to 10.3125."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = Translation(use_xla=False)
        images = normal(np.random.default_rng(7), 1, 24, 24, 1)
        translations = np.array([[10.3, 0.0]], "float32")
        moved = to_numpy(layer([images, translations]))
    finally:
        keras.config.set_dtype_policy("float32")
    atol = 8 * 32 * EPS * np.abs(images).max()
    np.testing.assert_allclose(moved, moved_reference(images, translations), rtol=0, atol=atol)


def test_other_dtypes_are_computed_in_single_precision():
    translations = np.array([[1.5, 0]])
    for dtype, expected in {"uint16": "float32", "float64": "float32", "complex128": "complex64"}.items():
        images = np.arange(20).reshape(1, 4, 5, 1).astype(dtype)
        moved = to_numpy(translate(images, translations, use_xla=False))
        assert moved.dtype == expected
        np.testing.assert_array_equal(moved, moved_reference(images.astype(expected), translations))


@both_paths
def test_deleting_a_layer_frees_what_it_compiled(use_xla):
    layer = Translation(use_xla=use_xla)
    layer([np.ones((2, 4, 4, 1), "float32"), np.zeros((2, 2), "float32")])
    function = weakref.ref(layer._translate) if use_xla and keras.config.backend() != "torch" else None
    reference = weakref.ref(layer)
    del layer
    gc.collect()
    assert reference() is None
    assert function is None or function() is None


def test_a_layer_keeps_the_settings_it_was_made_with(monkeypatch):
    monkeypatch.setenv("USE_XLA_TRANSLATE", "maybe")
    with pytest.raises(ValueError, match="USE_XLA_TRANSLATE"):
        Translation()
    monkeypatch.setenv("USE_XLA_TRANSLATE", "0")
    layer = Translation()
    monkeypatch.setenv("USE_XLA_TRANSLATE", "maybe")
    assert layer([np.ones((2, 4, 4, 1), "float32"), np.zeros((2, 2), "float32")]).shape == (2, 4, 4, 1)
