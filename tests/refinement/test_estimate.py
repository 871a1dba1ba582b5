"""What a fit finds is part of its result: who judges the result judges the model that was fitted."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ptycho.config import Multislice, NearField, RefineConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation import frame_error
from ptycho.refinement import refine as module
from ptycho.refinement.refine import refine, with_own_weights
from ptycho.refinement.solver import Solver
from ptycho.refinement.unknowns import Object
from ptycho.simulation.simulate import simulate
from tests.physics import oracle

SMALL = SimulationConfig(N=25, positions=100, step_px=3.0, jitter_px=1.0, photons=1e5, seed=4)
LONG = RefineConfig(epochs=60)


@pytest.fixture(scope="module")
def noisy() -> Scan:
    return simulate(SMALL)


def drawn(scan: Scan, **model) -> Scan:
    """A scan with Poisson counts around those of the oracle for another detector, that tells no truth."""
    expected = oracle.expected_counts(scan.object[None], scan.probe, scan.positions, **model)
    return replace(scan, counts=np.random.default_rng(7).poisson(np.maximum(expected, 0)).astype("uint32"), object=None)


def assert_judged_as_fitted(scan: Scan, config: RefineConfig, tmp_path, allowed: float = 1.35) -> Reconstruction:
    """The held-out error of the saved result is that of the fit, and near the shot noise."""
    held_out = scan.held_out_mask(7)  # not a column of the raster, which no other frame covers
    fit = refine(scan, config, held_out=held_out)
    result = Reconstruction.load(fit.result.save(tmp_path / "result.h5"))
    frames = np.flatnonzero(held_out)
    error = frame_error(result, scan.counts, frames, scan.mask)
    entry = fit.history[fit.best]
    # Other frames, fifteen of 625 pixels, of one model: they scatter by a few per cent of the shot noise.
    assert error == pytest.approx(entry["held_out_error"], rel=0.2)
    assert error < allowed * entry["shot_noise"]
    return result


def test_a_fitted_background_is_part_of_the_result(tmp_path):
    """Five counts a pixel: judged without it, the error was six times as large as the fit said."""
    y, x = np.mgrid[:25, :25]
    background = 5 * np.exp(-((y - 8) ** 2 + (x - 12) ** 2) / 200)
    scan = drawn(simulate(replace(SMALL, positions=225)), background=background)
    config = replace(LONG, noise="poisson", background_from=1, background_blur_px=2.0)
    result = assert_judged_as_fitted(scan, config, tmp_path)
    # Of four scans of other seeds 0.22 to 0.32 was wrong; of the 100 frames of `noisy`, 0.62.
    assert np.linalg.norm(result.background - background) < 0.5 * np.linalg.norm(background)
    bare = replace(result, background=None)
    frames = np.arange(0, 225, 7)
    assert frame_error(bare, scan.counts, frames) > 2 * frame_error(result, scan.counts, frames)


def test_the_varying_strength_of_a_probe_is_part_of_the_result(noisy, tmp_path):
    """By 30 %: the fit said shot noise, and the report 125 times as much. Held-out frames have their own weights."""
    strength = np.random.default_rng(2).normal(0, 0.3, (100, 1))
    scan = drawn(noisy, opr=noisy.probe, weights=strength)
    fit = refine(scan, replace(LONG, opr_from=3, epochs=100))
    result = Reconstruction.load(fit.result.save(tmp_path / "result.h5"))
    entry = fit.history[fit.best]
    assert entry["held_out_error"] < 1.5 * entry["shot_noise"]
    error = frame_error(result, scan.counts, range(100))
    assert error < 1.5 * entry["shot_noise"]
    assert frame_error(replace(result, opr_weights=0 * result.opr_weights), scan.counts, range(100)) > 5 * error
    slope, _ = np.polyfit(strength[:, 0], result.opr_weights[:, 0], 1)
    assert slope == pytest.approx(1, abs=0.15)


def test_frames_that_no_fit_has_seen_are_judged_with_weights_of_their_own(noisy):
    strength = np.random.default_rng(2).normal(0, 0.3, (100, 1))
    scan = drawn(noisy, opr=noisy.probe, weights=strength)
    held_out = scan.held_out_mask(7)
    fit = refine(scan, replace(LONG, opr_from=3, epochs=100), held_out=held_out)
    frames, entry = np.flatnonzero(held_out), fit.history[fit.best]
    assert not fit.result.opr_weights[frames].any()
    judged = with_own_weights(scan, fit.result, frames)
    assert frame_error(judged, scan.counts, frames) < 1.5 * entry["shot_noise"]
    assert frame_error(judged, scan.counts, frames) < 0.2 * frame_error(fit.result, scan.counts, frames)
    others = np.flatnonzero(~held_out)
    np.testing.assert_array_equal(judged.opr_weights[others], fit.result.opr_weights[others])


def test_the_blur_of_a_detector_is_found_and_part_of_the_result(noisy, tmp_path):
    """A new unknown is one class and its line in a list."""
    scan = drawn(noisy, blur_px=0.8)
    without = refine(scan, LONG)
    result = assert_judged_as_fitted(scan, replace(LONG, blur_from=3), tmp_path)
    assert result.blur_px == pytest.approx(0.8, rel=0.05)
    frames = np.arange(0, 100, 7)
    assert frame_error(without.result, scan.counts, frames) > 1.3 * frame_error(result, scan.counts, frames)


@pytest.mark.parametrize("noise", ["amplitude", "poisson"])
def test_without_a_blur_none_is_found(noise, noisy):
    fit = refine(noisy, replace(LONG, blur_from=3, noise=noise))
    assert fit.result.blur_px < 0.25


def test_a_fit_goes_on_from_the_estimate_of_another(noisy):
    """Whole: with its background and its OPR modes and weights it starts where the other ended."""
    strength = np.random.default_rng(2).normal(0, 0.2, (100, 1))
    scan = drawn(noisy, opr=noisy.probe, weights=strength, background=np.full((25, 25), 2.0))
    settings = replace(LONG, opr_from=2, background_from=2, epochs=30)
    first = refine(scan, settings)
    again = refine(scan, replace(settings, epochs=4, opr_from=None, background_from=None), start=first.result)
    assert again.history[0]["criterion"] < 1.2 * first.history[first.best]["criterion"]
    np.testing.assert_array_equal(again.result.background, first.result.background)
    np.testing.assert_array_equal(again.result.opr_weights, first.result.opr_weights)


def test_an_estimate_is_saved_and_loaded_whole(noisy, tmp_path):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype("float32")
    estimate = replace(
        Reconstruction.bare(noisy.object, noisy.probe, noisy.positions),
        slices=(normal(3, 40, 41) + 1j * normal(3, 40, 41)).astype("complex64"),
        multislice=Multislice(slices=3, spacing_px=20.0, wavelength_px=0.1),
        near_field=NearField(distance_px=12.0, wavelength_px=0.5),
        opr_modes=(normal(2, 25, 25) + 1j * normal(2, 25, 25)).astype("complex64"),
        opr_weights=normal(100, 2),
        background=np.abs(normal(25, 25)),
        blur_px=0.7,
        affine=np.eye(2) + 0.01,
        origin_px=np.array([-3, 4]),
        pixel_size_m=3e-9,
    )
    again = Reconstruction.load(estimate.save(tmp_path / "estimate.h5"))
    for name in vars(estimate):
        if name != "provenance":
            np.testing.assert_equal(getattr(again, name), getattr(estimate, name))


# A thick sample.

THICK = Multislice(slices=4, spacing_px=60.0, wavelength_px=0.15)


def thick_scan(photons: float = 1e6) -> Scan:
    """Four slices far enough apart that light walks by several pixels between the first and the last."""
    config = replace(SMALL, N=32, positions=196, step_px=2.5, photons=photons, multislice=THICK, object_kind="cells")
    return simulate(config)


def test_a_thick_sample_is_refined_to_the_shot_noise_by_its_slices_and_not_by_one():
    scan = thick_scan()
    thin = refine(scan, replace(LONG, noise="poisson", epochs=60))
    thick = refine(scan, replace(LONG, noise="poisson", epochs=60, multislice=THICK))
    entry, thin_entry = thick.history[thick.best], thin.history[thin.best]
    # Four slices have as many unknowns as a seventh of the counts: on frames that they do not know they err by as much
    # more than shot noise as they take up of it in those that they do, and converge slowly along the beam.
    assert entry["error"] < entry["shot_noise"]
    assert entry["held_out_error"] < 1.4 * entry["shot_noise"]
    assert thin_entry["held_out_error"] > 3 * thin_entry["shot_noise"]
    assert thick.result.slices.shape[0] == 4
    np.testing.assert_allclose(thick.result.object, thick.result.slices.prod(axis=0), rtol=1e-5)
    # Whoever judges it asks the model with slices.
    assert frame_error(thick.result, scan.counts, range(0, 196, 5)) < 1.1 * entry["shot_noise"]


# Steps that pay.


def test_a_step_that_overshoots_is_halved_until_the_objective_falls(noisy, monkeypatch):
    """Lengths ten times too long: without a test of acceptance the misfit explodes."""
    from ptycho.refinement import solver as solver_module

    exact = solver_module.solved
    monkeypatch.setattr(solver_module, "solved", lambda gram, b: 10 * exact(gram, b))
    solver = Solver(noisy, np.arange(100), np.arange(0))
    misfits = [solver.cg_step([Object()]) for _ in range(8)]
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(misfits))
    assert misfits[-1] < 0.5 * misfits[0]


def test_the_last_epochs_are_dropped_where_they_make_it_worse(noisy, monkeypatch):
    """They are fitted to all frames: if those held out so far are fitted worse after that, something is wrong."""
    start = refine(noisy, replace(LONG, epochs=20))
    epoch = module._Schedule.epoch

    def spoiled(self, number, plan, unknowns):
        if not len(self.solver.held_out):
            self.solver.state["object"] = self.solver.state["object"] * np.complex64(1.5)
            return self.entry(number, 1.0, unknowns, 0.0)
        return epoch(self, number, plan, unknowns)

    monkeypatch.setattr(module._Schedule, "epoch", spoiled)
    fit = refine(noisy, replace(LONG, epochs=20))
    assert len(fit.history) == len(start.history) - module.FINISH
    assert fit.result.used == 95
    assert frame_error(fit.result, noisy.counts, range(100)) < 1.1 * frame_error(start.result, noisy.counts, range(100))


@pytest.mark.parametrize("epochs", [1, 3, 8, 20])
def test_there_are_as_many_epochs_as_allowed(epochs, noisy):
    fit = refine(noisy, replace(LONG, epochs=epochs))
    (note,) = fit.notes
    assert f"limit of {epochs} epochs while it was still improving" in note
    assert [entry["epoch"] for entry in fit.history] == list(range(epochs + 1))
