"""Groups of neighbouring frames: the g x g that a network of gridsize g sees at once, and those held out.

Positions are ``(P, 2)`` in object pixels, order (y, x). A group is a row of frame indices; it never holds a frame
twice. All choices come from the generator passed in.
"""

import numpy as np
from scipy.spatial import cKDTree


def blocks(positions: np.ndarray, size: int) -> np.ndarray:
    """For each frame a block of neighbouring frames around it ``(P, size)`` int64, nearly square.

    The frames nearest to a point by the larger of the two distances. Where a block would reach over the border of
    the scan its middle is moved inwards, so that blocks there extend no farther than others. Raises ValueError where a
    block cannot be filled.
    """
    frames = len(positions)
    _check_sizes(frames, size)
    points = np.asarray(positions, float)
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.5 * np.sqrt(np.prod(np.maximum(high - low, 1e-9)) * size / frames)
    half = np.minimum(half, (high - low) / 2)
    middle = np.clip(points, low + half, high - half)
    index = cKDTree(points).query(middle, k=[*range(1, size + 1)], p=np.inf)[1]
    return index.astype(np.int64)


def group_extents(positions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Spread of the positions of each group ``(G,)`` along y or x, whichever is larger, in pixels.

    The frames of a group lie on a canvas of N pixels more.
    """
    return np.ptp(np.asarray(positions, float)[groups], axis=1).max(axis=-1)


def held_out_groups(
    positions: np.ndarray, size: int, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Compact groups to judge a training by, and the frames left to train on.

    Returns ``(validation_groups (V, size), training_index (T,))``, both int64. The scan is divided into V
    cells of equally many frames by median cuts, and each cell gives up one random frame and its nearest
    ones: the groups are spread over the scan and have no frame in common. V follows from ``fraction`` of
    the frames, but is one at least and leaves ``size`` frames at least. With a fraction of 0, or with fewer
    than ``3 * size`` frames, nothing is held out: V = 0 and all frames are for training.
    """
    frames = len(positions)
    _check_sizes(frames, size)
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction is {fraction}: give a part of the frames, 0 up to (not including) 1")
    if fraction == 0 or frames < 3 * size:
        return np.empty((0, size), np.int64), np.arange(frames)
    count = min(max(1, round(fraction * frames / size)), (frames - size) // size)
    points = np.asarray(positions, float)
    cells = median_cells(points, np.arange(frames), count)
    validation = np.stack([_compact_group(points, cell, size, rng) for cell in cells])
    return validation, np.setdiff1d(np.arange(frames), validation)


def _check_sizes(frames: int, size: int) -> None:
    if size < 1:
        raise ValueError(f"group size is {size}: a group has one frame at least")
    if frames < size:
        raise ValueError(f"{frames} frames cannot fill a group of {size}: use a smaller gridsize or a larger scan")


def median_cells(points: np.ndarray, index: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut frames in two across their longer side, and so on, until there are ``count`` equal cells."""
    if count == 1:
        return [index]
    axis = np.argmax(np.ptp(points[index], axis=0))
    ordered = index[np.argsort(points[index, axis], kind="stable")]
    left = count // 2
    cut = len(index) * left // count
    return median_cells(points, ordered[:cut], left) + median_cells(points, ordered[cut:], count - left)


def _compact_group(points: np.ndarray, cell: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random frame of the cell and its nearest ones there."""
    distance = np.linalg.norm(points[cell] - points[rng.choice(cell)], axis=1)
    return cell[np.argsort(distance, kind="stable")[:size]]
