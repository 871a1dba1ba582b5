"""Training: it beats a flat object, repeats, resumes exactly, and moves what is trainable."""

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import ModelConfig, NearField, SimulationConfig, TrainingConfig
from ptycho.evaluation import compare_objects
from ptycho.io import BadFile
from ptycho.network.build import build_model
from ptycho.network.files import load_model, save_model
from ptycho.reconstruction import reconstruct
from ptycho.simulation.simulate import simulate
from ptycho.training.batches import Batches, thin_counts, true_object
from ptycho.training.checkpoint import Checkpoint
from ptycho.training.collapse import has_collapsed
from ptycho.training.losses import PhysicsTraining
from ptycho.training.schedule import Epoch, learning_rate, should_stop
from ptycho.training.train import train
from tests.helpers import frame_counts, to_numpy

QUICK = dict(stages=1, width=4, gridsize=2)


def model_for(scan, **settings):
    return build_model(ModelConfig(N=scan.N, probe_modes=scan.modes, **(QUICK | settings)), scan.probe)


@pytest.fixture(scope="module")
def trained(small_scan):
    """The network that others are compared with, and its epochs."""
    model = model_for(small_scan)
    return model, train(model, small_scan, TrainingConfig(epochs=3))


@pytest.mark.slow
def test_training_without_truth_beats_a_flat_object():
    """In object space: 3 dB above the flat object at least, where the loss alone could fall on a flat one.

    It is not started again; warnings are errors here.
    """
    sample = SimulationConfig(N=32, positions=225, step_px=4.0, jitter_px=1.0, object_kind="lines", seed=3)
    scan = simulate(sample)
    model = model_for(scan, gridsize=3, width=8, stages=2)
    history = train(model, scan, TrainingConfig(epochs=15, batch_groups=1, learning_rate=3e-3))
    scores = compare_objects(reconstruct(model, scan).object, scan.object)
    assert scores.snr_db > scores.flat.snr_db + 3
    assert scores.phase_ssim > scores.flat.phase_ssim + 0.3
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    assert {entry["restarts"] for entry in history} == {0}
    assert history[-1]["validation_loss"] < 0.99 * history[-1]["flat_loss"]


@pytest.mark.slow
def test_same_seeds_same_losses(small_scan, trained):
    _, first = trained
    config = TrainingConfig(epochs=3)
    second = train(model_for(small_scan), small_scan, config)
    other = train(model_for(small_scan, seed=1), small_scan, config)
    losses = lambda history: [e[kind] for e in history for kind in ("loss", "validation_loss")]
    # Sums over threads may come in another order: float32 rounding, grown over three epochs of Adam.
    np.testing.assert_allclose(losses(first), losses(second), rtol=1e-5)
    assert losses(first) != pytest.approx(losses(other), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["consensus", "single"])
