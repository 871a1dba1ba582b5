"""Training: it beats a flat object, repeats, resumes exactly, and moves what is trainable."""

import json

import numpy as np
import pytest

from ptycho import training
from ptycho.checkpoint import load_model, save_model
from ptycho.config import ModelConfig, SimulationConfig, TrainingConfig
from ptycho.evaluation import compare_objects
from ptycho.network.build import build_model
from ptycho.reconstruction import reconstruct
from ptycho.simulation.simulate import simulate
from ptycho.training import Batches, learning_rate, should_stop, train
from tests.helpers import to_numpy

QUICK = dict(stages=2, width=4, gridsize=2)


def model_for(scan, **settings):
    return build_model(ModelConfig(N=scan.N, probe_modes=scan.modes, **(QUICK | settings)), scan.probe)


@pytest.mark.slow
def test_training_without_truth_beats_a_flat_object():
    """In object space: 3 dB above the flat object at least, where the loss alone could fall on a flat one."""
    sample = SimulationConfig(N=32, positions=225, step_px=4.0, jitter_px=1.0, object_kind="lines", seed=3)
    scan = simulate(sample)
    model = model_for(scan, gridsize=3, width=8)
    history = train(model, scan, TrainingConfig(epochs=15, learning_rate=3e-3))
    scores = compare_objects(reconstruct(model, scan).object, scan.object)
    assert scores.snr_db > scores.flat.snr_db + 3
    assert scores.phase_ssim > scores.flat.phase_ssim + 0.3
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]


@pytest.mark.slow
def test_same_seeds_same_losses(small_scan):
    config = TrainingConfig(epochs=2)
    first = train(model_for(small_scan), small_scan, config)
    second = train(model_for(small_scan), small_scan, config)
    other = train(model_for(small_scan, seed=1), small_scan, config)
    losses = lambda history: [e[kind] for e in history for kind in ("loss", "validation_loss")]
    # Sums over threads may come in another order: float32 rounding, grown over two epochs of Adam.
    np.testing.assert_allclose(losses(first), losses(second), rtol=1e-5)
    assert losses(first) != pytest.approx(losses(other), rel=1e-5)


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_killed_training_goes_on_exactly(small_scan, tmp_path):
    config = TrainingConfig(epochs=4, patience=1)
    whole = train(model_for(small_scan, probe_trainable=True), small_scan, config, folder=tmp_path / "whole")

    def kill_in_third_epoch(what, done, total, note):
        if done > 2.2:
            raise Killed

    with pytest.raises(Killed):
        broken = model_for(small_scan, probe_trainable=True)
        train(broken, small_scan, config, folder=tmp_path / "killed", report=kill_in_third_epoch)
    saved = json.loads((tmp_path / "killed" / "history.json").read_text())
    assert len(saved) == 2
    model = model_for(small_scan, probe_trainable=True)
    resumed = train(model, small_scan, config, folder=tmp_path / "killed", resume=True)
    for a, b in zip(whole, resumed, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=1e-5)
        assert a["learning_rate"] == b["learning_rate"]
    with pytest.raises(ValueError, match="other settings \\(learning_rate\\)"):
        other = TrainingConfig(epochs=4, patience=1, learning_rate=1e-2)
        train(model_for(small_scan), small_scan, other, folder=tmp_path / "killed", resume=True)


@pytest.mark.slow
def test_probe_and_scale_train_and_are_saved(small_scan, tmp_path):
    """Started 5 % off, the scale comes nearer to the counts; what is saved is what was trained."""
    wrong = small_scan.with_probe(small_scan.probe * np.float32(np.sqrt(1.5)))
    model = model_for(wrong, probe_trainable=True, scale_trainable=True)
    before, log_scale = to_numpy(model.probe.value()), float(to_numpy(model.probe.log_scale))
    train(model, wrong, TrainingConfig(epochs=3, learning_rate=3e-3))
    after = to_numpy(model.probe.value())
    assert np.abs(after - before).max() > 1e-3 * np.abs(before).max()
    assert float(to_numpy(model.probe.log_scale)) != log_scale
    assert (np.abs(after) ** 2).sum() < (np.abs(before) ** 2).sum()
    again = load_model(save_model(model, tmp_path / "model.keras"))
    np.testing.assert_array_equal(to_numpy(again.probe.value()), after)
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_fixed_probe_is_untouched_by_training(small_scan):
    model = model_for(small_scan)
    train(model, small_scan, TrainingConfig(epochs=1))
    np.testing.assert_array_equal(to_numpy(model.probe.value()), small_scan.probe)


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", [dict(nll_weight=0.0, mae_weight=1.0), dict(tv_weight=0.1), dict(realspace_weight=1.0)]
)
def test_each_loss_falls(small_scan, weights):
    history = train(model_for(small_scan), small_scan, TrainingConfig(epochs=3, **weights))
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [dict(gridsize=1, stages=1), dict(gridsize=3), dict(architecture="cnn", stages=1, width=8)]
)
def test_every_kind_of_network_trains(small_scan, settings):
    config = TrainingConfig(epochs=4, learning_rate=3e-3)
    history = train(model_for(small_scan, **settings), small_scan, config)
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.slow
def test_mixed_precision_learns_the_same(small_scan):
    """bfloat16 has 8 bits: the loss of the first epochs agrees with float32 to a few per cent of its fall."""
    plain = train(model_for(small_scan), small_scan, TrainingConfig(epochs=3))
    mixed = train(model_for(small_scan, precision="mixed_bfloat16"), small_scan, TrainingConfig(epochs=3))
    fall = plain[0]["loss"] - plain[-1]["loss"]
    assert fall > 0
    assert mixed[-1]["loss"] == pytest.approx(plain[-1]["loss"], abs=0.3 * fall)


