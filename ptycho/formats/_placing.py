"""Frames and their positions: as many of both, every position a number, and none that the stage never took."""

from pathlib import Path

import numpy as np

from ptycho.data.frames import Counts, picked
from ptycho.formats._container import DEFAULT, ReadOptions
from ptycho.io import BadFile

Array = np.ndarray


def paired(
    path: Path, counts: Counts, positions: Array, options: ReadOptions = DEFAULT, absent: Array | None = None
) -> tuple[Counts, Array, tuple[str, ...]]:
    """``(counts, positions, notes)``, as many frames as positions (P, 2), without those that have no place.

    ``absent`` are those that a file promises and does not hold, and that ``counts`` lacks. Raises BadFile for different
    numbers of both, unless the options say which belong together.
    """
    notes: list[str] = []
    if absent is not None and len(positions) == len(absent):
        positions = positions[~absent]
    if options.given.frames is not None:
        index = np.arange(len(counts))[options.given.chosen_frames]
        if not len(index):
            raise BadFile(f"{path} has {len(counts)} frames, and --frames picks none of them")
        positions = positions[options.given.chosen_frames] if len(positions) == len(counts) else positions
        counts = picked(counts, index)
    if len(counts) != len(positions):
        counts, positions = _matched(path, counts, positions, options, notes)
    numbers = np.isfinite(positions).all(axis=-1) if positions.ndim == 2 else np.ones(len(positions), bool)
    if not numbers.any():
        raise BadFile(f"{path} has no position that is a number; write positions in metres or pixels")
    filled = numbers & (~_unfilled(positions) if positions.ndim == 2 else True)
    if (~numbers).any():
        notes.append(f"Left out, as their position is NaN: {_listed(~numbers)}.")
    if (stuck := numbers & ~filled).any():
        value = ", ".join(f"{v:.6g}" for v in positions[stuck][0])
        notes.append(f"Left out, as all are at ({value}), as of a buffer not filled: {_listed(stuck)}.")
    if filled.all():
        return counts, positions, tuple(notes)
    return picked(counts, np.flatnonzero(filled)), positions[filled], tuple(notes)


def _matched(
    path: Path, counts: Counts, positions: Array, options: ReadOptions, notes: list[str]
) -> tuple[Counts, Array]:
    """The first of both, if the user says so."""
    frames, places = len(counts), len(positions)
    fewer = min(frames, places)
    if not options.given.drop_unplaced or not fewer:
        last = f", --frames {frames - places}: the last {places} frames" if frames > places > 0 else ""
        raise BadFile(
            f"{path} has {frames} frames and {places} positions: --drop-unplaced reads the first {fewer} of both{last}"
        )
    notes.append(f"There are {frames} frames and {places} positions: the first {fewer} of both are read, as told.")
    return picked(counts, np.arange(fewer)), positions[:fewer]


def _unfilled(positions: Array, least: int = 3) -> Array:
    """(P,): ``least`` or more positions at the end that are all one, where none before is repeated half as often; or
    at the origin, far from all others."""
    P = len(positions)
    same = np.zeros(P, bool)
    differs = (positions != positions[-1]).any(axis=1)
    tail = P - 1 - int(np.flatnonzero(differs)[-1]) if differs.any() else 0
    if tail >= least:
        changes = np.flatnonzero((np.diff(positions[: P - tail], axis=0) != 0).any(axis=1))
        longest = int(np.diff(np.concatenate([[-1], changes, [P - tail - 1]])).max())
        same[P - tail :] = tail > 2 * longest
    zero = (positions == 0).all(axis=1)
    others = positions[~zero & np.isfinite(positions).all(axis=1)]
    if zero.sum() >= 2 and len(others) > 2:
        extent = np.ptp(others, axis=0).max()
        distance = np.maximum(others.min(axis=0), -others.max(axis=0)).max()  # of the origin from their rectangle
        same |= zero & (distance > extent)
    return same


def _listed(chosen: Array, most: int = 5) -> str:
    index = np.flatnonzero(chosen)
    if len(index) > most and index[-1] - index[0] == len(index) - 1:
        return f"frames {index[0]} to {index[-1]}"
    several = "s" if len(index) > 1 else ""
    return f"{len(index)} frame{several} ({', '.join(map(str, index[:most]))}{', ...' if len(index) > most else ''})"
