"""The resolution of a run's image, by fits to two halves of the data."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import RefineConfig, RunConfig, SimulationConfig
from ptycho.evaluation import TooSmall
from ptycho.pipelines import half_sets, precision
from ptycho.pipelines.refine import refine_run
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate

CONFIG = RefineConfig(noise="poisson")


def scan_of(photons, step_px=3.0, seed=3):
    return simulate(SimulationConfig(N=32, positions=144, step_px=step_px, photons=photons, seed=seed))


def resolution_px(photons, **settings):
    scan = scan_of(photons, **settings)
    fit = refine(scan, CONFIG)
    return half_sets.half_sets(scan, CONFIG, fit.result, np.zeros(len(scan), bool))


def test_more_photons_show_finer_detail():
    few, many = resolution_px(100), resolution_px(1e6)
    assert few.halves == many.halves == "frames"
    # By the shot noise 100 times the power: a resolution that differs by less would tell nothing of photons.
    assert few.resolution_px > 1.5 * many.resolution_px


def test_frames_that_would_not_overlap_are_kept_and_their_photons_halved():
    assert resolution_px(1e4, step_px=8.0).halves == "photons"


def test_each_half_takes_one_of_two_neighbours():
    scan = scan_of(100)
    one, other = half_sets.paired(scan.positions, np.random.default_rng(0))
    assert sorted([*one, *other]) == list(range(len(scan)))
    assert abs(len(one) - len(other)) <= 0.1 * len(scan)
    for half in (one, other):
        means = scan.positions[half].mean(axis=0) - scan.positions.mean(axis=0)
        assert np.abs(means).max() < scan.step_px


def test_held_out_frames_are_not_looked_at():
    scan = scan_of(1e4)
    held_out = scan.held_out_mask(5)
    fit = refine(scan, CONFIG, held_out=held_out)
    counts = scan.counts.copy()
    counts[held_out] = 10**4
    one, other = (
        half_sets.half_sets(each, CONFIG, fit.result, held_out) for each in (scan, replace(scan, counts=counts))
    )
    np.testing.assert_array_equal(one.correlation.correlation, other.correlation.correlation)


def test_few_frames_are_not_halved():
    scan = scan_of(1e4).subset(slice(6))
    fit = refine(scan, replace(CONFIG, epochs=4))
    with pytest.raises(TooSmall, match="6 frames are too few"):
        half_sets.half_sets(scan, CONFIG, fit.result, np.zeros(6, bool))


def test_a_run_tells_it_unless_it_takes_too_long(tmp_path, monkeypatch):
    scan, run = scan_of(1e4), RunConfig(refine=dict(epochs=12))
    told = refine_run(scan, tmp_path / "told", run, auto=False)
    assert told.half_sets is not None
    saved = json.loads((tmp_path / "told" / "scores.json").read_text())["half_sets"]
    assert saved["resolution_px"] == told.half_sets.resolution_px
    assert told.half_sets.resolution() in (tmp_path / "told" / "report.html").read_text()
    without, whatever = (precision.Precision(half_sets=each) for each in (False, True))
    assert refine_run(scan, tmp_path / "not", run, auto=False, precision=without).half_sets is None
    monkeypatch.setattr(precision, "AFFORDABLE_S", 0.0)
    late = refine_run(scan, tmp_path / "late", run, auto=False)
    assert late.half_sets is None
    assert any("--half-sets" in note for note in late.notes)
    assert refine_run(scan, tmp_path / "asked", run, auto=False, precision=whatever).half_sets is not None
