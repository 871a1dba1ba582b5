"""Total variation weighed by photons that no fit has seen."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import RefineConfig, SimulationConfig
from ptycho.evaluation import compare_objects, frame_error
from ptycho.refinement.held_out_photons import (
    PhotonTrial,
    at_exposure,
    best_total_variation,
    divided_photons,
    of_frames,
    try_total_variation,
)
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate

POISSON = RefineConfig(noise="poisson")


def test_every_photon_is_in_one_of_two_scans_and_masked_pixels_in_neither(dim):
    mask = np.ones((dim.N, dim.N), bool)
    mask[3] = False
    counts = dim.counts.astype("float32")
    counts[:, 3] = 7  # whatever the detector says there
    fitted, judging = divided_photons(replace(dim, counts=counts, mask=mask), 0.1, seed=0)
    np.testing.assert_array_equal(fitted.counts + judging.counts, np.where(mask, dim.counts, 0))
    taken, photons = judging.counts.sum(), dim.counts[:, mask].sum()
    # Binomial: five standard deviations
    assert abs(taken - 0.1 * photons) < 5 * np.sqrt(0.09 * photons)
    shared = (np.abs(fitted.probe) ** 2).sum() + (np.abs(judging.probe) ** 2).sum()
    assert shared == pytest.approx((np.abs(dim.probe) ** 2).sum(), rel=1e-5)


def test_the_weight_that_predicts_held_out_photons_makes_the_image_better(dim, dim_fit):
    trials = try_total_variation(dim, POISSON, dim_fit.result, np.arange(225), guess=0.02)
    weight = best_total_variation(trials)
    going_on = lambda tv: refine(dim, replace(POISSON, tv_weight=tv), start=dim_fit.without_unseen).result
    snr = lambda image: compare_objects(image.object, dim.object).snr_db
    chosen = snr(going_on(weight))
    # By more than a fit from other noise differs (0.4 dB over four seeds), and as good as a third or three times of it.
    assert chosen > snr(dim_fit.result) + 1.0
    assert chosen > max(snr(going_on(weight / 3)), snr(going_on(3 * weight))) - 0.4


def test_no_weight_is_chosen_where_the_sample_has_no_edges():
    """Of noise-like detail the counts alone predict best: about 600 photons on an object pixel."""
    rng = np.random.default_rng(0)
    sample = np.exp(0.5j * rng.normal(size=(110, 110)))
    config = SimulationConfig(N=32, positions=225, step_px=3.0, jitter_px=1.0, photons=1e4, seed=3)
    scan = simulate(config, object=sample)
    fit = refine(scan, POISSON)
    trials = try_total_variation(scan, POISSON, fit.result, np.arange(225), guess=0.01)
    assert best_total_variation(trials) == 0


def test_the_vertex_of_a_parabola_is_the_weight():
    curve = lambda weight: (np.log(weight / 0.05)) ** 2
    weights = [0.01 * 3**k for k in range(4)]
    trials = [PhotonTrial(0.0, 9.0), *(PhotonTrial(weight, curve(weight)) for weight in weights)]
    assert best_total_variation(trials) == pytest.approx(0.05)
    # At an end of the weights, or beside 0, there is no parabola.
    assert best_total_variation(trials[:3]) == trials[2].weight
    assert best_total_variation([PhotonTrial(0.0, 1.0), *trials[1:]]) in (0.0, pytest.approx(0.05))
    assert best_total_variation([PhotonTrial(0.0, -1.0), *trials[1:]]) == 0


def test_an_estimate_of_some_frames_at_another_exposure_expects_their_counts_in_proportion(dim, dim_fit):
    frames = np.arange(20, 60)
    some = at_exposure(of_frames(dim_fit.result, frames), 0.25)
    np.testing.assert_allclose(
        np.concatenate(list(some.expected_batches())),
        0.25 * np.concatenate(list(dim_fit.result.expected_batches(frames))),
        rtol=1e-4,
        atol=1e-6,
    )
    assert frame_error(some, dim.counts[frames] * 0.25, range(40)) < 1
