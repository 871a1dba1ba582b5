import numpy as np
import pytest
from keras import ops
from scipy.stats import poisson

from ptycho.physics.noise import amplitude_error, poisson_nll
from tests.helpers import EPS, gradient, to_numpy


def test_nll_differs_from_the_poisson_log_probability_by_a_term_of_the_counts_only():
    """Differences between two models are those of scipy's log-probabilities."""
    counts = np.arange(30.0, dtype="float32")
    a, b = np.full(30, 7.3, "float32"), np.linspace(0.5, 40, 30, dtype="float32")
    ours = to_numpy(poisson_nll(counts, a, floor=0.0)) - to_numpy(poisson_nll(counts, b, floor=0.0))
    theirs = poisson.logpmf(counts, b) - poisson.logpmf(counts, a)
    # The larger term is counts * log(expected), below 110.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=4 * 110 * EPS)


@pytest.mark.parametrize("counts", [1.0, 3.0, 250.0])
def test_nll_is_minimal_where_the_counts_are_expected(counts):
    """At counts - floor, to be exact: the floor is part of what is expected."""
    expected = (counts - 1e-2) * np.array([0.5, 0.9, 1.0, 1.1, 2.0], "float32")
    nll = to_numpy(poisson_nll(np.full(5, counts, "float32"), expected))
    assert np.argmin(nll) == 2
    at_minimum = gradient(lambda e: ops.sum(poisson_nll(np.full(5, counts, "float32"), e)), expected)[0]
    np.testing.assert_allclose(at_minimum[2], 0, atol=8 * EPS)
    assert np.all(at_minimum[:2] < 0)
    assert np.all(at_minimum[3:] > 0)


def test_nothing_counted_and_nothing_expected_costs_nothing():
    zero = np.zeros(3, "float32")
    np.testing.assert_array_equal(to_numpy(poisson_nll(zero, zero)), 0)
    np.testing.assert_array_equal(to_numpy(amplitude_error(zero, zero)), 0)


@pytest.mark.parametrize("loss", [poisson_nll, amplitude_error])
def test_value_and_gradient_are_finite_and_right_where_nothing_is_expected(loss):
    counts, expected = np.array([0, 1, 1000], "float32"), np.zeros(3, "float32")
    assert np.isfinite(to_numpy(loss(counts, expected))).all()
    (grad,) = gradient(lambda e: ops.sum(loss(counts, e)), expected)
    floor = 1e-2
    analytic = {
        poisson_nll: 1 - counts / floor,
        amplitude_error: -np.sign(counts) * 0.5 / np.sqrt(floor),  # 0 at the kink, where counts are 0 too
    }[loss]
    np.testing.assert_allclose(grad, analytic, rtol=8 * EPS)


def test_amplitude_error_is_the_distance_of_the_amplitudes():
    error = to_numpy(amplitude_error(np.array([9, 4], "float32"), np.array([4, 9], "float32"), floor=0.0))
    np.testing.assert_allclose(error, [1, 1], rtol=4 * EPS)


def test_shot_noise_has_amplitude_variance_one_quarter():
    """Anscombe (1948): 1/4 + 3 / (32 lambda) at lambda = 100 and above; here within five standard errors."""
    draws, photons = 100_000, np.array([[100.0], [10_000.0]])
    counts = np.random.default_rng(0).poisson(photons, (2, draws)).astype("float32")
    error = to_numpy(amplitude_error(counts, np.broadcast_to(photons, counts.shape).astype("float32")))
    variance = np.mean(error.astype(float) ** 2, axis=1)
    np.testing.assert_allclose(variance, 0.25, rtol=5 * np.sqrt(2 / draws) + 0.01)
