"""LiberTEM: a trained network as a user-defined function, which makes the object while LiberTEM reads the frames
(``pip install libertem``)."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from libertem.udf.base import UDF

from ptycho.data.reconstruction import Reconstruction
from ptycho.network.build import PtychoNetwork
from ptycho.network.files import load_model
from ptycho.reconstruction.stream import Layout, Stream, probe_of
from ptycho.reconstruction.tiles import Mosaic


class ObjectUDF(UDF):
    """The object of a scan, by a network that takes each frame on its own (the preset ``fast``).

    Results are ``object`` ``(H, W)`` complex64 and ``coverage`` ``(H, W)`` float32, see `reconstruction_of`; both grow
    with the partitions, also in a live plot. ``roi`` leaves frames out. LiberTEM's own workers load the network once.

    Args:
        model: a ``model.keras``, or the run folder with one, where all workers find it.
        positions: ``(P, 2)`` (y, x) in object pixels, in the order of the frames.
        probe: ``(M, N, N)`` in sqrt(photons); None: the network's own.
        mask: ``(N, N)`` bool, True where a pixel is used; None uses all.

    Raises:
        ValueError: the network needs the neighbours of a frame, which partitions tear apart; see also `Stream`.
    """

    def __init__(
        self, model: str | Path, positions: np.ndarray, probe: np.ndarray | None = None, mask: np.ndarray | None = None
    ) -> None:
        path = Path(model) / "model.keras" if Path(model).is_dir() else Path(model)
        positions = np.asarray(positions, float)
        super().__init__(model=str(path), positions=positions, probe=probe, mask=mask)
        network = _opened(str(path))
        if network.architecture.needs_neighbours:
            raise ValueError(
                f"{path} is a network that needs the neighbours of each frame: LiberTEM reads a scan in partitions. "
                "Train one with --preset fast, or use `ptycho reconstruct`"
            )

    def get_result_buffers(self) -> dict[str, Any]:
        """Sums over the frames, and what they give."""
        shape = self._mosaic().shape
        made = lambda dtype, **use: self.buffer(kind="single", extra_shape=shape, dtype=dtype, **use)
        return dict(
            total=made("complex64", use="private"),
            illumination=made("float32", use="private"),
            object=made("complex64", use="result_only"),
            coverage=made("float32", use="result_only"),
        )

    def process_partition(self, partition: np.ndarray) -> None:
        """Add the share of some frames."""
        network, positions = _opened(self.params.model), self.params.positions
        frames = np.ravel_multi_index(self.meta.coordinates.T, tuple(self.meta.dataset_shape.nav))
        probe = self._probe()
        # One layout for all partitions: one compiled step.
        layout = Layout.of(network, positions, probe)
        stream = Stream(network, positions[frames], probe=probe, mask=self.params.mask, layout=layout)
        for number, counts in enumerate(partition):
            stream.add(number, counts)
        stream.finish()
        mosaic = self._mosaic()
        mosaic.merge(stream.mosaic)
        self.results.total[:] += mosaic.total
        self.results.illumination[:] += mosaic.illumination

    def merge(self, dest: Any, src: Any) -> None:
        """Sums add up."""
        dest.total[:] += src.total
        dest.illumination[:] += src.illumination

    def get_results(self) -> Mapping[str, np.ndarray]:
        """The object so far."""
        mosaic = self._mosaic()
        mosaic.total, mosaic.illumination = self.results.total, self.results.illumination
        return dict(object=mosaic.object, coverage=mosaic.coverage)

    def _probe(self) -> np.ndarray:
        probe = self.params.probe
        network = _opened(self.params.model)
        if probe is None and network.probe is None:
            raise ValueError("the network has no probe of its own; give the probe of the scan")
        return probe_of(network, np.zeros((1, network.settings.N, network.settings.N)) if probe is None else probe)

    def _mosaic(self) -> Mosaic:
        return Mosaic(self.params.positions, self._probe().shape[-1])


def reconstruction_of(udf: ObjectUDF, results: Mapping[str, Any]) -> Reconstruction:
    """What ``Context.run_udf`` gave, as a result of ptycho: to be saved, viewed and refined like any other."""
    mosaic = udf._mosaic()
    made = Reconstruction.bare(
        np.asarray(results["object"].data), udf._probe(), mosaic.grid.on_grid(udf.params.positions)
    )
    return replace(made, coverage=np.asarray(results["coverage"].data), origin_px=mosaic.origin)


@lru_cache(maxsize=2)
def _opened(path: str) -> PtychoNetwork:
    """Once in each process."""
    return load_model(path)
