"""A network that has seen many simulated scans, before it sees the first measured one."""

from pathlib import Path

import numpy as np

from ptycho.config import ModelConfig, ObjectKind, PretrainingConfig, SimulationConfig, TrainingConfig
from ptycho.network.build import PtychoNetwork, build_model
from ptycho.progress import Progress
from ptycho.simulation.simulate import simulate
from ptycho.training.schedule import History
from ptycho.training.train import train

KINDS: tuple[ObjectKind, ...] = ("leaves", "leaves", "leaves", "fractal", "weave", "cells", "siemens", "lines")
"""Kinds of object, as often as they are drawn: most say nothing about what a sample is made of."""


def pretrain(
    config: PretrainingConfig,
    model: ModelConfig,
    training: TrainingConfig,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[PtychoNetwork, History]:
    """Train a new network on simulated scans, each with its own object, probe, positions and dose.

    The truth is known here: ``training`` may weigh the distance to it (``realspace_weight``) beside the counts, which
    is how a network learns the slow phases that counts hardly tell.

    Args:
        config: what to simulate.
        model: the network; N is that of the frames. It has no probe of its own, and serves other N and modes as well.
        training: how to train it.
        folder, resume: for checkpoints, see `train`.
        progress: called with the progress.
    """
    scans = []
    for number in range(config.scans):
        scans.append(simulate(random_scan(config, model.N, number)))
        if progress:
            progress("simulating", number + 1, config.scans, {})
    network = build_model(model)
    history = train(network, scans, training, folder=folder, resume=resume, progress=progress)
    return network, history


def random_scan(config: PretrainingConfig, N: int, number: int) -> SimulationConfig:
    """Settings of scan ``number``: kind of object, probe, overlap and dose drawn from the ranges of ``config``."""
    rng = np.random.default_rng([config.seed, number])
    diameter = rng.uniform(*config.probe_diameter)
    step = max(2.0, diameter * N * rng.uniform(*config.step))
    even = 0.085 * diameter * N  # waves: what spreads the far field over a third of the detector
    return SimulationConfig(
        N=N,
        positions=config.frames,
        step_px=step,
        jitter_px=0.25 * step,
        integer_positions=bool(rng.random() < 0.5),
        trajectory="raster" if rng.random() < 0.75 else "spiral",
        object_kind=KINDS[rng.integers(len(KINDS))],
        photons=float(10 ** rng.uniform(*np.log10(config.photons))),
        probe_diameter=diameter,
        defocus=even * rng.uniform(0.3, 1.0) * rng.choice([-1, 1]),
        seed=int(rng.integers(2**31)),
    )
