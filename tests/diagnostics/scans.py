"""Scans that the tests of diagnostics plant faults in, made by nothing but numpy."""

from typing import Any

import numpy as np

from ptycho.data.scan import Scan


def disc_probe(N: int, radius: float, defocus: float = 1.5) -> np.ndarray:
    y, x = np.indices((N, N)) - N // 2
    squared = (y**2 + x**2) / radius**2
    return ((squared <= 1) * np.exp(1j * np.pi * defocus * squared)).astype(np.complex64)[None]


def scan_of(N: int = 32, P: int = 40, photons: float = 2e4, seed: int = 0, **changes: Any) -> Scan:
    """Poisson counts of a rough random object under a disc, made here by brute force in numpy."""
    rng = np.random.default_rng(seed)
    probe = disc_probe(N, N / 4)
    probe = (probe * np.sqrt(photons / np.sum(np.abs(probe) ** 2))).astype(np.complex64)
    patches = np.exp(0.3j * rng.normal(size=(P, N, N)))
    waves = np.fft.fft2(np.fft.ifftshift(patches * probe, axes=(1, 2)), norm="ortho")
    counts = rng.poisson(np.fft.fftshift(np.abs(waves) ** 2, axes=(1, 2))).astype(np.uint16)
    given = {"counts": counts, "positions": rng.uniform(0, (60, 40), (P, 2)), "probe": probe}
    return Scan(**(given | changes))
