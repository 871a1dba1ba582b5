"""The scans of a case: read or simulated, with fewer photons or a wrong probe."""

from dataclasses import replace
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from ptycho.data.frames import chunks
from ptycho.data.scan import Scan
from ptycho.pipelines.open import open_scan
from ptycho.simulation.probes import probe_diameter
from ptycho.simulation.simulate import MARGIN_PX, simulate
from ptycho.studies.cases import Case
from ptycho.training.batches import thin_counts


class Data(NamedTuple):
    """The scans of a case."""

    train: Scan
    """For training."""
    test: Scan
    """To reconstruct."""
    full: Scan
    """``test`` with all its photons, for the evaluation."""
    hold_out_every: int | None
    """Frames 0, k, 2 k, ... of ``test`` are held out."""


def scans(case: Case) -> Data:
    """Read or simulate the scans of a case; two cases that differ only in their loss have the same counts."""
    if case.file is not None:
        full = open_scan(case.file, lambda text: None, case.model.get("probe_modes"))
        test = thinned_scan(full, case.kept, np.random.default_rng([case.seed, 11]))
        test = wrong_probe(test, case.probe_error, case.seed)
        held_out = test.held_out_mask(case.hold_out_every)
        return Data(test.subset(~held_out), test, full, case.hold_out_every)
    assert case.simulation is not None
    settings = replace(case.simulation, positions=ceil(sqrt(case.train_frames)) ** 2, seed=2 * case.seed)
    scan = simulate(settings)
    train = scan.subset(central_square(scan.positions, case.train_frames))
    test = train
    if not case.own_object:
        positions = train.positions[central_square(train.positions, case.test_frames)]
        origin = np.floor(positions.min(axis=0)) - settings.N // 2 - MARGIN_PX
        test = simulate(replace(settings, seed=2 * case.seed + 1), positions=positions - origin)
    train, test = (wrong_probe(data, case.probe_error, case.seed) for data in (train, test))
    return Data(train, test, test, None)


def central_square(positions: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` positions ``(P, 2)`` nearest the centre of a scan in the maximum norm, in order."""
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    return np.sort(np.argsort(np.abs(positions - centre).max(axis=1), kind="stable")[:count])


def thinned_scan(scan: Scan, kept: float, rng: np.random.Generator) -> Scan:
    """The scan at a shorter exposure: each photon is kept with the probability ``kept``."""
    if kept == 1:
        return scan
    counts = np.concatenate([thin_counts(chunk, kept, rng)[0].astype("uint32") for chunk in chunks(scan.counts)])
    return replace(scan, counts=counts, probe=(scan.probe * np.sqrt(kept)).astype("complex64"))


def wrong_probe(scan: Scan, error: dict[str, float], seed: int) -> Scan:
    """The scan with a wrong probe of the same photons, as a guess; without errors the scan itself.

    ``defocus``: this fraction of the defocus is removed. A beam whose far field has the radius r (cycles per pixel) is
    ``2 r lambda z`` wide at the distance z from its focus, so the removed ``lambda z`` is ``defocus * diameter /
    (2 r)``, and the probe is multiplied by ``exp(i pi lambda z k^2)`` in Fourier space. ``blur_px``: real and imaginary
    part are blurred by a Gaussian. ``noise``: complex Gaussian noise of this fraction of the amplitude is added.
    """
    if not error:
        return scan
    probe = scan.probe.astype(np.complex128)
    if error.get("defocus"):
        spectrum, frequency = np.fft.fft2(probe), np.fft.fftfreq(scan.N)
        radius = probe_diameter(np.fft.fftshift(spectrum[0])) / scan.N / 2
        lambda_z = error["defocus"] * probe_diameter(probe[0]) / (2 * radius)
        probe = np.fft.ifft2(spectrum * np.exp(1j * np.pi * lambda_z * (frequency[:, None] ** 2 + frequency**2)))
    if error.get("blur_px"):
        sigma = (0, error["blur_px"], error["blur_px"])
        probe = gaussian_filter(probe.real, sigma) + 1j * gaussian_filter(probe.imag, sigma)
    if error.get("noise"):
        rng = np.random.default_rng([seed, 12])
        noise = rng.normal(size=probe.shape) + 1j * rng.normal(size=probe.shape)
        probe = probe + error["noise"] * noise / np.sqrt(2) * np.abs(scan.probe)
    probe *= np.sqrt(scan.photons / np.sum(np.abs(probe) ** 2))
    return scan.with_probe(probe.astype("complex64"), known=False)
