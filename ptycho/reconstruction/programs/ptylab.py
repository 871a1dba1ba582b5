"""Runs mPIE of PtyLab on one scan, in PtyLab's own environment: python ptylab.py IN.npz OUT.npz

Written for PtyLab 0.3.7 (PyPI: ptylab). `ptycho compare` describes the two files.
"""

import importlib.metadata
import os
import sys
import tempfile
import time

import numpy as np

# This file has the program's (lower-case) name: on a disk that ignores case it must not be imported instead of it.
sys.path.pop(0)
import PtyLab

DETECTOR_PIXEL_M = 50e-6  # any number: the distance is chosen so that the object's pixel comes out right


class MaskedMPIE(PtyLab.Engines.mPIE):
    """mPIE with detector pixels that don't count.

    PtyLab's own mask (FourierMaskSwitch) leaves masked pixels out of its error, not out of the projection. So, before
    each projection, what the present estimate expects there is written into the frame: it then changes nothing.
    """

    def intensityProjection(self, positionIndex):
        """Fills the masked pixels of the frame, then projects as PtyLab does."""
        bad = ~self.mask
        self.object2detector()
        expected = np.sum(np.abs(self.reconstruction.ESW) ** 2, axis=(0, 1, 2, 3))
        self.experimentalData.ptychogram[positionIndex][bad] = expected[bad]
        super().intensityProjection(positionIndex)


def experiment(scan, size, folder):
    """The scan in PtyLab's HDF5 form, read by PtyLab. Lengths are in metres, encoder positions (y, x)."""
    import h5py

    counts, positions = scan["counts"].astype(np.float32), scan["positions_px"].astype(float)
    pixel, wavelength = float(scan["pixel_size_m"]), float(scan["wavelength_m"])
    pixel = pixel if np.isfinite(pixel) else 1e-8
    wavelength = wavelength if np.isfinite(wavelength) else 1e-10
    N = counts.shape[-1]
    path = os.path.join(folder, "scan.hdf5")
    with h5py.File(path, "w") as file:
        file["ptychogram"] = np.where(scan["mask"], counts, 0)
        # PtyLab counts from the middle pixel of its object, and rounds the corner of the patch to whole pixels.
        file["encoder"] = (positions - size // 2) * pixel
        file["dxd"], file["wavelength"] = DETECTOR_PIXEL_M, wavelength
        file["zo"] = pixel * N * DETECTOR_PIXEL_M / wavelength
        file["entrancePupilDiameter"] = N * pixel / 3
    return PtyLab.ExperimentalData(path)


def engine_for(scan, probe):
    """PtyLab's engine and state, from vacuum and the probe given."""
    modes, N = probe.shape[:2]
    known, size = bool(scan["probe_known"]), int(max(scan["shape"]))
    size += size % 2  # its objects are square, of even size
    with tempfile.TemporaryDirectory() as folder:
        data = experiment(scan, size, folder)
    params = PtyLab.Params()
    params.momentumAcceleration = True  # mPIE's; told here so that what turns the modes turns their momenta, too
    params.comStabilizationSwitch = not known
    params.orthogonalizationSwitch = modes > 1 and not known
    state = PtyLab.Reconstruction(data, params)
    state.No, state.npsm = size, modes
    if np.abs(state.positions - (scan["positions_px"] - N // 2)).max() > 0.51:
        sys.exit("PtyLab places the frames elsewhere than this script was written for")
    state.initializeObjectProbe()
    # Arrays are (wavelength, object mode, probe mode, slice, y, x). Its transform is unitary and centred, as ours.
    state.object = np.ones_like(state.object)
    state.probe = probe[None, None, :, None].copy()
    unmasked = scan["mask"].all()
    engine = (PtyLab.Engines.mPIE if unmasked else MaskedMPIE)(state, data, params, PtyLab.DummyMonitor())
    engine.mask = scan["mask"].astype(bool)
    engine.numIterations = int(scan["epochs"])
    if known:
        engine.betaProbe = 0.0
    return engine, state


def main(source, target):
    """Reads the scan, reconstructs, writes the result."""
    scan = dict(np.load(source))
    H, W = (int(n) for n in scan["shape"])
    np.random.seed(int(scan["seed"]))
    engine, state = engine_for(scan, scan["probe"].astype(np.complex64))
    times = [time.perf_counter()]
    engine.reconstruct(vis_after_each_iteration=lambda *_: times.append(time.perf_counter()))
    note = "mPIE with its defaults; positions rounded to whole pixels, as PtyLab does"
    if not scan["probe_known"]:
        note += "; its centring of the probe and, with several modes, its orthogonalisation are on"
    if not scan["mask"].all():
        note += "; masked pixels filled with the estimate by our script, PtyLab's projection knows no mask"
    np.savez(
        target,
        object=state.object[0, 0, 0, 0, :H, :W].astype(np.complex64),
        probe=state.probe[0, 0, :, 0].astype(np.complex64),
        seconds=np.diff(times),
        loss=np.asarray(state.error, float).ravel(),
        version=importlib.metadata.version("ptylab"),
        note=note,
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
