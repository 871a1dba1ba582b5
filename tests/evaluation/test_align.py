import json

import numpy as np
import pytest

from ptycho.evaluation import register
from ptycho.evaluation.align import central_region

SHAPES = [(160, 200), (161, 160), (131, 177)]


def ramp(shape, cycles_y, cycles_x):
    """A periodic phase ramp that is zero at pixel (H // 2, W // 2), and its slopes in rad/px."""
    u, v = 2 * np.pi * cycles_y / shape[0], 2 * np.pi * cycles_x / shape[1]
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.exp(1j * (u * y[:, None] + v * x)), (u, v)


def relative_error(fit):
    return np.sqrt(np.sum(np.abs(fit.aligned - fit.truth) ** 2) / np.sum(np.abs(fit.truth) ** 2))


def moving_error(truth, distance):
    """Bound on the relative error of a sub-pixel move of a cut-out, for the objects of `make_object`.

    A Fourier shift interpolates with an alternating kernel, at most 1 / (pi d) at distance d. What lies
    beyond the cut, ``distance`` away or more, is replaced; the alternating sum over it is at most its first
    term over 2 cos(w / 2), w = 0.4 pi being the highest frequency. There are four borders, and the rms of
    what is cut is that of the object without its mean, to which the cut-out is faded.
    """
    variation = np.std(truth) / np.sqrt(np.mean(np.abs(truth) ** 2))
    return 4 * variation / (np.pi * distance * 2 * np.cos(0.2 * np.pi))


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_pixels_scale_and_ramp_are_undone_and_reported(make_object, shape):
    truth = make_object(shape)
    phase, slopes = ramp(shape, 3, -5)
    scale = 0.3 * np.exp(2.1j)
    recon = np.roll(truth / (scale * phase), (-7, 4), axis=(0, 1))
    fit = register(recon, truth)
    # exact up to rounding: the fit stops once a step gains less than 1e-7 of what is left
    assert relative_error(fit) < 1e-9
    np.testing.assert_allclose(fit.gauge.shift_px, (7, -4), atol=1e-9)
    np.testing.assert_allclose(fit.gauge.ramp_rad_per_px, slopes, atol=1e-9)
    assert abs(fit.gauge.scale - scale) < 1e-9
    assert fit.gauge.registered


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("move", [(0.5, 0.0), (0.3, -1.7), (-2.45, 3.5)])
def test_sub_pixel_shift_is_undone_and_reported(make_object, shift, shape, move):
    truth = make_object(shape)
    phase, slopes = ramp(shape, 1, 2)
    recon = shift(truth / phase, *move)
    fit = register(recon, truth)
    bound = moving_error(truth, 0.16 * min(shape) - 4)
    assert relative_error(fit) < bound
    # an error e of the image moves the fitted shift by at most e / |gradient| (rms), and so for the ramp
    level = np.sqrt(np.mean(np.abs(truth) ** 2))
    slope = min(np.sqrt(np.mean(np.abs(np.gradient(truth, axis=a)) ** 2)) for a in (0, 1))
    np.testing.assert_allclose(fit.gauge.shift_px, [-m for m in move], atol=bound * level / slope)
    y = np.arange(round(0.68 * min(shape)))
    np.testing.assert_allclose(fit.gauge.ramp_rad_per_px, slopes, atol=bound / np.std(y))


