"""Small scans that the tests share, made here; and the folder of measured ones."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The measured and simulated scans for development, named by the environment variable PTYCHO_DATA."""
    folder = os.environ.get("PTYCHO_DATA")
    if not folder:
        pytest.skip("PTYCHO_DATA does not name the folder of measured scans")
    return Path(folder)


@pytest.fixture(scope="session")
def small_scan():
    """144 frames of 24 pixels, 1e5 photons each, sub-pixel positions; object known."""
    from ptycho.config import SimulationConfig
    from ptycho.simulation.simulate import simulate

    return simulate(SimulationConfig(N=24, positions=144, step_px=4.0, jitter_px=1.0, photons=1e5, seed=3))
