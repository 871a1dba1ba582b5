"""A network inside LiberTEM, with LiberTEM itself (`make test-interop`): the image is that of our own command."""

from pathlib import Path

import numpy as np
import pytest

from ptycho.config import ModelConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.network.build import build_model
from ptycho.network.files import save_model
from ptycho.reconstruction.predict import predict
from ptycho.simulation.simulate import simulate

lt = pytest.importorskip("libertem.api", reason="LiberTEM is not installed: make test-interop")


@pytest.mark.parametrize("keep", [slice(None), slice(5, 50)], ids=["all", "roi"])
def test_the_object_is_that_of_our_own_reconstruction(tmp_path: Path, keep: slice) -> None:
    from libertem.executor.inline import InlineJobExecutor

    from ptycho.interop.libertem import ObjectUDF, reconstruction_of

    scan = simulate(SimulationConfig(N=24, positions=64, step_px=4.0, seed=1))
    network = build_model(ModelConfig(N=24, architecture="single", stages=1, width=4), scan.probe)
    save_model(network, tmp_path / "model.keras")
    chosen = np.zeros(64, bool)
    chosen[keep] = True
    context = lt.Context(executor=InlineJobExecutor())
    frames = np.asarray(scan.counts).reshape(8, 8, 24, 24)
    data = context.load("memory", data=frames, sig_dims=2, num_partitions=3)
    udf = ObjectUDF(tmp_path, scan.positions, scan.probe)
    results = context.run_udf(dataset=data, udf=udf, roi=chosen.reshape(8, 8))
    own = predict(network, scan, used=np.flatnonzero(chosen)).mosaic
    result = reconstruction_of(udf, results)
    # Of the frames that are left out nothing is covered; the object lies where all positions say.
    low = own.origin - result.origin_px
    region = tuple(slice(a, a + n) for a, n in zip(low, own.shape, strict=True))
    np.testing.assert_allclose(result.object[region], own.object, atol=1e-5)
    np.testing.assert_allclose(result.coverage[region], own.coverage, atol=1e-5)
    assert result.coverage.sum() == pytest.approx(own.coverage.sum(), rel=1e-5)
    result.save(tmp_path / "reconstruction.h5")
    assert Reconstruction.load(tmp_path / "reconstruction.h5").object.shape == result.object.shape


def test_a_network_that_needs_neighbours_is_refused(tmp_path: Path) -> None:
    from ptycho.interop.libertem import ObjectUDF

    scan = simulate(SimulationConfig(N=24, positions=16, step_px=4.0))
    save_model(build_model(ModelConfig(N=24, gridsize=2, stages=1, width=4), scan.probe), tmp_path / "model.keras")
    with pytest.raises(ValueError, match="needs the neighbours"):
        ObjectUDF(tmp_path / "model.keras", scan.positions, scan.probe)