def test_compiled_steps_learn_the_same(small_scan, trained, architecture):
    """Gradients of every operation exist in XLA, and are the same."""

    def learnt(xla):
        config = TrainingConfig(epochs=3, jit_compile=xla)
        return train(model_for(small_scan, architecture=architecture), small_scan, config)

    plain, compiled = trained[1] if architecture == "consensus" else learnt(xla=False), learnt(xla=True)
    for kind in ("loss", "validation_loss"):
        # Sums in another order, as between two trainings with the same seeds; XLA reorders more of them.
        np.testing.assert_allclose([e[kind] for e in compiled], [e[kind] for e in plain], rtol=1e-4)


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_killed_training_goes_on_exactly_and_is_forgotten_by_a_new_one(small_scan, tmp_path):
    config = TrainingConfig(epochs=4, patience=1)
    whole = train(model_for(small_scan, probe_trainable=True), small_scan, config, folder=tmp_path / "whole")

    def kill_in_third_epoch(what, done, total, numbers):
        if done > 2.2:
            raise Killed

    with pytest.raises(Killed):
        broken = model_for(small_scan, probe_trainable=True)
        train(broken, small_scan, config, folder=tmp_path / "killed", progress=kill_in_third_epoch)
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
    moved = replace(small_scan, positions=small_scan.positions + 0.25)
    fewer = small_scan.subset(np.arange(len(small_scan) - 1))
    for other_scan, settings in ((moved, {}), (fewer, {}), (small_scan, dict(width=5))):
        with pytest.raises(ValueError, match="a training on another scan, or of another network"):
            again = model_for(other_scan, probe_trainable=True, **settings)
            train(again, other_scan, config, folder=tmp_path / "killed", resume=True)

    for name in ("training.json", "history.json", "epoch-2.weights.h5"):
        file = next((tmp_path / "killed").glob(name.replace("2", "*")))
        whole_file = file.read_bytes()
        for damaged in (b"", b"[]", whole_file[:-50]):
            file.write_bytes(damaged)
            with pytest.raises(BadFile, match="is damaged"):
                train(model_for(small_scan, probe_trainable=True), small_scan, config, folder=file.parent, resume=True)
        file.write_bytes(whole_file)

    def kill_at_once(what, done, total, numbers):
        raise Killed

    # Killed before its first epoch ends, a new training must not be resumed from the one before it in its folder.
    assert (tmp_path / "killed" / "history.json").exists()
    with pytest.raises(Killed):
        train(broken, small_scan, config, folder=tmp_path / "killed", progress=kill_at_once)
    assert not (tmp_path / "killed" / "history.json").exists()


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
def test_a_fixed_probe_is_untouched_by_training(small_scan, trained):
    model, _ = trained
    np.testing.assert_array_equal(to_numpy(model.probe.value()), small_scan.probe)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        (dict(gridsize=1, stages=1), dict(nll_weight=0.0, mae_weight=1.0)),
        (dict(gridsize=3), dict(tv_weight=0.1)),
        (dict(architecture="cnn", stages=1, width=8), {}),
        ({}, dict(realspace_weight=1.0)),
    ],
)
def test_every_kind_of_network_trains_and_each_loss_falls(small_scan, settings, weights):
    config = TrainingConfig(epochs=4, learning_rate=3e-3, **weights)
    history = train(model_for(small_scan, **settings), small_scan, config)
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.slow
def test_mixed_precision_learns_the_same(small_scan, trained):
    """bfloat16 has 8 bits: the loss of the first epochs agrees with float32 to a few per cent of its fall."""
    _, plain = trained
    mixed = train(model_for(small_scan, precision="mixed_bfloat16"), small_scan, TrainingConfig(epochs=3))
    fall = plain[0]["loss"] - plain[-1]["loss"]
    assert fall > 0
    assert mixed[-1]["loss"] == pytest.approx(plain[-1]["loss"], abs=0.3 * fall)


def batches_of(scans, gridsize=2, **config):
    settings = ModelConfig(N=scans[0].N, **(QUICK | {"gridsize": gridsize}))
    return Batches(scans, settings, TrainingConfig(**config))


def test_withheld_frames_are_never_trained_on(small_scan):
    batches = batches_of([small_scan], validation_fraction=0.1)
    held_out = {int(frame) for _, group in batches.validation_groups for frame in group}
    assert len(held_out) >= 8
    for epoch in range(3):
        assert not held_out & {int(frame) for _, group in batches.epoch(epoch).groups for frame in group}


@pytest.mark.parametrize("training", [True, False])
def test_a_group_lies_whole_on_its_canvas(small_scan, training):
    batches = batches_of([small_scan], gridsize=3, validation_fraction=0.2)
    for sequence in [batches.epoch(k) for k in range(3)] if training else [batches.validation()]:
        for k in range(len(sequence)):
            (arrays,) = sequence[k]
            corners = arrays["positions"] - small_scan.N // 2
            assert corners.min() >= 0
            assert corners.max() + small_scan.N <= arrays["canvas"].shape[-1]
            assert arrays["canvas"].shape[-1] % 8 == 0


def test_of_a_large_scan_an_epoch_is_a_part(small_scan):
    """144 frames, to be trained on with fewer than three passes over them; batches of 9 groups of 4 are whole."""
    whole = batches_of([small_scan], validation_fraction=0.0, total_frames=3 * 144)
    assert whole.plan == (3, 144)
    parts = batches_of([small_scan], validation_fraction=0.0, total_frames=400)
    assert parts.plan == (10, 40)
    shown = [{int(frame) for _, group in parts.epoch(k).groups for frame in group} for k in range(10)]
    assert all(len(parts.epoch(k)) == 2 for k in range(10))
    assert len(set.union(*shown)) > 130  # 72 blocks of 4, about, in each: hardly a frame is never shown
    assert shown[0] != shown[1]
    assert batches_of([small_scan], validation_fraction=0.0, total_frames=400, epochs=5).plan == (5, 144)
    settings, config = ModelConfig(N=small_scan.N, gridsize=2), TrainingConfig(validation_fraction=0.2)
    assert len(Batches([small_scan], settings, config, most_held_out=8).validation_groups) == 2


