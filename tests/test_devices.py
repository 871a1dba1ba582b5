"""One device and several train alike: steps shared by two virtual CPUs, in a process that has them."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from ptycho.backend import split_over_devices
from ptycho.config import TrainingConfig

TRAIN_ON_ONE_AND_TWO = """
import json, keras, sys
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from ptycho.training.losses import PhysicsTraining
from ptycho.config import ModelConfig, SimulationConfig, TrainingConfig
from ptycho.network.build import build_model
from ptycho.simulation.simulate import simulate

training = sys.modules["ptycho.training.train"]  # of the package it is the function
copies, parts = [], set()
restored, object_loss = training.restored, PhysicsTraining.object_loss

def watched(self, x, y):
    if keras.backend.backend() == "tensorflow":
        tf.py_function(lambda groups: parts.add(int(groups)), [tf.shape(x["target"])[0]], [])
    return object_loss(self, x, y)

training.restored = lambda *args, **options: copies.append(restored(*args, **options)) or copies[-1]
scan = simulate(SimulationConfig(N=24, positions=100, step_px=4.0, seed=5))
settings = ModelConfig(N=24, gridsize=2, stages=1, width=4, probe_trainable=True, scale_trainable=True)
how = dict(epochs=2, batch_groups=4, validation_fraction=0.1, mae_weight=0.1, tv_weight=0.1, realspace_weight=1.0)
losses, weights = [], []
for devices in (1, 2):
    if devices == 2:
        PhysicsTraining.object_loss = watched
    model = build_model(settings, scan.probe)
    history = training.train(model, scan, TrainingConfig(devices=devices, **how))
    losses.append([(entry["loss"], entry["validation_loss"]) for entry in history])
    weights.append(sum(float(abs(weight).sum()) for weight in model.get_weights()))
value = copies[0].nets[0].head.kernel.value
held = len(value.values) if keras.backend.backend() == "tensorflow" else len(value.sharding.device_set)
print(json.dumps(dict(losses=losses, weights=weights, held=held, parts=sorted(parts))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_give_the_losses_of_one(backend):
    """To 1e-4: gradients are sums in float32 (6e-8) of some thousand terms in another order, over some dozen steps."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install 'ptycho[{backend}]'")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    two = dict(KERAS_BACKEND=backend, XLA_FLAGS=flags, CUDA_VISIBLE_DEVICES="")
    command = [sys.executable, "-c", TRAIN_ON_ONE_AND_TWO]
    done = subprocess.run(command, env=os.environ | two, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    one, both = np.array(found["losses"])
    assert one[1, 0] < one[0, 0]
    np.testing.assert_allclose(both, one, rtol=1e-4)
    np.testing.assert_allclose(found["weights"][1], found["weights"][0], rtol=1e-4)
    assert found["held"] == 2
    assert found["parts"] == ([2] if backend == "tensorflow" else [])  # JAX sees the four groups as one array


def test_devices_that_are_not_there_are_missed():
    said = "PyTorch" if keras.backend.backend() == "torch" else r"training.devices is 99, and \w+ sees \d+ here"
    with pytest.raises(ValueError, match=said):
        split_over_devices(99)


def test_a_group_is_not_split():
    with pytest.raises(ValueError, match=r"batch_groups is 3; expected a multiple of devices \(2\)"):
        TrainingConfig(batch_groups=3, devices=2)


FORKED = """
import os, sys
from ptycho.config import ModelConfig, RefineConfig, SimulationConfig, TrainingConfig
from ptycho.network.build import build_model
from ptycho.reconstruction import reconstruct
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate
from ptycho.training.train import train

simple = SimulationConfig(N=16, positions=16, step_px=4.0)
scan = simulate(simple)
model = build_model(ModelConfig(N=16, stages=1, width=2), scan.probe)
tries = dict(
    simulate=lambda: simulate(simple),
    refine=lambda: refine(scan, RefineConfig(epochs=1)),
    train=lambda: train(model, scan, TrainingConfig(epochs=1)),
    reconstruct=lambda: reconstruct(model, scan),
)
for name, compute in tries.items():
    child = os.fork()
    if not child:
        try:
            compute()
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_forked_from_one_that_had_computed_says_so():
    """It has none of the threads, and would wait for them for ever."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=50)
    assert done.stdout.splitlines() == ["simulate 7", "refine 7", "train 7", "reconstruct 7"], done.stderr
