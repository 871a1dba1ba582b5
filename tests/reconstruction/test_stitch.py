"""Stitching: true patches give the true object, whatever phase each of them has."""

import numpy as np
import pytest

from ptycho.physics.patches import accumulate, extract
from ptycho.reconstruction.stitch import add_patches, stitch
from tests.helpers import complex_normal, to_numpy


def read_patches(canvas, corners, n):
    return np.stack([canvas[y : y + n, x : x + n] for y, x in corners])


def smooth_object(rng, shape):
    """Complex, asymmetric, band-limited to a quarter of Nyquist (so that bilinear shifts are nearly exact)."""
    spectrum = np.zeros(shape, complex)
    spectrum[:4, :4] = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
    return (1 + 0.3 * np.fft.ifft2(spectrum) * np.prod(shape) / 16).astype("complex64")


@pytest.fixture
def scanned():
    """Patches of an object at integer positions of a jittered raster, and a probe."""
    from ptycho.simulation.probes import make_probe

    rng = np.random.default_rng(0)
    image = smooth_object(rng, (90, 70))
    grid = np.stack(np.meshgrid(np.arange(16, 74, 6), np.arange(16, 54, 6), indexing="ij"), -1).reshape(-1, 2)
    positions = grid + rng.integers(-1, 2, grid.shape)
    corners = positions - 12
    return image, read_patches(image, corners, 25), positions, make_probe(25)


def test_true_patches_give_the_true_object(scanned):
    image, patches, positions, probe = scanned
    out = stitch(patches, positions, probe, align=False)
    origin = positions[0] - out.positions_px[0]
    np.testing.assert_array_equal(origin, np.round(origin))
    y, x = origin.astype(int)
    lit = out.coverage > 0
    expected = image[y : y + lit.shape[0], x : x + lit.shape[1]]
    np.testing.assert_allclose(out.object[lit], expected[lit], rtol=1e-5)
    assert (out.object[~lit] == 0).all()
    assert lit.any() and not lit.all()
    assert (out.used, out.dropped) == (len(patches), 0)


def test_the_global_phase_of_each_patch_does_not_matter(scanned):
    """Random phases, +-pi included: after alignment the object is the true one up to one phase."""
    _, patches, positions, probe = scanned
    rng = np.random.default_rng(1)
    turned = patches * np.exp(1j * rng.uniform(-np.pi, np.pi, (len(patches), 1, 1)))
    plain = stitch(patches, positions, probe)
    aligned = stitch(turned, positions, probe)
    naive = stitch(turned, positions, probe, align=False)
    lit = plain.coverage > 0
    np.testing.assert_allclose(aligned.object[lit], plain.object[lit], atol=2e-3)
    assert np.abs(naive.object - plain.object)[lit].mean() > 0.3


def test_one_and_two_patches(scanned):
    _, patches, positions, probe = scanned
    for count in (1, 2, 3):
        out = stitch(patches[:count], positions[:count], probe)
        assert out.used == count
        assert np.isfinite(out.object).all()


def test_subpixel_positions_are_interpolated():
    """An object linear in y and x is exact under bilinear interpolation, so stitching must return it."""
    from ptycho.simulation.probes import make_probe

    rng = np.random.default_rng(2)
    y, x = np.mgrid[:60, :50]
    image = (1 + 0.01 * y - 0.02j * x).astype("complex64")
    positions = rng.uniform(15, 34, (200, 2)) + [5, 0]
    patches = to_numpy(extract(image[None], positions[None].astype("float32"), (21, 21)))[0]
    out = stitch(patches, positions, make_probe(21), align=False)
    origin = positions[0] - out.positions_px[0]
    yy, xx = np.mgrid[: out.object.shape[0], : out.object.shape[1]]
    expected = 1 + 0.01 * (yy + origin[0]) - 0.02j * (xx + origin[1])
    well = out.coverage > 0.3 * out.coverage.max()
    # Accumulating spreads each pixel over four: exact on average, off by the unevenness of the weights.
    assert np.abs(out.object - expected)[well].mean() < 0.01


def test_bad_patches_are_dropped_and_counted(scanned):
    _, patches, positions, probe = scanned
    broken = patches.copy()
    broken[3, 5, 5] = np.nan
    out = stitch(broken, positions, probe)
    assert (out.used, out.dropped) == (len(patches) - 1, 1)
    assert np.isfinite(out.object).all()
    assert len(out.positions_px) == len(patches)
    with pytest.raises(ValueError, match="no patch is finite"):
        stitch(np.full_like(patches, np.nan), positions, probe)
    with pytest.raises(ValueError, match="do not fit"):
        stitch(patches[:-1], positions, probe)


def test_adding_is_that_of_the_physics():
    rng = np.random.default_rng(3)
    patches, corners = complex_normal(rng, 7, 5, 5), rng.integers(0, 8, (7, 2))
    canvas = np.zeros((12, 12), "complex64")
    add_patches(canvas, patches, corners)
    positions = (corners + 2)[None].astype("int32")
    np.testing.assert_allclose(canvas, to_numpy(accumulate(patches[None], positions, (12, 12)))[0], rtol=1e-5)
