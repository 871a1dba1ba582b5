import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from ptycho.physics.patches import accumulate, accumulate_at, extract, extract_at, patch_index, split_positions
from tests.helpers import (
    EPS,
    assert_adjoint,
    assert_near,
    bilinear_sample,
    complex_normal,
    gradient,
    normal,
    slope,
    to_numpy,
)

KINDS = {"real": normal, "complex": complex_normal}
CANVASES = [(9, 12), (10, 10), (7, 5)]
SIZES = [(4, 4), (5, 5), (3, 6), (1, 1)]
FEW = settings(max_examples=15, deadline=None, derandomize=True)


def positions_of(kind: str, batch: int, count: int, shape, seed: int = 0) -> np.ndarray:
    """Positions inside the canvas, across its border, and one wholly outside on either side."""
    real = np.random.default_rng(seed).uniform(-3, np.array(shape) + 3, (batch, count, 2))
    real[:, 0], real[:, 1] = (-20.3, 2.4), (1.7, shape[1] + 15.6)
    return np.round(real).astype("int32") if kind == "integer" else real.astype("float32")


def extract_reference(canvas, positions, size):
    """Patch pixel (i, j) is the canvas at position + (i - n // 2, j - m // 2): one sample at a time."""
    out = np.zeros((*positions.shape[:2], *size), "complex128")
    for b, p, i, j in np.ndindex(*out.shape):
        y, x = positions[b, p].astype(float)
        out[b, p, i, j] = bilinear_sample(canvas[b], y + i - size[0] // 2, x + j - size[1] // 2)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", CANVASES)
def test_whole_pixel_patches_are_copies(shape, size, kind):
    canvas = KINDS[kind](np.random.default_rng(1), 2, *shape)
    positions = positions_of("integer", 2, 5, shape)
    patches = to_numpy(extract(canvas, positions, size))
    assert patches.dtype == canvas.dtype
    np.testing.assert_array_equal(patches, extract_reference(canvas, positions, size))
    assert not patches[:, :2].any()  # wholly outside
    assert patches[:, 2:].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", CANVASES)
def test_sub_pixel_patches_match_the_bilinear_reference(shape, size, kind):
    canvas = KINDS[kind](np.random.default_rng(2), 2, *shape)
    positions = positions_of("sub-pixel", 2, 5, shape)
    expected = extract_reference(canvas.astype(complex), positions, size)
    # Fractions of a float32 position are exact (Sterbenz), their products and sums round 8 times.
    np.testing.assert_allclose(
        to_numpy(extract(canvas, positions, size)), expected, rtol=0, atol=8 * EPS * np.abs(canvas).max()
    )


def test_real_positions_at_whole_pixels_agree_with_integer_ones():
    canvas = complex_normal(np.random.default_rng(3), 2, 9, 12)
    positions = positions_of("integer", 2, 5, (9, 12))
    exact = to_numpy(extract(canvas, positions, (4, 5)))
    np.testing.assert_array_equal(to_numpy(extract(canvas, positions.astype("float32"), (4, 5))), exact)
    np.testing.assert_array_equal(to_numpy(extract(canvas, positions.astype("float64"), (4, 5))), exact)
    np.testing.assert_array_equal(to_numpy(extract(canvas, positions.astype("int64"), (4, 5))), exact)


@FEW
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(CANVASES),
    size=st.sampled_from(SIZES),
    kind=st.sampled_from(list(KINDS)),
    where=st.sampled_from(["integer", "sub-pixel"]),
)
def test_accumulate_is_the_adjoint_of_extract(seed, shape, size, kind, where):
    rng = np.random.default_rng(seed)
    positions = positions_of(where, 2, 6, shape, seed)
    x, y = KINDS[kind](rng, 2, *shape), KINDS[kind](rng, 2, 6, *size)
    assert_adjoint(lambda a: extract(a, positions, size), lambda a: accumulate(a, positions, shape), x, y)


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (2, 5)])
def test_accumulating_all_patches_counts_each_pixel_once_per_patch_pixel(size):
    """With a patch at each integer position, also beyond the border, every canvas pixel is seen n m times."""
    shape = (6, 7)
    y, x = np.mgrid[-size[0] : shape[0] + size[0], -size[1] : shape[1] + size[1]]
    positions = np.stack([y.ravel(), x.ravel()], axis=-1)[None].astype("int32")
    canvas = complex_normal(np.random.default_rng(4), 1, *shape)
    total = accumulate(extract(canvas, positions, size), positions, shape)
    assert_near(total, canvas * size[0] * size[1], size[0] * size[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", CANVASES)
def test_gathering_and_scattering_by_index_are_extracting_and_accumulating(shape, size, kind):
    rng = np.random.default_rng(7)
    positions = positions_of("integer", 3, 5, shape)
    canvas, patches = KINDS[kind](rng, 3, *shape), KINDS[kind](rng, 3, 5, *size)
    index = patch_index(positions, size, shape)
    read, added = to_numpy(extract_at(canvas, index)), to_numpy(accumulate_at(patches, index, shape))
    np.testing.assert_array_equal(read, extract_reference(canvas, positions, size))
    np.testing.assert_array_equal(added, to_numpy(accumulate(patches, positions, shape)))
    assert (read.dtype, added.dtype) == (canvas.dtype, patches.dtype)
    assert_adjoint(lambda a: extract_at(a, index), lambda a: accumulate_at(a, index, shape), canvas, patches)


@pytest.mark.parametrize("far", [-(2**20), 2**20, -17, 40])
def test_patches_off_the_canvas_read_zero_and_are_dropped(far):
    """On either axis, and without a trace on the canvases before and behind."""
    rng = np.random.default_rng(8)
    shape, size = (9, 12), (5, 4)
    inside = np.array([[[4, 5], [3, 7]]] * 3, "int32")
    off = np.array([[[far, 5], [4, far], [far, far]]] * 3, "int32")
    both = patch_index(np.concatenate([inside, off], axis=1), size, shape)
    canvas, patches = complex_normal(rng, 3, *shape), complex_normal(rng, 3, 5, *size)
    np.testing.assert_array_equal(to_numpy(extract_at(canvas, both))[:, 2:], 0)
    only = to_numpy(accumulate_at(patches[:, :2], patch_index(inside, size, shape), shape))
    np.testing.assert_array_equal(to_numpy(accumulate_at(patches, both, shape)), only)
    assert np.any(only)


def test_patches_at_one_place_add_up():
    """Repeated positions are summed, not overwritten."""
    patches = np.ones((1, 3, 2, 2), "float32") * np.array([1, 2, 4], "float32")[None, :, None, None]
    total = to_numpy(accumulate(patches, np.full((1, 3, 2), 1, "int32"), (4, 5)))[0]
    expected = np.zeros((4, 5))
    expected[:2, :2] = 7
    np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize("batch", [1, 15, 16, 17, 64])
def test_a_canvas_does_not_depend_on_the_rest_of_its_batch(batch):
    shape, size = (6, 7), (4, 3)
    positions = positions_of("sub-pixel", batch, 4, shape)
    rng = np.random.default_rng(5)
    canvas, patches = complex_normal(rng, batch, *shape), complex_normal(rng, batch, 4, *size)
    read, added = to_numpy(extract(canvas, positions, size)), to_numpy(accumulate(patches, positions, shape))
    assert read.shape == patches.shape
    assert added.shape == canvas.shape
    for i in range(batch):
        one = slice(i, i + 1)
        np.testing.assert_array_equal(to_numpy(extract(canvas[one], positions[one], size))[0], read[i])
        # Sums of up to 4 * 4 terms may be taken in another order.
        assert_near(accumulate(patches[one], positions[one], shape)[0], added[i], 16)


def test_gradient_in_the_positions_is_that_of_finite_differences():
    """Away from whole pixels, where bilinear interpolation is smooth (and quadratic: no truncation error)."""
    rng = np.random.default_rng(6)
    canvas, weights = normal(rng, 1, 8, 9), normal(rng, 1, 2, 4, 3)
    positions = np.array([[[3.3, 4.6], [1.45, 7.2]]], "float32")
    (grad,) = gradient(lambda p: ops.sum(ops.multiply(extract(canvas, p, (4, 3)), weights)), positions)

    def reference(p):
        return float(np.sum(extract_reference(canvas.astype(float), p, (4, 3)).real * weights))

    expected = [slope(reference, positions, np.eye(4)[k].reshape(1, 2, 2)) for k in range(4)]
    scale = np.linalg.norm(weights) * np.linalg.norm(canvas)
    np.testing.assert_allclose(grad.ravel(), expected, rtol=0, atol=16 * EPS * scale)


@FEW
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=2))
def test_positions_split_into_whole_and_sub_pixel_parts(position):
    whole, rest = split_positions(np.array([position]))
    assert whole.dtype == np.int64
    assert rest.dtype == np.float32
    assert np.all((rest >= -0.5) & (rest <= 0.5))
    np.testing.assert_allclose(whole + rest.astype(float), [position], rtol=0, atol=EPS)


def test_half_pixels_split_towards_larger_indices():
    whole, rest = split_positions(np.array([[-1.5, 2.5]]))
    np.testing.assert_array_equal(whole, [[-1, 3]])
    np.testing.assert_array_equal(rest, [[-0.5, -0.5]])
