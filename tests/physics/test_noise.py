import numpy as np
import pytest
from keras import ops
from scipy.stats import poisson

from ptycho.physics.noise import ROOT_ERROR, SCATTER_ERROR, amplitude_error, expected_root, poisson_nll, root_scatter
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


def test_the_mean_root_is_that_of_a_poisson_count():
    """Against the sum over the distribution, which is nothing beyond 20 standard deviations."""
    means = np.logspace(-4, 3.5, 120)
    counts = np.arange(int(means[-1] + 20 * np.sqrt(means[-1])))
    exact = np.array([np.sum(np.sqrt(counts) * poisson.pmf(counts, mean)) for mean in means])
    ratio = to_numpy(expected_root(means.astype("float32"))) / exact
    np.testing.assert_allclose(ratio, 1, rtol=ROOT_ERROR)
    assert np.all(np.sqrt(means) / exact > ratio)


def test_the_scatter_of_roots_is_that_of_a_poisson_count():
    """Against the sum over the distribution, which is nothing beyond 20 standard deviations; and where it is 1/4."""
    means = np.logspace(-4, 3.5, 120)
    counts = np.arange(int(means[-1] + 20 * np.sqrt(means[-1])))
    exact = [np.sum((np.sqrt(counts) - np.sqrt(mean)) ** 2 * poisson.pmf(counts, mean)) for mean in means]
    np.testing.assert_allclose(to_numpy(root_scatter(means.astype("float32"))), exact, rtol=SCATTER_ERROR)
    np.testing.assert_allclose(to_numpy(root_scatter(np.float32([1e6, 1e12]))), 0.25, rtol=1e-4)
    assert float(root_scatter(np.float32(0))) == 0


def test_the_mean_root_has_the_right_limits():
    """Few photons: a root of 1 with probability m, to m^2. Many: the series of a square root, to its next term."""
    few, many = np.logspace(-6, -2, 9), np.logspace(1.5, 4, 9)
    np.testing.assert_allclose(to_numpy(expected_root(few.astype("float32"))) / few, 1, atol=few.max())
    series = np.sqrt(many) - 1 / (8 * np.sqrt(many))
    error = to_numpy(expected_root(many.astype("float32"))) - series
    assert np.all(np.abs(error) <= many**-1.5 + EPS * 4 * np.sqrt(many))
    np.testing.assert_array_equal(to_numpy(expected_root(np.zeros(2, "float32"))), 0)
    assert np.isfinite(gradient(lambda e: ops.sum(expected_root(e)), np.zeros(2, "float32"))).all()
