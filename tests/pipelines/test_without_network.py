"""Where a network adds nothing, the default command does without, says so, and resumes so."""

import json

import pytest

from ptycho.cli.compute import network_of
from ptycho.config import RunConfig, SimulationConfig
from ptycho.pipelines import reconstruct as pipeline
from ptycho.pipelines.precision import Precision
from ptycho.pipelines.reconstruct import reconstruct_run
from ptycho.simulation.simulate import simulate

NEITHER = Precision(half_sets=False, uncertainty=False)


@pytest.fixture(scope="module")
def bright():
    """Light enough: some thousand photons on an object pixel."""
    return simulate(SimulationConfig(N=32, positions=144, step_px=4.0, photons=1e6, seed=2))


def test_a_fit_at_the_noise_stays_alone(bright, tmp_path):
    (tmp_path / "network.h5").write_text("of an earlier run")
    run = RunConfig(refine=dict(epochs=40))
    outcome = reconstruct_run(
        bright, tmp_path, run, model_folder="pretrained", network_optional=True, precision=NEITHER
    )
    assert outcome.verdict.kind == "at the noise"
    assert outcome.before is None and not (tmp_path / "network.h5").exists()
    assert any("No image of a network was used" in note for note in outcome.notes)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["refine"]["epochs"] == 40
    assert network_of(tmp_path, resume=True, trains=False) == "pretrained"  # and again it is optional


def test_in_little_light_a_network_is_used(bright, tmp_path):
    dim = simulate(SimulationConfig(N=32, positions=144, step_px=4.0, photons=1e4, seed=2))
    run = RunConfig(refine=dict(epochs=10, red_weight=0.0))
    outcome = reconstruct_run(
        dim, tmp_path, run, model_folder="pretrained", network_optional=True, symmetries=1, precision=NEITHER
    )
    assert outcome.before is not None and (tmp_path / "network.h5").exists()


def test_a_network_as_prior_is_enough_and_the_scan_still_gets_what_it_needs(tmp_path, monkeypatch):
    needs = lambda scan, config, fit, held_out, **_: (fit, config, ("Needs were asked for.",))
    monkeypatch.setattr(pipeline, "with_needs", needs)
    dim = simulate(SimulationConfig(N=32, positions=144, step_px=4.0, photons=1e4, seed=2))
    run = RunConfig(refine=dict(epochs=40))
    outcome = reconstruct_run(dim, tmp_path, run, model_folder="pretrained", network_optional=True, precision=NEITHER)
    assert any(note.startswith("The prior is a network") for note in outcome.notes)
    assert any("the fit has one as its prior" in note for note in outcome.notes)
    assert "Needs were asked for." in outcome.notes
    assert outcome.before is None and not (tmp_path / "network.h5").exists()


def test_one_that_was_asked_for_is_used(bright, tmp_path):
    run = RunConfig(refine=dict(epochs=10))
    outcome = reconstruct_run(bright, tmp_path, run, model_folder="pretrained", symmetries=1, precision=NEITHER)
    assert outcome.before is not None
