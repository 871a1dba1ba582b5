"""pty-chi's engines in our conventions: what they make of a simulated scan lies where the scan says."""

import random
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ptycho.config import SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation import frame_error
from ptycho.evaluation.metrics import snr_db
from ptycho.reconstruction.pty_chi import run_ptychi as run_on_all_cores
from ptycho.reconstruction.pty_chi import why_not
from ptycho.simulation.probes import make_probe
from ptycho.simulation.simulate import simulate

run_ptychi = partial(run_on_all_cores, threads=1)  # more wait for each other on a machine that is busy otherwise


@pytest.fixture
def ptychi():
    return pytest.importorskip("ptychi")


def scan_of(N, modes=1, positions=81, **settings):
    """Expected counts of frames of N pixels at sub-pixel positions; the object has no symmetry, nor has the probe."""
    config = SimulationConfig(N=N, positions=positions, step_px=3.0, jitter_px=1.3, probe_modes=modes, noise=False)
    scan = simulate(replace(config, photons=1e6, seed=7, **settings))
    return replace(scan, object=np.pad(scan.object, ((5, 0), (2, 0)), "edge"), positions=scan.positions + [5, 2])


@pytest.mark.parametrize(
    ("engine", "N", "modes", "least_db"), [("lsqml", 24, 1, 35), ("lsqml", 25, 1, 35), ("rpie", 25, 2, 45)]
)
def test_the_result_lines_up_with_the_truth(ptychi, engine, N, modes, least_db):
    scan = scan_of(N, modes, integer_positions=modes > 1)  # pty-chi moves the first mode only by less than a pixel
    run = run_ptychi(scan, engine=engine, epochs=30)
    result, history = run.result, run.history
    origin = scan.positions - result.positions_px
    np.testing.assert_allclose(origin, np.broadcast_to(np.rint(origin[0]), origin.shape), atol=1e-9)
    (y, x), (height, width) = np.rint(origin[0]).astype(int), result.object.shape
    truth = scan.object[y : y + height, x : x + width]
    seen = result.coverage > 5
    phase = np.vdot(result.object[seen], truth[seen])
    assert snr_db(result.object[seen] * phase / abs(phase), truth[seen]) > least_db
    moved = np.roll(result.object, 1, axis=0)  # what one pixel would cost
    assert snr_db(moved[seen] * phase / abs(phase), truth[seen]) < 25
    np.testing.assert_array_equal(result.probe, scan.probe)  # known, so fixed
    everywhere = range(len(scan))
    assert frame_error(result, scan.counts, everywhere) < 1e-3
    assert result.coverage.shape == result.object.shape
    assert not result.object[result.coverage == 0].any()
    assert [entry["epoch"] for entry in history] == list(range(1, 31))
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
    assert min(entry["seconds"] for entry in history) > 0
    assert run.setup_seconds > 0


def test_withheld_frames_and_masked_pixels_are_not_looked_at(ptychi):
    scan = scan_of(25)
    held_out = scan.held_out_mask(7)
    mask = np.ones((25, 25), bool)
    mask[3, 5:8] = False
    counts = scan.counts.copy()
    counts[held_out] = 12345
    counts[:, 3, 5:8] = 1e6
    settings = dict(epochs=3, held_out=held_out, seed=4)
    first = run_ptychi(replace(scan, mask=mask), **settings).result
    again = run_ptychi(replace(scan, mask=mask, counts=counts), **settings).result
    np.testing.assert_array_equal(again.object, first.object)
    np.testing.assert_array_equal(first.used_frames, ~held_out)
    assert first.used == (~held_out).sum()
    assert first.positions_px.shape == scan.positions.shape
    other = run_ptychi(replace(scan, mask=mask), **settings | dict(seed=5)).result
    assert not np.array_equal(other.object, first.object)


def test_a_guessed_probe_is_sought_with_modes_added(ptychi):
    scan = scan_of(24, modes=2, positions=121)
    guess = replace(scan, probe=make_probe(24, scan.photons, 0.65), probe_known=False)
    flat = Reconstruction.bare(np.ones((99, 99)), guess.probe, scan.positions)
    start = frame_error(flat, scan.counts, range(len(scan)))
    result = run_ptychi(guess, modes=2, epochs=40).result
    assert result.probe.shape == (2, 24, 24)
    error = frame_error(result, scan.counts, range(len(scan)))
    assert error < 0.1 * start
    assert np.sum(np.abs(result.probe) ** 2) == pytest.approx(scan.photons, rel=0.5)
    kept = run_ptychi(guess, epochs=1, probe_fixed=True).result
    np.testing.assert_array_equal(kept.probe, guess.probe)


def test_positions_are_corrected(ptychi):
    scan = scan_of(24, positions=121)
    wrong = np.random.default_rng(1).uniform(-0.5, 0.5, scan.positions.shape)
    held_out = scan.held_out_mask(10)
    moved = run_ptychi(
        replace(scan, positions=scan.positions + wrong), epochs=30, positions=True, held_out=held_out
    ).result.positions_px
    left = (moved - scan.positions)[~held_out]
    assert np.std(left - left.mean(axis=0)) < 0.9 * np.std(wrong[~held_out])
    drift = (moved - scan.positions - wrong)[held_out]
    np.testing.assert_allclose(drift, np.broadcast_to(drift[0], drift.shape), atol=1e-9)


def test_an_engine_that_diverges_says_so(ptychi):
    with pytest.raises(FloatingPointError, match=r"rpie of pty-chi diverged in epoch \d+: 121 frames in a batch"):
        run_ptychi(scan_of(24, positions=121), engine="rpie", epochs=200, batch_size=121)


def test_nothing_of_the_process_is_changed(ptychi, monkeypatch):
    import torch

    def generators():
        return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    # beartype, which checks annotations in tests, draws from Python's own generator: that one must not be seeded.
    seeds: list[int] = []
    monkeypatch.setattr(random, "seed", seeds.append)

    before = generators()
    settings = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    run_ptychi(scan_of(24), epochs=1)
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()) == settings
    assert generators() == before
    assert not seeds


def test_mistakes_are_named(small_scan):
    with pytest.raises(ValueError, match=r"engine is 'dm'; expected one of lsqml, rpie, epie"):
        run_ptychi(small_scan, engine="dm")
    with pytest.raises(ValueError, match="all frames are held out"):
        run_ptychi(small_scan, held_out=np.ones(len(small_scan), bool))


def test_without_the_package_it_says_how_to_get_it(small_scan, monkeypatch):
    monkeypatch.setitem(sys.modules, "ptychi", None)
    with pytest.raises(ValueError, match=r"pip install 'ptycho\[ptychi\]'"):
        run_ptychi(small_scan, epochs=1)
    assert "ptychi" in why_not()
