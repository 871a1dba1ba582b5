"""Frames in batches: of one size, so that a step is compiled once, and spread over the scan or drawn at random."""

from typing import Literal, NamedTuple

import numpy as np

from ptycho.data.grouping import median_cells

Batching = Literal["compact", "random"]


class Members(NamedTuple):
    """The frames of a batch."""

    frames: np.ndarray
    """``(B,)`` int: indices; some are repeated to fill the batch up."""
    present: np.ndarray
    """``(B,)`` float32: 0 for those that only fill up."""

    def filled(self, size: int) -> "Members":
        """The same, filled up to ``size`` frames."""
        missing_frames = size - len(self.frames)
        return Members(np.pad(self.frames, (0, missing_frames), mode="edge"), np.pad(self.present, (0, missing_frames)))


def batches(
    positions: np.ndarray, frames: np.ndarray, size: int, how: Batching, rng: np.random.Generator
) -> list[Members]:
    """Each frame once, in batches of one size, at most ``size``, in random order.

    Args:
        positions: ``(P, 2)`` of all frames of the scan.
        frames: indices of those to use.
        size: frames in a batch at most.
        how: ``random``, or ``compact``: each batch takes one frame of every group of the scan, so that its frames
            overlap as little as they can (Odstrcil, Menzel, Guizar-Sicairos, Opt. Express 26, 3108 (2018)).
        rng: draws.
    """
    # As few batches as may be, and as even: -(-a // b) rounds up.
    count = -(-len(frames) // size)
    size = -(-len(frames) // count)
    if count == 1:
        order = np.asarray(frames)  # a batch is summed: its order does not matter
    elif how == "random":
        order = rng.permutation(frames)
    else:
        # Cells of `count` neighbours, the members of each in random order: batch k takes the k-th of every cell.
        cells = median_cells(positions, frames, -(-len(frames) // count))
        rows = np.full((len(cells), max(len(cell) for cell in cells)), -1)
        for row, cell in zip(rows, cells, strict=True):
            # Smaller cells leave random columns empty, lest the last batch hold frames of the large cells only.
            row[rng.permutation(len(row))[: len(cell)]] = rng.permutation(cell)
        order = rows.T.ravel()
        order = order[order >= 0]
    groups = [order[k * size : (k + 1) * size] for k in range(count)]
    rng.shuffle(groups)
    present = np.arange(size)
    return [Members(np.resize(group, size), (present < len(group)).astype("float32")) for group in groups]
