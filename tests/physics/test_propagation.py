"""The near field: a unitary pair, light that walks and spreads as it should, and where it cannot be sampled."""

import warnings

import numpy as np
import pytest
from keras import ops

from ptycho.physics.forward import Diffraction
from ptycho.physics.fourier import intensity, make_complex
from ptycho.physics.propagation import near_field, near_field_adjoint, transfer_function
from tests.helpers import EPS, assert_adjoint, assert_near, complex_normal, gradient, slope, to_numpy

KINDS = ["fresnel", "angular-spectrum"]
SIZES = [(8, 8), (9, 9), (12, 7), (33, 64)]

ROUNDINGS = 32.0
"""Two transforms of up to 11 passes, and a product: in the 2-norm."""

PHASE_EPS = EPS
"""Rounding of both parts of a transfer function, of modulus 1, to complex64: the root of two times half of that."""


def of_formula(size, distance, wavelength, kind):
    """The transfer function as the books have it, with the common phase taken out, in double precision."""
    y, x = np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])
    if kind == "fresnel":
        return np.exp(-1j * np.pi * wavelength * distance * (y**2 + x**2))
    along = np.sqrt(1 / wavelength**2 - y**2 - x**2 + 0j)
    return np.exp(2j * np.pi * distance * along) * np.exp(-2j * np.pi * distance / wavelength)


def near_reference(wave, transfer):
    """F^-1 of transfer times F, with the DFTs as the sums that define them, in double precision."""

    def matrix(n):
        return np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)

    rows, columns = matrix(wave.shape[-2]), matrix(wave.shape[-1])
    return rows.conj() @ (transfer * (rows @ wave.astype(complex) @ columns)) @ columns.conj()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("distance", [7.0, -7.0])
