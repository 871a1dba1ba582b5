"""The object of a whole scan from a trained network."""

from collections.abc import Iterator

import numpy as np

from ptycho.data.frames import ahead
from ptycho.data.scan import Scan
from ptycho.network.build import PtychoNetwork
from ptycho.progress import Progress
from ptycho.reconstruction.stream import Stream
from ptycho.reconstruction.tiles import Piece


def predict(
    model: PtychoNetwork,
    scan: Scan,
    *,
    used: np.ndarray | None = None,
    tile_frames: int | None = None,
    views: int = 1,
    progress: Progress | None = None,
) -> Stream:
    """Reconstruct a scan tile by tile; the finished stream holds the object (``stream.mosaic``).

    Args:
        model: a network for the scan's N.
        scan: P frames, whose probe is not used: the model has its own.
        used: indices of the frames to look at; None: all of them.
        tile_frames, views: see `Stream`.
        progress: told of the progress.

    Raises:
        ValueError: the scan's N is not the model's, or it is in the near field.
    """
    used = np.arange(len(scan)) if used is None else np.asarray(used)
    stream = open_stream(model, scan, used, tile_frames, views)
    for _ in feed(stream, scan, used, progress):
        pass
    return stream


def open_stream(
    model: PtychoNetwork, scan: Scan, used: np.ndarray, tile_frames: int | None = None, views: int = 1
) -> Stream:
    """A stream for the used frames of a scan; ValueError where its N is not the model's, and for the near field."""
    scan.require_far_field()
    if scan.N != model.settings.N:
        raise ValueError(f"the scan's frames have N {scan.N}, the model N {model.settings.N}")
    return Stream(model, scan.positions[used], mask=scan.mask, tile_frames=tile_frames, views=views)


READ_AHEAD = 64
"""Frames that are read at once of a scan that stays in its file, while the network has the last ones."""


def feed(stream: Stream, scan: Scan, used: np.ndarray, progress: Progress | None = None) -> Iterator[Piece]:
    """Give a stream the used frames of a scan, in its own order; yields the pieces as they come."""
    done = 0
    # Frames that wait for a tile would keep all that were read with them; those of a batch leave together.
    own = np.copy if stream.layout.tiles else np.asarray
    parts = [part for frames in stream.order() for part in np.split(frames, range(READ_AHEAD, len(frames), READ_AHEAD))]
    for frames, counts in zip(parts, ahead(lambda frames: scan.counts[used[frames]], parts, 1), strict=True):
        for frame, pattern in zip(frames, counts, strict=True):
            yield from stream.add(int(frame), own(pattern))
        done += len(frames)
        if progress:
            progress("predicting", done, len(used), {})
    yield from stream.finish()
