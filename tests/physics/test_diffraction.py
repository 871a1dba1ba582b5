"""Diffraction as the network and the probe retrieval see it: gradients of amplitudes, and gradients by the backend."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops
from scipy.special import j1

from ptycho.physics.detection import mode_sum
from ptycho.physics.forward import Diffraction, frame_probes
from ptycho.physics.fourier import make_complex
from ptycho.physics.noise import ROOT_ERROR, amplitude_error, amplitude_residual, expected_root, poisson_nll
from tests.helpers import EPS, assert_near, complex_normal, dft_reference, gradient, slope, to_numpy

DARK = 0.1
"""Photons in the denominator of `amplitude_residual`."""

N_SIZES = [8, 9]
ONES = np.ones((8, 8), "float32")


def counts_reference(patches: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """sum_m |F(P_m O)|^2 with one explicit DFT for each mode, in double precision."""
    waves = [np.abs(dft_reference(patches * mode)) ** 2 for mode in np.moveaxis(probe, -3, 0)]
    return np.sum(waves, axis=0)


def diffraction(patches: Any, probe: Any) -> Diffraction:
    """In the far field, at positions on the pixels."""
    return Diffraction((ops.convert_to_tensor(patches),), *frame_probes(ops.convert_to_tensor(probe)))


def expected_counts(patches: Any, probe: Any) -> Any:
    return diffraction(patches, probe).expected


def object_gradient(patches: Any, amplitudes: Any, probe: Any, mask: Any) -> Any:
    """``sum_m conj(P_m) F^-1[(sqrt(k) - E sqrt(k)) / sqrt(e + d) F(P_m O)]``."""
    model = diffraction(patches, probe)
    return model.slice_gradients(model.adjoint(amplitude_residual(amplitudes, model.expected, mask)))[0]


def probe_gradient(
    patches: Any, amplitudes: Any, probe: Any, mask: Any, mean_amplitude: Callable[[Any], Any] = expected_root
) -> np.ndarray:
    """The same with the roles exchanged, ``conj(O) F^-1[...]`` for each mode; numpy."""
    model = diffraction(patches, probe)
    chi = model.adjoint(amplitude_residual(amplitudes, model.expected, mask, mean_amplitude))
    centring = to_numpy(frame_probes(np.ones_like(probe))[0])
    return to_numpy(model.probe_gradient(chi)) * centring.conj()


def test_each_frame_may_have_its_own_probe():
    rng = np.random.default_rng(1)
    patches, probes = complex_normal(rng, 4, 8, 8), complex_normal(rng, 4, 2, 8, 8)
    counts = to_numpy(expected_counts(patches, probes))
    for i in range(4):
        assert_near(counts[i], counts_reference(patches[i], probes[i]), 128)


def test_counts_ignore_the_global_phase_but_not_a_conjugate():
    rng = np.random.default_rng(3)
    patch, probe = complex_normal(rng, 8, 8), complex_normal(rng, 2, 8, 8)
    counts = to_numpy(expected_counts(patch, probe))
    assert_near(expected_counts((patch * np.exp(0.7j)).astype("complex64"), probe), counts, 128)
    assert np.abs(to_numpy(expected_counts(patch.conj(), probe)) - counts).max() > 0.1 * counts.max()


@pytest.mark.parametrize("batch", [1, 15, 16, 17, 64])
@pytest.mark.parametrize("function", ["expected counts", "gradient"])
def test_a_frame_does_not_depend_on_the_rest_of_its_batch(batch, function):
    """Up to rounding: a library may take the transforms of a batch in another order."""
    rng = np.random.default_rng(4)
    patches, probe = complex_normal(rng, batch, 8, 8), complex_normal(rng, 2, 8, 8)
    amplitudes = rng.uniform(1, 10, (batch, 8, 8)).astype("float32")
    evaluate = {
        "expected counts": lambda i: to_numpy(expected_counts(patches[i], probe)),
        "gradient": lambda i: to_numpy(object_gradient(patches[i], amplitudes[i], probe, ONES)),
    }[function]
    together = evaluate(slice(None))
    assert together.shape == (batch, 8, 8)
    for i in range(batch):
        assert_near(evaluate(slice(i, i + 1))[0], together[i], 64)


def gradient_reference(patches, amplitudes, probe, mask, level):
    """As documented, mode by mode in double precision; ``level`` is E sqrt(k)."""
    total = 0
    expected = counts_reference(patches, probe)
    for mode in probe:
        wave = dft_reference(patches * mode)
        change = mask * (amplitudes - level(expected)) / np.sqrt(expected + DARK) * wave
        total = total + mode.conj() * dft_reference(change.conj()).conj()  # the inverse of a symmetric unitary matrix
    return total


@pytest.mark.parametrize("n", N_SIZES)
@pytest.mark.parametrize("modes", [1, 3])
def test_the_gradient_matches_the_sum_over_modes(n, modes):
    rng = np.random.default_rng(7)
    patches, probe = complex_normal(rng, 4, n, n), complex_normal(rng, modes, n, n)
    amplitudes = rng.uniform(0, 9, (4, n, n)).astype("float32")
    mask = (rng.uniform(size=(n, n)) > 0.3).astype("float32")
    level = lambda e: to_numpy(expected_root(e.astype("float32")))
    # 1 / sqrt(expected + DARK) amplifies the rounding of a dim wave by 3 at most.
    reference = gradient_reference(patches, amplitudes, probe, mask, level)
    assert_near(object_gradient(patches, amplitudes, probe, mask), reference, 3 * 128)


@pytest.mark.parametrize("n", N_SIZES)
def test_the_gradient_of_the_probe_is_that_of_the_object_with_the_roles_exchanged(n):
    """Exit waves do not know which of their two factors is the probe."""
    rng = np.random.default_rng(17)
    patches, probe = complex_normal(rng, 4, n, n), complex_normal(rng, 1, n, n)
    amplitudes = rng.uniform(0, 9, (4, n, n)).astype("float32")
    mask = (rng.uniform(size=(n, n)) > 0.3).astype("float32")
    found = probe_gradient(patches, amplitudes, probe, mask)
    for k in range(4):
        exchanged = object_gradient(probe, amplitudes[k : k + 1], patches[k : k + 1], mask)
        assert_near(found[k], to_numpy(exchanged), 3 * 128)


def test_modes_share_one_excess():
    """With an empty object, that of mode m is F^-1 of the excess times its wave."""
    rng = np.random.default_rng(18)
    probe, amplitudes = complex_normal(rng, 3, 8, 8), rng.uniform(0, 9, (1, 8, 8)).astype("float32")
    mask, empty = np.ones((8, 8), "float32"), np.ones((1, 8, 8), "complex64")
    found = to_numpy(probe_gradient(empty, amplitudes, probe, mask, ops.sqrt))[0]
    expected = counts_reference(empty, probe)[0]
    for mode, change in zip(probe, found, strict=True):
        wave = (amplitudes[0] - np.sqrt(expected)) / np.sqrt(expected + DARK) * dft_reference(mode)
        assert_near(change, dft_reference(wave.conj()).conj(), 3 * 128)


def test_masked_pixels_do_not_matter():
    rng = np.random.default_rng(8)
    patches, probe = complex_normal(rng, 2, 8, 8), complex_normal(rng, 2, 8, 8)
    mask = (rng.uniform(size=(8, 8)) > 0.3).astype("float32")
    amplitudes = rng.uniform(1, 7, (2, 8, 8)).astype("float32")
    spoilt = np.where(mask > 0, amplitudes, np.float32(256))
    clean = to_numpy(object_gradient(patches, amplitudes, probe, mask))
    np.testing.assert_array_equal(to_numpy(object_gradient(patches, spoilt, probe, mask)), clean)
    unmasked = to_numpy(object_gradient(patches, amplitudes, probe, ONES))
    assert np.abs(to_numpy(object_gradient(patches, spoilt, probe, ONES)) - unmasked).max() > 1
    assert np.abs(clean - unmasked).max() > 0.1
    np.testing.assert_array_equal(to_numpy(object_gradient(patches, amplitudes, probe, 0 * ONES)), 0)


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
    amplitudes = np.sqrt(to_numpy(expected_counts(patches, probe)))
    change = to_numpy(object_gradient(patches, amplitudes, probe, np.ones((n, n), "float32")))
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
    expected = counts_reference(patch, probe)
    amplitudes = np.sqrt(rng.poisson(expected, (draws, n, n))).astype("float32")
    patches = np.broadcast_to(patch, (draws, n, n))
    change = to_numpy(object_gradient(patches, amplitudes, probe, ONES)).astype(complex)
    mean, variance = change.mean(axis=0), np.mean(np.abs(change - change.mean(axis=0)) ** 2, axis=0)
    root = to_numpy(expected_root(expected.astype("float32")))
    bright = np.sqrt(np.sum(np.abs(probe) ** 2, axis=0).max())
    bias = ROOT_ERROR * bright * np.linalg.norm(root * np.sqrt(expected / (expected + DARK)))
    # The squared norm of 128 errors varies by 1/8 of itself: twice its root is beyond all chance.
    bound = bias + 2 * np.sqrt(variance.sum() / draws)
    assert np.linalg.norm(mean) <= bound
    # With the root of the mean instead of the mean root:
    naive = to_numpy(object_gradient(patches, amplitudes + (root - np.sqrt(expected)).astype("float32"), probe, ONES))
    assert np.linalg.norm(naive.astype(complex).mean(axis=0)) > 5 * bound


@pytest.mark.parametrize("n", N_SIZES)
def test_the_gradient_is_steepest_for_the_amplitude_error_of_many_photons(n):
    """-gradient of 1/2 sum (sqrt(expected + DARK) - sqrt(counts))^2, but for what the two amplitudes differ by.

    That is less than 0.4 sqrt(photons) a pixel, beside amplitudes of a thousand; and rounding.
    """
    rng = np.random.default_rng(10)
    patches, probe = complex_normal(rng, 3, n, n), complex_normal(rng, 2, n, n) * np.float32(1e3)
    counts = to_numpy(expected_counts(complex_normal(rng, 3, n, n), probe))

    def half_squared_error(re, im):
        amplitude = ops.sqrt(expected_counts(make_complex(re, im), probe) + DARK)
        return 0.5 * ops.sum(ops.square(ops.subtract(amplitude, np.sqrt(counts))))

    real, imag = gradient(half_squared_error, patches.real.copy(), patches.imag.copy())
    amplitudes = np.sqrt(counts)
    error = to_numpy(object_gradient(patches, amplitudes, probe, np.ones((n, n), "float32"))) + real + 1j * imag
    bright = np.sqrt(np.sum(np.abs(probe) ** 2, axis=0).max())
    differ = most_between_roots() + np.sqrt(DARK)
    allowed = differ * n * np.sqrt(3) * bright + 512 * EPS * np.linalg.norm(real + 1j * imag)
    assert np.linalg.norm(error) <= allowed
    assert allowed < 5e-3 * np.linalg.norm(real + 1j * imag)


@pytest.mark.parametrize("n", N_SIZES)
def test_a_step_along_the_gradient_lowers_the_error(n):
    """Over the brightest light, the step of a quadratic that is nowhere steeper than this one."""
    rng = np.random.default_rng(11)
    truth, guess = complex_normal(rng, n, n), complex_normal(rng, n, n)
    probe = complex_normal(rng, 1, n, n) * np.float32(30)
    counts = to_numpy(expected_counts(truth, probe))

    def error(o):
        return float(np.sum(to_numpy(amplitude_error(counts, to_numpy(expected_counts(o, probe)))) ** 2))

    step = to_numpy(object_gradient(guess, np.sqrt(counts), probe, np.ones((n, n), "float32")))
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
def test_the_gradient_has_finite_gradients_where_nothing_was_counted(zero_counts):
    """In the patch and in the probe, of an opaque patch too."""
    rng = np.random.default_rng(14)
    probe, patch = complex_normal(rng, 1, 8, 8), complex_normal(rng, 8, 8)
    counts = np.zeros((8, 8), "float32") if zero_counts else rng.poisson(1, (8, 8)).astype("float32")

    def size(z):
        return ops.sum(ops.square(ops.real(z)) + ops.square(ops.imag(z)))

    def by_probe(re, im):
        return size(object_gradient(patch, np.sqrt(counts), make_complex(re, im), ONES))

    def by_patch(re, im):
        return size(object_gradient(make_complex(re, im), np.sqrt(counts), probe, ONES))

    opaque = np.zeros_like(patch)
    for function, point in ((by_probe, probe), (by_patch, patch), (by_patch, opaque)):
        grads = gradient(function, point.real.copy(), point.imag.copy())
        assert np.isfinite(grads).all()
        assert np.any(grads) == (point is not opaque)


def test_modes_add_up_without_interference():
    waves = complex_normal(np.random.default_rng(15), 2, 3, 8, 8)
    expected = np.sum(np.abs(waves.astype(complex)) ** 2, axis=-3)
    assert_near(mode_sum(waves), expected, 16)
    flipped = waves * np.array([1, -1, 1j], "complex64")[:, None, None]
    assert_near(mode_sum(flipped), expected, 16)


# --- analytic far fields ---------------------------------------------------------------------------


def vacuum_counts(wave: np.ndarray) -> Any:
    """Of one mode without a sample."""
    return Diffraction((), *frame_probes(wave[None])).expected


@pytest.mark.parametrize("n", [64, 63])
def test_counts_of_a_gaussian_beam_are_a_gaussian(n):
    """exp(-pi x^2 / s^2) has the transform s exp(-pi s^2 f^2); at s^2 = n / 2 both fit the frame to 1e-21."""
    s_squared = n / 2
    r_squared = np.add.outer((np.arange(n) - n // 2) ** 2, (np.arange(n) - n // 2) ** 2)
    wave = np.exp(-np.pi * r_squared / s_squared).astype("complex64")
    analytic = s_squared / n * np.exp(-np.pi * s_squared * r_squared / n**2)
    assert_near(vacuum_counts(wave), analytic**2, 2 * 64)


def test_counts_behind_a_round_aperture_are_an_airy_pattern():
    """Amplitude 2 J1(z) / z, z = 2 pi a f (Goodman, section 4.4), times the sinc of a pixel's area average.

    What aliases into |f| < 0.08 from |f| > 0.9 is below 4 sqrt(8 / pi) / (2 pi a 0.9)^1.5 * 0.1 = 3e-4 of
    the peak, and the 16-fold sampled edge of 200 pixels adds 1e-4.
    """
    n, radius, fine = 256, 32.0, 16
    axis = (np.arange(n * fine) + 0.5) / fine - 0.5 - n // 2
    disc = np.add.outer(axis**2, axis**2) < radius**2
    wave = disc.reshape(n, fine, n, fine).mean(axis=(1, 3)).astype("complex64")
    frequency = (np.arange(n) - n // 2) / n
    z = 2 * np.pi * radius * np.hypot(*np.meshgrid(frequency, frequency))
    z[n // 2, n // 2] = 1e-9
    airy = 2 * j1(z) / z * np.outer(np.sinc(frequency), np.sinc(frequency))
    low = np.hypot(*np.meshgrid(frequency, frequency)) < 0.08  # the main lobe and four rings
    measured = np.sqrt(to_numpy(vacuum_counts(wave))) * n / (np.pi * radius**2)
    assert np.abs(measured - np.abs(airy))[low].max() < 1e-3
