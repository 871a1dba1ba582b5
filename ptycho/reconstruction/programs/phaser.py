"""One reconstruction by phaser (`pip install "phaserEM[jax]"`, written for 0.3.1): `python phaser.py IN.npz OUT.npz`.

Runs in the environment of phaser, never in ours, and uses what its documentation and its signatures tell: a plan, a
hook for the raw data, a first state, an observer. The engine is the conventional one with the LSQML solver.

Conventions found by experiment (with the true object as the first state the loss is least exactly here):
- frames and mask have their zero frequency at [0, 0]; the Fourier transform is unitary, real space is centred: as ours
- a position is the point of the object under the middle of the probe's array, (N - 1) / 2, not under pixel N // 2
- phaser scales the probe until vacuum has the power of the mean frame, also where the probe is not to be updated
"""

import logging
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

# The folder of this file comes first in the path, and this file has the name of the program: not to be imported.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np  # noqa: E402
from phaser.execute import execute_plan  # noqa: E402
from phaser.observer import Observer  # noqa: E402
from phaser.plan import ReconsPlan  # noqa: E402
from phaser.state import IterState, PixelatedObjectState, PixelatedProbeState, ReconsState, ScanState  # noqa: E402
from phaser.utils.num import Sampling  # noqa: E402
from phaser.utils.object import ObjectSampling  # noqa: E402

# Positions of one update; the default, 64, leaves a scan of a few hundred positions very few updates an epoch.
GROUPING = 8
# Damping of the object, in electrons a pixel: the default, 0.01, is next to none at 1e5 photons; its text shows 1e4.
DAMPING = 1.0
PIXEL, WAVELENGTH = 1.0, 0.0197  # Å; a single slice propagates nothing: they need not be those of the file

scan = {}


def load(args, props):
    """phaser's hook for raw data: the frames. Its loss counts masked pixels too: they are emptied."""
    N = scan["counts"].shape[-1]
    return {
        "patterns": np.fft.ifftshift(np.where(scan["mask"], scan["counts"], 0), axes=(-2, -1)).astype(np.float32),
        "mask": np.fft.ifftshift(scan["mask"]).astype(np.float32),
        "sampling": Sampling((N, N), sampling=(PIXEL, PIXEL)),
        "wavelength": WAVELENGTH,
    }


class Record(Observer):
    """Keeps the time and the loss of each iteration, and the last state."""

    def __init__(self):
        self.times, self.losses, self.state = [], [], None

    def start_engine(self, init_state):
        self.times.append(time.perf_counter())

    def update_iteration(self, state, i, n, errors):
        self.times.append(time.perf_counter())
        self.losses.append(float(errors.get("total_loss", np.nan)))

    def finish_recons(self, state):
        self.state = state.to_numpy()


def start(H, W, probe):
    """The first state: vacuum, the probe of the file, its positions in phaser's convention."""
    N = probe.shape[-1]
    positions = ((scan["positions_px"] - N // 2 + (N - 1) / 2) * PIXEL).astype(np.float32)
    sampling = ObjectSampling((H, W), (PIXEL, PIXEL), corner=(0.0, 0.0))
    return ReconsState(
        iter=IterState.empty(),
        wavelength=WAVELENGTH,
        probe=PixelatedProbeState(Sampling((N, N), sampling=(PIXEL, PIXEL)), probe),
        object=PixelatedObjectState(sampling, np.ones((1, H, W), np.complex64), np.zeros(0)),
        scan=ScanState(positions, positions.copy()),
    )


def main(source, target):
    with np.load(source) as data:
        scan.update(data)
    known, probe, (H, W) = bool(scan["probe_known"]), scan["probe"].astype(np.complex64), map(int, scan["shape"])
    engine = {
        "type": "conventional",
        "noise_model": "amplitude",
        "solver": {"type": "lsqml", "illum_reg_object": DAMPING},
        "niter": int(scan["epochs"]),
        "grouping": GROUPING,
        "probe_modes": len(probe),
        "update_probe": not known,
        "bwlim_frac": None,  # the default, 2/3, would limit the band; ours reaches to the edge of the frames
        "group_constraints": [],
        "iter_constraints": [],
    }
    plan = {"name": "phaser", "backend": "jax", "raw_data": "__main__:load", "engines": [engine]}
    plan, first, record = ReconsPlan.from_data(plan), start(H, W, probe.copy()), Record()
    logging.disable(logging.WARNING)
    execute_plan(plan, seed=int(scan["seed"]), init_state=first, override_observers=record)
    retrieved, values = np.asarray(record.state.probe.data), np.asarray(record.state.object.data)[0]
    if known:  # the scale that phaser gave to the probe goes into the object: the frames stay as they are
        values, retrieved = values * np.sqrt((abs(retrieved) ** 2).sum() / (abs(probe) ** 2).sum()), probe
    # phaser widens the object by a few pixels where it wants a margin, and says where its first pixel then lies.
    y, x = np.round(-np.asarray(record.state.object.sampling.corner) / PIXEL).astype(int)
    np.savez(
        target,
        object=values[y : y + H, x : x + W].astype(np.complex64),
        probe=retrieved.astype(np.complex64),
        seconds=np.diff(record.times),
        loss=np.array(record.losses),
        version=version("phaserEM"),
        note=f"LSQML, amplitude noise; groups of {GROUPING}, illum_reg_object {DAMPING:g}, no band limit, "
        "else its defaults; draws its groups without our seed",
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
