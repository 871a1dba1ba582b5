"""A scan spread over the workers of a Dask cluster: each reads its own frames, and their shares are added up."""

from functools import cached_property
from typing import Any

import numpy as np

from ptycho.backend import backend_name
from ptycho.config import ModelConfig
from ptycho.data.frames import StoredFrames
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.network.build import PtychoNetwork, restored
from ptycho.progress import Progress
from ptycho.reconstruction.predict import open_stream
from ptycho.reconstruction.stream import Contribution, Stream


@renamed_keywords
def predict_on(
    client: Any,
    model: PtychoNetwork,
    scan: Scan,
    *,
    used: np.ndarray | None = None,
    tile_frames: int | None = None,
    symmetries: int = 1,
    progress: Progress | None = None,
) -> Stream:
    """What `predict` gives, computed by the workers of a Dask ``client``, a tile of the scan at a time.

    Where a worker dies its part is computed by another, and the result is the same to the last bit. Workers need
    ``ptycho`` with the same backend, and the file of the scan at the same path.

    Raises:
        ValueError: as `predict`; frames that do not stay in a file (`StoredFrames`); a network whose patches have each
            a phase of their own (``cnn``); a part that no worker survives.
    """
    from distributed import KilledWorker

    counts = scan.counts
    if not isinstance(counts, StoredFrames) or not counts.files:
        raise ValueError(
            f"workers read their frames from the file, and those of {scan.source} are not read in pieces: "
            "`ptycho convert` it to HDF5 (.h5)"
        )
    if not model.architecture.common_phase:
        raise ValueError(
            f"the patches of a {model.settings.architecture} have each a phase of their own: it takes one process to "
            "put them together"
        )
    used = np.arange(len(scan)) if used is None else np.asarray(used)
    stream = open_stream(model, scan, used, tile_frames, symmetries)
    # A task of its own, not data sent out: when all workers that have it are lost, it is made again.
    weights = model.without_probe().get_weights()  # the stream has the probe
    recipe = client.submit(_Recipe, backend_name(), model.settings, weights, pure=False)
    tasks = {}
    for frames, layout in stream.pieces():
        picked = counts.picked(used[frames]), stream.positions[frames]
        options = dict(probe=stream.probe, transfer=scan.transfer, mask=scan.mask, symmetries=symmetries, layout=layout)
        tasks[client.submit(_contribution, recipe, *picked, options, pure=False)] = frames
    for task, frames in tasks.items():  # in this order, whoever ends first: sums of floats depend on it
        try:
            stream.take(frames, task.result())
        except KilledWorker as error:
            raise ValueError(
                f"every worker that was given {len(frames)} frames of the scan died, {error.allowed_failures + 1} "
                "of them: give them more memory, or less to do at a time with --tile-frames"
            ) from error
        task.release()
        if progress:
            progress("predicting", int(stream.arrived.sum()), len(used), {})
    return stream


class _Recipe:
    """A network as workers send it to each other: Dask's own way with Keras models (2026.8) is for Keras 2."""

    def __init__(self, backend: str, settings: ModelConfig, weights: list[np.ndarray]):
        self.pieces = backend, settings, weights

    def __reduce__(self):
        return _Recipe, self.pieces

    @cached_property
    def network(self) -> PtychoNetwork:
        """Made once on each worker, which compiles it once."""
        backend, settings, weights = self.pieces
        if backend_name() != backend:
            raise ValueError(
                f"a worker computes with {backend_name()}, this process with {backend}: "
                f"start the workers with KERAS_BACKEND={backend}"
            )
        return restored(settings, weights, has_probe=False)


def _contribution(
    recipe: _Recipe, counts: StoredFrames, positions: np.ndarray, options: dict[str, Any]
) -> Contribution:
    """On a worker: the contribution of a part of the scan."""
    for file in counts.files:
        if not file.exists():
            raise ValueError(f"a worker does not see {file}: the scan has to be at the same path on all machines")
    stream = Stream(recipe.network, positions, **options)
    for number, frame in enumerate(counts[:]):
        stream.add(number, frame)
    stream.finish()
    return stream.contribution
