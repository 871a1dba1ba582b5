"""A network that has seen many simulated scans, before it sees the first measured one."""

from pathlib import Path

import numpy as np

from ptycho.config import ModelConfig, ObjectKind, PretrainingConfig, SimulationConfig, TrainingConfig
from ptycho.data.scan import Scan
from ptycho.network.build import PtychoNetwork, build_model
from ptycho.progress import Progress
from ptycho.simulation.simulate import simulate
from ptycho.training.train import History, train

KINDS: tuple[ObjectKind, ...] = ("cells", "cells", "siemens", "lines", "gold_balls")
"""Kinds of object, as often as they are drawn: cells have structure at all scales."""


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
        model: the network; N is that of the frames. Its weights serve other N, probes and modes as well (`adapted`).
        training: how to train it.
        folder, resume: for checkpoints, see `train`.
        progress: told of the progress.
    """
    scans = []
    for number in range(config.scans):
        scans.append(simulate(random_scan(config, model.N, number)))
        if progress:
            progress("simulating", number + 1, config.scans, {})
    network = build_model(model, scans[0].probe)
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


def adapted(source: PtychoNetwork, scan: Scan, **settings) -> PtychoNetwork:
    """A network for a scan, with its probe, that knows what another network has learned.

    The stages act on the object, pixel by pixel: they serve any N, probe and number of modes.

    Args:
        source: the network that has learned; it is left as it is.
        scan: N, probe and modes of the new network.
        settings: of the new network's `ModelConfig`, where they differ from the source's.

    Raises:
        ValueError: the settings make other stages than those of the source.
    """
    own = source.settings.to_dict() | dict(
        N=scan.N, probe_modes=scan.modes, scale_trainable=False, probe_trainable=False
    )
    network = build_model(ModelConfig.from_dict(own | settings), scan.probe)
    network.trained_for = dict(source.trained_for)
    for mine, theirs in zip(network.nets, source.nets, strict=True):
        shapes = [w.shape for w in mine.weights], [w.shape for w in theirs.weights]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"stages of width {network.settings.width} and N {scan.N} cannot take the weights of stages of width "
                f"{source.settings.width} and N {source.settings.N}; leave the model's settings as they are"
            )
        mine.set_weights(theirs.get_weights())
    return network
