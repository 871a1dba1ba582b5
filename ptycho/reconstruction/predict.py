"""The object of a whole scan from a trained network."""

from collections.abc import Iterator

import numpy as np

from ptycho.data.frames import Workers
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.network.build import PtychoNetwork
from ptycho.progress import Progress
from ptycho.reconstruction.stream import Stream, probe_of
from ptycho.reconstruction.tiles import Piece


@renamed_keywords
def predict(
    model: PtychoNetwork,
    scan: Scan,
    *,
    used: np.ndarray | None = None,
    tile_frames: int | None = None,
    symmetries: int = 1,
    progress: Progress | None = None,
) -> Stream:
    """Reconstruct a scan tile by tile; the finished stream holds the object (``stream.mosaic``).

    Args:
        model: a network. With a probe of its own it is for the scan's N, and the probe of the scan is not used.
        scan: P frames.
        used: indices of the frames to look at; None: all of them.
        tile_frames, symmetries: see `Stream`.
        progress: called with the progress.

    Raises:
        ValueError: the model has a probe for frames of another N.
    """
    used = np.arange(len(scan)) if used is None else np.asarray(used)
    stream = open_stream(model, scan, used, tile_frames, symmetries)
    for _ in feed(stream, scan, used, progress):
        pass
    return stream


def open_stream(
    model: PtychoNetwork, scan: Scan, used: np.ndarray, tile_frames: int | None = None, symmetries: int = 1
) -> Stream:
    """A stream for the used frames of a scan; ValueError as `predict`."""
    return Stream(
        model,
        scan.positions[used],
        probe=probe_of(model, scan.probe),
        transfer=scan.transfer,
        mask=scan.mask,
        tile_frames=tile_frames,
        symmetries=symmetries,
    )


def feed(
    stream: Stream, scan: Scan, used: np.ndarray, progress: Progress | None = None, *, read_ahead: int = 64
) -> Iterator[Piece]:
    """Give a stream the used frames of a scan, in its own order; yields the pieces as they come.

    Of a scan that stays in its file ``read_ahead`` frames are read at once, while the network has the last ones.
    """
    done = 0
    # Frames that wait for a tile would keep all that were read with them; those of a batch leave together.
    held = np.copy if stream.layout.tiles else np.asarray
    chunks = [
        chunk for frames in stream.order() for chunk in np.split(frames, range(read_ahead, len(frames), read_ahead))
    ]
    # One chunk is read while the network works on the last.
    read = Workers(1).ahead(lambda frames: scan.counts[used[frames]], chunks)
    for frames, counts in zip(chunks, read, strict=True):
        for frame, pattern in zip(frames, counts, strict=True):
            yield from stream.add(int(frame), held(pattern))
        done += len(frames)
        if progress:
            progress("predicting", done, len(used), {})
    yield from stream.finish()
