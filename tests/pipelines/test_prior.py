"""Total variation within a run: only where held-out photons and frames like it, and never against the user."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import RefineConfig, RunConfig
from ptycho.pipelines.prior import with_total_variation
from ptycho.pipelines.refine import refine_run

POISSON = RefineConfig(noise="poisson", epochs=40)


def test_a_dim_scan_gets_its_total_variation_and_says_so(dim, tmp_path):
    outcome = refine_run(dim, tmp_path, RunConfig(refine=dict(epochs=40)))
    settings = json.loads((tmp_path / "config.json").read_text())
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert settings["refine"]["tv_weight"] > 0
    assert scores["total_variation"][0]["weight"] == 0
    assert any(note.startswith("Total variation, chosen by held-out photons") for note in outcome.notes)
    assert "Total variation" in (tmp_path / "report.html").read_text()
    bare = refine_run(dim, tmp_path / "bare", RunConfig(refine=dict(epochs=40)), auto=False)
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
