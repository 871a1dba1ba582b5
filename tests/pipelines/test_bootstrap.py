"""The error to expect of a fit's image, by replicas of the fit."""

import numpy as np
import pytest

from ptycho.config import RefineConfig, RunConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation.uncertainty import band_coverage, illuminated_pixels
from ptycho.pipelines import bootstrap, precision
from ptycho.pipelines.refine import refine_run
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate


def scan_of(photons, seed=3, **settings):
    return simulate(SimulationConfig(N=32, positions=144, step_px=3.0, photons=photons, seed=seed, **settings))


def fitted(scan, config, **settings):
    fit = refine(scan, config, **settings)
    return fit.result, fit.best


def truth_of(scan, fit):
    """The true object on the canvas of a fit, in its global phase, and where both are."""
    height, width = fit.object.shape
    padded = np.zeros((height + 200, width + 200), "complex64")
    padded[100 : 100 + scan.object.shape[0], 100 : 100 + scan.object.shape[1]] = scan.object
    top, left = np.asarray(fit.origin_px) + 100
    truth = padded[top : top + height, left : left + width]
    where = illuminated_pixels(fit.coverage) & (truth != 0)
    phase = np.vdot(truth[where], fit.object[where])
    return truth * phase / abs(phase), where


@pytest.mark.parametrize(("photons", "tv_weight"), [(1e3, 0.06), (3e4, 0.0)])
def test_errors_are_as_large_as_said(photons, tv_weight):
    """Of 63.2 and 98.2 % within one and two sigma (complex Gaussian errors). One scan of one object scatters:
    errors as wide as the probe are as few as frames side by side, a dozen, and 0.25 is their chance, 1 / sqrt(16)."""
    scan, config = scan_of(photons), RefineConfig(noise="poisson", tv_weight=tv_weight)
    fit, best = fitted(scan, config)
    sigma, factor = bootstrap.error_map(scan, config, fit, epochs=best)
    truth, where = truth_of(scan, fit)
    inside = band_coverage(fit.object, truth, sigma, where)
    assert 1 <= factor < 2.5
    assert 0.63 - 0.25 < inside["within_1_sigma"] < 0.63 + 0.25
    assert inside["within_2_sigma"] > 0.8
    assert np.isinf(sigma[fit.coverage == 0]).all()


def test_a_hundred_times_the_photons_leave_a_tenth_of_the_error():
    config = RefineConfig(noise="poisson")
    medians = []
    for photons in (1e4, 1e6):
        scan = scan_of(photons)
        fit, best = fitted(scan, config)
        sigma, _ = bootstrap.error_map(scan, config, fit, epochs=best)
        medians.append(np.median(sigma[illuminated_pixels(fit.coverage)]))
    # Shot noise alone gives 10; slow phase, whose error falls less, and the factor of each map, a half more or less.
    assert 5 < medians[0] / medians[1] < 20


def test_residuals_beyond_the_shot_noise_are_errors_too():
    scan, config = scan_of(1e4), RefineConfig(noise="poisson", epochs=8)
    fit, best = fitted(scan, config)
    one, two = (bootstrap.error_map(scan, config, fit, epochs=best, beyond_noise=beyond)[0] for beyond in (0.7, 2.0))
    lit = np.isfinite(one)
    np.testing.assert_allclose(two[lit], 2 * one[lit], rtol=1e-5)


def test_held_out_frames_may_reach_beyond_the_others():
    """The image is larger than what the replica is fitted to: it lies where it belongs on the canvas."""
    scan = scan_of(1e5)
    corner = (scan.positions < scan.positions.min(axis=0) + 3.0).any(axis=1)
    config = RefineConfig(noise="poisson", epochs=20)
    fit, best = fitted(scan, config, held_out=corner)
    sigma, _ = bootstrap.error_map(scan, config, fit, epochs=best)
    truth, where = truth_of(scan, fit)
    # Were it a pixel aside, the error would be the contrast of the object: ten times the noise.
    assert np.median(sigma[where]) < 4 * np.sqrt(np.mean(np.abs(fit.object - truth)[where] ** 2))


def test_a_run_saves_it(tmp_path, monkeypatch):
    scan, run = scan_of(1e4), RunConfig(refine=dict(epochs=8))
    refine_run(scan, tmp_path / "run", run, auto=False)
    saved = Reconstruction.load(tmp_path / "run" / "reconstruction.h5")
    assert np.isfinite(saved.uncertainty[saved.coverage > 0]).all()
    assert saved.provenance["uncertainty_from"] == "replicas"
    assert "Uncertainty of the transmission" in (tmp_path / "run" / "report.html").read_text()
    monkeypatch.setattr(precision, "AFFORDABLE_S", 0.0)
    late = refine_run(scan, tmp_path / "late", run, auto=False)
    assert late.result.uncertainty is None
    assert any("--uncertainty" in note for note in late.notes)
    asked = precision.Precision(half_sets=False, uncertainty=True)
    assert refine_run(scan, tmp_path / "asked", run, auto=False, precision=asked).result.uncertainty is not None


@pytest.mark.parametrize(("photons", "few"), [(1e2, True), (1e5, False)])
def test_what_so_few_photons_leave_out_is_said_not_to_be_in_it(photons, few, tmp_path):
    """100 photons a frame, a frame every 3 px: 11 on an object pixel in the middle of the field."""
    run = RunConfig(refine=dict(epochs=3))
    told = precision.Precision(half_sets=False, uncertainty=True)
    notes = refine_run(scan_of(photons), tmp_path, run, auto=False, precision=told).notes
    assert any("lower bound" in note for note in notes) == few


def test_frames_with_a_background_and_modes_are_replicated():
    scan = scan_of(1e4, probe_modes=2)
    config = RefineConfig(noise="poisson", epochs=8, background_from=2)
    fit, best = fitted(scan, config)
    sigma, _ = bootstrap.error_map(scan, config, fit, epochs=best)
    assert np.isfinite(sigma[fit.coverage > 0]).all()
