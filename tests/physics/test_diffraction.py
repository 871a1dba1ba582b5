import keras
import numpy as np
import pytest
from keras import ops

from ptycho.physics.diffraction import (
    DARK,
    descent,
    exit_waves,
    expected_counts,
    illumination,
    mode_intensities_sum,
    probe_descent,
)
from ptycho.physics.fourier import far_field, inverse_far_field, make_complex
from ptycho.physics.noise import ROOT_ERROR, amplitude_error, expected_root, poisson_nll
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
ONES = np.ones((8, 8), "float32")


def counts_reference(patches: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """sum_m |F(P_m O)|^2 with one explicit DFT for each mode, in double precision."""
    waves = [np.abs(dft_reference(patches * mode)) ** 2 for mode in np.moveaxis(probe, -3, 0)]
    return np.sum(waves, axis=0)


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
@pytest.mark.parametrize("function", ["expected_counts", "descent"])
def test_a_frame_does_not_depend_on_the_rest_of_its_batch(batch, function):
    """Up to rounding: a library may take the transforms of a batch in another order."""
    rng = np.random.default_rng(4)
    patches, probe = complex_normal(rng, batch, 8, 8), complex_normal(rng, 2, 8, 8)
    roots = rng.uniform(1, 10, (batch, 8, 8)).astype("float32")
    evaluate = {
        "expected_counts": lambda i: to_numpy(expected_counts(patches[i], probe)),
        "descent": lambda i: to_numpy(descent(patches[i], roots[i], probe, ONES)),
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


def test_illumination_is_the_light_of_all_modes():
    probe = complex_normal(np.random.default_rng(6), 3, 8, 8)
    assert_near(illumination(probe), np.sum(np.abs(probe.astype(complex)) ** 2, axis=0), 16)


def descent_reference(patches, roots, probe, mask, level):
    """As documented, mode by mode in double precision and with centred arrays; ``level`` is E sqrt(k)."""
    roots, mask = np.fft.fftshift(roots, axes=(-2, -1)), np.fft.fftshift(mask)
    total = 0
    expected = counts_reference(patches, probe)
    for mode in probe:
        wave = dft_reference(patches * mode)
        change = mask * (roots - level(expected)) / np.sqrt(expected + DARK) * wave
        total = total + mode.conj() * dft_reference(change.conj()).conj()  # the inverse of a symmetric unitary matrix
    return total


@pytest.mark.parametrize("n", N_SIZES)
@pytest.mark.parametrize("modes", [1, 3])
def test_descent_matches_the_sum_over_modes(n, modes):
    rng = np.random.default_rng(7)
    patches, probe = complex_normal(rng, 4, n, n), complex_normal(rng, modes, n, n)
    roots = rng.uniform(0, 9, (4, n, n)).astype("float32")
    mask = (rng.uniform(size=(n, n)) > 0.3).astype("float32")
    level = lambda e: to_numpy(expected_root(e.astype("float32")))
    # 1 / sqrt(expected + DARK) amplifies the rounding of a dim wave by 3 at most.
    reference = descent_reference(patches, roots, probe, mask, level)
    assert_near(descent(patches, roots, probe, mask), reference, 3 * 128)


@pytest.mark.parametrize("n", N_SIZES)
def test_descent_of_the_probe_is_that_of_the_object_with_the_roles_exchanged(n):
    """Exit waves do not know which of their two factors is the probe."""
    rng = np.random.default_rng(17)
    patches, probe = complex_normal(rng, 4, n, n), complex_normal(rng, 1, n, n)
    roots = rng.uniform(0, 9, (4, n, n)).astype("float32")
    mask = (rng.uniform(size=(n, n)) > 0.3).astype("float32")
    found = probe_descent(patches, roots, probe, mask)
    for k in range(4):
        exchanged = descent(probe, roots[k : k + 1], patches[k : k + 1], mask)
        assert_near(found[k], to_numpy(exchanged), 3 * 128)


def test_descent_of_each_mode_is_its_share():
    """Modes share one excess: with an empty object, that of mode m is F^-1 of the excess times its wave."""
    rng = np.random.default_rng(18)
    probe, roots = complex_normal(rng, 3, 8, 8), rng.uniform(0, 9, (1, 8, 8)).astype("float32")
    mask, empty = np.ones((8, 8), "float32"), np.ones((1, 8, 8), "complex64")
    found = to_numpy(probe_descent(empty, roots, probe, mask, keras.ops.sqrt))[0]
    centred = np.fft.fftshift(roots[0])
    expected = counts_reference(empty, probe)[0]
    for mode, change in zip(probe, found, strict=True):
        wave = (centred - np.sqrt(expected)) / np.sqrt(expected + DARK) * dft_reference(mode)
        assert_near(change, dft_reference(wave.conj()).conj(), 3 * 128)


def test_masked_pixels_do_not_matter():
    rng = np.random.default_rng(8)
    patches, probe = complex_normal(rng, 2, 8, 8), complex_normal(rng, 2, 8, 8)
    mask = (rng.uniform(size=(8, 8)) > 0.3).astype("float32")
    roots = rng.uniform(1, 7, (2, 8, 8)).astype("float32")
    spoilt = np.where(mask > 0, roots, np.float32(256))
    clean = to_numpy(descent(patches, roots, probe, mask))
    np.testing.assert_array_equal(to_numpy(descent(patches, spoilt, probe, mask)), clean)
    unmasked = to_numpy(descent(patches, roots, probe, ONES))
    assert np.abs(to_numpy(descent(patches, spoilt, probe, ONES)) - unmasked).max() > 1
    assert np.abs(clean - unmasked).max() > 0.1
    np.testing.assert_array_equal(to_numpy(descent(patches, roots, probe, 0 * ONES)), 0)


def most_between_roots() -> float:
    """Most by which the root of a mean exceeds the mean root, in sqrt(photons)."""
    means = np.logspace(-6, 6, 10_000, dtype="float32")
    return float(np.max(np.sqrt(means) - to_numpy(expected_root(means))))


@pytest.mark.parametrize("n", N_SIZES)
def test_perfect_data_of_many_photons_ask_for_nearly_no_change(n):
    """Without noise, the root of the mean stays over the mean root, in each pixel by less than 0.3 sqrt(photons).

    The transform keeps the norm, and the probe takes part in it once: sqrt(light) less than that over the light.
    """
    rng = np.random.default_rng(9)
    patches, probe = complex_normal(rng, 3, n, n), complex_normal(rng, 2, n, n) * np.float32(1e3)
    roots = np.sqrt(np.fft.ifftshift(to_numpy(expected_counts(patches, probe)), axes=(-2, -1)))
    change = to_numpy(descent(patches, roots, probe, np.ones((n, n), "float32")))
    brightest = np.sum(np.abs(probe) ** 2, axis=0).max()
    rounding = 128 * EPS * np.linalg.norm(patches, axis=(-2, -1)).max()
    bound = most_between_roots() * n / np.sqrt(brightest) + rounding
    assert bound < 2e-3
    assert np.all(np.linalg.norm(change, axis=(-2, -1)) / brightest <= bound)


@pytest.mark.parametrize("modes", [1, 2])
def test_the_true_object_asks_for_no_change_on_average_with_few_photons_too(modes):
    """0.3 photons a pixel: the mean of many draws is zero to its standard error and what `expected_root` is off.

    A root that is off by a part `ROOT_ERROR` of itself is off by that in each pixel, or less with the guard against
    dark pixels; the transform keeps the norm, the probe multiplies it by the root of its brightest light at most.
    """
    n, draws = 8, 50_000
    rng = np.random.default_rng(10)
    patch, probe = complex_normal(rng, n, n), complex_normal(rng, modes, n, n)
    probe *= np.sqrt(0.3 / counts_reference(patch, probe).mean()).astype("float32")
    expected = np.fft.ifftshift(counts_reference(patch, probe))
    roots = np.sqrt(rng.poisson(expected, (draws, n, n))).astype("float32")
    patches = np.broadcast_to(patch, (draws, n, n))
    change = to_numpy(descent(patches, roots, probe, ONES)).astype(complex)
    mean, variance = change.mean(axis=0), np.mean(np.abs(change - change.mean(axis=0)) ** 2, axis=0)
    root = to_numpy(expected_root(expected.astype("float32")))
    bright = np.sqrt(np.sum(np.abs(probe) ** 2, axis=0).max())
    bias = ROOT_ERROR * bright * np.linalg.norm(root * np.sqrt(expected / (expected + DARK)))
    # The squared norm of 128 errors varies by 1/8 of itself: twice its root is beyond all chance.
    bound = bias + 2 * np.sqrt(variance.sum() / draws)
    assert np.linalg.norm(mean) <= bound
    # With the root of the mean instead of the mean root:
    naive = to_numpy(descent(patches, roots + (root - np.sqrt(expected)).astype("float32"), probe, ONES))
    assert np.linalg.norm(naive.astype(complex).mean(axis=0)) > 5 * bound


@pytest.mark.parametrize("n", N_SIZES)
def test_descent_is_steepest_for_the_amplitude_error_of_many_photons(n):
    """-gradient of 1/2 sum (sqrt(expected + DARK) - sqrt(counts))^2, but for what the two roots differ by.

    That is less than 0.4 sqrt(photons) a pixel, beside roots of a thousand; and rounding.
    """
    rng = np.random.default_rng(10)
    patches, probe = complex_normal(rng, 3, n, n), complex_normal(rng, 2, n, n) * np.float32(1e3)
    counts = to_numpy(expected_counts(complex_normal(rng, 3, n, n), probe))

    def half_squared_error(re, im):
        amplitude = ops.sqrt(expected_counts(make_complex(re, im), probe) + DARK)
        return 0.5 * ops.sum(ops.square(ops.subtract(amplitude, np.sqrt(counts))))

    real, imag = gradient(half_squared_error, patches.real.copy(), patches.imag.copy())
    roots = np.sqrt(np.fft.ifftshift(counts, axes=(-2, -1)))
    error = to_numpy(descent(patches, roots, probe, np.ones((n, n), "float32"))) + real + 1j * imag
    bright = np.sqrt(np.sum(np.abs(probe) ** 2, axis=0).max())
    differ = most_between_roots() + np.sqrt(DARK)
    allowed = differ * n * np.sqrt(3) * bright + 512 * EPS * np.linalg.norm(real + 1j * imag)
    assert np.linalg.norm(error) <= allowed
    assert allowed < 5e-3 * np.linalg.norm(real + 1j * imag)


@pytest.mark.parametrize("n", N_SIZES)
def test_a_step_along_the_descent_lowers_the_error(n):
    """Over the brightest light, the step of a quadratic that is nowhere steeper than this one."""
    rng = np.random.default_rng(11)
    truth, guess = complex_normal(rng, n, n), complex_normal(rng, n, n)
    probe = complex_normal(rng, 1, n, n) * np.float32(30)
    counts = to_numpy(expected_counts(truth, probe))

    def error(o):
        return float(np.sum(to_numpy(amplitude_error(counts, to_numpy(expected_counts(o, probe)))) ** 2))

    step = to_numpy(descent(guess, np.sqrt(np.fft.ifftshift(counts)), probe, np.ones((n, n), "float32")))
    assert error(guess + step / np.sum(np.abs(probe) ** 2, axis=0).max()) < error(guess)


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
def test_descent_has_finite_gradients_where_nothing_was_counted(zero_counts):
    """In the patch and in the probe, of an opaque patch too."""
    rng = np.random.default_rng(14)
    probe, patch = complex_normal(rng, 1, 8, 8), complex_normal(rng, 8, 8)
    counts = np.zeros((8, 8), "float32") if zero_counts else rng.poisson(1, (8, 8)).astype("float32")

    def size(z):
        return ops.sum(ops.square(ops.real(z)) + ops.square(ops.imag(z)))

    def by_probe(re, im):
        return size(descent(patch, np.sqrt(counts), make_complex(re, im), ONES))

    def by_patch(re, im):
        return size(descent(make_complex(re, im), np.sqrt(counts), probe, ONES))

    opaque = np.zeros_like(patch)
    for function, point in ((by_probe, probe), (by_patch, patch), (by_patch, opaque)):
        grads = gradient(function, point.real.copy(), point.imag.copy())
        assert np.isfinite(grads).all()
        assert np.any(grads) == (point is not opaque)


def test_modes_add_up_without_interference():
    waves = complex_normal(np.random.default_rng(15), 2, 3, 8, 8)
    expected = np.sum(np.abs(waves.astype(complex)) ** 2, axis=-3)
    assert_near(mode_intensities_sum(waves), expected, 16)
    flipped = waves * np.array([1, -1, 1j], "complex64")[:, None, None]
    assert_near(mode_intensities_sum(flipped), expected, 16)
