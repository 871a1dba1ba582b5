"""The shot-noise bound that rows of the study are shown beside."""

import numpy as np

from ptycho.config import NearField, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation.cramer_rao import efficient_errors
from ptycho.studies.cases import Case
from ptycho.studies.data import scans
from ptycho.studies.dose_response import with_bound


def test_a_case_in_the_near_field_gets_the_bound_of_the_near_field(tmp_path):
    near = NearField(distance_px=40.0, wavelength_px=0.5)
    case = Case(
        name="near",
        simulation=SimulationConfig(N=24, step_px=4.0, photons=1e5, near_field=near),
        train_frames=64,
        test_frames=36,
    )
    (row,) = with_bound(tmp_path, [dict(N=24, dose=1e5, config=case.to_dict())])
    with np.load(tmp_path / "bound-N24.npz") as file:
        error = file["error"]
    scan = scans(case).test
    errors = {
        name: efficient_errors(
            Reconstruction.bare(scan.object, scan.probe, scan.positions, near_field=path), np.random.default_rng(0)
        )[0]
        for name, path in dict(near=near, far=None).items()
    }
    size = np.linalg.norm(errors["near"])
    assert np.linalg.norm(error - errors["near"]) < 1e-3 * size
    assert np.linalg.norm(error - errors["far"]) > 0.5 * size
    assert row["bound"]["snr_db"] > 0
