"""Grouped data by the names that scripts for PtychoPINN use."""

from typing import Any, NamedTuple

import numpy as np

from ptycho.raw_data import FromScan, Grouped


class PtychoDataContainer(NamedTuple):
    """What a network takes: see `RawData.generate_grouped_data` for shapes."""

    X: FromScan
    """Amplitudes."""
    local_offsets: FromScan
    global_offsets: FromScan
    probe: np.ndarray
    nn_indices: np.ndarray

    @property
    def coords_nominal(self) -> FromScan:
        """Another name of ``local_offsets``."""
        return self.local_offsets


def load(grouped: Grouped, probe_guess: Any, which: str | None = None, create_split: bool = False) -> Any:
    """What ``grouped`` returns, as a container. A split into training and test data is refused: pass two files."""
    if create_split:
        raise ValueError("load(create_split=True): give training and test data apart, as two RawData")
    data = grouped()
    return PtychoDataContainer(
        X=data["diffraction"],
        local_offsets=data["coords_relative"],
        global_offsets=data["coords_offsets"],
        probe=np.asarray(probe_guess),
        nn_indices=data["nn_indices"],
    )