def test_gauge_reproduces_the_aligned_image(make_object, shift):
    """scale * ramp * moved, by the numbers in the report alone, is the image that was scored."""
    truth = make_object()
    rng = np.random.default_rng(1)
    recon = shift(make_object(seed=5, rms=0.02) * truth * (1 + 0.01 * rng.normal()), 1.3, -0.6)
    fit = register(recon, truth)
    moved = shift(recon, *fit.gauge.shift_px)
    (u, v), (y, x) = fit.gauge.ramp_rad_per_px, (np.arange(n) - n // 2 for n in truth.shape)
    whole = fit.gauge.scale * np.exp(1j * (u * y[:, None] + v * x)) * moved
    y0, x0 = fit.origin_px
    part = whole[y0 : y0 + fit.aligned.shape[0], x0 : x0 + fit.aligned.shape[1]]
    error = np.linalg.norm(part - fit.aligned) / np.linalg.norm(part)
    assert error < moving_error(truth, 0.16 * 160 - 2)


def test_origin_and_region(make_object):
    truth = make_object((131, 160))
    fit = register(truth, truth, margin=0.2)
    rows, columns = central_region(truth.shape, 0.2)
    assert (rows, columns) == (slice(26, 105), slice(32, 128))
    assert fit.origin_px == (26 + 4, 32 + 4)
    np.testing.assert_array_equal(fit.truth, truth[30:101, 36:124])


@pytest.mark.parametrize(
    "cut, moved",
    [
        (np.s_[11:-3, 5:-20], (11, 5)),
        (np.s_[26:-26, 32:-32], (26, 32)),  # the compared region and not a pixel more
    ],
)
def test_a_smaller_reconstruction_is_found_in_the_truth(make_object, cut, moved):
    truth = make_object()
    fit = register(truth[cut], truth)
    np.testing.assert_allclose(fit.gauge.shift_px, moved, atol=1e-9)
    assert relative_error(fit) < 1e-9


def test_a_larger_reconstruction_most_of_it_empty(make_object):
    """Where more than half of the image has no structure, the median of the structure is zero."""
    truth = make_object((131, 177))
    recon = np.pad(2j * truth, ((90, 113), (0, 71)))
    fit = register(recon, truth)
    np.testing.assert_allclose(fit.gauge.shift_px, (-90, 0), atol=1e-9)
    assert abs(fit.gauge.scale - 1 / 2j) < 1e-9
    assert fit.gauge.registered


def test_found_in_noise_as_strong_as_the_object(make_object):
    truth = make_object()
    rng = np.random.default_rng(2)
    noise = rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape)
    recon = np.roll(truth + 0.15 * noise / np.sqrt(2), (5, -9), axis=(0, 1))
    fit = register(recon, truth)
    assert fit.gauge.registered
    # one standard deviation is noise / (|gradient| sqrt(2 pixels)) = 0.15 / (0.044 sqrt(2 * 14700)) = 0.02 px
    np.testing.assert_allclose(fit.gauge.shift_px, (-5, 9), atol=5 * 0.02)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_registered_and_centres_are_aligned(make_object, seed):
    truth = make_object()
    rng = np.random.default_rng(seed)
    recon = rng.normal(size=(181, 211)) + 1j * rng.normal(size=(181, 211))
    gauge = register(recon, truth).gauge
    assert not gauge.registered
    # whole-pixel shift of centres (160 - 181) // 2 rounds away, then at most the reach of the fit
    np.testing.assert_allclose(gauge.shift_px, (-10, -5), atol=2)


def test_another_object_is_not_registered(make_object):
    assert not register(make_object(seed=1), make_object(seed=2)).gauge.registered


@pytest.mark.parametrize("value", [0, 1, 2 - 1j])
def test_a_flat_image_becomes_the_best_multiple_of_itself(make_object, value):
    """For a truth without any ramp, the best constant is its mean; an empty image stays empty."""
    truth = make_object()
    fit = register(np.full(truth.shape, value, complex), truth)
    assert not fit.gauge.registered
    assert fit.gauge.shift_px == (0, 0)
    residual = np.sum(np.abs(fit.truth - fit.aligned) ** 2)
    flat = np.sum(np.abs(fit.truth - (fit.truth.mean() if value else 0)) ** 2)
    assert residual <= flat * (1 + 1e-2)  # fitted on a region 4 px wider than the one compared


def test_real_images_are_taken_too(make_object):
    truth = np.abs(make_object())
    assert relative_error(register(3.0 * truth, truth)) < 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j * np.nan])
@pytest.mark.parametrize("which", ["recon", "truth"])
def test_values_that_are_not_finite_are_named(make_object, bad, which):
    images = {"recon": make_object(), "truth": make_object()}
    images[which][3, 4] = bad
    with pytest.raises(ValueError, match=f"{which} has 1 values that are NaN or infinite"):
        register(**images)


def test_shapes_that_cannot_be_compared_are_refused(make_object):
    truth = make_object()
    with pytest.raises(ValueError, match=r"recon has shape \(107, 200\), smaller than .* \(108, 136\)"):
        register(truth[:107], truth)
    with pytest.raises(ValueError, match=r"recon has shape .* expected two axes"):
        register(truth[None], truth)
    with pytest.raises(ValueError, match=r"margin is 0\.5"):
        register(truth, truth, margin=0.5)
    with pytest.raises(ValueError, match="leaves less than 16 pixels"):
        register(truth, truth, margin=0.46)


def test_gauge_is_ready_for_json(make_object):
    truth = make_object()
    plain = json.loads(json.dumps(register(truth / 2j, truth).gauge.to_dict()))
    assert plain["registered"] is True
    assert plain["scale_modulus"] == pytest.approx(2)
    assert plain["scale_phase_rad"] == pytest.approx(np.pi / 2)
