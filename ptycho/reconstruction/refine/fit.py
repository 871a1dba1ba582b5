"""A scan refined from what is known of it, until frames that the fit does not see say that it is at its best."""

import time
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ptycho.config import RefineConfig
from ptycho.data.scan import Scan
from ptycho.reconstruction.refine.engine import Solver
from ptycho.reconstruction.result import Reconstruction
from ptycho.reconstruction.tiles import COVERED
from ptycho.training import Report

WARM_UP = ((24, 1), (6, 2))
"""Batches an epoch, and epochs, that a fit from empty space begins with: batches bring near, all frames bring home."""

WARM_UP_BLIND = ((16, 5),)
"""The same where the probe is not known either."""


class Refinement(NamedTuple):
    """A refined image, and how it came to be."""

    result: Reconstruction
    history: list[dict[str, Any]]
    """One entry an epoch: ``epoch``, ``error`` and ``withheld_error`` (``sum (sqrt(k) - sqrt(e))^2 / sum k``; None
    without withheld frames), ``seconds``."""


def refine(
    scan: Scan,
    config: RefineConfig | None = None,
    *,
    start: Reconstruction | None = None,
    withheld: np.ndarray | None = None,
    report: Report | None = None,
) -> Refinement:
    """Fit object, probe and nuisance parameters to the counts of a scan.

    Args:
        scan: P frames; its probe is the first guess where there is no ``start``.
        config: which unknowns, how, and until when.
        start: an image of the scan to start from, with its probe; None: empty space.
        withheld: ``(P,)`` bool: frames that must not be looked at, beside those that the fit itself sets aside.
        report: told of the progress.

    Raises:
        ValueError: ``start`` is of another scan, or no frame is left to fit to.
    """
    config = config or RefineConfig()
    fitted, judging = _divided(scan, withheld, config)
    solver = Solver(
        scan,
        fitted,
        probe=None if start is None else start.probe,
        poisson=config.noise == "poisson",
        seed=config.seed,
    )
    if start is not None:
        if start.positions_px.shape != scan.positions.shape:
            raise ValueError(
                f"the image to start from has {len(start.positions_px)} frames, the scan {len(scan)}: "
                "it is of another scan"
            )
        origin = np.rint((scan.positions - start.positions_px).mean(axis=0)).astype(int)
        solver.place(start.object, origin, start.coverage > 0)
    totals = [max(float(scan.frame_counts[frames].sum()), 1.0) for frames in (fitted, judging)]
    schedule = _batches_by_epoch(config, cold=start is None)
    history: list[dict[str, Any]] = []
    best = (np.inf, solver.snapshot())
    for epoch in range(1, config.epochs + 1):
        begin = time.perf_counter()
        unknowns = _unknowns(config, epoch)
        count = schedule(epoch)
        if count:
            size = config.batch_frames or -(-len(fitted) // count)
            method = "rpie" if config.method == "rpie" else "lsqml"
            misfit = solver.stochastic(method, [u for u in unknowns if u in ("object", "probe")], size, config.batching)
        else:
            misfit = solver.together(unknowns)
        entry: dict[str, Any] = dict(epoch=epoch, error=misfit / totals[0], withheld_error=None)
        if len(judging):
            entry["withheld_error"] = solver.misfit(judging) / totals[1]
        entry["seconds"] = round(time.perf_counter() - begin, 4)
        history.append(entry)
        if report:
            report("refining", epoch, config.epochs, f"error {_judged(entry):.4f}")
        if _judged(entry) < best[0]:
            best = (_judged(entry), solver.snapshot())
        if not count and _stalled(history, config.patience):
            break
    solver.restore(best[1])
    return Refinement(_result(solver, scan, fitted), history)


def _divided(scan: Scan, withheld: np.ndarray | None, config: RefineConfig) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the frames to fit to, and of those to judge by."""
    used = np.arange(len(scan)) if withheld is None else np.flatnonzero(~np.asarray(withheld, bool))
    if not len(used):
        raise ValueError("all frames are withheld: none is left to fit to")
    count = round(config.withheld * len(used))
    judging = np.sort(np.random.default_rng([config.seed, 1]).permutation(used)[:count])
    return np.setdiff1d(used, judging), judging


def _unknowns(config: RefineConfig, epoch: int) -> list[str]:
    begin = dict(probe=config.probe_from, positions=config.positions_from, background=config.background_from)
    return ["object", *(name for name, first in begin.items() if first is not None and epoch >= first)]


def _batches_by_epoch(config: RefineConfig, cold: bool):
    """A function of the epoch: into how many batches the frames are cut; 0: none, all at once."""
    if config.method != "gauss-newton":
        return lambda epoch: 16
    plan: list[int] = []
    if cold:
        for count, epochs in WARM_UP if config.probe_from is None else WARM_UP_BLIND:
            plan += [count] * epochs
    return lambda epoch: plan[epoch - 1] if epoch <= len(plan) else 0


def _judged(entry: dict[str, Any]) -> float:
    return entry["error"] if entry["withheld_error"] is None else entry["withheld_error"]


STALLED = 1e-3
"""An error that falls by less than this part of itself in `patience` epochs has stopped falling."""


def _stalled(history: list[dict[str, Any]], patience: int) -> bool:
    errors = [_judged(entry) for entry in history]
    return len(errors) > patience and min(errors[-patience:]) > (1 - STALLED) * min(errors[:-patience])


def _result(solver: Solver, scan: Scan, fitted: np.ndarray) -> Reconstruction:
    coverage = solver.coverage()
    image = np.where(coverage > COVERED, ops.convert_to_numpy(solver.state["object"]), 0).astype("complex64")
    used = np.zeros(len(scan), bool)
    used[fitted] = True
    return Reconstruction(
        object=image,
        probe=orthogonal(ops.convert_to_numpy(solver.state["probe"])),
        positions_px=solver.positions - solver.origin,
        coverage=np.where(coverage > COVERED, coverage, 0).astype("float32"),
        used_frames=used,
        used=len(fitted),
        dropped=0,
    )


def orthogonal(probe: np.ndarray) -> np.ndarray:
    """The same incoherent light ``(M, N, N)`` in modes that are orthogonal, the most powerful first."""
    flat = probe.reshape(len(probe), -1)
    _, powers, modes = np.linalg.svd(flat, full_matrices=False)
    return (powers[:, None] * modes).reshape(probe.shape).astype("complex64")