def test_epochs_differ_and_come_back(small_scan):
    """An epoch follows from its number alone; validation is always of the same photons."""
    batches = batches_of([small_scan])
    first, again, other = (batches.epoch(k)[0][0] for k in (0, 0, 1))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    assert (first["counts"] != other["counts"]).any()
    one, two = (batches.validation()[0][0] for _ in range(2))
    np.testing.assert_array_equal(one["counts"], two["counts"])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("share", [0.8, 0.3])
def test_thinned_counts_add_up_and_are_independent(share, dtype):
    """Each part of a Poisson count is one of its share of the mean; five standard errors."""
    rng, draws, mean = np.random.default_rng(0), 200_000, 4.0
    counts = rng.poisson(mean, draws).astype(dtype)
    seen, kept = thin_counts(counts, share, rng)
    assert seen.dtype == kept.dtype == np.float32
    np.testing.assert_array_equal(seen + kept, counts)
    for part, level in ((seen, share * mean), (kept, (1 - share) * mean)):
        assert part.min() == 0
        np.testing.assert_array_equal(part, np.round(part))
        assert abs(part.mean() - level) < 5 * np.sqrt(level / draws)
        assert part.var() == pytest.approx(level, rel=5 * np.sqrt((2 + 1 / level) / draws))
    assert abs(np.corrcoef(seen, kept)[0, 1]) < 5 / np.sqrt(draws)


def test_thinning_is_without_bias_for_counts_that_are_not_whole():
    """Rounded at random: the parts add up to the counts on average. Negative ones count as none."""
    draws, rng = 100_000, np.random.default_rng(1)
    for value in (0.3, 2.75):
        seen, kept = thin_counts(np.full(draws, value, "float32"), 0.8, rng)
        total = seen + kept
        np.testing.assert_array_equal(np.unique(total), [np.floor(value), np.ceil(value)])
        assert abs(total.mean() - value) < 5 * 0.5 / np.sqrt(draws)
        assert abs(seen.mean() - 0.8 * value) < 5 * np.sqrt((value + 0.25) / draws)
    np.testing.assert_array_equal(thin_counts(np.full(9, -3.0, "float32"), 0.5, rng), 0)


def test_nothing_is_thinned_with_a_share_of_one():
    counts = np.array([0, 1.5, 7], "float64")
    for part in thin_counts(counts, 1.0, np.random.default_rng(0)):
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, counts)


def test_the_true_object_is_known_where_the_scan_has_it(small_scan):
    truth, lit = true_object(small_scan, np.array([-3, 5]), (20, 30))
    np.testing.assert_array_equal(lit[:3], 0)
    np.testing.assert_array_equal(lit[3:], 1)
    np.testing.assert_array_equal(truth[3:], small_scan.object[:17, 5:35])
    np.testing.assert_array_equal(truth[:3], 0)


@pytest.mark.parametrize("thinning", [1.0, 0.8])
def test_true_object_of_a_group_is_cut_where_its_frames_are(small_scan, thinning):
    """Expected counts of the cut truth are those of the scan: chi-square per pixel is 1, of both parts of them."""
    from ptycho.physics.patches import extract

    batches = batches_of([small_scan], realspace_weight=1.0, thinning=thinning)
    arrays = batches.epoch(0)[0][0]
    patches = extract(arrays["truth"], arrays["positions"], (small_scan.N, small_scan.N))
    whole = frame_counts(patches, small_scan.probe, arrays["subpixel"])
    np.testing.assert_array_equal(arrays["exposure"], np.float32(thinning))
    shares = {"counts": thinning, "target": 1 - thinning if thinning < 1 else 1.0}
    for name, share in shares.items():
        expected = share * whole
        bright = expected > 5
        chi2 = ((arrays[name] - expected) ** 2 / expected)[bright]
        # The variance of one term is 2 + 1 / expected, at most 2.2.
        assert abs(chi2.mean() - 1) < 5 * np.sqrt(2.2 / chi2.size)


def loss_of(model, arrays, **config):
    """The data loss of a batch, at the network's own expected counts."""
    trainer = PhysicsTraining(model, TrainingConfig(**config))
    return float(to_numpy(trainer.data_loss(arrays, model(arrays)["expected"])))


