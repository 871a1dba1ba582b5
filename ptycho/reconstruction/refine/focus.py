"""The defocus of a probe that is only a guess."""

import numpy as np

from ptycho.reconstruction.refine.engine import Solver

FRAMES = 64
"""Frames that it is found from, those nearest the middle of the scan."""

RANGE_RAD = 4.8
"""Defocus that is tried, either way: phase at the root mean square frequency of the probe."""

COARSE = 9
"""Defoci that are tried first, evenly."""


def focus(solver: Solver, batch: int) -> None:
    """Bring the probe of a solver to the defocus that lets some of its frames be fitted best; its object is empty.

    For each defocus an object is fitted to them from empty space, in one pass; the misfit along the way tells. A fit of
    object and probe together hardly finds it: where the probe is wrong by a smooth phase, so becomes the object.
    """
    everything, empty = solver.frames, np.ones_like(solver.state["object"])
    places = solver.scan.positions[everything]
    distance = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    solver.frames = np.sort(everything[np.argsort(distance, kind="stable")[:FRAMES]])
    spectrum = np.fft.fft2(solver.state["probe"])
    squared = np.add.outer(*(np.fft.fftfreq(solver.scan.N) ** 2,) * 2)
    power = (np.abs(spectrum) ** 2).sum(axis=0)
    unit = power.sum() / (power * squared).sum()

    def at(defocus: float) -> np.ndarray:
        return np.fft.ifft2(spectrum * np.exp(1j * defocus * unit * squared)).astype("complex64")

    def misfit(defocus: float) -> float:
        solver.state["probe"], solver.state["object"] = at(defocus), empty
        return solver.stochastic("lsqml", ["object"], batch)

    grid = np.linspace(-RANGE_RAD, RANGE_RAD, COARSE)
    tried = {float(defocus): misfit(defocus) for defocus in grid}
    step = grid[1] - grid[0]
    best = min(tried, key=lambda defocus: tried[defocus])
    if abs(best) < RANGE_RAD - step / 2:  # the lowest point of the parabola through it and its neighbours
        below, above = (tried[min(tried, key=lambda d: abs(d - side))] for side in (best - step, best + step))
        lowest = best + step * (below - above) / (2 * (below - 2 * tried[best] + above))
        tried[float(lowest)] = misfit(float(lowest))
    solver.state["probe"] = at(min(tried, key=lambda defocus: tried[defocus]))
    solver.state["object"], solver.frames, solver.epoch = empty, everything, 0
