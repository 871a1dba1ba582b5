"""Priors within a run: only where held-out photons and frames like them, and never against the user."""

import json
from dataclasses import replace

import numpy as np
import pytest
from skimage.data import astronaut, gravel

from ptycho.config import Multislice, RefineConfig, RunConfig, SimulationConfig
from ptycho.evaluation import compare_objects
from ptycho.pipelines import prior
from ptycho.pipelines.precision import Precision
from ptycho.pipelines.prior import (
    DenoiserTrial,
    Smoothed,
    with_denoiser,
    with_flatness,
    with_slow_phase,
    with_total_variation,
)
from ptycho.pipelines.refine import refine_run
from ptycho.refinement.refine import make_solver, refine
from ptycho.simulation.simulate import simulate

NEITHER = Precision(half_sets=False, uncertainty=False)

POISSON = RefineConfig(noise="poisson", epochs=40)


def test_a_dim_scan_gets_its_total_variation_and_says_so(dim, tmp_path):
    outcome = refine_run(dim, tmp_path, RunConfig(refine=dict(epochs=40)), precision=NEITHER)
    settings = json.loads((tmp_path / "config.json").read_text())
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert settings["refine"]["tv_weight"] > 0 or settings["refine"]["red_weight"] > 0
    assert scores["total_variation"][0]["weight"] == 0
    assert any(note.startswith("Total variation, chosen by held-out photons") for note in outcome.notes)
    assert "Total variation" in (tmp_path / "report.html").read_text()
    bare = refine_run(dim, tmp_path / "bare", RunConfig(refine=dict(epochs=40)), auto=False, precision=NEITHER)
    # By more than a fit from other noise differs (0.4 dB over four seeds)
    assert outcome.scores.snr_db > bare.scores.snr_db + 0.4
    assert bare.smoothing == ()


@pytest.mark.parametrize(
    ("config", "decided"),
    [
        (POISSON, frozenset({"tv_weight"})),
        (replace(POISSON, tv_weight=0.01), frozenset()),
        (replace(POISSON, method="lsqml"), frozenset()),
    ],
)
def test_what_the_user_has_decided_stays(dim, dim_fit, config, decided):
    smoothed = with_total_variation(dim, config, dim_fit, np.zeros(225, bool), decided=decided)
    assert smoothed == (dim_fit, config, (), ())


def test_of_plenty_of_photons_nothing_is_tried(dim, dim_fit):
    assert with_total_variation(dim, POISSON, dim_fit, np.zeros(225, bool), plenty=5.0) == (dim_fit, POISSON, (), ())


def test_held_out_frames_have_the_last_word(dim, dim_fit):
    """A fit that cannot be improved upon is not replaced."""
    history = [{**entry, "criterion": 0.0} for entry in dim_fit.history]
    smoothed = with_total_variation(dim, POISSON, dim_fit._replace(history=history), np.zeros(225, bool))
    assert smoothed.fit.result is dim_fit.result and smoothed.config == POISSON
    assert "not taken" in smoothed.notes[0]


def test_an_image_no_better_than_the_mean_frame_gets_more_of_it_while_frames_like_it(dim, dim_fit, monkeypatch):
    """The weight rises threefold each time; the first that held-out frames do not like is not taken."""
    scores = iter([0.9, 0.8, 0.7, 0.75])
    weights = []

    def fitted(scan, config, **keywords):
        weights.append(config.tv_weight)
        score = next(scores)
        return dim_fit._replace(history=[{**entry, "criterion": score} for entry in dim_fit.history[:2]], best=1)

    starting = dim_fit._replace(history=[{**entry, "criterion": 1.0} for entry in dim_fit.history])
    monkeypatch.setattr(prior, "refine", fitted)
    monkeypatch.setattr(prior, "no_better_than_mean", lambda *_: True)
    smoothed = with_total_variation(dim, POISSON, starting, np.zeros(225, bool))
    assert weights == pytest.approx([weights[0] * 3**k for k in range(4)])
    assert smoothed.config.tv_weight == weights[2]
    assert smoothed.notes[0].startswith("Total variation, chosen by held-out photons, then frames")


