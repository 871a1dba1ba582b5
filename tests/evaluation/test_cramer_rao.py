"""The shot-noise bound against the Fisher information of a small case, inverted densely in double precision."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from ptycho.config import Multislice, NearField
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation.cramer_rao import efficient_errors
from tests.physics import oracle

DRAWS = 60
N, SIDE = 6, 10

CASES = {
    "one mode": dict(),
    "two modes": dict(modes=2),
    "near field": dict(near_field=NearField(distance_px=8.0, wavelength_px=0.5), jitter=0.4, modes=2),
    "blur and background": dict(blur_px=0.5, background=np.full((N, N), 100.0), jitter=0.4),
}


class Case(NamedTuple):
    """An estimate, the photons on its pixels, and the covariance ``(2 K, 2 K)`` of its bound: real parts first."""

    estimate: Reconstruction
    photons: np.ndarray
    covariance: np.ndarray


def estimate_of(modes=1, jitter=0.0, **unknowns) -> Reconstruction:
    """A sample of 10 x 10 pixels, 3 x 3 frames of 6 pixels which illuminate all of it."""
    rng = np.random.default_rng(5)
    generic = lambda *shape: rng.uniform(0.5, 1.5, shape) * np.exp(1j * rng.normal(size=shape))
    probe, sample = 10 * generic(modes, N, N), generic(SIDE, SIDE)
    positions = np.stack(np.meshgrid(*2 * [np.arange(3)], indexing="ij"), -1).reshape(-1, 2) * 2.0 + N // 2
    return Reconstruction.bare(sample, probe, positions + rng.uniform(-jitter, jitter, positions.shape), **unknowns)


def dense_bound(estimate: Reconstruction) -> np.ndarray:
    """The inverse of the Fisher information, but for the global phase that no count tells.

    ``J`` by central differences of the oracle, which are exact: the counts are quadratic in the object.
    """
    near = estimate.near_field

    def counts(sample):
        return oracle.expected_counts(
            sample[None],
            estimate.probe,
            estimate.positions_px,
            near=None if near is None else (near.distance_px, near.wavelength_px, near.kind),
            background=estimate.background,
            blur_px=estimate.blur_px,
        ).ravel()

    steps = np.concatenate([np.eye(SIDE**2), 1j * np.eye(SIDE**2)]).reshape(-1, SIDE, SIDE) / 2
    columns = [counts(estimate.object + step) - counts(estimate.object - step) for step in steps]
    jacobian = np.stack(columns, axis=1) / np.sqrt(counts(estimate.object))[:, None]
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    assert abs(values[0]) < 1e-9 * values[-1] < 1e-3 * values[1]
    return (vectors[:, 1:] / values[1:]) @ vectors[:, 1:].T


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def case(request) -> Case:
    estimate = estimate_of(**request.param)
    photons = np.zeros((SIDE, SIDE))
    for y, x in np.rint(estimate.positions_px).astype(int) - N // 2:
        photons[y : y + N, x : x + N] += (np.abs(estimate.probe) ** 2).sum(0)
    assert photons.min() > 0.01 * photons.max()  # no pixel counts as known
    return Case(estimate, photons, dense_bound(estimate))


def well_illuminated(case: Case) -> np.ndarray:
    """Which of the 2 K unknowns are those of pixels with more than 0.3 of the brightest one's photons."""
    return np.tile((case.photons > 0.3 * case.photons.max()).ravel(), 2)


def mean_squares(errors: np.ndarray) -> np.ndarray:
    """Of the real parts of all pixels, then of the imaginary ones."""
    flat = errors.reshape(len(errors), -1)
    return np.mean(np.concatenate([flat.real, flat.imag], axis=1) ** 2, axis=0)


def test_errors_have_the_covariance_of_the_dense_bound(case):
    """Their mean square, pixel by pixel and in sum, within 4 standard deviations of what DRAWS draws scatter by."""
    errors = efficient_errors(case.estimate, np.random.default_rng(0), draws=DRAWS, iterations=2000, tolerance=1e-4)
    bright = well_illuminated(case)
    measured, block = mean_squares(errors)[bright], case.covariance[np.ix_(bright, bright)]
    expected = np.diag(block)
    # Gaussian errors of covariance C: their square has the variance 2 C_ii^2, the sum of squares 2 tr C^2.
    assert abs(measured.sum() - expected.sum()) < 4 * np.sqrt(2 * (block**2).sum() / DRAWS)
    deviation = (measured / expected - 1) / np.sqrt(2 / DRAWS)
    assert np.sqrt(np.mean(deviation**2)) < 2
    assert np.corrcoef(measured, expected)[0, 1] > 0.5


def test_the_bound_of_a_near_field_is_not_that_of_the_far_field():
    """The same sample and probe: the sum of the errors' squares is that of its dense bound, not of the other."""
    near = estimate_of(near_field=NearField(distance_px=4.0, wavelength_px=0.5))
    far = replace(near, near_field=None)
    sums, bounds, scatter = {}, {}, {}
    for name, estimate in dict(near=near, far=far).items():
        errors = efficient_errors(estimate, np.random.default_rng(0), draws=DRAWS // 3, iterations=2000, tolerance=1e-4)
        covariance = dense_bound(estimate)
        sums[name], bounds[name] = mean_squares(errors).sum(), np.trace(covariance)
        scatter[name] = np.sqrt(2 * (covariance**2).sum() / (DRAWS // 3))
    for this, other in (("near", "far"), ("far", "near")):
        assert abs(sums[this] - bounds[this]) < 4 * scatter[this]
        assert abs(sums[this] - bounds[other]) > 4 * scatter[this]


def test_four_times_the_photons_halve_the_errors(case):
    halved_by_a_brighter_probe(case.estimate)


def test_a_thick_sample_has_errors_in_each_slice():
    estimate = estimate_of()
    slices = np.stack([estimate.object, estimate.object[::-1]])
    thick = replace(estimate, slices=slices, multislice=Multislice(slices=2, spacing_px=4.0, wavelength_px=0.5))
    assert halved_by_a_brighter_probe(thick).shape == (1, 2, SIDE, SIDE)


def halved_by_a_brighter_probe(estimate: Reconstruction) -> np.ndarray:
    background = None if estimate.background is None else 4 * estimate.background
    brighter = replace(estimate, probe=2 * estimate.probe, background=background)
    errors, halved = (
        efficient_errors(each, np.random.default_rng(1), iterations=40, tolerance=1e-9) for each in (estimate, brighter)
    )
    # The same steps in other units: 40 of them, each with the rounding of float32.
    np.testing.assert_allclose(2 * halved, errors, rtol=0, atol=1e-3 * np.abs(errors).max())
    return errors


def test_masked_pixels_say_nothing(case):
    mask = np.zeros((N, N), bool)
    mask[1:, 1:] = True
    errors = {
        name: efficient_errors(case.estimate, np.random.default_rng(2), mask=used, draws=4)
        for name, used in dict(all=None, some=mask).items()
    }
    assert np.mean(np.abs(errors["some"]) ** 2) > np.mean(np.abs(errors["all"]) ** 2)


def test_batches_do_not_matter():
    """Frames by twos: the same error, for the same noise is drawn in the same order."""
    estimate, settings = estimate_of(modes=2), dict(iterations=30, tolerance=1e-9)
    errors, by_twos = (
        efficient_errors(estimate, np.random.default_rng(3), batch_pixels=pixels, **settings)
        for pixels in (2**20, 4 * N * N)
    )
    np.testing.assert_allclose(by_twos, errors, rtol=0, atol=1e-3 * np.abs(errors).max())
