"""The global probe of scripts for PtychoPINN. Here every scan has its own: this one is kept for who asks for it."""

from typing import Any

import numpy as np

from ptycho.params import cfg


def set_probe_guess(unused: Any = None, probe_guess: Any = None) -> None:
    """Keep a probe in ``cfg["probe"]``."""
    cfg["probe"] = np.asarray(probe_guess)


def get_probe() -> np.ndarray:
    """What `set_probe_guess` kept; KeyError if it did not."""
    return cfg["probe"]
