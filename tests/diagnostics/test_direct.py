"""First pictures of a 4D-STEM scan."""

import numpy as np
import pytest

from ptycho.diagnostics.direct import bright_field_disc, direct_pictures, integrated
from ptycho.formats import read_scan


@pytest.mark.parametrize("shape", [(20, 31), (16, 16), (2, 9)])
def test_a_gradient_is_integrated(shape):
    """Exactly: a plane and a saddle have linear gradients, whose means between neighbours are the differences."""
    y, x = np.indices(shape) * 0.5
    image = 0.3 * y - 0.2 * x + 0.01 * y * x
    found = integrated(0.3 + 0.01 * x, -0.2 + 0.01 * y, 0.5)
    np.testing.assert_allclose(found, image - image.mean(), atol=1e-12)


@pytest.fixture(scope="module")
def thin(data_folder, tmp_path_factory):
    """The thin crystal, its positions as they truly are, and the truth."""
    from dataclasses import replace

    with np.load(data_folder / "stem_thin.npz") as file:
        truth = dict(file)
    names = ("counts", "scan_step_A", "voltage_kV", "semi_angle_mrad", "detector_pixel_mrad", "defocus_A")
    path = tmp_path_factory.mktemp("thin") / "scan.npz"
    np.savez(path, **{name: truth[name] for name in names})
    return replace(read_scan(path), positions=truth["positions_A"] / truth["object_pixel_A"]), truth


def test_the_disc_is_that_of_the_aperture(thin):
    scan, truth = thin
    radius = truth["semi_angle_mrad"] / truth["detector_pixel_mrad"]
    inside = bright_field_disc(scan, margin=1.0)
    # A pixel at the rim counts or does not: half a pixel of the radius.
    assert np.sqrt(inside.sum() / np.pi) == pytest.approx(float(radius), abs=0.5)


def test_dpc_shows_the_potential_and_the_dark_field_the_heavy_atoms(thin):
    from scipy.ndimage import gaussian_filter, map_coordinates

    scan, truth = thin
    pictures = direct_pictures(scan)
    low, high = scan.positions.min(axis=0), scan.positions.max(axis=0)
    axes = (np.arange(a, b + 0.5 * scan.step_px, scan.step_px) for a, b in zip(low, high))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    pixel_a, fine_a = float(truth["object_pixel_A"]), float(truth["true_phase_pixel_A"])
    at = (grid * pixel_a - truth["true_phase_origin_A"][:, None, None]) / fine_a
    # The probe, 150 A out of focus under 25 mrad, is a disc of 3.75 A in radius: half of that as its deviation.
    true = map_coordinates(gaussian_filter(truth["true_phase"].astype(float), 1.9 / fine_a), at, order=1)
    middle = (slice(8, -8), slice(8, -8))
    correlation = lambda image: np.corrcoef(image[middle].ravel(), true[middle].ravel())[0, 1]
    assert correlation(pictures["phase by DPC"]) > 0.5
    assert all(image.shape == true.shape and np.isfinite(image).all() for image in pictures.values())


def test_light_in_the_pictures_is_that_of_the_frames(thin):
    scan, _ = thin
    pictures = direct_pictures(scan)
    total = pictures["bright field"].mean() + pictures["dark field"].mean()
    assert total == pytest.approx(scan.mean_counts, rel=0.01)  # the hull weighs the frames at the border less
