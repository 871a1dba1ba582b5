"""Settings by the names of PtychoPINN, as Ptychodus and scripts fill them; no framework is loaded here.

A setting that says "not used" is one that this package finds from the data, or has no use for. New code takes
`ptycho.config`.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

DOTTED = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
}
"""Fields, and their keys in `ptycho.params.cfg`."""


@dataclass
class ModelConfig:
    """A network."""

    N: int = 64
    """Side of the frames in pixels."""
    gridsize: int = 1
    """Groups of g x g frames; training here takes groups of its own size, prediction the whole scan."""
    n_filters_scale: int = 2
    """Width of the network."""
    model_type: str = "pinn"
    """``pinn``: from counts alone; ``supervised``: with the object that the training data come with."""
    amp_activation: str = "sigmoid"
    """Not used: amplitudes have no bound."""
    object_big: bool = True
    """Not used: the object is always the whole one."""
    probe_big: bool = True
    """Not used."""
    probe_mask: bool = False
    """Not used: weights are those of the illumination."""
    pad_object: bool = True
    """Not used."""
    probe_scale: float = 4.0
    """Not used: the scale of a guessed probe follows from the counts."""
    gaussian_smoothing_sigma: float = 0.0
    """Not used."""


@dataclass
class TrainingConfig:
    """A training."""

    model: ModelConfig
    train_data_file: Path | None = None
    test_data_file: Path | None = None
    batch_size: int = 16
    """Not used: batches are of whole groups."""
    nepochs: int = 50
    mae_weight: float = 0.0
    nll_weight: float = 1.0
    realspace_mae_weight: float = 0.0
    """Added to ``realspace_weight``."""
    realspace_weight: float = 0.0
    nphotons: float = 1e9
    """Not used: the dose is measured."""
    positions_provided: bool = True
    """Not used: they always are."""
    probe_trainable: bool = False
    intensity_scale_trainable: bool = True
    """Not used: counts and probe have absolute units."""
    output_dir: Path = Path("training_outputs")


@dataclass
class InferenceConfig:
    """A reconstruction by a trained network."""

    model: ModelConfig
    model_path: Path = Path()
    test_data_file: Path = Path()
    debug: bool = False
    """Not used."""
    output_dir: Path = Path("inference_outputs")


def update_legacy_dict(cfg: MutableMapping[str, Any], config: ModelConfig | TrainingConfig | InferenceConfig) -> None:
    """Write the fields of a config, and of its model, into a dictionary such as `ptycho.params.cfg`; paths as text.

    What is None stays as it is there.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, ModelConfig):
            update_legacy_dict(cfg, value)
        elif value is not None:
            cfg[DOTTED.get(field.name, field.name)] = str(value) if isinstance(value, Path) else value
