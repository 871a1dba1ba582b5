"""A Gaussian beam has a waist where it was put, of the width that it has by its formula."""

import numpy as np
import pytest

from ptycho.evaluation.through_focus import through_focus


def gaussian(N: int, waist_px: float, distance_px: float, wavelength_px: float) -> np.ndarray:
    """``exp(-r^2 / w0^2 / (1 + i z / zR)) / (1 + i z / zR)``, zR = pi w0^2 / lambda, a distance z behind its waist."""
    squared = np.add.outer(*((np.arange(N) - N // 2) ** 2,) * 2)
    spread = 1 + 1j * distance_px * wavelength_px / (np.pi * waist_px**2)
    return (np.exp(-squared / waist_px**2 / spread) / spread).astype("complex64")[None]


@pytest.mark.parametrize("behind", [-1, 1])
def test_the_waist_of_a_gaussian_beam_is_found(behind: int) -> None:
    """The sample lies ``behind`` the waist by 20 um; a plane each 1.2 um, half of which it may be off."""
    pixel_m, wavelength_m, waist_px = 10e-9, 1e-9, 3.0
    probe = gaussian(96, waist_px, behind * 20e-6 / 10e-9, 0.1)
    focus = through_focus(probe, pixel_m, wavelength_m)
    spacing_m = np.diff(focus.distances_m)[0]
    assert abs(focus.focus_m + behind * 20e-6) <= spacing_m / 2
    # The intensity exp(-2 r^2 / w0^2) falls to one half at w0 sqrt(ln 2 / 2). Half a plane from the waist it is wider
    # by the root of 1 + (z / zR)^2, and a straight line between pixels adds a few per cent of one.
    expected_m = 2 * waist_px * np.sqrt(np.log(2) / 2) * pixel_m
    wider = np.sqrt(1 + (spacing_m / 2 * wavelength_m / (np.pi * (waist_px * pixel_m) ** 2)) ** 2)
    for width in focus.width_m:
        assert 0.98 * expected_m < width < 1.05 * wider * expected_m
    assert not focus.at_an_end
    # Free space keeps the light: in the plane of the focus as at the sample.
    np.testing.assert_allclose(focus.side_x.sum(axis=0), (np.abs(probe) ** 2).sum(), rtol=1e-4)
    np.testing.assert_allclose(focus.side_x, focus.side_y, atol=1e-4 * focus.side_y.max())


def test_a_beam_wider_along_x_is_wider_there() -> None:
    y, x = np.indices((64, 64)) - 32
    probe = np.exp(-((y / 3.0) ** 2) - (x / 6.0) ** 2).astype("complex64")[None]
    focus = through_focus(probe, 1e-8, 1e-9)
    assert focus.width_m[1] == pytest.approx(2 * focus.width_m[0], rel=0.03)


def test_an_empty_probe_has_no_focus() -> None:
    with pytest.raises(ValueError, match="no focus"):
        through_focus(np.zeros((1, 16, 16), "complex64"), 1e-8, 1e-9)
