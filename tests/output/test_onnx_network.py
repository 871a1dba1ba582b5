"""ONNX Runtime gives the image that the network gives (`make test-interop`)."""

from pathlib import Path

import numpy as np
import pytest
from keras import ops

from ptycho.config import ModelConfig, SimulationConfig
from ptycho.network.build import build_model
from ptycho.network.files import save_model
from ptycho.output import onnx_network
from ptycho.output.onnx_network import export_network
from ptycho.physics.patches import split_positions
from ptycho.simulation.simulate import simulate


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["consensus", "single"])
def test_the_image_of_onnx_runtime_is_that_of_the_network(architecture: str, tmp_path: Path) -> None:
    """To 1e-4: single precision through two stages and 24-point transforms leaves 1e-6 to 1e-5."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: make test-interop")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: make test-interop")
    N, side, frames = 24, 56, 20
    scan = simulate(SimulationConfig(N=N, positions=16, step_px=4.0, photons=1e4, seed=1))
    rng = np.random.default_rng(3)
    network = build_model(ModelConfig(N=32, stages=2, width=4, architecture=architecture))
    # From nothing the first step is near zero, and any graph would do.
    network.set_weights([w + 0.05 * rng.standard_normal(w.shape).astype("float32") for w in network.get_weights()])
    model = save_model(network, tmp_path / "model.keras")
    path = export_network(model, tmp_path / "network.onnx", N, frames=frames, canvas=side)

    integer, subpixel = split_positions(scan.positions - scan.positions.min(axis=0) + N // 2 + 2)
    lacking = frames - len(scan)
    counts = np.concatenate([scan.counts.astype("float32"), np.zeros((lacking, N, N), "float32")])[None]
    positions = np.concatenate([integer, np.full((lacking, 2), -2 * N)])[None].astype("int32")
    subpixel = np.concatenate([subpixel, np.zeros((lacking, 2), "float32")])[None]
    mask, probe = np.ones((1, N, N), "float32"), scan.probe[None].astype("complex64")
    given = dict(counts=counts, mask=mask, positions=positions, subpixel=subpixel)
    session = runtime.InferenceSession(str(path))
    real, imag, coverage = session.run(None, given | dict(probe_real=probe.real, probe_imag=probe.imag))
    ours = network(given | dict(probe=probe, canvas=np.zeros((1, side, side), "float32")))
    image = ops.convert_to_numpy(ours["canvas"])
    assert np.abs(image - 1).max() > 0.1
    np.testing.assert_allclose(real + 1j * imag, image, atol=1e-4)
    np.testing.assert_allclose(coverage, ops.convert_to_numpy(ours["coverage"]), atol=1e-5)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(build_model(ModelConfig(N=32, stages=1, width=4)), tmp_path / "model.keras")
    monkeypatch.setattr(onnx_network, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ptycho\[onnx\]"):
        export_network(model, tmp_path / "network.onnx", 24)
    assert not (tmp_path / "network.onnx").exists()
