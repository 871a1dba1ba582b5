"""The Poisson deviance, whatever the counts."""

import numpy as np
import pytest
from keras import ops
from scipy.special import xlogy

from ptycho.refinement.likelihood import Likelihood, Residuals

EPS = np.finfo("float32").eps


@pytest.mark.parametrize("least", [0.0, 1e-38, 1e-9, 1e-4])
def test_counts_that_are_no_photon_leave_the_deviance_finite_and_right(least):
    """Simulated patterns hold such values: one of 1e-9 made the deviance of a whole scan minus infinity."""
    rng = np.random.default_rng(0)
    expected = rng.uniform(1e-3, 50.0, (3, 8, 8)).astype("float32")
    counts = rng.poisson(expected).astype("float32")
    counts[:, :4] = least
    residuals = Residuals(counts, ops.convert_to_tensor(expected), np.ones_like(counts), Likelihood(poisson=True))
    e, k = expected.astype("float64") + 1e-6, counts.astype("float64")
    terms = np.abs(np.stack([e - k, xlogy(k, k / e)])).sum()
    # Half the deviance of float64; each of two terms is rounded once or twice, and so are their 192 sums
    exact = (e - k + xlogy(k, k / e)).sum() / 2
    assert float(residuals.deviance()) == pytest.approx(exact, abs=20 * EPS * terms)
