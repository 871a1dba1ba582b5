import numpy as np
import pytest
from keras import ops

from ptycho.projective_warp_xla import projective_warp_xla, projective_warp_xla_jit, translate_xla
from ptycho.tf_helper import translate
from tests.helpers import EPS, complex_normal, gradient, normal, slope, to_numpy

KINDS = {"real": normal, "complex": complex_normal}
IDENTITY = np.eye(3, dtype="float32")
both_paths = pytest.mark.parametrize("warp", [projective_warp_xla, projective_warp_xla_jit], ids=["plain", "jit"])
both_kinds = pytest.mark.parametrize("kind", KINDS)
all_options = pytest.mark.parametrize(
    ("interpolation", "fill_mode"),
    [(i, f) for i in ("nearest", "bilinear") for f in ("edge", "zeros")],
)


def warp_reference(images, transforms, interpolation, fill_mode):
    """One output pixel at a time, in double precision, from the definition."""
    batch, height, width, channels = images.shape
    out = np.zeros(images.shape, "complex128" if np.iscomplexobj(images) else "float64")

    def pixel(b, row, column):
        inside = 0 <= row < height and 0 <= column < width
        if fill_mode == "zeros" and not inside:
            return np.zeros(channels)
        return images[b, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    for b, y, x in np.ndindex(batch, height, width):
        sx, sy, k = transforms[b].astype(float) @ (x, y, 1)
        sx, sy = sx / k, sy / k
        if interpolation == "nearest":
            out[b, y, x] = pixel(b, int(np.floor(sy + 0.5)), int(np.floor(sx + 0.5)))
            continue
        left, top = int(np.floor(sx)), int(np.floor(sy))
        for row in (top, top + 1):
            for column in (left, left + 1):
                out[b, y, x] += (1 - abs(sy - row)) * (1 - abs(sx - column)) * pixel(b, row, column)
    return out


def projections(rng, batch):
    """Rotations, scalings and shears of some per cent, shifts of some pixels, and a slight perspective."""
    transforms = np.tile(np.eye(3), (batch, 1, 1))
    transforms[:, :2, :2] += rng.uniform(-0.3, 0.3, (batch, 2, 2))
    transforms[:, :2, 2] = rng.uniform(-4, 4, (batch, 2))
    transforms[:, 2, :2] = rng.uniform(-0.01, 0.01, (batch, 2))
    return transforms.astype("float32")


@both_paths
@both_kinds
@all_options
def test_identity_is_exact(warp, kind, interpolation, fill_mode):
    images = KINDS[kind](np.random.default_rng(0), 3, 7, 6, 2)
    np.testing.assert_array_equal(
        to_numpy(warp(images, np.tile(IDENTITY, (3, 1, 1)), interpolation, fill_mode)), images
    )


@both_paths
@both_kinds
@all_options
def test_projections_match_the_definition(warp, kind, interpolation, fill_mode):
    """A source coordinate is made of about 8 roundings of numbers below 16 pixels.

    The nearest pixel would differ where a coordinate is that near to a half: none is, here.
    """
    rng = np.random.default_rng(1)
    images, transforms = KINDS[kind](rng, 4, 9, 8, 2), projections(rng, 4)
    warped = to_numpy(warp(images, transforms, interpolation, fill_mode))
    assert warped.dtype == images.dtype
    expected = warp_reference(images, transforms, interpolation, fill_mode)
    np.testing.assert_allclose(warped, expected, rtol=0, atol=8 * 16 * EPS * 4 * np.abs(images).max())
    assert (warped == 0).any() == (fill_mode == "zeros")


@both_paths
def test_eight_elements_are_a_matrix_with_one_in_the_corner(warp):
    rng = np.random.default_rng(2)
    images, transforms = normal(rng, 3, 6, 7, 1), projections(rng, 3)
    eight = transforms.reshape(3, 9)[:, :8]
    np.testing.assert_array_equal(to_numpy(warp(images, eight)), to_numpy(warp(images, transforms)))
    # A matrix is homogeneous: twice of it is the same transform.
    np.testing.assert_array_equal(to_numpy(warp(images, 2 * transforms)), to_numpy(warp(images, transforms)))


def test_a_transform_maps_output_to_source_in_x_y_order():
    """Source x = x + 2, y = y + 1: content moves left by two and up by one."""
    image = np.zeros((1, 5, 6, 1), "float32")
    image[0, 3, 4, 0] = 1
    transform = np.array([[1, 0, 2, 0, 1, 1, 0, 0]], "float32")
    warped = to_numpy(projective_warp_xla(image, transform, fill_mode="zeros"))
    assert np.argwhere(warped).tolist() == [[0, 3 - 1, 4 - 2, 0]]


def test_a_tie_goes_to_the_larger_index_everywhere():
    """Rounding half to even would take pixel 2 twice and skip pixel 1."""
    image = np.arange(6, dtype="float32").reshape(1, 1, 6, 1)
    half = np.array([[1, 0, 0.5, 0, 1, 0, 0, 0]], "float32")
    warped = to_numpy(projective_warp_xla(image, half, "nearest", "zeros"))
    np.testing.assert_array_equal(warped.ravel(), [1, 2, 3, 4, 5, 0])


@both_paths
def test_far_sources_take_the_edge_or_zero(warp):
    image = normal(np.random.default_rng(3), 1, 5, 6, 1)
    far = np.array([[1, 0, 1e30, 0, 1, -1e30, 0, 0]], "float32")
    np.testing.assert_array_equal(to_numpy(warp(image, far)), np.full_like(image, image[0, 0, -1, 0]))
    np.testing.assert_array_equal(to_numpy(warp(image, far, fill_mode="zeros")), 0)


@all_options
def test_points_at_infinity_lie_outside(interpolation, fill_mode):
    """K = x - 2 vanishes in column 2; there is a value, and a finite gradient."""
    images = 1 + np.abs(normal(np.random.default_rng(4), 1, 5, 6, 1))
    transform = np.array([[[1, 0, 0], [0, 1, 0], [1, 0, -2]]], "float32")
    warped = to_numpy(projective_warp_xla(images, transform, interpolation, fill_mode))
    assert np.isfinite(warped).all()
    assert np.all((warped[:, :, 2] == 0) == (fill_mode == "zeros"))

    def warp_sum(i, t):
        return ops.sum(projective_warp_xla(i, t, interpolation, fill_mode))

    for grad in gradient(warp_sum, images, transform):
        assert np.isfinite(grad).all()


@both_paths
def test_gradients_flow_to_images_and_transforms(warp):
    rng = np.random.default_rng(5)
    images, weights = normal(rng, 2, 6, 7, 1), normal(rng, 2, 6, 7, 1)
    # Sources well inside, and away from whole pixels, where interpolation is not smooth.
    transforms = np.array([[0.5, 0.03, 1.31, 0.02, 0.5, 1.17, 0, 0], [0.5, 0, 1.2, 0, 0.5, 0.9, 0, 0]], "float32")
    transforms = transforms + np.array([0.011, 0.007, 0.003, 0.005, 0.013, 0.002, 0.0003, 0.0002], "float32")

    def loss(i, t):
        return ops.sum(ops.multiply(warp(i, t, fill_mode="zeros"), weights))

    by_image, by_transform = gradient(loss, images, transforms)

    def value(i, t):
        full = np.concatenate([t, np.ones((2, 1))], axis=1).reshape(2, 3, 3)
        return float(np.sum(warp_reference(i, full, "bilinear", "zeros") * weights))

    other = normal(rng, 2, 6, 7, 1)
    scale = np.linalg.norm(weights) * np.linalg.norm(other)
    np.testing.assert_allclose(
        np.sum(by_image.astype(float) * other), value(other, transforms), rtol=0, atol=128 * EPS * scale
    )
    for k in range(8):
        direction = np.zeros((2, 8))
        direction[:, k] = 1
        # An element of the last row moves a source by up to x^2 = 36 pixels per unit.
        expected = slope(lambda t: value(images.astype(float), t), transforms, direction, 1e-6)
        scale = 36 * np.linalg.norm(weights) * np.linalg.norm(images)
        np.testing.assert_allclose(by_transform[:, k].sum(), expected, rtol=0, atol=64 * EPS * scale)


@pytest.mark.parametrize("use_jit", [False, True], ids=["plain", "jit"])
@both_kinds
def test_translate_xla_is_translation(kind, use_jit):
    rng = np.random.default_rng(6)
    images, translations = KINDS[kind](rng, 5, 7, 6, 2), rng.uniform(-7, 7, (5, 2)).astype("float32")
    moved = to_numpy(translate_xla(images, translations, use_jit=use_jit))
    atol = 8 * 16 * EPS * np.abs(images).max()
    np.testing.assert_allclose(moved, to_numpy(translate(images, translations, use_xla=False)), rtol=0, atol=atol)
    whole = np.round(translations)
    for interpolation in ("nearest", "bilinear"):
        np.testing.assert_array_equal(
            to_numpy(translate_xla(images, whole, interpolation, use_jit)),
            to_numpy(translate(images, whole, use_xla=False)),
        )


@both_paths
@pytest.mark.parametrize("batch", [1, 15, 16, 17, 64])
def test_an_image_does_not_depend_on_the_rest_of_its_batch(warp, batch):
    rng = np.random.default_rng(7)
    images, transforms = normal(rng, batch, 5, 6, 2), projections(rng, batch)
    together = to_numpy(warp(images, transforms))
    assert together.shape == images.shape
    others = np.arange(batch) != batch - 1
    images[others], transforms[others] = np.nan, IDENTITY
    np.testing.assert_array_equal(to_numpy(warp(images, transforms))[-1], together[-1])


@both_paths
@pytest.mark.parametrize(
    ("images", "transforms", "options", "message"),
    [
        ((2, 5, 6), (2, 8), {}, "images have shape"),
        ((2, 5, 6, 1), (2, 9), {}, "transforms have shape"),
        ((2, 5, 6, 1), (2, 2, 3), {}, "transforms have shape"),
        ((2, 5, 6, 1), (1, 8), {}, "2 images, but 1 transforms"),
        ((2, 5, 6, 1), (2, 8), {"interpolation": "cubic"}, "interpolation is 'cubic'"),
        ((2, 5, 6, 1), (2, 8), {"fill_mode": "wrap"}, "fill_mode is 'wrap'"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(warp, images, transforms, options, message):
    with pytest.raises(ValueError, match=message):
        warp(np.ones(images, "float32"), np.ones(transforms, "float32"), **options)


def test_translations_that_do_not_fit_are_errors():
    images = np.ones((2, 5, 6, 1), "float32")
    with pytest.raises(ValueError, match="translations have shape"):
        translate_xla(images, np.zeros((2, 3), "float32"))
    with pytest.raises(ValueError, match="2 images, but 3"):
        translate_xla(images, np.zeros((3, 2), "float32"))
