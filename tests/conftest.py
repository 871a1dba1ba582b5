"""Small scans that the tests share, made here; and the folder of measured ones."""

import gc
import hashlib
import itertools
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

# XLA computes the same without LLVM's optimisation, and is ready in two thirds of the time; read when a backend starts,
# in the processes that tests start too.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()


@cache
def run_graphs_as_traced() -> None:
    """No rewriting of TensorFlow's graphs, which takes longer than the few steps of a test: a fifth of all the time.

    It is on in the processes that tests start: notebooks, Dask's workers, two devices, a saved model in a fresh one.
    """
    import tensorflow

    tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def quick_graphs():
    if "tensorflow" in sys.modules:
        run_graphs_as_traced()


@pytest.fixture(autouse=True)
def old_settings_as_they_were():
    """`ptycho.params.cfg` is one for a process, and scripts for PtychoPINN write into it."""
    from ptycho import params

    before = dict(params.cfg)
    yield
    params.cfg.clear()
    params.cfg.update(before)


def pytest_collection_modifyitems(items):
    """Modules with slow tests first, lest one process end with them while the other has nothing left to do."""
    slow = {item.module for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.module not in slow)


finished = itertools.count(1)


@pytest.fixture(autouse=True)
def a_heap_that_is_soon_walked_through():
    """Python's collector walks through all that is alive, 45 s where a thousand graphs have been traced.

    What has survived 25 tests is set aside; what is left by then that nobody can reach is freed before.
    """
    yield
    if next(finished) % 25 == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_search_of_the_geometry_for_each_scan():
    """Commands look for the geometry of what they open, five seconds of many a test: once for frames that are alike."""
    from ptycho.diagnostics import checks

    search, found = checks.find_geometry, {}

    def remembered(scan, **limits):
        if not isinstance(scan.counts, np.ndarray):
            return search(scan, **limits)
        arrays = (scan.counts, scan.positions, scan.probe, scan.mask)
        content = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).digest()
        key = (content, scan.counts.dtype, scan.N, scan.probe_known, scan.near_field, *sorted(limits.items()))
        if key not in found:
            found[key] = search(scan, **limits)
        return found[key]

    checks.find_geometry = remembered
    yield
    checks.find_geometry = search


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


@pytest.fixture(scope="session")
def dim():
    """A scan of about 20 photons on an object pixel."""
    from ptycho.config import SimulationConfig
    from ptycho.simulation.simulate import simulate

    return simulate(SimulationConfig(N=32, positions=225, step_px=3.0, jitter_px=1.0, photons=500, seed=3))


@pytest.fixture(scope="session")
def dim_fit(dim):
    """The fit to it from vacuum."""
    from ptycho.config import RefineConfig
    from ptycho.refinement.refine import refine

    return refine(dim, RefineConfig(noise="poisson"))
