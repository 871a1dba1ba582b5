"""The defocus of a probe that is only a guess, and how its light is shared out among its modes."""

from collections.abc import Callable
from functools import cache

import numpy as np

from ptycho.refinement.solver import Solver

FRAMES = 32
"""Frames that they are found from, those nearest the middle of the scan."""

RANGE_RAD = 4.8
"""Defocus that is tried, either way: phase at the root mean square frequency of the probe."""

COARSE = 9
"""Defoci that are tried first, evenly."""

STEPS = ((0.6, 2.0), (0.3, 1.3))
"""With more than one mode, round by round: step of the defocus, and factor of the power of a mode over the first's."""

MOST_STEPS = 8
"""Values of each that are tried in a round at most."""


def focus(solver: Solver, batch: int) -> None:
    """Bring the probe of a solver to the defocus, and its modes to the powers, that let some of its frames be fitted
    best; its object is empty.

    For each trial an object is fitted to them from empty space, in one pass; the misfit along the way tells. A fit of
    object and probe together hardly finds them: where the probe is wrong by a smooth phase, so becomes the object; and
    first mode and object almost take the place of other modes, so that powers that are off stay so until the fit is
    down to a hundredth of the shot noise. Shapes of modes are left to the fit.
    """
    probe, everything, empty = solver.state["probe"], solver.frames, np.ones_like(solver.state["object"])
    places = solver.scan.positions[everything]
    distance = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    solver.frames = np.sort(everything[np.argsort(distance, kind="stable")[:FRAMES]])
    spectrum = np.fft.fft2(probe)
    squared = np.add.outer(*(np.fft.fftfreq(solver.scan.N) ** 2,) * 2)
    powers = (np.abs(probe) ** 2).sum(axis=(1, 2))
    light = (np.abs(spectrum) ** 2).sum(axis=0)
    unit = light.sum() / (light * squared).sum()

    def at(point: np.ndarray) -> np.ndarray:
        """The probe of a point: its defocus, and the logarithms of what the powers of its other modes rose by."""
        shares = powers * np.exp(np.append(0.0, point[1:]))
        factors = np.sqrt(shares / shares.sum() * powers.sum() / np.maximum(powers, 1e-30))
        wave = np.fft.ifft2(spectrum * np.exp(1j * point[0] * unit * squared))
        return (wave * factors[:, None, None]).astype("complex64")

    @cache
    def tried(*point: float) -> float:
        solver.state["probe"], solver.state["object"], solver.epoch = at(np.array(point)), empty, 0
        return solver.stochastic("lsqml", ["object"], batch)

    misfit = lambda point: tried(*point.tolist())

    axes = np.eye(len(probe))
    step = 2 * RANGE_RAD / (COARSE - 1)
    point = _lowest(misfit, 0 * axes[0], step * axes[0], COARSE // 2, COARSE)
    for defocus, factor in STEPS if len(probe) > 1 else ():
        for axis, size in zip(axes, (defocus, *[np.log(factor)] * (len(probe) - 1)), strict=True):
            point = _lowest(misfit, point, size * axis, 1, MOST_STEPS)
    solver.state["probe"] = at(point)
    solver.state["object"], solver.frames, solver.epoch = empty, everything, 0


def _lowest(
    function: Callable[[np.ndarray], float], start: np.ndarray, step: np.ndarray, first: int, most: int
) -> np.ndarray:
    """The lowest point found along a line: ``first`` steps to either side are tried, further ones while it falls
    (``most`` in all), and the lowest point of the parabola through the best and its neighbours."""
    tried = {k: function(start + k * step) for k in range(-first, first + 1)}
    while (best := min(tried, key=lambda k: tried[k])) in (min(tried), max(tried)) and len(tried) < most:
        further = best + (1 if best == max(tried) else -1)
        tried[further] = function(start + further * step)
    if best in (min(tried), max(tried)):
        return start + best * step
    below, here, above = (tried[best + k] for k in (-1, 0, 1))
    lowest = start + (best + (below - above) / (2 * (below - 2 * here + above))) * step
    return lowest if function(lowest) < here else start + best * step
