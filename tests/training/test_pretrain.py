"""Pretraining on simulation, networks that carry over to other scans, and what they say about where they come from."""

import hashlib

import numpy as np
import pytest

from ptycho.config import ModelConfig, PretrainingConfig, SimulationConfig, TrainingConfig
from ptycho.evaluation import compare_objects
from ptycho.network import files as checkpoint
from ptycho.network.build import build_model
from ptycho.network.domain import far_from_training
from ptycho.network.files import load_model, load_pretrained, save_model
from ptycho.reconstruction import reconstruct
from ptycho.simulation.probes import make_probe
from ptycho.simulation.simulate import simulate
from ptycho.training.pretrain import KINDS, pretrain, random_scan
from ptycho.training.train import train
from tests.helpers import normal

TINY = ModelConfig(N=32, gridsize=3, stages=1, width=4)


def test_every_drawn_scan_can_be_simulated():
    """Over the ranges of the defaults: the probe fits on the detector, frames overlap, doses span decades."""
    config = PretrainingConfig(frames=9)
    drawn = [random_scan(config, 64, number) for number in range(200)]
    for settings in drawn:
        make_probe(64, settings.photons, settings.probe_diameter, settings.defocus)  # raises where it does not fit
        assert settings.step_px < settings.probe_diameter * 64
    assert {settings.object_kind for settings in drawn} == set(KINDS)
    photons = [settings.photons for settings in drawn]
    assert max(photons) > 100 * min(photons)
    assert random_scan(config, 64, 7) == drawn[7]


def test_bad_ranges_are_refused():
    with pytest.raises(ValueError, match="photons"):
        PretrainingConfig(photons=(1e5, 1e3))
    with pytest.raises(ValueError, match="probe_diameter"):
        PretrainingConfig(probe_diameter=(0.5, 1.5))
    assert PretrainingConfig.from_dict(PretrainingConfig(step=[0.1, 0.2]).to_dict()).step == (0.1, 0.2)


@pytest.mark.slow
def test_pretraining_learns_and_says_from_what():
    training = TrainingConfig(epochs=4, realspace_weight=1.0, nll_weight=0.1, validation_fraction=0.1)
    network, history = pretrain(PretrainingConfig(scans=3, frames=64, photons=(1e4, 1e5)), TINY, training)
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    assert network.trained_for["N"] == [32, 32]
    low, high = network.trained_for["counts_per_frame"]
    assert 1e3 < low < high < 1e5


@pytest.mark.slow
def test_a_trained_network_serves_another_size_probe_and_number_of_modes(small_scan):
    """Trained on frames of N 24 without a probe of its own, it reconstructs N 32 with two modes, as it is."""
    network = build_model(ModelConfig(N=24, gridsize=3, stages=1, width=4))
    train(network, small_scan, TrainingConfig(epochs=2))
    other = simulate(SimulationConfig(N=32, positions=49, step_px=5.0, probe_modes=2))
    result = reconstruct(network, other)
    assert np.isfinite(result.object).all()
    np.testing.assert_array_equal(result.probe, other.probe)
    # The same as that of a network that has this probe as its own.
    settings = ModelConfig(N=32, probe_modes=2, gridsize=3, stages=1, width=4)
    owner = build_model(settings, other.probe, start=network)
    np.testing.assert_allclose(reconstruct(owner, other).object, result.object, atol=1e-5)
    for net, source in zip(owner.nets, network.nets, strict=True):
        for a, b in zip(net.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="width 8"):
        build_model(ModelConfig(N=24, stages=2, width=8), start=network)
    with pytest.raises(ValueError, match="N 24, the model N 32"):
        reconstruct(owner, small_scan)
    assert np.isfinite(reconstruct(owner.without_probe(), small_scan).object).all()


@pytest.mark.slow
def test_use_far_from_the_training_is_said(small_scan, tmp_path):
    """A fresh network has nothing to say; a trained one warns of a dose 100 times as high, also when loaded."""
    config = ModelConfig(N=24, gridsize=2, stages=1, width=4)
    assert far_from_training(build_model(config, small_scan.probe), small_scan) == []
    model = build_model(config, small_scan.probe)
    train(model, small_scan, TrainingConfig(epochs=1))
    model = load_model(save_model(model, tmp_path / "model.keras"))
    assert far_from_training(model, small_scan) == []
    bright = simulate(SimulationConfig(N=24, positions=144, step_px=4.0, jitter_px=1.0, photons=1e7, seed=3))
    (sentence,) = far_from_training(model, bright)
    assert "counts per frame" in sentence
    assert "--from" in sentence


def test_a_damaged_network_of_the_package_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path)
    model = build_model(TINY, make_probe(32))
    model.nets[0].head.kernel.assign(normal(np.random.default_rng(0), *model.nets[0].head.kernel.shape))
    path = save_model(model, tmp_path / "best.keras")
    path.with_suffix(".sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  best.keras\n")
    np.testing.assert_array_equal(load_pretrained().nets[0].get_weights()[-2], model.nets[0].get_weights()[-2])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        load_pretrained()


@pytest.mark.slow
def test_the_network_of_the_package_reconstructs_what_it_has_never_seen():
    """Another N, probe and object than any it learned from, and no training: 6 dB, twice the amplitude, above flat."""
    scan = simulate(SimulationConfig(N=48, positions=225, step_px=5.0, photons=1e5, probe_diameter=0.6, seed=11))
    scores = compare_objects(reconstruct(load_pretrained(), scan).object, scan.object)
    assert scores.snr_db > scores.flat.snr_db + 6


@pytest.mark.slow
def test_the_network_for_single_frames_makes_an_image_of_larger_ones_untrained():
    """Learned at N 64. An image without its slow phase: twice the structure of a flat object, whose phase SSIM is 0.17,
    and some 2 dB, where the error of slow phase leaves little to gain."""
    scan = simulate(SimulationConfig(N=128, positions=144, step_px=16.0, jitter_px=4.0, photons=4e5, seed=1))
    scores = compare_objects(reconstruct(load_pretrained("fast"), scan).object, scan.object)
    assert scores.phase_ssim > 2 * scores.flat.phase_ssim
    assert scores.snr_db > scores.flat.snr_db + 1
