"""A microscopist's file, frames and optics alone: what the truth, kept from it, says of the outcome."""

import numpy as np
import pytest

from ptycho.diagnostics.geometry import find_geometry
from ptycho.formats import read_scan
from ptycho.reconstruction.probe_retrieval import is_bright

KNOWN = ("counts", "scan_step_A", "voltage_kV", "semi_angle_mrad", "detector_pixel_mrad", "defocus_A")


@pytest.fixture(scope="module")
def truth(data_folder):
    with np.load(data_folder / "stem_thin.npz") as file:
        return dict(file)


def as_measured(truth, folder, defocus_a):
    known = {name: truth[name] for name in KNOWN} | dict(defocus_A=defocus_a)
    np.savez(folder / "scan.npz", **known)
    return read_scan(folder / "scan.npz")


@pytest.mark.slow
@pytest.mark.parametrize("defocus_a", [150.0, 250.0, 0.0])
def test_frames_of_a_thin_crystal_tell_how_they_lie(truth, tmp_path, defocus_a):
    """Transposed and turned by 15 degrees, the defocus told as it is, wrong by 100 A, or not at all: the map of the
    positions within the 0.3 degrees that are asked."""
    scan = as_measured(truth, tmp_path, defocus_a)
    geometry = find_geometry(scan)
    assert geometry.wrong
    grid = scan.positions - scan.positions.mean(axis=0)
    true = truth["positions_A"] - truth["positions_A"].mean(axis=0)
    linear = np.linalg.lstsq(grid, true, rcond=None)[0].T
    off = np.array(geometry.trial.map) @ np.linalg.inv(linear)
    assert np.linalg.det(off) > 0
    assert np.rad2deg(np.arctan2(off[1, 0], off[0, 0])) == pytest.approx(0, abs=0.3)


def test_light_in_a_disc_is_not_bright(truth, tmp_path):
    """1.5 counts a pixel, but in 5 % of them: amplitudes would be biased by the others."""
    scan = as_measured(truth, tmp_path, 150.0)
    assert scan.mean_counts > scan.mask.sum()
    assert not is_bright(scan)