def test_waves_are_those_of_the_formula(kind, size, distance):
    transfer = transfer_function(size, distance, 0.5, kind)
    assert transfer.shape == size
    assert transfer.dtype == np.complex64
    formula = of_formula(size, distance, 0.5, kind)
    assert np.abs(transfer - formula).max() <= PHASE_EPS
    wave = complex_normal(np.random.default_rng(0), 3, *size)
    assert_near(near_field(wave, transfer), near_reference(wave, formula), ROUNDINGS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_the_way_back_is_inverse_and_adjoint_and_photons_are_kept(kind, size):
    rng = np.random.default_rng(1)
    x, y = complex_normal(rng, 2, *size), complex_normal(rng, 2, *size)
    transfer = transfer_function(size, 11.3, 0.4, kind)
    assert_adjoint(lambda w: near_field(w, transfer), lambda w: near_field_adjoint(w, transfer), x, y)
    assert_near(near_field_adjoint(near_field(x, transfer), transfer), x, 2 * ROUNDINGS)
    assert_near(near_field(near_field_adjoint(x, transfer), transfer), x, 2 * ROUNDINGS)
    np.testing.assert_allclose(np.linalg.norm(to_numpy(near_field(x, transfer))), np.linalg.norm(x), rtol=16 * EPS)


def test_the_adjoint_is_that_of_evanescent_waves_too():
    rng = np.random.default_rng(2)
    transfer = transfer_function((16, 15), 0.3, 2.5)
    x, y = complex_normal(rng, 16, 15), complex_normal(rng, 16, 15)
    assert_adjoint(lambda w: near_field(w, transfer), lambda w: near_field_adjoint(w, transfer), x, y)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_add_up_and_none_changes_nothing(kind):
    size, wavelength = (24, 31), 0.6
    wave = complex_normal(np.random.default_rng(3), *size)
    one, two, both, back = (transfer_function(size, z, wavelength, kind) for z in (9.0, 13.5, 22.5, -9.0))
    assert_near(near_field(near_field(wave, one), two), to_numpy(near_field(wave, both)), 3 * ROUNDINGS)
    np.testing.assert_array_equal(back, one.conj())
    nowhere = transfer_function(size, 0.0, wavelength, kind)
    np.testing.assert_array_equal(nowhere, 1)
    assert_near(near_field(wave, nowhere), wave, ROUNDINGS)


def test_a_gaussian_beam_spreads_and_curves():
    """exp(-r^2 / w^2) becomes exp(-r^2 / (w^2 q)) / q, with q = 1 + i z / z_R and z_R = pi w^2 / lambda (Goodman).

    At z = z_R its amplitude is exp(-(n/2)^2 / (2 w^2)) = 1e-14 at the edge of the frame and exp(-(pi w / 2)^2) = 1e-17
    at the highest frequency, so that neither periods nor pixels matter. Off the middle, in a frame that is not square.
    """
    waist, wavelength = 4.0, 0.2
    rayleigh = np.pi * waist**2 / wavelength
    y, x = np.mgrid[:70, :66]
    squared = (y - 34) ** 2 + (x - 33.25) ** 2
    wave = np.exp(-squared / waist**2).astype("complex64")
    for part in (0.5, 1.0):
        q = 1 + 1j * part
        after = to_numpy(near_field(wave, transfer_function((70, 66), part * rayleigh, wavelength, "fresnel")))
        assert_near(after, np.exp(-squared / waist**2 / q) / q, ROUNDINGS)
        light = np.abs(after.astype(complex)) ** 2
        width = np.sqrt((light * squared).sum() / light.sum() * 2)  # exp(-2 r^2 / w^2) has the mean r^2 of w^2 / 2
        assert width == pytest.approx(waist * np.sqrt(1 + part**2), rel=ROUNDINGS * EPS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tilted_wave_takes_the_phase_of_its_angle(kind):
    """Of a plane wave at the angle whose sine is lambda f only the phase changes, by 2 pi z (cos - 1) / lambda."""
    n, m, order, distance, wavelength = 16, 21, (3, -5), 8.0, 0.9
    f = np.array(order) / (n, m)
    y, x = np.mgrid[:n, :m]
    wave = np.exp(2j * np.pi * (f[0] * y + f[1] * x)).astype("complex64")
    sine_squared = wavelength**2 * (f @ f)
    fall = {"fresnel": -sine_squared / 2, "angular-spectrum": np.sqrt(1 - sine_squared) - 1}[kind]
    after = near_field(wave, transfer_function((n, m), distance, wavelength, kind))
    assert_near(after, wave * np.exp(2j * np.pi * distance * fall / wavelength), ROUNDINGS)


@pytest.mark.parametrize("kind", KINDS)
def test_light_whose_phase_grows_towards_larger_indices_walks_there(kind):
    """By z tan(angle): for Fresnel exactly lambda z f on average.

    The spot of 6 px spreads over 1 / (2 pi 6) = 0.03 cycles per pixel, over which the exact tangent bends: its third
    derivative, 3 lambda^3 f at most, times half the variance gives less than 0.02 px.
    """
    wavelength, distance, f = 0.5, 60.0, np.array([0.125, -0.25])
    y, x = np.mgrid[:96, :80] * 1.0
    spot = np.exp(-((y - 45) ** 2 + (x - 42) ** 2) / 144 + 2j * np.pi * (f[0] * y + f[1] * x))
    light = intensity(near_field(spot.astype("complex64"), transfer_function((96, 80), distance, wavelength, kind)))
    light = to_numpy(light).astype(float)
    centre = np.array([(light * y).sum(), (light * x).sum()]) / light.sum()
    tangent = f / {"fresnel": 1 / wavelength, "angular-spectrum": np.sqrt(wavelength**-2 - f @ f)}[kind]
    np.testing.assert_allclose(centre - (45, 42), distance * tangent, atol=0.02 if kind != "fresnel" else 1e-3)
    assert np.abs(distance * tangent).min() > 3


def test_both_kinds_agree_for_small_angles():
    """sqrt(1 - s) = 1 - s/2 - s^2/8 - ... with s = (lambda f)^2: they part by pi z lambda^3 f^4 / 4 at first, and by
    less than that over 1 - s in all."""
    size = (40, 33)
    f_squared = np.fft.fftfreq(40)[:, None] ** 2 + np.fft.fftfreq(33) ** 2
    for distance, wavelength in ((300.0, 0.1), (25.0, 0.9)):
        fresnel, exact = (transfer_function(size, distance, wavelength, kind) for kind in KINDS)
        bound = np.pi / 4 * distance * wavelength**3 * f_squared**2 / (1 - wavelength**2 * f_squared)
        difference = np.abs(fresnel - exact)
        assert np.all(difference <= bound + 2 * PHASE_EPS)
        # Where the phases differ by less than 1, the chord is over 0.95 of the first term.
        small = bound < 1
        assert np.all(difference[small] >= 0.95 * (bound * (1 - wavelength**2 * f_squared))[small] - 2 * PHASE_EPS)
        assert small.sum() > 900


def test_evanescent_waves_decay_forwards_and_back():
    size, wavelength = (16, 15), 2.5
    f_squared = np.fft.fftfreq(16)[:, None] ** 2 + np.fft.fftfreq(15) ** 2
    dark = f_squared > 1 / wavelength**2
    assert 20 < dark.sum() < 220
    ahead, back = (transfer_function(size, z, wavelength) for z in (0.3, -0.3))
    for transfer in (ahead, back):
        np.testing.assert_allclose(np.abs(transfer[~dark]), 1, atol=PHASE_EPS)
        decay = np.exp(-2 * np.pi * 0.3 * np.sqrt(f_squared[dark] - 1 / wavelength**2))
        np.testing.assert_allclose(np.abs(transfer[dark]), decay, atol=PHASE_EPS)


@pytest.mark.parametrize(("size", "limit"), [((64, 64), 64), ((64, 32), 32), ((32, 64), 32)])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_undersampled_transfer_function_is_said(size, limit, sign):
    """Where lambda z exceeds the smaller side; the exact tangent is larger, so that it is said a little earlier."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transfer_function(size, sign * 0.99 * limit / 0.1, 0.1, "fresnel")
        transfer_function(size, sign * 0.99 * limit / 0.1, 0.1, "angular-spectrum")
    for kind in KINDS:
        with pytest.warns(UserWarning, match=rf"undersampled.*half of a frame of {limit}"):
            transfer_function(size, sign * 1.01 * limit / 0.1, 0.1, kind)


def test_the_warning_is_about_steps_of_the_phase():
    """Between the two highest frequencies along each axis: pi less what the phase bends over half a step."""
    n, wavelength = 32, 0.1
    row = np.unwrap(np.angle(of_formula((n, n), n / wavelength, wavelength, "fresnel")[0, : n // 2 + 1]))
    assert abs(row[-1] - row[-2]) == pytest.approx(np.pi * (1 - 1 / n))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1.0, 0.1, "fraunhofer"), r"kind is 'fraunhofer'"),
        ((1.0, 0.0, "fresnel"), r"wavelength_px is 0"),
        ((1.0, np.nan, "fresnel"), r"wavelength_px is nan"),
        ((np.inf, 0.1, "fresnel"), r"distance_px is inf"),
    ],
)
def test_impossible_values_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        transfer_function((8, 8), *arguments)


def expected_counts(patches, probe, transfer):
    return Diffraction((ops.convert_to_tensor(patches),), ops.convert_to_tensor(probe), transfer).expected


@pytest.mark.parametrize("n", [16, 17])
def test_the_shadow_of_an_object_is_where_the_object_is(n):
    """Neither flipped nor shifted: right behind it, the counts are the light that passed each pixel; further away a
    hole is still brightest straight behind it."""
    rng = np.random.default_rng(5)
    patch, probe = complex_normal(rng, n, n), complex_normal(rng, 1, n, n)
    counts = expected_counts(patch, probe, transfer_function((n, n), 0.0, 0.5))
    assert_near(counts, np.abs(patch.astype(complex) * probe[0]) ** 2, 128)
    hole = np.zeros((n, n), "complex64")
    hole[3:6, 10:13] = 1
    counts = to_numpy(expected_counts(hole, np.ones((1, n, n), "complex64"), transfer_function((n, n), 4.0, 0.5)))
    assert np.unravel_index(np.argmax(counts), counts.shape) == (4, 11)
    assert counts.max() > 1.5  # light has moved: it is not the object itself


@pytest.mark.parametrize("of", ["patch", "probe"])
def test_gradient_matches_finite_differences(of):
    rng = np.random.default_rng(6)
    patch, probe, weight = complex_normal(rng, 7, 7), complex_normal(rng, 2, 7, 7), rng.uniform(0, 1, (7, 7))
    transfer = transfer_function((7, 7), 6.0, 0.8)
    weight, point = weight.astype("float32"), patch if of == "patch" else probe

    def pair(z):
        return (z, probe) if of == "patch" else (patch, z)

    def loss(re, im):
        return ops.sum(ops.multiply(weight, ops.square(expected_counts(*pair(make_complex(re, im)), transfer))))

    def reference(parts):
        o, modes = pair(parts[0] + 1j * parts[1])
        return float(np.sum(weight * sum(np.abs(near_reference(o * mode, transfer)) ** 2 for mode in modes) ** 2))

    grad = np.stack(gradient(loss, point.real.copy(), point.imag.copy())).astype(float)
    parts = np.stack([point.real, point.imag])
    for _ in range(3):
        direction = rng.normal(size=parts.shape)
        direction /= np.linalg.norm(direction)
        expected = slope(reference, parts, direction, 1e-4)
        np.testing.assert_allclose(np.sum(grad * direction), expected, atol=256 * EPS * np.linalg.norm(grad))


def test_the_gradient_of_an_opaque_object_is_zero_and_finite():
    probe, zero = complex_normal(np.random.default_rng(7), 2, 8, 8), np.zeros((8, 8), "float32")
    transfer = transfer_function((8, 8), 6.0, 0.8)
    grads = gradient(lambda re, im: ops.sum(expected_counts(make_complex(re, im), probe, transfer)), zero, zero)
    np.testing.assert_array_equal(grads, 0)
