import numpy as np
import pytest
from keras import ops

from ptycho.physics.diffraction import (
    data_residual,
    exit_waves,
    expected_counts,
    illumination,
    lift,
    mode_intensities_sum,
    regularised_division,
)
from ptycho.physics.fourier import far_field, inverse_far_field, make_complex
from ptycho.physics.noise import amplitude_error, poisson_nll
from tests.helpers import (
    EPS,
    assert_adjoint,
    assert_near,
    complex_normal,
    dft_reference,
    gradient,
    slope,
    to_numpy,
)

N_SIZES = [8, 9]
DARK = 1e-3  # photons, the level at which `data_residual` takes a pixel for dark


def counts_reference(patches: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """sum_m |F(P_m O)|^2 with one explicit DFT for each mode, in double precision."""
    waves = [np.abs(dft_reference(patches * mode)) ** 2 for mode in np.moveaxis(probe, -3, 0)]
    return np.sum(waves, axis=0)


def smooth_probe(n: int, photons: float, modes: int = 1) -> np.ndarray:
    """A defocused Gaussian, and modes with one more node each."""
    y, x = np.mgrid[:n, :n] - n // 2
    r2 = x**2 + 0.8 * y**2
    envelope = np.exp(-r2 / (n / 5) ** 2 + 0.2j * r2 / n)
    probe = np.stack([envelope * (x / n) ** m * 0.5**m for m in range(modes)])
    return (probe * np.sqrt(photons / np.sum(np.abs(probe) ** 2))).astype("complex64")


@pytest.mark.parametrize("n", N_SIZES)
@pytest.mark.parametrize("modes", [1, 3])
def test_expected_counts_match_the_sum_over_modes(n, modes):
    rng = np.random.default_rng(0)
    patches, probe = complex_normal(rng, 5, n, n), complex_normal(rng, modes, n, n)
    assert_near(expected_counts(patches, probe), counts_reference(patches, probe), 128)


def test_each_frame_may_have_its_own_probe():
    rng = np.random.default_rng(1)
    patches, probes = complex_normal(rng, 4, 8, 8), complex_normal(rng, 4, 2, 8, 8)
    counts = to_numpy(expected_counts(patches, probes))
    for i in range(4):
        assert_near(counts[i], counts_reference(patches[i], probes[i]), 128)


@pytest.mark.parametrize("n", N_SIZES)
def test_an_empty_sample_scatters_all_photons_of_the_probe(n):
    probe = complex_normal(np.random.default_rng(2), 3, n, n)
    total = to_numpy(expected_counts(np.ones((n, n), "complex64"), probe)).astype(float).sum()
    np.testing.assert_allclose(total, np.sum(np.abs(probe.astype(complex)) ** 2), rtol=64 * EPS)


def test_counts_ignore_the_global_phase_but_not_a_conjugate():
    rng = np.random.default_rng(3)
    patch, probe = complex_normal(rng, 8, 8), complex_normal(rng, 2, 8, 8)
    counts = to_numpy(expected_counts(patch, probe))
    assert_near(expected_counts((patch * np.exp(0.7j)).astype("complex64"), probe), counts, 128)
    assert np.abs(to_numpy(expected_counts(patch.conj(), probe)) - counts).max() > 0.1 * counts.max()


@pytest.mark.parametrize("batch", [1, 15, 16, 17, 64])
@pytest.mark.parametrize("function", ["expected_counts", "lift", "data_residual"])
def test_a_frame_does_not_depend_on_the_rest_of_its_batch(batch, function):
    """Up to rounding: a library may take the transforms of a batch in another order."""
    rng = np.random.default_rng(4)
    patches, probe = complex_normal(rng, batch, 8, 8), complex_normal(rng, 2, 8, 8)
    counts = rng.uniform(1, 100, (batch, 8, 8)).astype("float32")
    evaluate = {
        "expected_counts": lambda i: to_numpy(expected_counts(patches[i], probe)),
        "lift": lambda i: to_numpy(lift(counts[i], probe)),
        "data_residual": lambda i: to_numpy(data_residual(patches[i], counts[i], probe)),
    }[function]
    together = evaluate(slice(None))
    assert together.shape == (batch, 8, 8)
    for i in range(batch):
        assert_near(evaluate(slice(i, i + 1))[0], together[i], 64)


@pytest.mark.parametrize("n", N_SIZES)
def test_the_linear_part_of_the_model_and_its_adjoint(n):
    """o -> F(P o) for all modes; the adjoint has conj(P), which only a complex probe can tell."""
    rng = np.random.default_rng(5)
    probe = complex_normal(rng, 3, n, n)

    def forward(o):
        return far_field(exit_waves(o, probe))

    def adjoint(w):
        return ops.sum(ops.multiply(ops.conj(probe), inverse_far_field(w)), axis=-3)

    assert_adjoint(forward, adjoint, complex_normal(rng, 4, n, n), complex_normal(rng, 4, 3, n, n), 128)


def test_regularised_division_undoes_the_probe_where_there_is_light():
    probe = complex_normal(np.random.default_rng(6), 3, 8, 8)
    light = np.sum(np.abs(probe.astype(complex)) ** 2, axis=0)
    assert_near(illumination(probe), light, 16)
    back = to_numpy(ops.sum(ops.multiply(regularised_division(probe, 0.02), probe), axis=-3))
    assert_near(back, light / (light + 0.02 * light.max()), 16)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("modes", [1, 2])
def test_lift_of_an_empty_sample_is_one_where_the_probe_is_bright(n, modes):
    """It is |P|^2 / (|P|^2 + epsilon max), but for dark pixels.

    A pixel of level L with the guard t = 1e-6 max L loses the amplitude sqrt(L) - L / sqrt(L + t); the 2-norm
    of that loss, over |P|, bounds the change of the lift.
    """
    probe = smooth_probe(n, 1e4, modes)
    empty = np.ones((n, n), "complex64")
    counts = to_numpy(expected_counts(empty, probe))
    light = np.sum(np.abs(probe.astype(complex)) ** 2, axis=0)
    bright = light > 0.5 * light.max()
    lifted = to_numpy(lift(counts, probe))
    level, guard = counts_reference(empty, probe), 1e-6 * counts.max()
    bound = np.linalg.norm(np.sqrt(level) - level / np.sqrt(level + guard)) / np.sqrt(0.5 * light.max())
    assert bound < 0.05
    np.testing.assert_allclose(lifted[bright], (light / (light + 0.02 * light.max()))[bright], atol=bound)
    assert np.abs(lifted[bright] - 1).max() < 0.04 + bound


@pytest.mark.parametrize("k", [1e-4, 1e4])
def test_more_light_leaves_the_lift_as_it_is(k):
    """Counts x k and probe x sqrt(k): the object is the same."""
    rng = np.random.default_rng(7)
    probe = complex_normal(rng, 2, 9, 9)
    counts = rng.uniform(0, 50, (3, 9, 9)).astype("float32")
    once = to_numpy(lift(counts, probe))
    assert_near(lift(counts * np.float32(k), probe * np.float32(np.sqrt(k))), once, 128)
    # And more counts alone are a more transparent object.
    assert_near(lift(counts * np.float32(4), probe), 2 * once, 128)


def test_masked_pixels_do_not_matter():
    rng = np.random.default_rng(8)
    patches, probe = complex_normal(rng, 2, 8, 8), complex_normal(rng, 2, 8, 8)
    mask = (rng.uniform(size=(8, 8)) > 0.3).astype("float32")
    counts = rng.uniform(1, 50, (2, 8, 8)).astype("float32")
    spoilt = np.where(mask > 0, counts, np.float32(65535))
    for function in (lambda c: lift(c, probe, mask), lambda c: data_residual(patches, c, probe, mask)):
        np.testing.assert_array_equal(to_numpy(function(spoilt)), to_numpy(function(counts)))
    ones = np.ones((8, 8), "float32")
    assert_near(lift(counts, probe, ones), to_numpy(lift(counts, probe)), 4)
    unmasked = to_numpy(data_residual(patches, counts, probe))
    assert_near(data_residual(patches, counts, probe, ones), unmasked, 4)
    assert np.abs(to_numpy(data_residual(patches, spoilt, probe)) - unmasked).max() > 0.1


def test_no_count_in_an_unmasked_pixel_is_not_a_masked_pixel():
    """A mask of zeros lifts to an empty sample, counts of zero to a black one."""
    probe = smooth_probe(16, 1e4)
    zero = np.zeros((16, 16), "float32")
    np.testing.assert_array_equal(to_numpy(lift(zero, probe)), 0)
    light = np.abs(probe[0].astype(complex)) ** 2
    assert_near(lift(zero, probe, zero), light / (light + 0.02 * light.max()), 128)


@pytest.mark.parametrize("n", N_SIZES)
def test_perfect_data_ask_for_no_change(n):
    """But for the guard d: sqrt(e) - e / sqrt(e + d) <= 0.31 sqrt(d) a pixel, over the probe."""
    rng = np.random.default_rng(9)
    patches, probe = complex_normal(rng, 3, n, n), complex_normal(rng, 2, n, n) * np.float32(1e3)
    residual = to_numpy(data_residual(patches, to_numpy(expected_counts(patches, probe)), probe))
    light = np.sum(np.abs(probe) ** 2, axis=0)
    gain = np.max(np.sqrt(light) / (light + 0.02 * light.max()))
    rounding = 128 * EPS * np.linalg.norm(patches[0]) * np.sqrt(light.max()) * gain
    bound = 0.31 * np.sqrt(DARK) * n * gain + rounding
    assert bound < 1e-2
    assert np.all(np.linalg.norm(residual, axis=(-2, -1)) <= bound)


@pytest.mark.parametrize("n", N_SIZES)
def test_residual_is_the_steepest_descent_of_the_amplitude_error(n):
    """residual (|P|^2 + epsilon max) = -gradient of 1/2 sum (sqrt(expected + dark) - sqrt(counts))^2."""
    rng = np.random.default_rng(10)
    patches, probe = complex_normal(rng, 3, n, n), complex_normal(rng, 2, n, n)
    counts = rng.uniform(0, 50, (3, n, n)).astype("float32")

    def half_squared_error(re, im):
        amplitude = ops.sqrt(expected_counts(make_complex(re, im), probe) + DARK)
        return 0.5 * ops.sum(ops.square(ops.subtract(amplitude, np.sqrt(counts))))

    real, imag = gradient(half_squared_error, patches.real.copy(), patches.imag.copy())
    light = np.sum(np.abs(probe.astype(complex)) ** 2, axis=0)
    descent = to_numpy(data_residual(patches, counts, probe)) * (light + 0.02 * light.max())
    assert_near(descent, -(real + 1j * imag), 512)


@pytest.mark.parametrize("n", N_SIZES)
def test_a_step_along_the_residual_lowers_the_error(n):
    rng = np.random.default_rng(11)
    truth, guess = complex_normal(rng, n, n), complex_normal(rng, n, n)
    probe = complex_normal(rng, 1, n, n) * np.float32(30)
    counts = to_numpy(expected_counts(truth, probe))

    def error(o):
        return float(np.sum(to_numpy(amplitude_error(counts, to_numpy(expected_counts(o, probe)))) ** 2))

    assert error(guess + to_numpy(data_residual(guess, counts, probe))) < error(guess)


@pytest.mark.parametrize("of", ["patch", "probe"])
def test_gradient_of_the_likelihood_matches_finite_differences(of):
    rng = np.random.default_rng(12)
    patch, probe = complex_normal(rng, 7, 7), complex_normal(rng, 2, 7, 7)
    counts = rng.poisson(10, (7, 7)).astype("float32")
    point = patch if of == "patch" else probe

    def pair(z):
        return (z, probe) if of == "patch" else (patch, z)

    def loss(re, im):
        return ops.sum(poisson_nll(counts, expected_counts(*pair(make_complex(re, im)))))

    def reference(parts):
        expected = counts_reference(*pair(parts[0] + 1j * parts[1]))
        return float(np.sum(expected - counts * np.log(expected + 1e-2)))

    grad = np.stack(gradient(loss, point.real.copy(), point.imag.copy())).astype(float)
    parts = np.stack([point.real, point.imag])
    for _ in range(3):
        direction = rng.normal(size=parts.shape)
        direction /= np.linalg.norm(direction)
        # 1 / expected amplifies the rounding of dim pixels; their share of the gradient is small: 1e3 in all.
        # Central differences in double precision are exact to 1e-8 of the third derivative.
        expected = slope(reference, parts, direction, 1e-5)
        np.testing.assert_allclose(np.sum(grad * direction), expected, atol=1e3 * EPS * np.linalg.norm(grad))


@pytest.mark.parametrize("loss", [poisson_nll, amplitude_error])
def test_gradients_are_finite_for_an_opaque_object(loss):
    """At zero amplitude everywhere: the expected counts are zero, and quadratic around it: the slope is 0."""
    probe = complex_normal(np.random.default_rng(13), 2, 8, 8)
    counts, zero = np.full((8, 8), 7, "float32"), np.zeros((8, 8), "float32")
    grads = gradient(lambda re, im: ops.sum(loss(counts, expected_counts(make_complex(re, im), probe))), zero, zero)
    np.testing.assert_array_equal(grads, 0)


@pytest.mark.parametrize("zero_counts", [True, False])
def test_lift_and_residual_have_finite_gradients_in_the_probe_and_patch_where_nothing_was_counted(
    zero_counts,
):
    rng = np.random.default_rng(14)
    probe, patch = complex_normal(rng, 1, 8, 8), complex_normal(rng, 8, 8)
    counts = np.zeros((8, 8), "float32") if zero_counts else rng.poisson(1, (8, 8)).astype("float32")

    def size(z):
        return ops.sum(ops.square(ops.real(z)) + ops.square(ops.imag(z)))

    def by_probe(re, im):
        p = make_complex(re, im)
        return size(lift(counts, p)) + size(data_residual(patch, counts, p))

    def by_patch(re, im):
        return size(data_residual(make_complex(re, im), counts, probe))

    for function, point in ((by_probe, probe), (by_patch, patch), (by_patch, np.zeros_like(patch))):
        grads = gradient(function, point.real.copy(), point.imag.copy())
        assert np.isfinite(grads).all()


def test_modes_add_up_without_interference():
    waves = complex_normal(np.random.default_rng(15), 2, 3, 8, 8)
    expected = np.sum(np.abs(waves.astype(complex)) ** 2, axis=-3)
    assert_near(mode_intensities_sum(waves), expected, 16)
    flipped = waves * np.array([1, -1, 1j], "complex64")[:, None, None]
    assert_near(mode_intensities_sum(flipped), expected, 16)
