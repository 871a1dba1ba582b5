"""A microscopist's file, frames and optics alone: what the truth, kept from it, says of the outcome."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import RunConfig
from ptycho.diagnostics.geometry import find_geometry
from ptycho.diagnostics.statistics import rescale_probe
from ptycho.formats import read_scan
from ptycho.pipelines.precision import Precision
from ptycho.pipelines.refine import refine_run
from ptycho.reconstruction.probe_retrieval import is_bright

NEITHER = Precision(half_sets=False, uncertainty=False)

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


@pytest.mark.slow
def test_the_lens_is_told_where_the_probe_was_found(truth, tmp_path):
    """Of a few passes over the middle of the scan: the defocus to a tenth; where the probe is fixed, nothing."""
    scan = as_measured(truth, tmp_path, 150.0)
    middle = replace(scan, positions=truth["positions_A"] / truth["object_pixel_A"]).subset(np.arange(648, 648 + 288))
    middle = replace(middle.cropped(64), probe=rescale_probe(middle.cropped(64))[0].probe)
    run = RunConfig(refine=dict(epochs=12))
    outcome = refine_run(middle, tmp_path / "run", run, hold_out_every=10, auto=False, force=True, precision=NEITHER)
    defocus, *_ = outcome.lens.aberrations
    assert -defocus.value_a == pytest.approx(150, rel=0.1)
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["lens"]["aberrations"][0]["name"] == "C10"
    assert "Krivanek" in (tmp_path / "run" / "report.html").read_text()
    fixed = RunConfig(model=dict(probe_trainable=False), refine=dict(epochs=4))
    assert (
        refine_run(middle, tmp_path / "fixed", fixed, hold_out_every=10, auto=False, force=True, precision=NEITHER).lens
        is None
    )


def test_light_in_a_disc_is_not_bright(truth, tmp_path):
    """1.5 counts a pixel, but in 5 % of them: amplitudes would be biased by the others."""
    scan = as_measured(truth, tmp_path, 150.0)
    assert scan.mean_counts > scan.mask.sum()
    assert not is_bright(scan)
