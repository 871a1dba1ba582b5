"""Networks fitted to scans by the physics alone, or to simulated ones with their truth."""

from ptycho.deprecation import moved_names
from ptycho.training.train import train

__all__ = ["train"]
__getattr__ = moved_names(__name__)
