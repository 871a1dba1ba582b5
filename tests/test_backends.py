"""The same training on every backend: three epochs whose losses agree with a curve kept as text.

``make test-backends`` runs this with KERAS_BACKEND tensorflow, jax and torch. The curve was made by
``python tests/test_backends.py`` on TensorFlow; a change of the numbers shows in the diff.
"""

import re
from pathlib import Path

import numpy as np
import pytest

import ptycho

GOLDEN = Path(__file__).parent / "golden" / "three_epochs.txt"


def losses() -> np.ndarray:
    """Training and validation losses ``(3, 2)`` of a small network that learns its probe and scale too."""
    from ptycho.config import ModelConfig, SimulationConfig, TrainingConfig
    from ptycho.network.build import build_model
    from ptycho.simulation.simulate import simulate
    from ptycho.training.train import train

    # Without noise, so that the scan does not depend on how a backend rounds a Poisson mean; and not thinned, as NumPy
    # 2.5 draws other binomial numbers than 2.4 where they are large.
    scan = simulate(SimulationConfig(N=24, positions=100, step_px=4.0, noise=False, seed=5))
    settings = ModelConfig(N=24, gridsize=2, stages=2, width=4, probe_trainable=True, scale_trainable=True)
    history = train(
        build_model(settings, scan.probe), scan, TrainingConfig(epochs=3, validation_fraction=0.1, thinning=1.0)
    )
    return np.array([(entry["loss"], entry["validation_loss"]) for entry in history])


@pytest.mark.slow
def test_three_epochs_agree_with_the_golden_curve():
    """To 1e-4 relative, on every backend."""
    golden = np.loadtxt(GOLDEN)
    assert golden[-1, 0] < golden[0, 0]
    np.testing.assert_allclose(losses(), golden, rtol=1e-4)


def test_only_one_module_asks_which_backend_is_in_use():
    package = Path(ptycho.__file__).parent
    asking = re.compile(r"\.backend\(\)|\bjax\.jit\b|\btensorflow\.function\b|import (tensorflow|jax)\b")
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py") if asking.search(path.read_text())}
    assert modules == {"backend.py"}


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savetxt(GOLDEN, losses(), fmt="%.7g", header="loss  validation_loss, one line an epoch")
