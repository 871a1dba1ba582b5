"""Ptychography by physics-informed neural networks: thousands of diffraction patterns in, one sharp image out.

Importing the package loads no framework; each name below is imported when it is first used.
"""

import os
from importlib import import_module
from typing import Any

from ptycho.deprecation import find_moved_modules

find_moved_modules()

# TensorFlow 2.21 convolves with oneDNN by default only where the processor has AVX-512; with AVX2 it pays as well
# (training 1.7 times as fast). Read when TensorFlow is imported; whoever set it otherwise keeps it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_HOME = {
    "Scan": "ptycho.data.scan",
    "read_scan": "ptycho.formats",
    "write_scan": "ptycho.formats",
    "ModelConfig": "ptycho.config",
    "TrainingConfig": "ptycho.config",
    "SimulationConfig": "ptycho.config",
    "NearField": "ptycho.config",
    "RefineConfig": "ptycho.config",
    "build_model": "ptycho.network.build",
    "train": "ptycho.training.train",
    "reconstruct": "ptycho.reconstruction",
    "refine": "ptycho.refinement.refine",
    "simulate": "ptycho.simulation.simulate",
    "compare_objects": "ptycho.evaluation",
    "save_model": "ptycho.network.files",
    "load_model": "ptycho.network.files",
    "export": "ptycho.output.export",
    "progress_bar": "ptycho.output.progress_bars",
    "Object": "ptycho.images",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "__version__":  # that of the tag, which the installation wrote down
        metadata = import_module("importlib.metadata")
        try:
            return metadata.version("ptycho")
        except metadata.PackageNotFoundError:
            return "0+not.installed"
    raise AttributeError(f"module 'ptycho' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
