"""The shot-noise bound against the Fisher information of a small case, inverted densely in double precision."""

import numpy as np
import pytest

from ptycho.evaluation.cramer_rao import SEEN, efficient_errors
from tests.physics import oracle

DRAWS = 60


@pytest.fixture(scope="module", params=[1, 2], ids=["one mode", "two modes"])
def case(request):
    """A sample of 14 x 14 pixels, 4 x 4 frames of 8 pixels lit all over, and its dense Cramer-Rao bound."""
    rng = np.random.default_rng(5)
    generic = lambda *shape: rng.uniform(0.5, 1.5, shape) * np.exp(1j * rng.normal(size=shape))
    probe = 10 * generic(request.param, 8, 8)
    positions = np.stack(np.meshgrid(*2 * [np.arange(4)], indexing="ij"), -1).reshape(-1, 2) * 2.0 + 4
    sample = generic(14, 14)
    light = np.zeros(sample.shape)
    for y, x in positions.astype(int):
        light[y - 4 : y + 4, x - 4 : x + 4] += (np.abs(probe) ** 2).sum(0)
    seen = np.flatnonzero(light > SEEN * light.max())
    assert len(seen) == sample.size
    counts = lambda o: oracle.expected_counts(o[None], probe, positions).ravel()
    columns = []
    for unit in (1, 1j):
        for k in seen:
            step = np.zeros(sample.size, complex)
            step[k] = 0.5 * unit
            step = step.reshape(sample.shape)
            columns.append(counts(sample + step) - counts(sample - step))  # exact: the counts are quadratic
    jacobian = np.stack(columns, axis=1) / np.sqrt(counts(sample))[:, None]
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    assert abs(values[0]) < 1e-9 * values[-1] < 1e-3 * values[1]  # one direction that no count tells: the global phase
    covariance = (vectors[:, 1:] / values[1:]) @ vectors[:, 1:].T
    return sample, probe, positions, seen, light, covariance


def test_errors_have_the_covariance_of_the_dense_bound(case):
    """Their mean square, pixel by pixel and in sum, within 4 standard deviations of what DRAWS draws scatter by."""
    sample, probe, positions, seen, light, covariance = case
    errors = efficient_errors(
        sample, probe, positions, np.random.default_rng(0), draws=DRAWS, iterations=2000, tolerance=1e-5
    )
    parts = errors.reshape(DRAWS, -1)[:, seen]
    bright = light.ravel()[seen] > 0.3 * light.max()
    pair = np.concatenate([bright, bright])
    measured = np.mean(np.concatenate([parts.real, parts.imag], axis=1)[:, pair] ** 2, axis=0)
    block = covariance[np.ix_(pair, pair)]
    expected = np.diag(block)
    # Gaussian errors of covariance C: their square has the variance 2 C_ii^2, the sum of squares 2 tr C^2.
    assert abs(measured.sum() - expected.sum()) < 4 * np.sqrt(2 * (block**2).sum() / DRAWS)
    deviation = (measured / expected - 1) / np.sqrt(2 / DRAWS)
    assert np.sqrt(np.mean(deviation**2)) < 2
    assert np.corrcoef(measured, expected)[0, 1] > 0.5


def test_four_times_the_photons_halve_the_errors(case):
    sample, probe, positions, *_ = case
    errors = [
        efficient_errors(sample, scale * probe, positions, np.random.default_rng(1), iterations=40, tolerance=1e-9)
        for scale in (1.0, 2.0)
    ]
    # The same steps in other units: 40 of them, each with the rounding of float32.
    np.testing.assert_allclose(2 * errors[1], errors[0], rtol=0, atol=1e-3 * np.abs(errors[0]).max())


def test_masked_pixels_say_nothing(case):
    sample, probe, positions, *_ = case
    mask = np.zeros((8, 8), bool)
    mask[1:7, 1:7] = True
    errors = {
        name: efficient_errors(sample, probe, positions, np.random.default_rng(2), mask=used, draws=4)
        for name, used in dict(all=None, some=mask).items()
    }
    assert np.mean(np.abs(errors["some"]) ** 2) > np.mean(np.abs(errors["all"]) ** 2)
