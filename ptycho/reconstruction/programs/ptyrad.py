"""Reconstruct a scan with PtyRAD: ENV/bin/python ptyrad.py IN.npz OUT.npz, in an environment of its own.

Written for PtyRAD 1.0.0 (Python 3.12 or later), from its documentation and its parameter templates. It runs PtyRAD's
gradient descent (Adam; the normalised RMS error of amplitudes; mini-batches of 32 frames) on one slice.
"""

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

# This file has the program's name: it must not be imported instead of it.
sys.path.pop(0)
if sys.version_info < (3, 12):
    sys.exit("PtyRAD 1.0.0 cannot be imported by a Python older than 3.12")

from ptyrad.params import PtyRADParams
from ptyrad.solver import PtyRADSolver
from scipy.ndimage import distance_transform_edt

BATCH = 32
# Of its templates: the learning rates of object and probe, made for 200 iterations of a demo of 128 x 128 frames.
OBJECT_RATE, PROBE_RATE = 5e-4, 1e-4
TEMPLATE_UPDATES = 200 * 128 * 128 // BATCH
MOST_RAISED = 20.0  # its templates search an object's rates up to 1e-2


def raised(frames: int, epochs: int) -> float:
    """By how much to raise the rates: an update of Adam moves a pixel by about a rate, and a run here has fewer."""
    return float(np.clip(TEMPLATE_UPDATES / (epochs * -(-frames // BATCH)), 1.0, MOST_RAISED))


def fill(counts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give pixels that do not count what the nearest one that does has, for the power that PtyRAD gives a probe."""
    nearest = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return counts[:, nearest[0], nearest[1]]


def leave_out(solver: PtyRADSolver, mask: np.ndarray) -> None:
    """Take masked pixels out of the loss, as PtyRAD has no mask: there the model is taken to agree with the frame."""
    single = solver.loss_fn.get_loss_single
    solver.loss_fn.get_loss_single = lambda model_DP, measured_DP: single(
        model_DP.where(measured_DP.new_tensor(mask).bool(), measured_DP), measured_DP
    )


def initial(scan: dict[str, np.ndarray], counts: np.ndarray, unit: float) -> dict:
    """The part of PtyRAD's parameters that says what is measured and what to start from."""
    (frames, n), probe = counts.shape[:2], scan["probe"]
    power = {"mode": "target_intensity", "value": float((np.abs(probe) ** 2).sum(dtype=np.float64) / unit)}
    electrons = {"probe_kv": 80.0, "probe_conv_angle": 20.0, "meas_calibration": {"mode": "dx", "value": 1.0}}
    size = {"meas_Npix": n, "pos_N_scans": frames, "pos_N_scan_slow": 1, "pos_N_scan_fast": frames}
    one_slice = {"obj_Nlayer": 1, "obj_slice_thickness": 1.0}
    # Distances matter between slices only, so with one of them a pixel may be 1 Angstrom, and electrons any.
    return {"random_seed": int(scan["seed"]), "pos_scan_step_size": 1.0, **electrons, **size, **one_slice} | {
        "meas_source": "custom",
        "meas_params": counts,
        "meas_normalization": {"mode": "divide_const", "value": unit},
        "probe_source": "custom",
        "probe_params": probe,
        "probe_pmode_max": len(probe),
        # A guess takes the power of the frames (the default); a known probe keeps its own.
        "probe_normalization": power if scan["probe_known"] else {"mode": "mean_total_ints"},
        "pos_source": "custom",
        # It wants the first pixel of a patch; it keeps the sub-pixel rest, by which it shifts the probe, as here.
        "pos_params": scan["positions_px"] - n // 2,
        "pos_scan_rand_std": None,
        "obj_source": "custom",
        "obj_params": np.ones((1, 1, *scan["shape"]), np.complex64),
    }


def settings(scan: dict[str, np.ndarray], counts: np.ndarray, unit: float, rise: float) -> dict:
    """PtyRAD's parameters; what is not here has its default."""
    known, fixed = bool(scan["probe_known"]), {"start_iter": None, "lr": 0.0}
    image, probe = ({"start_iter": 1, "lr": rise * rate} for rate in (OBJECT_RATE, PROBE_RATE))
    probe = fixed if known else probe
    # The blur of an object is off in its templates; recentring would move the given positions, corrected or not.
    off = ["obj_rblur", "obj_zblur", "pos_recenter", *(["fix_probe_int", "ortho_pmode"] if known else [])]
    return {
        "init_params": initial(scan, counts, unit),
        "model_params": {"update_params": {"obja": image, "objp": image, "probe": probe, "probe_pos_shifts": fixed}},
        "constraint_params": {name: {"start_iter": None} for name in off},
        "recon_params": {"NITER": int(scan["epochs"]), "BATCH_SIZE": {"size": BATCH}, "SAVE_ITERS": None},
    }


def main(source: Path, target: Path) -> None:
    """Read a scan, reconstruct it, write the result."""
    scan = dict(np.load(source))
    mask, known, counts = scan["mask"], bool(scan["probe_known"]), fill(scan["counts"], scan["mask"])
    corners = np.round(scan["positions_px"]) - mask.shape[0] // 2
    if (corners < 0).any() or (corners + mask.shape[0] > scan["shape"]).any():
        sys.exit("PtyRAD needs an object that holds the whole probe at every position")
    # Frames in units of the brightest pixel of their mean, PtyRAD's default, said here so that it can be undone.
    unit = float(counts.mean(0, dtype=np.float64).max())
    rise = raised(len(counts), int(scan["epochs"]))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # whatever it may write
        checked = PtyRADParams(**settings(scan, counts, unit, rise)).model_dump()
        solver = PtyRADSolver(checked, device="cpu", seed=int(scan["seed"]))
        if not mask.all():
            leave_out(solver, mask)
        solver.run()
        os.chdir("/")
    model = solver.reconstruct_results
    image = model.opt_obja.detach().numpy() * np.exp(1j * model.opt_objp.detach().numpy())  # (mode, slice, H, W)
    probe = scan["probe"] if known else model.get_complex_probe_view().detach().numpy() * np.sqrt(unit)
    note = f"Adam, amplitude loss, {rise:.3g} times the templates' learning rates (few updates), amplitude unbounded"
    note += "" if mask.all() else ", masked pixels taken out of its loss by us"
    loss = np.array([value for _, value in model.loss_iters], float)
    result = {"object": image[0, 0].astype(np.complex64), "probe": probe.astype(np.complex64), "loss": loss}
    np.savez(target, **result, seconds=np.array(model.iter_times, float), version=version("ptyrad"), note=note)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