def test_withheld_frames_are_never_trained_on(small_scan):
    batches = Batches(small_scan, 4, small_scan.N, TrainingConfig(validation_fraction=0.1))
    withheld = set(batches.validation_groups.ravel().tolist())
    assert withheld
    for epoch in range(3):
        assert not withheld & set(batches.epoch(epoch).groups.ravel().tolist())


def test_a_group_lies_whole_on_its_canvas(small_scan):
    batches = Batches(small_scan, 9, small_scan.N, TrainingConfig())
    for epoch in range(3):
        arrays = batches.arrays(batches.epoch(epoch).groups)
        corners = arrays["positions"] - small_scan.N // 2
        assert corners.min() >= 0
        assert corners.max() + small_scan.N <= batches.canvas_side


def test_true_object_of_a_group_is_cut_where_its_frames_are(small_scan):
    """Expected counts of the cut truth are those of the scan: chi-square per pixel is 1."""
    from ptycho.physics.diffraction import expected_counts
    from ptycho.physics.patches import extract
    from ptycho.physics.translation import fourier_shift

    batches = Batches(small_scan, 4, small_scan.N, TrainingConfig(realspace_weight=1.0))
    arrays = batches.arrays(batches.epoch(0).groups[:5])
    patches = extract(arrays["truth"], arrays["positions"], (small_scan.N, small_scan.N))
    probe = fourier_shift(small_scan.probe[None, None], arrays["fractions"][:, :, None])
    expected = to_numpy(expected_counts(patches, probe))
    bright = expected > 5
    chi2 = ((arrays["counts"] - expected) ** 2 / expected)[bright]
    # The variance of one term is 2 + 1 / expected, at most 2.2.
    assert abs(chi2.mean() - 1) < 5 * np.sqrt(2.2 / chi2.size)


def history_of(*losses):
    return [dict(loss=0.0, validation_loss=v) for v in losses]


def test_step_size_halves_on_a_stall_and_training_stops():
    config = TrainingConfig(learning_rate=1.0, patience=2)
    falling = history_of(5, 4, 3)
    stalled = history_of(5, 4, 4.5, 4.2)
    assert learning_rate(config, 0, 10, []) == 1.0
    assert learning_rate(config, 5, 10, falling) == pytest.approx(0.5)
    assert learning_rate(config, 5, 10, stalled) == pytest.approx(0.25)
    assert not should_stop(stalled, 2)
    assert should_stop(history_of(5, 4, 4.5, 4.2, 4.1, 4.3), 2)


def test_a_loss_that_is_no_number_is_an_error(small_scan):
    model = model_for(small_scan)
    model.nets[0].head.weights[0].assign(np.full(model.nets[0].head.weights[0].shape, np.nan))
    with pytest.raises(ValueError, match="training loss is nan in epoch 1"):
        train(model, small_scan, TrainingConfig(epochs=1))


def test_a_scan_of_another_size_is_refused(small_scan):
    from ptycho.simulation.probes import make_probe

    with pytest.raises(ValueError, match="N 24, the model N 32"):
        train(build_model(ModelConfig(N=32), make_probe(32)), small_scan)


@pytest.mark.slow
def test_a_new_training_forgets_the_old_one_in_its_folder(small_scan, tmp_path):
    """Killed before its first epoch ends, a new training must not be resumed from the one before it."""
    config = TrainingConfig(epochs=1)
    train(model_for(small_scan), small_scan, config, folder=tmp_path)

    def kill_at_once(what, done, total, note):
        raise Killed

    with pytest.raises(Killed):
        train(model_for(small_scan), small_scan, config, folder=tmp_path, report=kill_at_once)
    assert training.Checkpoint(tmp_path, config).restore(None) == []


def test_restoring_from_an_empty_folder_starts_afresh(small_scan, tmp_path):
    checkpoint = training.Checkpoint(tmp_path / "new", TrainingConfig())
    assert checkpoint.restore(None) == []
