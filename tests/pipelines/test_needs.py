"""What a scan needs is kept, what it does not need is not; what the user has decided is left alone."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import RefineConfig, RunConfig, SimulationConfig
from ptycho.pipelines import needs
from ptycho.pipelines.assess import judgement_of
from ptycho.pipelines.needs import Need, decided_by, with_likelihood, with_needs
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate

CONFIG = RefineConfig(noise="poisson", epochs=60)


@pytest.fixture(scope="module")
def hazy(small_scan):
    """20 counts of background on each pixel, and a fit that knows nothing of it."""
    haze = np.random.default_rng(0).poisson(20.0, small_scan.counts.shape)
    scan = replace(small_scan, counts=(small_scan.counts + haze).astype("uint32"), object=None)
    held_out = np.zeros(len(scan), bool)
    return scan, held_out, refine(scan, CONFIG, held_out=held_out)


def errors(scan, held_out, fit):
    return judgement_of(fit.result, scan, held_out, fit).deciding


@pytest.mark.slow
def test_what_a_scan_needs_is_kept_until_it_is_at_the_noise(hazy, monkeypatch):
    scan, held_out, fit = hazy
    assert not fit.at_limit
    assert errors(scan, held_out, fit).error > 2 * errors(scan, held_out, fit).shot_noise
    turn, background = Need("affine", dict(affine_from=1)), Need("background", dict(background_from=1))
    monkeypatch.setattr(needs, "NEEDS", (turn, background, Need("positions", dict(positions_from=1))))
    improved = with_needs(scan, CONFIG, fit, held_out)
    # Then the fit is at the noise, and nothing more is tried.
    assert improved.notes == ("Tried by held-out frames: affine, background; kept: background.",)
    assert improved.config.background_from == 1 and improved.config.affine_from is None
    # Where the sample scatters few photons: in bright pixels, a part that all frames share may be of either.
    dim = scan.mean_pattern < 25
    assert improved.fit.result.background[dim].mean() == pytest.approx(20, rel=0.1)
    after = errors(scan, held_out, improved.fit)
    assert after.error == pytest.approx(after.shot_noise, rel=0.2)
    epochs = [entry["epoch"] for entry in improved.fit.history]
    assert epochs == list(range(len(epochs)))


def test_nothing_is_tried_where_nothing_can_be_gained_or_the_user_decided(hazy, small_scan, monkeypatch):
    def not_called(*arguments, **keywords):
        raise AssertionError("a fit was tried")

    scan, held_out, fit = hazy
    monkeypatch.setattr(needs, "refine", not_called)
    monkeypatch.setattr(needs, "NEEDS", (Need("background", dict(background_from=1)),))
    decided = decided_by(RunConfig(refine=dict(background_from=3)), 2)
    assert decided == {"background_from", "modes"}
    assert with_needs(scan, CONFIG, fit, held_out, decided=decided).fit is fit
    limited = fit._replace(at_limit=True)
    assert with_needs(scan, CONFIG, limited, held_out).fit is limited
    assert with_needs(scan, replace(CONFIG, method="lsqml"), fit, held_out).fit is fit
    assert with_needs(scan, CONFIG, fit, held_out, seconds=-1.0).fit is fit
    sound = replace(small_scan, object=None)
    good = refine(sound, CONFIG)
    assert with_needs(sound, CONFIG, good, held_out).notes == ()


def test_where_three_modes_do_not_help_eight_are_not_tried(hazy, monkeypatch):
    scan, held_out, fit = hazy
    monkeypatch.setattr(needs, "refine", lambda *_, **__: fit)  # no trial gains anything
    few, many = Need("3 modes", {}, modes=3), Need("8 modes", {}, modes=8)
    monkeypatch.setattr(needs, "NEEDS", (few, many, Need("background", dict(background_from=1))))
    assert with_needs(scan, CONFIG, fit, held_out).notes == (
        "Tried by held-out frames: 3 modes, background; kept: none.",
    )


def test_where_amplitudes_explain_nothing_the_likelihood_is_fitted():
    """Most pixels count nothing, and the sample hardly scatters: the bias of amplitudes is all they fit."""
    config = SimulationConfig(N=32, positions=225, step_px=3.0, jitter_px=1.0, photons=1000, seed=3)
    sample = (simulate(config).object ** 0.03).astype("complex64")
    scan = replace(simulate(config, object=sample), object=None, probe_known=False)
    held_out = scan.held_out_mask(7)
    amplitudes = RefineConfig(noise="amplitude", probe_from=1, focus=False, epochs=40)
    fit = refine(scan, amplitudes, held_out=held_out)
    likely, chosen, notes = with_likelihood(scan, amplitudes, fit, held_out)
    assert chosen == replace(amplitudes, noise="poisson")
    assert "likelihood is fitted" in notes[0]
    deviance = [judgement_of(each.result, scan, held_out, each).deviance for each in (fit, likely)]
    assert deviance[0].error >= deviance[0].mean_frame
    assert deviance[1].error < deviance[0].error
    assert with_likelihood(scan, amplitudes, fit, held_out, decided=frozenset({"noise"})) == (fit, amplitudes, ())


def test_amplitudes_that_explain_the_frames_stay(dim, dim_fit, monkeypatch):
    """And nothing is tried for scans whose pixels count, or for fits by the likelihood."""
    monkeypatch.setattr(needs, "refine", None)
    none = np.zeros(len(dim), bool)
    amplitudes = replace(CONFIG, noise="amplitude")
    assert judgement_of(dim_fit.result, dim, none, dim_fit).sparse
    for config in (amplitudes, CONFIG):
        assert with_likelihood(dim, config, dim_fit, none) == (dim_fit, config, ())
