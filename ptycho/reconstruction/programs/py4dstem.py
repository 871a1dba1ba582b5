"""Runs py4DSTEM's iterative ptychography on one scan, in its own environment: python py4dstem.py IN.npz OUT.npz

Written for py4DSTEM 0.14.18. `ptycho compare` describes the two files.
"""

import importlib.metadata
import os
import sys
import time

import numpy as np

# This file has the program's (lower-case) name: on a disk that ignores case it must not be imported instead of it.
sys.path.pop(0)
os.environ["MPLBACKEND"] = "Agg"  # it imports its plots, too
import py4DSTEM
from py4DSTEM.process.phase import MixedstatePtychography, SingleslicePtychography

# The object is one thin slice, so neither number changes the result: the pixel is called 1 Angstrom.
ENERGY_EV = 300e3
BATCH = 32  # frames an update; by default it takes the whole scan at once, which needs many more epochs


def datacube(counts):
    """The frames as a scan of P rows and one column, with pixel sizes that agree with each other."""
    cube = py4DSTEM.DataCube(counts.astype(np.float32)[:, None])
    cube.calibration.set_R_pixel_size(1.0)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(1 / counts.shape[-1])
    cube.calibration.set_Q_pixel_units("A^-1")
    return cube


def engine_for(scan, probe):
    """The reconstruction, ready to run.

    Its arrays have the middle of the probe at [0, 0], so that a position is the pixel under that middle, as ours are.
    Its transform is NumPy's without a norm: a probe of ours is N times one of its own.
    """
    modes, N = probe.shape[:2]
    height, width = (float(n) for n in scan["shape"])
    guess = np.fft.ifftshift(probe, axes=(-2, -1)) / N
    common = {
        "energy": ENERGY_EV,
        "datacube": datacube(np.where(scan["mask"], scan["counts"], 0)),
        "initial_scan_positions": scan["positions_px"].astype(float),
        "object_padding_px": (0, 0),
        "object_fov_ang": (height, width),
        "object_type": "complex",
        "device": "cpu",
        "verbose": False,
    }
    if modes > 1:
        engine = MixedstatePtychography(num_probes=modes, initial_probe_guess=guess, **common)
    else:
        engine = SingleslicePtychography(initial_probe_guess=guess[0], **common)
    engine.preprocess(
        # The zero frequency is known, and the frames are neither turned nor transposed: nothing to be estimated.
        force_com_shifts=(float(N // 2), float(N // 2)),
        force_com_rotation=0,
        force_com_transpose=False,
        center_positions_in_fov=False,
        vectorized_com_calculation=False,
        plot_center_of_mass=False,
        plot_rotation=False,
        plot_probe_overlaps=False,
    )
    return engine


def main(source, target):
    """Reads the scan, reconstructs, writes the result."""
    scan = dict(np.load(source))
    probe, known = scan["probe"].astype(np.complex64), bool(scan["probe_known"])
    N, mask = probe.shape[-1], scan["mask"].astype(bool)
    engine = engine_for(scan, probe)
    options = {
        "max_batch_size": BATCH,
        "fix_probe": known,
        "fix_probe_com": not known,
        "fix_positions": True,
        "detector_fourier_mask": None if mask.all() else np.fft.ifftshift(mask).astype(np.float32),
        "progress_bar": False,
    }
    if len(probe) > 1:  # modes that are known stay as they are given; turning them would give the same frames
        options["orthogonalize_probe"] = not known
    seconds, loss = [], []
    for epoch in range(int(scan["epochs"])):  # one by one, to time each; going on is documented (reset=False)
        start = time.perf_counter()
        engine.reconstruct(num_iter=1, reset=epoch == 0, seed_random=int(scan["seed"]) + epoch, **options)
        seconds.append(time.perf_counter() - start)
        loss.append(float(engine.error))
    # With several modes and a mask the error that it tells is infinite, though what it finds is right.
    loss = np.where(np.isfinite(loss), loss, np.nan)
    retrieved = np.asarray(engine.probe).reshape(probe.shape) * N  # this one has its middle at [N // 2, N // 2] again
    kind = "mixed-state" if len(probe) > 1 else "single-slice"
    note = f"{kind} gradient descent with its defaults, but in batches of {BATCH}; it keeps the object's modulus <= 1"
    np.savez(
        target,
        object=np.asarray(engine.object).astype(np.complex64),
        probe=retrieved.astype(np.complex64),
        seconds=np.array(seconds),
        loss=loss,
        version=importlib.metadata.version("py4DSTEM"),
        note=note,
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
