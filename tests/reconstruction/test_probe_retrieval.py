"""A probe that is only a guess, found along with the object."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import ModelConfig, SimulationConfig
from ptycho.evaluation import compare_objects, frame_error, shot_noise_error
from ptycho.network.build import build_model
from ptycho.network.files import load_pretrained
from ptycho.physics.patches import split_positions
from ptycho.reconstruction import find_probe, reconstruct
from ptycho.reconstruction.probe_retrieval import fit_probe
from ptycho.reconstruction.tiles import Mosaic, Piece
from ptycho.simulation.probes import make_probe
from ptycho.simulation.simulate import simulate


@pytest.fixture(scope="module")
def scan():
    """196 frames of 32 pixels, sub-pixel positions, 1e5 photons: 100 counts a pixel."""
    return simulate(SimulationConfig(N=32, positions=196, step_px=3.0, probe_diameter=0.55, photons=1e5, seed=5))


@pytest.fixture(scope="module")
def guess(scan):
    """The scan with a probe of the right power, but a larger one, further from its focus."""
    return replace(scan, probe=make_probe(32, 1e5, 0.65, defocus=1.3), probe_known=False)


def true_mosaic(scan):
    """The true object where the tiles of a prediction would be put."""
    mosaic = Mosaic(scan.positions, scan.N)
    height, width = mosaic.object.shape
    y, x = mosaic.origin
    truth = scan.object[y : y + height, x : x + width]
    mosaic.add(Piece(truth, np.ones(truth.shape, "float32"), (y, x), np.arange(len(scan))))
    return mosaic


def test_with_the_true_object_the_probe_is_found(scan, guess):
    """The misfit comes down to that of the true probe, which is shot noise, as 1024 unknowns of 200 000 pixels are few.

    Amplitude error of the probe where the light is: the noise of 196 frames of 1e5 photons on 1024 pixels leaves
    sqrt(1024 / (4 * 196e5)) = 0.4 %; 3 % allow for the steps it takes to get there.
    """
    used, mosaic = np.arange(len(scan)), true_mosaic(scan)
    found, before = fit_probe(guess.probe, scan, used, mosaic, steps=300)
    _, after = fit_probe(found, scan, used, mosaic, steps=1)
    _, least = fit_probe(scan.probe, scan, used, mosaic, steps=1)
    assert before > 3 * least
    assert after < 1.01 * least
    turn = np.vdot(found, scan.probe)  # a common phase cannot be seen
    error = np.linalg.norm(found * turn / abs(turn) - scan.probe) / np.linalg.norm(scan.probe)
    assert error < 0.03


def test_the_true_probe_stays(scan):
    """One step from the truth moves it by the shot noise alone: 0.4 % (see above), times 2 for the worst of luck."""
    found, _ = fit_probe(scan.probe, scan, np.arange(len(scan)), true_mosaic(scan), steps=1)
    assert np.linalg.norm(found - scan.probe) < 2 * 0.004 * np.linalg.norm(scan.probe)


@pytest.mark.slow
def test_probe_and_object_are_found_in_turn(scan, guess):
    """From a wrong probe the object is better by 3 dB, and held-out frames are predicted twice as well."""
    held_out = scan.held_out_mask(10)
    frames = np.flatnonzero(held_out)

    def judged(model, probe):
        result = reconstruct(model, replace(scan, probe=probe), held_out=held_out)
        error = frame_error(result, scan.counts, frames)
        return error, compare_objects(result.object, scan.object).snr_db, result

    model = load_pretrained()
    rough, rough_db, _ = judged(model, guess.probe)
    weights = [weight.copy() for weight in model.nets[0].get_weights()]
    probe, misfits = find_probe(model, guess, held_out=held_out)
    error, db, result = judged(model, probe)
    assert misfits[-1] < misfits[0]
    assert error < rough / 2
    assert db > rough_db + 3
    noise = shot_noise_error(result.expected_counts(frames))
    assert error > noise
    for before, after in zip(weights, model.nets[0].get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_withheld_frames_are_not_looked_at_for_the_probe(guess):
    held_out = guess.held_out_mask(4)
    counts = guess.counts.copy()
    counts[held_out] = 0
    probes = []
    for own in (guess, replace(guess, counts=counts)):
        model = build_model(ModelConfig(N=32, stages=1, width=4), own.probe)
        probe, _ = find_probe(model, own, held_out=held_out, rounds=1)
        np.testing.assert_array_equal(model.probe.value(), probe)  # its own is that of the scan now
        probes.append(probe)
    np.testing.assert_array_equal(*probes)


def test_a_network_that_does_not_see_the_probe_is_refused(guess):
    model = build_model(ModelConfig(N=32, architecture="cnn", stages=1, width=4), guess.probe)
    with pytest.raises(ValueError, match="cnn"):
        find_probe(model, guess)


def test_frames_off_the_whole_pixel_are_moved(scan):
    """The scan's positions are not whole: that is what the tests above rest on."""
    assert np.abs(split_positions(scan.positions)[1]).max() > 0.3
