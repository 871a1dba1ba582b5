"""Planning of a measurement: how many photons a resolution takes, and how far apart the frames may be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptycho.arrays import Float
from ptycho.config import ObjectKind, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation.cramer_rao import efficient_errors
from ptycho.evaluation.frc import fourier_ring_correlation, frc_resolution
from ptycho.simulation.probes import make_probe
from ptycho.simulation.simulate import simulate
from ptycho.studies.data import central_square


class Need(NamedTuple):
    """The photons that a resolution takes, for one distance between positions."""

    step_px: float
    overlap: float
    """``1 - step / diameter`` of the probe."""
    photons: float
    """In the probe, per frame; infinite if no dose of the range is enough."""
    per_pixel: float
    """On each object pixel, over all frames: the dose."""


def needs(
    probe: np.ndarray,
    steps_px: Sequence[float],
    target_frc: float,
    *,
    kind: ObjectKind = "cells",
    seed: int = 0,
    samples: int = 3,
    frames: int = 144,
    field_px: float = 96.0,
    photon_range: tuple[float, float] = (1.0, 1e12),
) -> list[Need]:
    """The least photons by the shot-noise bound, for each step.

    Images with the errors of the best unbiased method (`efficient_errors`) have to agree with the truth up to the
    frequency ``target_frc`` (over Nyquist, correlation 0.5), in the mean over some simulated samples of the ``kind``:
    with the photons that give one sample 0.54, others have 0.26 and 0.44.

    Args:
        probe: ``(M, N, N)`` in any unit.
        steps_px: distances of neighbouring positions, object pixels.
        target_frc: the resolution.
        kind, seed: the first sample; others have the seeds after it.
        samples: their number.
        frames: number of simulated frames for each step, at least.
        field_px: side of the simulated field, at least: the rings of a small one have few pixels, and the curve falls
            below one half by chance (91 photons a pixel in the place of 36 for a field of 48 pixels).
        photon_range: photons per frame, the limits of the search.
    """
    if not 0 < target_frc < 1:
        raise ValueError(f"target_frc is {target_frc}; expected a fraction of the Nyquist frequency, 0 to 1")
    reference = 1e6
    probe = probe * np.sqrt(reference / np.sum(np.abs(probe) ** 2))
    results = []
    for step in steps_px:
        number_of_frames = max(frames, int(np.ceil(field_px / step)) ** 2)
        config = SimulationConfig(
            N=probe.shape[-1], positions=4 * number_of_frames, step_px=step, jitter_px=step / 4, object_kind=kind
        )
        pairs = []
        for number in range(seed, seed + samples):
            scan = simulate(replace(config, noise=False, seed=number), probe=probe)
            scan = scan.subset(central_square(scan.positions, number_of_frames))
            assert scan.object is not None  # it is simulated
            low, high = np.floor(scan.positions.min(axis=0)), np.ceil(scan.positions.max(axis=0))
            region = tuple(slice(int(a), int(b)) for a, b in zip(low, high))  # inside it the coverage is full
            estimate = Reconstruction.bare(scan.object, scan.probe, scan.positions, near_field=scan.near_field)
            error = efficient_errors(estimate, np.random.default_rng(number))[0]
            pairs.append((scan.object[region], error[region]))
        photons = _least_photons(pairs, reference, target_frc, photon_range)
        results.append(Need(float(step), 1 - step / scan.probe_diameter_px, photons, photons / step**2))
    return results


def _least_photons(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    reference: float,
    target_frc: float,
    photon_range: tuple[float, float],
) -> float:
    """Bisection of log photons, for pairs of truth and error: with an ``error`` at ``reference`` photons, at n photons
    it is sqrt(reference / n) times as large."""

    def reaches(log_photons: float) -> bool:
        scale = np.sqrt(reference / 10**log_photons)
        curves = [fourier_ring_correlation(truth + scale * error, truth) for truth, error in pairs]
        return frc_resolution(*mean_correlation(curves), 0.5) >= target_frc

    low, high = np.log10(photon_range)
    if not reaches(high):
        return float("inf")
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return float(10**high)


def mean_correlation(
    curves: Sequence[tuple[Float[np.ndarray, " rings"], Float[np.ndarray, " rings"]]],
) -> tuple[Float[np.ndarray, " rings"], Float[np.ndarray, " rings"]]:
    """The mean of several ring correlations, at the frequencies of the one with the fewest rings."""
    frequency = min((each[0] for each in curves), key=len)
    return frequency, np.mean([np.interp(frequency, *each) for each in curves], axis=0)


def probe_of(source: Path | None, N: int) -> np.ndarray:
    """The probe of a scan or a reconstruction, or without a file a simulated one of side N."""
    if source is None:
        return make_probe(N)
    from ptycho.formats import read_scan
    from ptycho.reconstruction import Reconstruction

    try:
        return Reconstruction.load(source).probe
    except (ValueError, OSError):  # no reconstruction
        return read_scan(source).probe
