"""The start of a fit from vacuum: the defocus of a guessed probe, the powers of its modes, the map of the positions.

For each trial an object is fitted to a few frames from vacuum by minibatches; the misfit of the last pass decides.
A fit of object and probe, or of object and map, hardly finds them: the object takes up a smooth phase that the probe
lacks, and is stretched with stretched positions.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from ptycho.physics.grid import nearest_the_middle
from ptycho.refinement.solver import Solver


def find_focus(
    solver: Solver,
    batch: int,
    *,
    frames: int = 32,
    range_rad: float = 4.8,
    coarse: int = 9,
    rounds: Sequence[tuple[float, float]] = ((0.6, 2.0), (0.3, 1.3)),
    most_trials: int = 8,
) -> None:
    """Bring the probe of a solver to the defocus, and its modes to the powers, that let some frames be fitted best.

    First mode and object almost take the place of other modes, so that powers that are off stay so until the fit is
    down to a hundredth of the shot noise. Shapes of modes are left to the fit.

    Args:
        solver: its object is empty.
        batch: frames in a batch at most.
        frames: how many they are found from, those nearest the middle of the scan.
        range_rad: defocus that is tried, either way: phase at the root mean square frequency of the probe.
        coarse: defoci that are tried first, evenly.
        rounds: with more than one mode, round by round: step of the defocus in rad, and factor of the power of a mode
            over the first's.
        most_trials: values of each that are tried in a round at most.
    """
    probe, everything = solver.state["probe"], solver.frames
    solver.frames = everything[nearest_the_middle(solver.scan.positions[everything], frames)]
    spectrum = np.fft.fft2(probe)
    squared = np.add.outer(*(np.fft.fftfreq(solver.scan.N) ** 2,) * 2)
    powers = (np.abs(probe) ** 2).sum(axis=(1, 2))
    density = (np.abs(spectrum) ** 2).sum(axis=0)
    # Fresnel phase a f^2 / <f^2>, <f^2> the mean square frequency of the probe: a is the defocus in rad.
    unit = density.sum() / (density * squared).sum()

    def probe_at(point: np.ndarray) -> np.ndarray:
        """The probe of a point: its defocus, and the logarithms of what the powers of its other modes rose by."""
        # The powers of the other modes rise by exp(point), then all are scaled to the power of before.
        raised = powers * np.exp(np.append(0.0, point[1:]))
        factors = np.sqrt(raised / raised.sum() * powers.sum() / np.maximum(powers, 1e-30))
        wave = np.fft.ifft2(spectrum * np.exp(1j * point[0] * unit * squared))
        return (wave * factors[:, None, None]).astype("complex64")

    @cache
    def misfit(*point: float) -> float:
        solver.state["probe"] = probe_at(np.array(point))
        solver.vacuum()
        return solver.minibatch_epoch("lsqml", ["object"], batch)

    at = lambda point: misfit(*point.tolist())
    axes = np.eye(len(probe))
    step = 2 * range_rad / (coarse - 1)
    point = _lowest_along(at, 0 * axes[0], step * axes[0], coarse // 2, coarse)
    for defocus, factor in rounds if len(probe) > 1 else ():
        for axis, size in zip(axes, (defocus, *[np.log(factor)] * (len(probe) - 1)), strict=True):
            point = _lowest_along(at, point, size * axis, 1, most_trials)
    solver.state["probe"], solver.frames = probe_at(point), everything
    solver.vacuum()


def _lowest_along(
    function: Callable[[np.ndarray], float], start: np.ndarray, step: np.ndarray, first: int, most: int
) -> np.ndarray:
    """The lowest point on a line: ``first`` steps to either side are tried, further ones while it falls (``most`` in
    all), and the lowest point of the parabola through the best and its neighbours."""
    tried = {k: function(start + k * step) for k in range(-first, first + 1)}
    while (best := min(tried, key=lambda k: tried[k])) in (min(tried), max(tried)) and len(tried) < most:
        further = best + (1 if best == max(tried) else -1)
        tried[further] = function(start + further * step)
    if best in (min(tried), max(tried)):
        return start + best * step
    # Minimum of the parabola through three points one step apart: k + (f- - f+) / (2 (f- - 2 f0 + f+))
    below, middle, above = (tried[best + k] for k in (-1, 0, 1))
    lowest = start + (best + (below - above) / (2 * (below - 2 * middle + above))) * step
    return lowest if function(lowest) < middle else start + best * step


def find_map(
    solver: Solver,
    *,
    stages: Sequence[tuple[int, float, int]] = ((64, 0.015, 2), (256, 0.0075, 1), (1024, 0.0075, 1)),
    batch: int = 32,
    passes: int = 2,
) -> None:
    """Scale and turn the positions of a solver, whose object is empty, to where its frames can be fitted best.

    A map ``I + [[s, -r], [r, s]]`` about the middle.

    Args:
        solver: its object is empty.
        stages: frames nearest the middle of the scan, steps of the map, and how many of them to either side: the
            further the frames reach, the finer they tell, and the narrower the valley is in which they do. Steps of
            0.3 % drowned in what batches leave to chance, 0.03 % of the misfit.
        batch: frames in a batch.
        passes: over the frames; the misfit along the last tells.
    """
    everything, given = solver.frames, solver.state["positions"].copy()
    middle = given[everything].mean(axis=0)
    order = everything[np.argsort(np.linalg.norm(given[everything] - middle, axis=1), kind="stable")]

    def mapped(change: np.ndarray) -> np.ndarray:
        s, r = change
        # (given - middle) are rows: A x is x A^T.
        return given + (given - middle) @ np.array([[s, -r], [r, s]]).T

    def misfit(change: np.ndarray) -> float:
        solver.move_to(mapped(change))
        solver.vacuum()  # the same batches for all
        return [solver.minibatch_epoch("lsqml", ["object"], batch) for _ in range(passes)][-1]

    best = np.zeros(2)
    for frames, step, reach in stages:
        solver.frames = np.sort(order[:frames])
        side = np.arange(-reach, reach + 1)
        grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1)
        misfits = np.array([[misfit(best + step * offset) for offset in row] for row in grid])
        best = best + step * lowest_point(grid.reshape(-1, 2), misfits.ravel())
    solver.move_to(mapped(best))
    solver.frames = everything
    solver.vacuum()


def lowest_point(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where the paraboloid through values at the best of points ``(K, 2)`` of a unit grid and its neighbours is lowest.

    The best point itself, where it has no neighbours on all sides, or the paraboloid no minimum between them.
    """
    best = points[np.argmin(values)]
    near = np.abs(points - best).max(axis=1) <= 1
    if near.sum() < 9:
        return best.astype(float)
    # f = c + g.x + x.H x / 2 through nine points, by least squares; the minimum is at x = -H^-1 g.
    y, x = (points[near] - best).T
    _, *slope, yy, yx, xx = np.linalg.lstsq(
        np.stack([np.ones(9), y, x, y * y / 2, y * x, x * x / 2], axis=1), values[near], rcond=None
    )[0]
    hessian = np.array([[yy, yx], [yx, xx]])
    if np.linalg.eigvalsh(hessian)[0] <= 0:
        return best.astype(float)
    offset = -np.linalg.solve(hessian, slope)
    return best + offset if np.abs(offset).max() <= 1 else best.astype(float)