@pytest.mark.parametrize(
    ("by_frames", "by_photons", "liked"),
    [(1.0, 2.0, True), (-1.0, 2.0, True), (1.0, -2.0, False), (3.0, -2.0, True)],
)
def test_frames_and_photons_that_no_fit_has_seen_decide_together(dim_fit, by_frames, by_photons, liked):
    """Independent counts: the logarithms of their likelihoods add up."""
    assert DenoiserTrial(dim_fit, POISSON, by_frames, by_photons).liked == liked


def test_a_network_takes_the_place_of_total_variation_where_frames_like_it(dim, dim_fit):
    smoothed = with_total_variation(dim, POISSON, dim_fit, np.zeros(225, bool))
    found = with_denoiser(dim, smoothed, np.zeros(225, bool))
    assert found.config.red_weight > 0 and found.config.tv_weight == 0
    assert found.notes[-1].startswith("The prior is a network that takes out noise: ")
    snr = lambda fit: compare_objects(fit.result.object, dim.object).snr_db
    assert snr(found.fit) > snr(smoothed.fit)
    # One history, which goes on
    assert found.fit.history[smoothed.fit.best]["criterion"] == smoothed.fit.criterion


@pytest.mark.parametrize(
    ("config", "decided"),
    [
        (POISSON, frozenset({"tv_weight"})),
        (POISSON, frozenset({"red_weight"})),
        (replace(POISSON, red_weight=1.0), frozenset()),
        (replace(POISSON, method="lsqml"), frozenset()),
        (replace(POISSON, multislice=Multislice(slices=2, spacing_px=5.0, wavelength_px=0.1)), frozenset()),
    ],
)
def test_a_network_is_no_prior_against_the_user_nor_of_slices(dim, dim_fit, config, decided):
    given = Smoothed(dim_fit, config)
    assert with_denoiser(dim, given, np.zeros(225, bool), decided=decided) is given


@pytest.fixture(scope="module")
def weak():
    """Little contrast in few photons through a wide probe: total variation leaves its slow phase open."""
    stones = gravel()[:216, :216] / 255.0
    settings = SimulationConfig(N=64, positions=225, step_px=9.0, photons=700.0, defocus=3.0)
    return simulate(settings, object=((1 - 0.2 * stones) * np.exp(0.6j * stones)).astype("complex64"))


@pytest.fixture(scope="module")
def weak_fit(weak):
    config = RefineConfig(noise="poisson")
    return with_total_variation(weak, config, refine(weak, config), np.zeros(len(weak), bool))


def test_near_the_mean_where_photons_and_frames_like_it(weak, weak_fit, monkeypatch):
    none, smoothed = np.zeros(len(weak), bool), weak_fit
    found = with_flatness(weak, smoothed, none)
    assert found.config.flat_weight > 0 and found.config.tv_weight == smoothed.config.tv_weight > 0
    assert "tried by held-out photons, and frames" in found.notes[-1]
    snr = lambda fit: compare_objects(fit.result.object, weak.object).snr_db
    assert snr(found.fit) > snr(smoothed.fit)
    assert with_flatness(weak, smoothed, none, decided=frozenset({"flat_weight"})) is smoothed
    bare = Smoothed(smoothed.fit, replace(smoothed.config, tv_weight=0.0))
    assert with_flatness(weak, bare, none) is bare
    # Frames that do not like it have their way, and photons theirs.
    monkeypatch.setattr(prior, "refine", lambda *_, **__: smoothed.fit)
    refused = with_flatness(weak, smoothed, none)
    assert refused.fit is smoothed.fit and "not taken" in refused.notes[-1]
    monkeypatch.setattr(prior, "gains_of_flatness", lambda *_, **__: [-1.0, -2.0, -3.0])
    assert with_flatness(weak, smoothed, none).notes[-1].endswith("none.")


