"""Any rotation, mirror and scale between positions and frames is found, and set right; what cannot be told is said."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import SimulationConfig
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import examine
from ptycho.diagnostics.geometry import (
    FLIPS,
    curl_estimate,
    described,
    find_geometry,
    other_side,
    rotation,
    told_by_all_parts,
)
from ptycho.diagnostics.orientation import Trial
from ptycho.diagnostics.repair import set_right, was_set_right
from ptycho.simulation.simulate import simulate


@pytest.fixture(scope="module")
def sound() -> Scan:
    return replace(simulate(SimulationConfig(N=48, positions=196, step_px=5.0, seed=4)), object=None)


def mapped(scan: Scan, matrix: np.ndarray) -> Scan:
    return replace(scan, positions=scan.positions @ matrix.T)


@pytest.mark.parametrize("angle", [0.0, 20.0, -70.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_curl_of_the_centres_of_mass_tells_handedness_and_angle(sound: Scan, angle: float, mirrored: bool) -> None:
    """The file has the inverse of the map that sets the positions right."""
    reference = curl_estimate(sound)
    right = rotation(angle) @ np.array(FLIPS["exchanged, y for x" if mirrored else "as they are"])
    curl = curl_estimate(mapped(sound, np.linalg.inv(right)))
    assert curl is not None and reference is not None
    assert curl.mirrored == mirrored and curl.decided
    # Astigmatism of the probe turns all alike.
    off = (curl.angle_deg - angle - reference.angle_deg + 90) % 180 - 90
    assert abs(off) < 1e-6 and abs(reference.angle_deg) < 15


@pytest.mark.parametrize("angle, scale", [(12.0, 1.0), (0.0, 1.2)], ids=["turned", "scaled"])
def test_a_turned_or_scaled_scan_is_found_and_set_right(sound: Scan, angle: float, scale: float) -> None:
    wrong = mapped(sound, rotation(angle) * scale)
    right, checks = set_right(wrong)
    off = right.positions - right.positions.mean(axis=0) - (sound.positions - sound.positions.mean(axis=0))
    assert np.sqrt((off**2).sum(axis=1).mean()) < 1.5
    assert was_set_right(right.notes) and all(check.verdict == "pass" for check in checks)


def test_a_sound_scan_is_left_as_it_is(sound: Scan) -> None:
    right, checks = set_right(sound)
    assert right is sound and checks[-1].name == "orientation of frames" and not was_set_right(right.notes)


def test_under_a_probe_in_focus_short_fits_turn_and_scale_nothing() -> None:
    """Of lines under a flat disc these ended with an error 17 % lower where turned by 180 degrees and scaled by 0.967:
    1e9 photons a frame, as simulated by default elsewhere, and the image had 8 dB instead of 70."""
    scan = simulate(SimulationConfig(positions=225, object_kind="lines", jitter_px=1.0, photons=1e9, defocus=0.0))
    geometry = find_geometry(replace(scan, object=None))
    assert geometry is not None and not geometry.wrong
    turned = find_geometry(mapped(scan, rotation(10.0)))
    assert turned is not None and turned.wrong
    # The angle by which the lines are turned, within what is left alone; no scale, no other sign.
    np.testing.assert_allclose(np.array(turned.trial.map) @ rotation(10.0), np.eye(2), atol=np.deg2rad(1.0))


def test_exchanged_positions_are_found_where_all_fields_gain_little() -> None:
    """1e3 photons a frame, most of the error shot noise: 4 % in the middle, and better in each of four fields."""
    scan = simulate(SimulationConfig(positions=225, jitter_px=1.0, photons=1e3, seed=5))
    geometry = find_geometry(replace(scan, positions=scan.positions[:, ::-1], object=None))
    assert geometry is not None and geometry.wrong and geometry.gain < 0.1
    assert np.linalg.det(np.array(geometry.trial.map)) < 0 or geometry.trial.code & 4


@pytest.fixture(scope="module")
def guessed() -> Scan:
    """With a probe that is right, and known to nobody."""
    scan = simulate(SimulationConfig(N=48, positions=225, step_px=4.0, jitter_px=1.0, photons=1e5, seed=1))
    return replace(scan, object=None, probe_known=False)


def test_positions_of_other_frames_are_not_called_mirrored_or_turned(small_scan: Scan) -> None:
    """The fields of a small scan have frames in common: one map after another fits a little less badly in all four."""
    exchanged = np.random.default_rng(0).permutation(small_scan.positions)
    geometry = find_geometry(replace(small_scan, positions=exchanged, object=None))
    assert not geometry.wrong


def test_a_guess_on_the_other_side_of_the_focus_moves_no_positions(guessed: Scan) -> None:
    """Frames tell the sign of the defocus or that of the positions, not both: the guess is less sure."""
    right = find_geometry(guessed)
    wrong = guessed.with_probe(other_side(guessed.probe), known=False)
    other = find_geometry(wrong)
    assert right is not None and not right.wrong and right.trial == Trial() and not right.other_side
    assert other is not None and not other.wrong and other.trial == Trial() and other.other_side
    found, _ = set_right(wrong)
    np.testing.assert_array_equal(found.probe, guessed.probe)
    assert not was_set_right(found.notes) and "other side of its focus" in found.notes[-1]


@pytest.mark.parametrize("name", ["mirrored in x", "mirrored in y"])
def test_mirrored_positions_are_set_right_with_a_guess_too(guessed: Scan, name: str) -> None:
    """Exactly: of the two maps that the curl allows, the one whose sign fits the probe."""
    found = find_geometry(mapped(guessed, np.array(FLIPS[name])))
    assert found is not None and found.wrong and found.sentence == f"positions {name}"


def test_what_the_frames_do_not_tell_is_undecided(sound: Scan) -> None:
    """Frames without a sample fit any positions."""
    mean = sound.mean_pattern
    empty = replace(sound, counts=np.random.default_rng(0).poisson(np.broadcast_to(mean, sound.counts.shape)))
    (check,) = (check for check in examine(empty) if check.name == "orientation of frames")
    assert check.verdict == "undecided" and "--orientation" in check.remedy


def test_few_photons_tell_where_all_parts_of_the_scan_are_asked() -> None:
    """Each part of 100 frames alone is as good as silent; together they tell handedness, and the angle to a few
    degrees, which the fit of an affine map finds."""
    dim = simulate(SimulationConfig(N=32, positions=900, step_px=3.0, photons=400, seed=5))
    wrong = mapped(replace(dim, object=None), np.linalg.inv(rotation(12.0) @ np.array(FLIPS["exchanged, y for x"])))
    told = told_by_all_parts(wrong, 32, 2)
    assert told is not None and told.decided and told.wrong
    off = np.array(told.trial.map) @ np.linalg.inv(rotation(12.0) @ np.array(FLIPS["exchanged, y for x"]))
    assert np.linalg.det(off) > 0 and abs(np.rad2deg(np.arctan2(off[1, 0], off[0, 0]))) < 6
    mean = np.broadcast_to(dim.mean_pattern, dim.counts.shape)
    assert told_by_all_parts(replace(wrong, counts=np.random.default_rng(0).poisson(mean)), 32, 2) is None
    assert told_by_all_parts(wrong.subset(slice(100)), 32, 2) is None


def test_a_map_in_words():
    matrix = 1.05 * rotation(5.0) @ np.array(FLIPS["mirrored in x"])
    words = described(Trial(map=tuple(map(tuple, matrix.tolist()))))
    assert words == "positions mirrored in x and positions turned by 5.0 degrees and positions scaled by 1.050"
