"""Groups of neighbouring frames: the g x g that a network of gridsize g takes together, and those held out.

Positions are ``(P, 2)`` in object pixels, order (y, x). A group is a row of frame indices; it never holds a frame
twice. All choices come from the generator passed in.
"""

import numpy as np
from scipy.spatial import cKDTree

from ptycho.arrays import Array, Int, Real


def blocks(positions: Real[Array, "P 2"], size: int) -> Int[Array, "P size"]:
    """For each frame a block of neighbouring frames around it, nearly square; int64.

    The frames nearest to its centre by the larger of the distances along y and x. Where a block would reach beyond the
    border of the scan its centre is moved inwards, so that blocks there are no larger than others. Raises ValueError
    where a block cannot be filled.
    """
    frames = len(positions)
    _check_sizes(frames, size)
    points = np.asarray(positions, float)
    low, high = points.min(axis=0), points.max(axis=0)
    # Half the side of the square that holds `size` frames at the scan's mean density
    half = 0.5 * np.sqrt(np.prod(np.maximum(high - low, 1e-9)) * size / frames)
    half = np.minimum(half, (high - low) / 2)
    centres = np.clip(points, low + half, high - half)
    index = cKDTree(points).query(centres, k=[*range(1, size + 1)], p=np.inf)[1]
    return index.astype(np.int64)


def group_extents(positions: Real[Array, "P 2"], groups: Int[Array, "G size"]) -> Real[Array, " G"]:
    """Extent in pixels of the positions of each group along y or x, whichever is larger.

    The canvas of a group is N pixels larger.
    """
    return np.ptp(np.asarray(positions, float)[groups], axis=1).max(axis=-1)


def held_out_groups(
    positions: Real[Array, "P 2"], size: int, held_out_fraction: float, rng: np.random.Generator
) -> tuple[Int[Array, "V size"], Int[Array, " T"]]:
    """Compact groups of held-out frames, and the frames to train on: ``(held_out_groups, training_index)``, int64.

    Median cuts divide the scan into V cells of equally many frames; of each cell one random frame and its nearest
    ones are held out, so that the groups are spread over the scan and share no frame. V follows from
    ``held_out_fraction`` of the frames, but is at least one and leaves at least ``size`` frames. With 0, or fewer than
    ``3 * size`` frames, nothing is held out: V = 0 and all frames are for training.
    """
    frames = len(positions)
    _check_sizes(frames, size)
    if not 0 <= held_out_fraction < 1:
        raise ValueError(f"held_out_fraction is {held_out_fraction}: give a fraction of the frames, from 0 to below 1")
    if held_out_fraction == 0 or frames < 3 * size:
        return np.empty((0, size), np.int64), np.arange(frames)
    # At least one group, and `size` frames left to train on
    count = min(max(1, round(held_out_fraction * frames / size)), (frames - size) // size)
    points = np.asarray(positions, float)
    cells = median_cells(points, np.arange(frames), count)
    held_out = np.stack([_compact_group(points, cell, size, rng) for cell in cells])
    return held_out, np.setdiff1d(np.arange(frames), held_out)


def _check_sizes(frames: int, size: int) -> None:
    if size < 1:
        raise ValueError(f"group size is {size}: a group has at least one frame")
    if frames < size:
        raise ValueError(f"{frames} frames cannot fill a group of {size}: use a smaller gridsize or a larger scan")


def median_cells(points: Real[Array, "P 2"], index: Int[Array, " cell"], count: int) -> list[np.ndarray]:
    """Cut frames in two across their longer side, recursively, until there are ``count`` equal cells."""

    def cut(frames: np.ndarray, places: np.ndarray, cells: int) -> list[np.ndarray]:
        if cells == 1:
            return [frames]
        low, high = places.min(axis=0), places.max(axis=0)
        order = places[:, int(high[1] - low[1] > high[0] - low[0])].argsort(kind="stable")
        left = cells // 2
        # In the ratio of the cells that each half will hold, so that all end with equally many frames
        at = len(frames) * left // cells
        first, second = order[:at], order[at:]
        return cut(frames[first], places[first], left) + cut(frames[second], places[second], cells - left)

    return cut(index, points[index], count)


def _compact_group(
    points: Real[Array, "P 2"], cell: Int[Array, " cell"], size: int, rng: np.random.Generator
) -> Int[Array, " size"]:
    """A random frame of the cell and its nearest ones there."""
    distance = np.linalg.norm(points[cell] - points[rng.choice(cell)], axis=1)
    return cell[np.argsort(distance, kind="stable")[:size]]
