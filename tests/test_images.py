"""Pictures for people: without phase ramp, small, inlined, and described in words."""

import base64
import io
import re

import numpy as np
import pytest
from matplotlib import image as images

from ptycho import Object
from ptycho.data.reconstruction import Reconstruction
from ptycho.images import (
    amplitude_and_phase,
    binned,
    colour_map,
    contrast_limits,
    displayed_object,
    illuminated_region,
    length_text,
    ramp_removed,
)


@pytest.mark.parametrize("shape", [(60, 91), (128, 128)])
def test_ramp_and_phase_are_taken_out(shape):
    """Of a weak object the spectrum peaks at the background: found to 1/32 of a Fourier pixel, the step of the ramp
    that is left over is pi / 16 over the image at most, along each axis."""
    rng = np.random.default_rng(0)
    weak = 1 + 0.1 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    y, x = np.indices(shape)
    slope = 2 * np.pi * np.array([3.37 / shape[0], -5.81 / shape[1]])
    flat = ramp_removed(weak * np.exp(1j * (slope[0] * y + slope[1] * x + 2.0)))
    np.testing.assert_allclose(np.abs(flat), np.abs(weak), rtol=1e-12)
    assert np.angle(flat.sum()) == pytest.approx(0, abs=1e-12)
    # Noise moves the peak by far less than the steps it is sought in.
    left = flat / weak
    for step, n in ((left[1:] / left[:-1], shape[0]), (left[:, 1:] / left[:, :-1], shape[1])):
        assert np.abs(np.angle(step)).max() * n <= np.pi / 16 * 1.05


def pictures(page: str) -> list[np.ndarray]:
    return [
        images.imread(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]


def test_scan_result_and_object_are_pictures_in_a_notebook(small_scan):
    result = Reconstruction(
        object=small_scan.object,
        probe=small_scan.probe,
        positions_px=small_scan.positions,
        coverage=np.ones(small_scan.object.shape, "float32"),
        used=144,
        dropped=0,
    )
    for shown in (small_scan, result, Object(small_scan.object, 12.5e-9)):
        page = shown._repr_html_()
        assert len(page) < 300_000
        assert repr(shown).replace("'", "&#x27;") in page
        (picture,) = pictures(page)
        assert picture.shape[1] > 400 and picture[..., :3].std() > 0.1
        alt = re.findall(r'alt="([^"]+)"', page)
        assert len(alt) == 1 and len(alt[0]) > 20
    assert (
        repr(result)
        == f"Reconstruction({' x '.join(map(str, result.object.shape))} pixels of 144 frames, 0 dropped, 1 probe mode)"
    )
    assert repr(Object(np.ones((3, 4)), 12.5e-9)) == "Object(3 x 4 pixels of 12.5 nm)"


def test_an_object_is_an_array_of_its_values(small_scan):
    np.testing.assert_array_equal(np.asarray(Object(small_scan.object)), small_scan.object)
    with pytest.raises(ValueError, match="expected"):
        Object(small_scan.probe)


def test_a_large_object_becomes_a_small_picture():
    rng = np.random.default_rng(0)
    assert len(Object(np.exp(1j * rng.normal(size=(2000, 1500))))._repr_html_()) < 400_000
    assert binned(np.ones((2000, 1500)), 256)[0].shape == (250, 187)


def test_corners_that_no_light_fell_on_do_not_decide_the_contrast():
    """A rotated scan: what a fit left in the corners of its box was drawn from black to white, the sample in gray."""
    y, x = np.mgrid[:64, :64] - 32
    coverage = np.where(abs(y) + abs(x) < 32, 1.0, 0.02).astype("float32")
    rng = np.random.default_rng(0)
    image = np.exp(0.05j * rng.normal(size=(64, 64)))
    left = np.where(coverage > 0.1, image, 3 * np.exp(2j * rng.normal(size=(64, 64)))).astype("complex64")
    shown = displayed_object(left, coverage)
    corners = coverage[illuminated_region(coverage)] < 0.1
    np.testing.assert_array_equal(shown[corners], shown[corners][0])
    low, high = contrast_limits(np.angle(shown))
    # 0.5 and 99.5 %: 2.6 sigma of a normal phase of 0.05 rad
    assert -0.2 < low < -0.05 < 0.05 < high < 0.2


@pytest.mark.parametrize(
    ("metres", "text"), [(2.3456e-11, "0.2346 A"), (4e-10, "4 A"), (6e-10, "0.6 nm"), (1.25e-8, "12.5 nm")]
)
def test_small_lengths_are_in_angstrom(metres, text):
    assert length_text(metres) == text


def test_the_axes_of_a_figure_are_lengths_where_the_pixel_is_known():
    """20 pixels of 0.5 nm: the first and the last are centred on 0 and 9.5 nm."""
    from matplotlib.figure import Figure

    from ptycho.output.figures import _image_panel

    for pixel_size_m, unit, end in ((5e-10, "nm", 9.5), (None, "px", 19)):
        axes = Figure().subplots()
        _image_panel(axes, np.zeros((20, 20)), "phase", "gray", (0, 1), pixel_size_m)
        left, right, bottom, top = axes.images[0].get_extent()
        half = (right - left) / 40
        assert (left + half, right - half) == pytest.approx((0, end))
        assert (top + half, bottom - half) == pytest.approx((0, end))
        assert axes.get_xlabel() == f"x ({unit})"


def test_the_phase_of_a_thick_sample_does_not_wind():
    """Three slices of 2 rad each: 6 rad in all, not 6 - 2 pi; the colours need not be cyclic then."""
    column = np.zeros((16, 16))
    column[6:9, 6:9] = 2.0
    slices = np.exp(1j * np.stack([column] * 3))
    phase = amplitude_and_phase(slices.prod(axis=0), slices)["phase (rad)"]
    assert phase.max() == pytest.approx(6.0)
    assert colour_map("phase (rad)", 0.0, 6.0) == "gray"
    assert colour_map("phase (rad)", -3.1, 3.1) == "twilight"
