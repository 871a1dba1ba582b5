"""The object of a scan by a trained network, as a `Reconstruction`."""

from dataclasses import replace
from typing import Any

import numpy as np

from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.network.build import PtychoNetwork
from ptycho.progress import Progress
from ptycho.reconstruction.distributed import predict_on
from ptycho.reconstruction.predict import feed, open_stream
from ptycho.reconstruction.stitch import stitch
from ptycho.reconstruction.stream import Stream


@renamed_keywords
def reconstruct(
    model: PtychoNetwork,
    scan: Scan,
    *,
    held_out: np.ndarray | None = None,
    tile_frames: int | None = None,
    symmetries: int = 1,
    client: Any = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """The object of a scan, by a trained network.

    Args:
        model: a network; see `predict` for whose probe it uses.
        scan: P frames.
        held_out: ``(P,)`` bool: frames that must not be looked at (their positions are reported all the same).
        tile_frames, symmetries: see `ptycho.reconstruction.Stream`.
        client: of Dask, whose workers compute it (`predict_on`); None: this process.
        progress: called with the progress.
    """
    used = np.flatnonzero(~held_out) if held_out is not None else np.arange(len(scan))
    if client is not None:
        stream = predict_on(
            client, model, scan, used=used, tile_frames=tile_frames, symmetries=symmetries, progress=progress
        )
        return as_grown(stream, scan, used)
    stream = open_stream(model, scan, used, tile_frames, symmetries)
    pieces = feed(stream, scan, used, progress)
    if model.architecture.common_phase:
        for _ in pieces:
            pass
        return as_grown(stream, scan, used)
    kept = list(pieces)
    if not kept:
        raise ValueError("no patch is finite; the network's output is not a number anywhere")
    result = as_grown(stream, scan, used)
    # Pieces of single frames: pixel N // 2 of each is at the integer part of its position.
    centres = np.array([piece.origin for piece in kept]) + scan.N // 2
    stitched = stitch(np.stack([piece.values for piece in kept]), centres, result.probe)
    # The stitched image has a grid of its own: its first pixel in pixels of the scan
    origin = np.rint(centres[0] - stitched.positions_px[0]).astype(int)
    return replace(
        result,
        object=stitched.object,
        coverage=stitched.coverage,
        positions_px=scan.positions - origin,
        origin_px=origin,
    )


def as_grown(stream: Stream, scan: Scan, used: np.ndarray | None = None) -> Reconstruction:
    """The object of a stream as far as it has grown.

    The stream takes the frames ``used`` of the scan, or all of them.
    """
    taken = stream.arrived.copy()
    taken[stream.waiting + stream.dropped] = False
    made_of = np.zeros(len(scan), bool)
    made_of[np.arange(len(scan)) if used is None else used] = taken
    return Reconstruction(
        object=stream.mosaic.object,
        probe=stream.probe,
        positions_px=scan.positions - stream.mosaic.origin,
        coverage=stream.mosaic.coverage,
        near_field=scan.near_field,
        origin_px=np.array(stream.mosaic.origin),
        pixel_size_m=scan.pixel_size_m,
        spread=stream.spread if stream.symmetries > 1 else None,
        used_frames=made_of,
        used=int(taken.sum()),
        dropped=len(stream.dropped),
    )
