"""Scale and rotation of a scan's positions, before a fit from empty space."""

import numpy as np

from ptycho.refinement.solver import Solver

STAGES = ((64, 0.015, 2), (256, 0.0075, 1), (1024, 0.0075, 1))
"""Frames nearest the middle of the scan, steps of the map, and how many of them to either side: the further the frames
reach, the finer they tell, and the narrower the valley is in which they do. Steps of 0.3 % drowned in what batches
leave to chance, 0.03 % of the misfit."""

BATCH = 32
"""Frames in a batch."""

PASSES = 2
"""Over the frames, from an empty object; the misfit along the last tells."""


def find_map(solver: Solver) -> None:
    """Scale and turn the positions of a solver, whose object is empty, to where its frames can be fitted best.

    A map ``I + [[s, -r], [r, s]]`` about the middle; for each an object is fitted to some frames, as for `focus`. A fit
    of object and map together hardly finds it: the object is warped as the positions are, and neither moves.
    """
    everything, empty, given = solver.frames, np.ones_like(solver.state["object"]), solver.positions
    middle = given[everything].mean(axis=0)
    order = everything[np.argsort(np.linalg.norm(given[everything] - middle, axis=1), kind="stable")]

    def placed(change: np.ndarray) -> np.ndarray:
        s, r = change
        return given + (given - middle) @ np.array([[s, -r], [r, s]]).T

    def misfit(change: np.ndarray) -> float:
        solver.move_to(placed(change))
        solver.state["object"], solver.epoch = empty, 0  # the same batches for all
        return [solver.stochastic("lsqml", ["object"], BATCH) for _ in range(PASSES)][-1]

    best = np.zeros(2)
    for frames, step, reach in STAGES:
        solver.frames = np.sort(order[:frames])
        side = np.arange(-reach, reach + 1)
        grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1)
        misfits = np.array([[misfit(best + step * offset) for offset in row] for row in grid])
        best = best + step * lowest(grid.reshape(-1, 2), misfits.ravel())
    solver.move_to(placed(best))
    solver.state["object"], solver.frames, solver.epoch = empty, everything, 0


def lowest(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where the paraboloid through values at the best of points ``(K, 2)`` of a unit grid and its neighbours is lowest.

    The best point itself, where it has no neighbours on all sides, or the paraboloid no minimum between them.
    """
    best = points[np.argmin(values)]
    near = np.abs(points - best).max(axis=1) <= 1
    if near.sum() < 9:
        return best.astype(float)
    y, x = (points[near] - best).T
    _, *slope, yy, yx, xx = np.linalg.lstsq(
        np.stack([np.ones(9), y, x, y * y / 2, y * x, x * x / 2], axis=1), values[near], rcond=None
    )[0]
    bend = np.array([[yy, yx], [yx, xx]])
    if np.linalg.eigvalsh(bend)[0] <= 0:
        return best.astype(float)
    offset = -np.linalg.solve(bend, slope)
    return best + offset if np.abs(offset).max() <= 1 else best.astype(float)