def test_slow_phase_by_the_counts_alone_where_photons_and_frames_like_it(dim, dim_fit, monkeypatch):
    none = np.zeros(len(dim), bool)
    smoothed = with_total_variation(dim, POISSON, dim_fit, none)
    better = smoothed.fit._replace(
        history=[dict(entry, criterion=0.9 * entry["criterion"]) for entry in smoothed.fit.history]
    )
    monkeypatch.setattr(prior, "refine", lambda *_, **__: better)
    monkeypatch.setattr(prior, "gain_of_slow_phase", lambda *_, **__: 0.5)
    taken = with_slow_phase(dim, smoothed, none)
    assert taken.config.slow_phase > 0 and taken.config.tv_weight == smoothed.config.tv_weight > 0
    assert "follows the counts alone" in taken.notes[-1]
    # Frames that do not like it have their way, and photons theirs; and so has the user.
    monkeypatch.setattr(prior, "refine", lambda *_, **__: smoothed.fit)
    assert with_slow_phase(dim, smoothed, none).config.slow_phase == 0
    monkeypatch.setattr(prior, "gain_of_slow_phase", lambda *_, **__: -0.5)
    refused = with_slow_phase(dim, smoothed, none)
    assert refused.fit is smoothed.fit and "not taken" in refused.notes[-1]
    assert with_slow_phase(dim, smoothed, none, decided=frozenset({"slow_phase"})) is smoothed
    bare = Smoothed(smoothed.fit, replace(smoothed.config, tv_weight=0.0))
    assert with_slow_phase(dim, bare, none) is bare


def test_photons_tell_a_slow_phase_that_total_variation_holds_back():
    """A photograph through a wide probe, 7e4 counts a frame: an image by several dB better."""
    side = 216
    picture = astronaut()[:side, :side].mean(axis=-1) / 255.0
    settings = SimulationConfig(N=64, positions=225, step_px=9.0, photons=7e4, defocus=3.0)
    scan = simulate(settings, object=((1 - 0.4 * picture) * np.exp(0.8j * picture)).astype("complex64"))
    none = np.zeros(len(scan), bool)
    smoothed = with_total_variation(scan, POISSON, refine(scan, POISSON), none)
    found = with_slow_phase(scan, smoothed, none)
    snr = lambda fit: compare_objects(fit.result.object, scan.object).snr_db
    assert found.config.slow_phase > 0
    # Fits of other noise differ by 0.4 dB.
    assert snr(found.fit) > snr(smoothed.fit) + 2


def test_the_mean_is_weighed_by_the_light(weak):
    """Where no light falls the object is vacuum, which is not in it."""
    solver = make_solver(weak, np.arange(len(weak)), np.arange(0), replace(POISSON, flat_weight=1.0), None)
    light = solver.coverage()
    solver.state["object"] = np.where(light > 0, 0.5j, 1.0).astype("complex64")[None]
    solver.renew_priors()
    np.testing.assert_allclose(solver.priors.level, np.full((1, 1, 1), 0.5j), atol=1e-6)


def test_a_network_that_frames_do_not_like_is_not_taken(dim, dim_fit, monkeypatch):
    monkeypatch.setattr(prior, "refine", lambda *_, **__: dim_fit)
    monkeypatch.setattr(prior, "gain_of_denoiser", lambda *_, **__: -0.1)
    found = with_denoiser(dim, Smoothed(dim_fit, POISSON), np.zeros(225, bool))
    assert found.fit is dim_fit and found.config == POISSON
    assert "not taken" in found.notes[0]
    assert with_denoiser(dim, Smoothed(dim_fit, POISSON), np.zeros(225, bool), plenty=5.0).notes == ()


def test_a_fit_is_beside_the_mean_frame_by_what_decides(dim, dim_fit):
    none = np.zeros(225, bool)
    assert not prior.no_better_than_mean(dim_fit, dim, none)
    noise = np.random.default_rng(0).normal(0, 2, dim_fit.without_unseen.object.shape)
    wrong = replace(dim_fit.without_unseen, object=np.exp(1j * noise).astype("complex64"))
    assert prior.no_better_than_mean(dim_fit._replace(without_unseen=wrong), dim, none)
