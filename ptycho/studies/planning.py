"""Before the beam time: how many photons a resolution takes, and how far apart the frames may be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptycho.config import ObjectKind, SimulationConfig
from ptycho.evaluation.cramer_rao import efficient_errors
from ptycho.evaluation.metrics import frc_half_nyquist
from ptycho.simulation.probes import make_probe
from ptycho.simulation.simulate import simulate
from ptycho.studies.runner import middle

FRAMES = 144
"""Frames that are simulated for each step."""

FINDABLE = (1.0, 1e12)
"""Photons per frame between which the answer is looked for."""


class Need(NamedTuple):
    """What a resolution takes with one distance between positions."""

    step_px: float
    overlap: float
    """``1 - step / diameter`` of the probe."""
    photons: float
    """In the probe, per frame; infinite where `FINDABLE` are not enough."""
    per_pixel: float
    """On each object pixel, of all frames together: the dose."""


def needs(
    probe: np.ndarray, steps_px: Sequence[float], target_frc: float, *, kind: ObjectKind = "cells", seed: int = 0
) -> list[Need]:
    """The least photons by the shot-noise bound, for each step.

    An image with the error of the best unbiased method (`efficient_errors`) has to agree with the truth down to the
    frequency ``target_frc`` (over Nyquist, correlation 0.5) on a simulated sample of the ``kind``. ``probe`` is
    ``(M, N, N)`` in any unit. A reconstruction takes more, see docs/studies/dose-response.md.
    """
    if not 0 < target_frc < 1:
        raise ValueError(f"target_frc is {target_frc}; expected a part of the Nyquist frequency, 0 to 1")
    reference = 1e6
    probe = probe * np.sqrt(reference / np.sum(np.abs(probe) ** 2))
    found = []
    for step in steps_px:
        config = SimulationConfig(
            N=probe.shape[-1], positions=4 * FRAMES, step_px=step, jitter_px=step / 4, object_kind=kind, seed=seed
        )
        scan = simulate(replace(config, noise=False), probe=probe)
        scan = scan.subset(middle(scan.positions, FRAMES))
        truth = scan.object
        assert truth is not None  # a simulated scan carries it
        corner = np.floor(scan.positions.min(axis=0)).astype(int)
        end = np.ceil(scan.positions.max(axis=0)).astype(int)
        region = (slice(corner[0], end[0]), slice(corner[1], end[1]))  # all of it is well lit
        error = efficient_errors(truth, scan.probe, scan.positions, np.random.default_rng(seed))[0]

        def reaches(photons: float, error: np.ndarray = error[region], truth: np.ndarray = truth[region]) -> bool:
            return frc_half_nyquist(truth + error * np.sqrt(reference / photons), truth) >= target_frc

        low, high = np.log10(FINDABLE)
        enough = reaches(10**high)
        for _ in range(20):
            half = (low + high) / 2
            low, high = (low, half) if reaches(10**half) else (half, high)
        photons = float(10**high) if enough else float("inf")
        found.append(Need(float(step), 1 - step / scan.probe_diameter_px, photons, photons / step**2))
    return found


def probe_of(source: Path | None, N: int) -> np.ndarray:
    """The probe of a scan or a reconstruction, or a simulated one of side N."""
    if source is None:
        return make_probe(N)
    from ptycho.formats import read_scan
    from ptycho.reconstruction import Reconstruction

    try:
        return Reconstruction.load(source).probe
    except (ValueError, OSError):  # no reconstruction
        return read_scan(source).probe