@pytest.mark.parametrize("mean", [17.0, 0.03])
def test_the_floor_of_the_likelihood_follows_the_counts(small_scan, mean):
    """Counts over three decades, 690 or 4e5 in 4096 pixels: the loss of the truth is the least among spectra that are a
    little steeper or flatter, with the same photons; and the same at every dose, to 64 roundings of its terms."""
    trainer = PhysicsTraining(model_for(small_scan), TrainingConfig(thinning=1.0))
    shape = 10 ** np.random.default_rng(4).uniform(-3, 0, (1, 1, 24, 24))

    def loss(steepness, level):
        expected, truth = shape**steepness, shape / shape.mean()
        target = (level * truth).astype("float32")
        x = dict(target=target, mask=np.ones((1, 24, 24), "float32"))
        return float(trainer.data_loss(x, (level * expected / expected.mean()).astype("float32")))

    assert loss(1.0, mean) < min(loss(0.95, mean), loss(1.05, mean))
    scale = np.log(1e3)  # of the logarithms that are summed
    assert abs(loss(1.05, mean) - loss(1.05, 1.0)) < 64 * np.finfo("float32").eps * scale


@pytest.mark.parametrize("architecture", ["consensus", "single"])
def test_a_view_leaves_the_loss_of_an_empty_object_as_it_is(small_scan, architecture):
    """A network that does nothing has the same loss in every view: frames, probe and canvas are not touched by it."""
    from ptycho.network.symmetries import Symmetry

    model = model_for(small_scan, architecture=architecture)
    for net in model.nets:
        net.head.kernel.assign(np.zeros(net.head.kernel.shape))
    batches = batches_of([small_scan])
    arrays = batches.validation()[0][0]
    assert "symmetry" not in arrays
    side = batches.validation_side if architecture == "consensus" else small_scan.N
    plain = loss_of(model, arrays)
    for number in range(Symmetry.COUNT):
        assert loss_of(model, arrays | Symmetry.arrays(number, side)) == pytest.approx(plain, rel=1e-6)


def test_training_shows_every_view_and_validation_none(small_scan):
    from ptycho.network.symmetries import Symmetry

    batches = batches_of([small_scan], batch_groups=1)
    key = lambda arrays: arrays["symmetry"].tobytes() + arrays["symmetry_sign"].tobytes()
    numbers = {key(Symmetry.arrays(k, batches.canvas_side)): k for k in range(Symmetry.COUNT)}
    shown = [batches.epoch(e)[k][0] for e in range(4) for k in range(len(batches.epoch(e)))]
    # Seeded; a view would be missing in 130 draws for one seed in 300: 16 (15 / 16)^130.
    assert len(shown) > 130
    assert {numbers[key(arrays)] for arrays in shown} == set(range(Symmetry.COUNT))
    assert "symmetry" not in batches_of([small_scan], augment=False).epoch(0)[0][0]


def other_scan(scan, photons=3e4, seed=8):
    """Of the same size, with a probe of its own."""
    settings = dict(N=scan.N, positions=100, step_px=4.0, jitter_px=1.0, probe_diameter=0.4)
    return simulate(SimulationConfig(photons=photons, seed=seed, **settings))


def test_several_scans_come_each_with_their_own_probe(small_scan):
    scans = [small_scan, other_scan(small_scan)]
    batches = batches_of(scans, thinning=1.0)
    sequence = batches.epoch(0)
    numbers = np.array([number for number, _ in sequence.groups])
    share = len(batches.training_index[1]) / batches.training_frames
    assert 0 < (numbers == 1).sum() < len(numbers)
    assert abs((numbers == 1).mean() - share) < 5 * np.sqrt(share * (1 - share) / len(numbers))
    arrays = batches.arrays(sequence.groups[:8], np.random.default_rng(0), True)
    for k, (number, members) in enumerate(sequence.groups[:8]):
        np.testing.assert_array_equal(arrays["counts"][k], scans[number].counts[members])
        np.testing.assert_array_equal(arrays["probe"][k], scans[number].probe)
    assert {number for number, _ in batches.validation_groups} == {0, 1}
    assert "probe" not in batches_of([small_scan]).epoch(0)[0][0]


