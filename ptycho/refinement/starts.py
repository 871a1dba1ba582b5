"""The start of a fit from vacuum: the defocus of a guessed probe, the powers of its modes, the map of the positions.

For each trial an object is fitted to a few frames from vacuum by minibatches; the misfit of the last pass decides.
A fit of object and probe, or of object and map, hardly finds them: the object takes up a smooth phase that the probe
lacks, and is stretched with stretched positions.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from ptycho.diagnostics.orientation import widest_defocus
from ptycho.diagnostics.statistics import mean_over_error, scatter_of_mean
from ptycho.physics.grid import nearest_the_middle
from ptycho.refinement.likelihood import AMPLITUDES
from ptycho.refinement.solver import Solver


def find_focus(
    solver: Solver,
    *,
    frames: int = 128,
    batch: int = 16,
    range_rad: float | None = None,
    step_rad: float = 1.2,
    most_coarse: int = 41,
    rounds: Sequence[tuple[float, float]] = ((0.6, 2.0), (0.3, 1.3)),
    most_trials: int = 8,
    least_gain: float = 0.01,
    sigmas: float = 4.0,
) -> str | None:
    """Bring the probe of a solver to the defocus, and its modes to the powers, that let some frames be fitted best.

    First mode and object almost take the place of other modes, so that powers that are off stay so until the fit is
    down to a hundredth of the shot noise. Shapes of modes are left to the fit. The misfit is that of each batch before
    its step, predicted from its neighbours: a second pass would reward probes so narrow that frames do not overlap.

    Args:
        solver: its object is empty.
        frames: how many they are found from, those nearest the middle of the scan.
        batch: frames in a batch: of eight batches the later ones are predicted well enough to tell 5 nm of defocus.
        range_rad: defocus that is tried, either way: phase at the root mean square frequency of the probe; None: up to
            where the probe no longer fits into its window (`widest_defocus`), and a quarter further while the misfit
            falls.
        step_rad: from one defocus to the next; valleys are about twice as wide.
        most_coarse: defoci that are tried first at most.
        rounds: with more than one mode, round by round: step of the defocus in rad, and factor of the power of a mode
            over the first's.
        most_trials: values of each that are tried in a round at most.
        least_gain: part of the misfit above the shot noise by which another probe has to be better than the one given.
        sigmas: standard errors over batches by which it has to be better, and those two steps to its sides worse. A
            weak sample under few photons has a broad valley instead: a wider probe follows the noise less.

    Returns:
        A sentence for the user, where the search ended at its limit.
    """
    probe, everything = solver.state["probe"], solver.frames
    solver.frames = everything[nearest_the_middle(solver.scan.positions[everything], frames)]
    spectrum = np.fft.fft2(probe)
    squared = np.add.outer(*(np.fft.fftfreq(solver.scan.N) ** 2,) * 2)
    powers = (np.abs(probe) ** 2).sum(axis=(1, 2))
    density = (np.abs(spectrum) ** 2).sum(axis=0)
    # Fresnel phase a f^2 / <f^2>, <f^2> the mean square frequency of the probe: a is the defocus in rad.
    unit = density.sum() / (density * squared).sum()
    if range_rad is None:
        range_rad = widest_defocus(solver.scan.N, 1 / unit)
    reach = min(int(np.ceil(range_rad / step_rad)), most_coarse // 2)

    def probe_at(point: np.ndarray) -> np.ndarray:
        """The probe of a point: its defocus, and the logarithms of what the powers of its other modes rose by."""
        # The powers of the other modes rise by exp(point), then all are scaled to the power of before.
        raised = powers * np.exp(np.append(0.0, point[1:]))
        factors = np.sqrt(raised / raised.sum() * powers.sum() / np.maximum(powers, 1e-30))
        wave = np.fft.ifft2(spectrum * np.exp(1j * point[0] * unit * squared))
        return (wave * factors[:, None, None]).astype("complex64")

    @cache
    def misfits(*point: float) -> np.ndarray:
        solver.state["probe"] = probe_at(np.array(point))
        solver.vacuum()
        return solver.minibatch_epoch("lsqml", ["object"], batch, likelihood=AMPLITUDES)

    of_batches = lambda point: misfits(*point.tolist())
    at = lambda point: float(of_batches(point).sum())
    is_worse = lambda one, other: mean_over_error(of_batches(one) - of_batches(other)) > sigmas
    axes = np.eye(len(probe))
    given = 0 * axes[0]
    widest = reach + max(2, reach // 4)
    point = _lowest_along(at, given, step_rad * axes[0], reach, reach + 1 + widest)
    if abs(point[0]) < step_rad:  # as near as fits from vacuum tell: the fit of the probe does better
        point = given
    sides = [point + 2 * sign * step_rad * axes[0] for sign in (-1, 1)]
    if not all(is_worse(side, point) for side in sides if abs(side[0]) < (widest + 0.5) * step_rad):
        point = given
    at_limit = abs(point[0]) > (widest - 0.5) * step_rad
    for defocus, factor in rounds if len(probe) > 1 else ():
        for axis, size in zip(axes, (defocus, *[np.log(factor)] * (len(probe) - 1)), strict=True):
            point = _lowest_along(at, point, size * axis, 1, most_trials)
    above = max(at(given) - len(solver.frames) * scatter_of_mean(solver.scan), 0.0)
    if not is_worse(given, point) or at(given) - at(point) < least_gain * above:
        point, at_limit = given, False
    solver.state["probe"], solver.frames = probe_at(point) if point.any() else probe, everything
    solver.vacuum()
    if not at_limit:
        return None
    return (
        f"the focus that was looked for may lie beyond the widest probe that was tried ({abs(point[0]):.1f} rad at its "
        "mean frequency): take larger frames, or give --semiangle-mrad and --defocus-a"
    )


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
    scales: bool = True,
    stages: Sequence[tuple[int, float, int]] = ((64, 0.015, 2), (256, 0.0075, 1), (1024, 0.0075, 1)),
    batch: int = 32,
    passes: int = 2,
    least: float = 0.003,
) -> None:
    """Scale and turn the positions of a solver to where its frames can be fitted best, and its object with them.

    A map ``I + [[s, -r], [r, s]]`` about the middle.

    Args:
        solver: fits from vacuum tell the map, also where it has an object to start from: that was made of the positions
            as they were, and would speak for them.
        scales: whether the scale is looked for, too.
        stages: frames nearest the middle of the scan, steps of the map, and how many of them to either side: the
            further the frames reach, the finer they tell, and the narrower the valley is in which they do. Steps of
            0.3 % drowned in what batches leave to chance, 0.03 % of the misfit.
        batch: frames in a batch.
        passes: over the frames; the misfit along the last tells.
        least: an object that is there stays as it is where scale and turn are smaller, as far as this search tells.
    """
    image = solver.state["object"].copy()
    everything, given = solver.frames, solver.state["positions"].copy()
    middle = given[everything].mean(axis=0)
    order = everything[np.argsort(np.linalg.norm(given[everything] - middle, axis=1), kind="stable")]

    def mapped(change: np.ndarray) -> np.ndarray:
        s, r = change if scales else (np.cos(change[1]) - 1, np.sin(change[1]))
        # (given - middle) are rows: A x is x A^T.
        return given + (given - middle) @ np.array([[s, -r], [r, s]]).T

    def misfit(change: np.ndarray) -> float:
        solver.move_to(mapped(change))
        solver.vacuum()  # the same batches for all
        epoch = lambda: solver.minibatch_epoch("lsqml", ["object"], batch, likelihood=AMPLITUDES)
        return float([epoch().sum() for _ in range(passes)][-1])

    best = np.zeros(2)
    for frames, step, reach in stages:
        solver.frames = np.sort(order[:frames])
        side = np.arange(-reach, reach + 1)
        if not scales:
            best = _lowest_along(misfit, best, np.array([0.0, step]), reach, 2 * reach + 5)
            continue
        grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1)
        misfits = np.array([[misfit(best + step * offset) for offset in row] for row in grid])
        best = best + step * lowest_point(grid.reshape(-1, 2), misfits.ravel())
    empty = bool((image == 1).all())
    if not empty and np.abs(best).max() < least:
        best = np.zeros(2)
    solver.move_to(mapped(best))
    solver.frames = everything
    solver.vacuum()
    if not empty:
        solver.state["object"] = warped(image, best, solver.grid.on_grid(middle[None])[0] + solver.scan.N // 2)


def warped(image: np.ndarray, change: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """An object ``(S, H, W)`` on a map ``I + [[s, -r], [r, s]]`` about ``middle``; vacuum comes from outside."""
    from scipy.ndimage import affine_transform

    s, r = change
    back = np.linalg.inv(np.array([[1 + s, -r], [r, 1 + s]]))
    # affine_transform takes pixel o of the result from back @ o + offset: the middle stays.
    offset = middle - back @ middle
    parts = lambda values: np.stack([affine_transform(each, back, offset, order=3) for each in values])
    moved = 1 + parts(image.real - 1) + 1j * parts(image.imag)
    return moved.astype("complex64")


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
