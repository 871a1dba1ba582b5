"""Prediction of whole scans, and reconstructions on disk."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from ptycho.config import ModelConfig, NearField, RefineConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation import compare_objects
from ptycho.network.build import build_model
from ptycho.network.files import load_pretrained
from ptycho.reconstruction import Stream, predict, reconstruct
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate
from tests.helpers import normal


@pytest.fixture
def model(small_scan):
    """A network that does something: its last layers are random."""
    network = build_model(ModelConfig(N=small_scan.N, stages=1, width=4), small_scan.probe)
    rng = np.random.default_rng(0)
    for net in network.nets:
        net.head.weights[0].assign(0.5 * normal(rng, *net.head.weights[0].shape))
    return network


def test_withheld_frames_are_not_looked_at(model, small_scan):
    held_out = small_scan.held_out_mask(10)
    first = reconstruct(model, small_scan, held_out=held_out)
    counts = small_scan.counts.copy()
    counts[held_out] = 1
    second = reconstruct(model, replace(small_scan, counts=counts), held_out=held_out)
    np.testing.assert_allclose(first.object, second.object, atol=1e-5 * np.abs(first.object).max())
    assert first.used == (~held_out).sum()
    assert first.positions_px.shape == (len(small_scan), 2)
    np.testing.assert_allclose(np.diff(first.positions_px, axis=0), np.diff(small_scan.positions, axis=0), atol=1e-9)


@pytest.mark.parametrize("settings", [{}, dict(architecture="single"), dict(architecture="cnn", stages=1)])
def test_positions_are_those_of_the_object(small_scan, settings):
    """Light fell where they say, as the probe has it: the coverage is that of the probes put there."""
    network = build_model(ModelConfig(N=small_scan.N, **(dict(stages=1, width=4) | settings)), small_scan.probe)
    result = reconstruct(network, small_scan)
    n = small_scan.N
    light = np.sum(np.abs(small_scan.probe) ** 2, axis=0)
    expected = np.zeros(result.object.shape)
    for y, x in np.floor(result.positions_px + 0.5).astype(int) - n // 2:
        assert 0 <= y <= expected.shape[0] - n and 0 <= x <= expected.shape[1] - n
        expected[y : y + n, x : x + n] += light / light.max()
    # Probes are moved by up to half a pixel there, or not at all, whose light varies by a tenth from pixel to pixel.
    error = np.abs(result.coverage - expected).mean()
    assert error < 0.1 * expected.mean()
    for shift in ((2, 0), (0, -2)):
        assert np.abs(np.roll(result.coverage, shift, (0, 1)) - expected).mean() > 2 * error


def test_several_views_leave_their_spread(model, small_scan, tmp_path):
    assert reconstruct(model, small_scan).spread is None
    result = reconstruct(model, small_scan, symmetries=2)
    assert result.spread.shape == result.object.shape
    assert result.spread.max() > 0
    np.testing.assert_array_equal(Reconstruction.load(result.save(tmp_path / "r.h5")).spread, result.spread)


def test_all_frames_are_reported(model, small_scan):
    done = []
    predict(model, small_scan, used=np.arange(100), tile_frames=60, progress=lambda *said: done.append(said))
    assert [said[:1] + said[2:] for said in done] == [("predicting", 100, {})] * len(done)
    assert done[-1][1] == 100
    assert len(done) > 1


def test_a_reconstruction_survives_the_disk(model, small_scan, tmp_path):
    result = reconstruct(model, small_scan)
    path = result.save(tmp_path / "a" / "reconstruction.h5")
    again = Reconstruction.load(path)
    for name in ("object", "probe", "positions_px", "coverage"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    assert (again.used, again.dropped) == (result.used, result.dropped)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="not a reconstruction"):
        Reconstruction.load(tmp_path / "other.h5")


def test_a_scan_of_another_size_is_refused(small_scan):
    from ptycho.simulation.probes import make_probe

    with pytest.raises(ValueError, match="N 24, the model N 32"):
        predict(build_model(ModelConfig(N=32), make_probe(32)), small_scan)


@pytest.mark.slow
def test_the_network_of_the_package_reconstructs_a_near_field():
    """It has learned from far fields alone: its gradients are those of any propagation. 5 dB above a flat object, by
    itself; refined another 5 dB better. Taken for a far field, it sees nothing."""
    near = NearField(distance_px=900.0, wavelength_px=0.03)
    settings = SimulationConfig(N=48, positions=144, step_px=4.0, photons=1e5, probe_diameter=0.6, seed=11)
    scan = simulate(replace(settings, near_field=near))
    network = load_pretrained()
    result = reconstruct(network, scan)
    scores = compare_objects(result.object, scan.object)
    assert scores.snr_db > scores.flat.snr_db + 5
    fit = refine(scan, RefineConfig(epochs=25), start=result)
    assert compare_objects(fit.result.object, scan.object).snr_db > scores.snr_db + 5
    far = reconstruct(network, replace(scan, near_field=None))
    assert compare_objects(far.object, scan.object).snr_db < scores.flat.snr_db


@pytest.mark.parametrize("architecture", ["consensus", "single"])
def test_a_near_field_is_streamed_as_it_is_predicted(small_scan, architecture):
    """Frame by frame, with the transfer function of the scan."""
    near = replace(small_scan, near_field=NearField(distance_px=40.0, wavelength_px=0.5))
    network = build_model(ModelConfig(N=24, stages=1, width=4, architecture=architecture))
    for net in network.nets:
        net.head.weights[0].assign(0.5 * normal(np.random.default_rng(0), *net.head.weights[0].shape))
    stream = Stream(network, near.positions, probe=near.probe, transfer=near.transfer)
    for frame, counts in enumerate(near.counts):
        stream.add(frame, counts)
    stream.finish()
    result = reconstruct(network, near)
    np.testing.assert_allclose(stream.mosaic.object, result.object, atol=1e-5)
    assert result.near_field == near.near_field
    assert np.abs(reconstruct(network, small_scan).object - result.object).max() > 0.01