@pytest.mark.slow
def test_several_scans_train_together(small_scan):
    scans = [small_scan, other_scan(small_scan)]
    history = train(model_for(small_scan), scans, TrainingConfig(epochs=3))
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]


@pytest.mark.slow
def test_a_near_field_is_trained_on():
    """The loss falls; what a network makes of a near field is in tests/reconstruction/test_predict.py."""
    near = NearField(distance_px=40.0, wavelength_px=0.5)
    scan = simulate(SimulationConfig(N=24, positions=144, step_px=4.0, jitter_px=1.0, near_field=near, seed=3))
    history = train(model_for(scan), scan, TrainingConfig(epochs=3))
    assert history[-1].validation_loss < history[0].validation_loss


def test_scans_that_do_not_go_together_are_refused(small_scan):
    near = replace(small_scan, near_field=NearField(distance_px=40.0, wavelength_px=0.5))
    with pytest.raises(ValueError, match="some scans are in the near field"):
        train(model_for(small_scan), [small_scan, near])
    two_modes = small_scan.with_probe(np.concatenate([small_scan.probe, small_scan.probe]))
    with pytest.raises(ValueError, match="no scan to train on"):
        train(model_for(small_scan), [])
    with pytest.raises(ValueError, match="2 probe modes, the first N 24 and 1"):
        train(model_for(small_scan), [small_scan, two_modes])
    for learned in ("probe_trainable", "scale_trainable"):
        with pytest.raises(ValueError, match="own probes"):
            train(model_for(small_scan, **{learned: True}), [small_scan, small_scan])
    with pytest.raises(ValueError, match="true object"):
        train(model_for(small_scan), replace(small_scan, object=None), TrainingConfig(realspace_weight=1.0))


@pytest.mark.slow
# PyTorch tensors that Keras hands to numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_training_that_learns_nothing_is_noticed_and_started_again(small_scan):
    """With steps of 1e-12 the object stays flat: two new starts, then a warning that they did not help."""
    model = model_for(small_scan)
    before = model.get_weights()
    with pytest.warns(UserWarning, match="flat object") as warned:
        history = train(model, small_scan, TrainingConfig(epochs=10, learning_rate=1e-12))
    assert sum("starting again" in str(w.message) for w in warned) == 2
    assert sum("in spite of" in str(w.message) for w in warned) == 1
    assert [entry["restarts"] for entry in history] == [0] * 3 + [1] * 3 + [2] * 4
    assert all(entry["validation_loss"] > entry["flat_loss"] * 0.999 for entry in history)
    best = min(history, key=lambda entry: entry["validation_loss"])
    same = all(np.allclose(a, b, atol=1e-9) for a, b in zip(before, model.get_weights(), strict=True))
    assert same == (best["restarts"] == 0)


def test_collapse_is_judged_a_quarter_through_since_the_last_start():
    entry = lambda loss, restarts=0, flat=1.0: Epoch(
        epoch=1, loss=0.0, validation_loss=loss, flat_loss=flat, restarts=restarts
    )
    flat = [entry(1.0) for _ in range(5)]
    assert [has_collapsed(flat[:k], 20) for k in range(1, 6)] == [False] * 4 + [True]
    assert not has_collapsed([entry(0.5), *flat[1:]], 20)
    assert not has_collapsed([entry(1.0, flat=None)] * 5, 20)
    assert has_collapsed(flat + [entry(1.0, 1)] * 5, 20)
    assert not has_collapsed(flat + [entry(1.0, 1)] * 4 + [entry(0.9, 1)], 20)
    assert [has_collapsed(flat[:k], 6) for k in (2, 3)] == [False, True]
    assert not any(has_collapsed(flat[:k], 5) for k in range(1, 6))


def history_of(*losses):
    return [Epoch(epoch=k, loss=0.0, validation_loss=v) for k, v in enumerate(losses)]


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


def test_restoring_from_an_empty_folder_starts_afresh(small_scan, tmp_path):
    checkpoint = Checkpoint(tmp_path / "new", TrainingConfig())
    assert checkpoint.restore(None) == []


def test_a_training_lets_go_of_its_scan(small_scan):
    """With validation, too: TensorFlow keeps the generators of data sets, and each would hold the scan."""
    scan = small_scan.subset(np.arange(64))
    counts = weakref.ref(scan.counts)
    model = model_for(scan)
    train(model, scan, TrainingConfig(epochs=2))
    del scan, model
    gc.collect()
    assert counts() is None
