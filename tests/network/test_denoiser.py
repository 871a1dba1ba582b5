"""The network that takes noise out of complex images."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptycho.network import denoiser
from ptycho.network.denoiser import blocks, build_denoiser, denoised, from_blocks, load_denoiser
from ptycho.simulation.objects import make_object
from tests.helpers import complex_normal


@pytest.fixture(scope="module")
def noisy() -> tuple[np.ndarray, np.ndarray]:
    """Gold balls, which it has not learned from, and the same with noise of 0.15; sides that are not even."""
    clean = make_object("gold_balls", (93, 110), np.random.default_rng(5))
    return clean, clean + 0.15 * complex_normal(np.random.default_rng(6), *clean.shape)


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(image - truth) / np.linalg.norm(truth))


def test_it_takes_out_more_noise_than_the_best_blur(noisy):
    clean, image = noisy
    blurred = [gaussian_filter(image.real, s) + 1j * gaussian_filter(image.imag, s) for s in (0.5, 0.8, 1.2, 1.8, 2.5)]
    assert error(denoised(load_denoiser(), image, 0.15), clean) < min(error(blur, clean) for blur in blurred)


def test_of_little_noise_it_changes_little(noisy):
    clean, _ = noisy
    assert error(denoised(load_denoiser(), clean, 0.01), clean) < 0.02


def test_a_phase_that_all_pixels_share_does_not_matter(noisy):
    _, image = noisy
    turn = np.exp(2.1j)
    turned = denoised(load_denoiser(), (turn * image).astype("complex64"), 0.15)
    # Single precision, through twenty layers
    np.testing.assert_allclose(turned, turn * denoised(load_denoiser(), image.astype("complex64"), 0.15), atol=1e-4)
    assert np.isfinite(denoised(load_denoiser(), np.zeros((9, 7), "complex64"), 0.1)).all()


def test_pixels_come_back_from_blocks():
    images = complex_normal(np.random.default_rng(1), 2, 8, 12).astype("complex64")
    tiles = blocks(images, np.array([0.1, 0.2], "float32"))
    assert tiles.shape == (2, 4, 6, 9)
    np.testing.assert_array_equal(tiles[..., -1], np.broadcast_to(np.float32([[[0.1]], [[0.2]]]), (2, 4, 6)))
    # The four pixels of the second block of the first row
    np.testing.assert_array_equal(tiles[0, 0, 1, 0:8:2], images[0, :2, 2:4].real.ravel())
    np.testing.assert_array_equal(from_blocks(tiles[..., :-1]), images)


def test_a_damaged_file_is_told(tmp_path, monkeypatch):
    path = tmp_path / "denoiser.npz"
    path.write_bytes(denoiser.WEIGHTS.read_bytes()[:-1])
    path.with_suffix(".sha256").write_text(denoiser.WEIGHTS.with_suffix(".sha256").read_text())
    monkeypatch.setattr(denoiser, "WEIGHTS", path)
    with pytest.raises(ValueError, match=r"denoiser\.npz is damaged"):
        load_denoiser.__wrapped__()


def test_any_size_goes_through(noisy):
    network = build_denoiser((2, 3, 4))
    for shape in ((1, 1), (8, 8), (9, 23)):
        assert denoised(network, np.ones(shape, "complex64"), 0.1).shape == shape


def test_what_it_takes_away_grows_with_image_and_noise_together():
    """Without biases it can give nothing else: were it to give the noise over sigma, as it once did, it could not learn
    to (5 dB worse on photographs)."""
    rng = np.random.default_rng(3)
    image = (1 + 0.3 * (rng.normal(size=(32, 32)) + 1j * rng.normal(size=(32, 32)))).astype("complex64")
    one, twice = (denoised(load_denoiser(), scale * image, scale * 0.15) for scale in (1, 2))
    np.testing.assert_allclose(twice, 2 * one, rtol=0, atol=1e-4)
    assert abs(one - image).max() > 0.1
