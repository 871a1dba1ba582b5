"""A scan refined from what is known of it, until frames that the fit does not see say that it is at its best."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho.config import UNKNOWNS, RefineConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.io import replaced
from ptycho.physics.noise import amplitude_error, poisson_nll
from ptycho.progress import Progress
from ptycho.reconstruction.tiles import COVERED
from ptycho.refinement.affine import find_map
from ptycho.refinement.focus import focus
from ptycho.refinement.minibatch import Loss
from ptycho.refinement.solver import MARGIN_PX, Solver

WARM_UP = (("lsqml", 24), ("cg", 4))
"""How a fit from empty space begins: method, and parts the frames are cut into, epoch by epoch. Small parts bring near,
all frames at once bring home."""

WARM_UP_BLIND = (("lsqml", 32), ("lsqml", 32))
"""The same where the probe is not known either."""

AFFINE_RANGE = 0.05
"""Part of its distance from the middle that an affine map may move a frame by."""

FINISH = 3
"""Epochs at the end in which the frames that judged belong to the fit."""

SAVED_EVERY_S = 2.0
"""Seconds between two checkpoints at least."""


class Refinement(NamedTuple):
    """A refined image, and how it came to be."""

    result: Reconstruction
    history: list[dict[str, Any]]
    """One entry an epoch: ``epoch`` (0: what the fit started from), ``error`` of the frames fitted to (before the
    epoch's steps), ``held_out_error`` after it (``sum (sqrt(k) - sqrt(e))^2 / sum k``; None without held-out frames),
    ``shot_noise`` (what shot noise alone would leave of that error), ``judged`` (what it stops by: the held-out error,
    with Poisson noise a quarter of their deviance), ``seconds``. The last `FINISH` are fitted to all frames."""
    best: int
    """The epoch that was best; 0: what the fit started from, which the result is then."""


def refine(
    scan: Scan,
    config: RefineConfig | None = None,
    *,
    start: Reconstruction | None = None,
    held_out: np.ndarray | None = None,
    loss: Loss | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Refinement:
    """Fit object, probe and nuisance parameters to the counts of a scan.

    Args:
        scan: P frames; its probe is the first guess where there is no ``start``.
        config: which unknowns, how, and until when.
        start: an image of the scan to start from, with its probe; None: empty space.
        held_out: ``(P,)`` bool: frames that must not be looked at, beside those that the fit itself sets aside.
        loss: of counts and expected counts, pixel by pixel, for the method ``adam``; None: as ``config.noise`` says.
        folder: where checkpoints are kept.
        resume: go on from the checkpoint in ``folder``, if there is one; the result is that of an uninterrupted run.
        progress: told of the progress.

    Raises:
        ValueError: ``start`` is of another scan, no frame is left to fit to, or the checkpoint is of other settings.
    """
    config = config or RefineConfig()
    if loss is not None and config.method != "adam":
        raise ValueError(f"a loss of one's own needs the method 'adam', not {config.method!r}")
    fitted, judging = divided(scan, held_out, config)
    solver = _solver(scan, fitted, judging, config, start)
    fit = _Fit(solver, config, loss or (amplitude_loss if config.noise == "amplitude" else poisson_nll))
    warm_up = () if start is not None or config.method != "cg" else WARM_UP
    if warm_up and config.probe_from is not None:
        warm_up = WARM_UP_BLIND
    checkpoint = None if folder is None else _Checkpoint(Path(folder), config, solver)
    history, best = checkpoint.load(solver) if checkpoint and resume else ([], {})
    if not history:
        begin = time.perf_counter()
        if start is None and config.focus and config.probe_from is not None and not scan.probe_known:
            focus(solver, -(-len(fitted) // WARM_UP_BLIND[0][1]))
        if start is None and config.affine_from is not None:
            find_map(solver)
        history.append(fit.entry(0, None, (), begin))
        best = solver.snapshot()
    for epoch in range(len(history), config.epochs + 1):
        if epoch > len(warm_up) and _stalled(history, config.patience, len(warm_up)):
            break
        plan = warm_up[epoch - 1] if epoch <= len(warm_up) else None
        history.append(fit.epoch(epoch, plan, _unknowns(config, epoch)))
        if history[-1]["judged"] < min(entry["judged"] for entry in history[:-1]):
            best = solver.snapshot()
        if checkpoint:
            checkpoint.save(solver, history, best, last=epoch == config.epochs)
        if progress:
            image = partial(_result, solver, "probe" in _unknowns(config, epoch))
            progress("refining", epoch, config.epochs, _numbers(history[-1]), image)
    found = int(np.argmin([entry["judged"] for entry in history]))
    solver.restore(best)
    if len(judging) and found > 0:  # all frames belong to the image; where to stop is known now
        solver.frames, solver.judging = np.sort(np.concatenate([fitted, judging])), np.arange(0)
        fit.count_photons()
        for epoch in range(len(history), len(history) + FINISH):
            history.append(fit.epoch(epoch, None, _unknowns(config, found)) | dict(held_out_error=None))
    return Refinement(_result(solver, "probe" in _unknowns(config, found)), history, found)


class _Fit:
    """A solver that goes through epochs as a config says."""

    def __init__(self, solver: Solver, config: RefineConfig, loss: Loss):
        self.solver, self.config, self.loss = solver, config, loss
        self.count_photons()

    def count_photons(self) -> None:
        """Counts of the frames fitted to, and of those judged by."""
        solver, counts = self.solver, self.solver.scan.frame_counts
        judging = solver.judging if len(solver.judging) else solver.frames
        self.totals = [max(float(counts[frames].sum()), 1.0) for frames in (solver.frames, judging)]

    def epoch(self, epoch: int, plan: tuple[str, int] | None, unknowns: Sequence[str]) -> dict[str, Any]:
        """One pass over the frames, by the config's method or as the plan says: method and parts."""
        begin = time.perf_counter()
        config, solver = self.config, self.solver
        frames = len(solver.frames)
        batches = -(-frames // config.batch_frames) if config.batch_frames else 16
        method, parts = plan or (config.method, 1 if config.method == "cg" else batches)
        size = -(-frames // parts)
        if method == "cg":
            misfit = solver.together(unknowns, parts)
        elif method == "adam":
            misfit = solver.adam(unknowns, size, self.loss, config.batching)
        else:
            misfit = solver.stochastic(method, unknowns, size, config.batching)
        if not np.isfinite(misfit):
            raise ValueError(
                f"the misfit is {misfit} in epoch {epoch}: check the probe's scale, and the counts for wild values"
            )
        return self.entry(epoch, misfit, unknowns, begin)

    def entry(self, epoch: int, misfit: float | None, unknowns: Sequence[str], begin: float) -> dict[str, Any]:
        """A line of the history."""
        found = self.solver.judge(unknowns)
        error = found["misfit"] / self.totals[1]
        held_out = len(self.solver.judging) > 0
        return dict(
            epoch=epoch,
            error=misfit / self.totals[0] if misfit is not None else None if held_out else error,
            held_out_error=error if held_out else None,
            shot_noise=found["noise"] / self.totals[1],
            judged=error if self.config.noise == "amplitude" else found["deviance"] / self.totals[1],
            seconds=round(time.perf_counter() - begin, 4),
        )


def amplitude_loss(counts, expected):
    """Squared error of amplitudes, with a gradient at zero."""
    return amplitude_error(counts, expected) ** 2


def _solver(scan: Scan, fitted, judging, config: RefineConfig, start: Reconstruction | None) -> Solver:
    affine_px = AFFINE_RANGE * np.linalg.norm(scan.positions - scan.positions.mean(axis=0), axis=1).max()
    margin = MARGIN_PX + (int(np.ceil(affine_px)) if config.affine_from is not None else 0)
    moved = np.zeros_like(scan.positions)
    if start is not None:
        origin, moved = _fitted_onto(scan, start, MARGIN_PX + affine_px)
        margin += int(np.ceil(np.abs(moved).max()))
    solver = Solver(
        scan,
        fitted,
        judging,
        probe=None if start is None else start.probe,
        poisson=config.noise == "poisson",
        margin_px=margin,
        opr=config.opr_modes if config.opr_from is not None else 0,
        amplitude_bound=config.amplitude_bound,
        probe_support=None if config.probe_support is None else disc(scan.N, config.probe_support),
        background_blur_px=config.background_blur_px,
        seed=config.seed,
    )
    if start is not None:
        solver.place(start.object, origin, start.coverage > 0)
        solver.move_to(scan.positions + moved)
    solver.bound(("object",) if config.probe_from is None else ("object", "probe"))
    solver.penalties = solver.penalties._replace(
        tv=config.tv_weight, anchor=config.l2_weight, drift=config.h1_weight, image=solver.state["object"].copy()
    )
    return solver


def _fitted_onto(scan: Scan, start: Reconstruction, most_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Where an image's first pixel is in a scan, and how far its frames ``(P, 2)`` have been moved."""
    if start.positions_px.shape != scan.positions.shape or start.probe.shape[-1] != scan.N:
        raise ValueError(
            f"the image to start from has {len(start.positions_px)} frames of {start.probe.shape[-1]} pixels, the scan "
            f"{len(scan)} of {scan.N}: it is of another scan"
        )
    origin = np.rint((scan.positions - start.positions_px).mean(axis=0)).astype(int)
    moved = start.positions_px + origin - scan.positions
    if np.abs(moved).max() > most_px:
        raise ValueError(
            f"frames of the image to start from are up to {np.abs(moved).max():.3g} pixels from where the scan has "
            "them: it is of another scan"
        )
    return origin, moved


def disc(side: int, diameter: float) -> np.ndarray:
    """``(side, side)`` bool: a disc around the middle, its diameter a part of the side."""
    y, x = np.mgrid[:side, :side] - side // 2
    return np.hypot(y, x) <= diameter * side / 2


def divided(scan: Scan, held_out: np.ndarray | None, config: RefineConfig) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the frames to fit to, and of those to judge by."""
    used = np.arange(len(scan)) if held_out is None else np.flatnonzero(~np.asarray(held_out, bool))
    if not len(used):
        raise ValueError("all frames are held out: none is left to fit to")
    count = round(config.held_out * len(used))
    judging = np.sort(np.random.default_rng([config.seed, 1]).permutation(used)[:count])
    return np.setdiff1d(used, judging), judging


def _unknowns(config: RefineConfig, epoch: int) -> list[str]:
    begin = {name: getattr(config, f"{name}_from") for name in UNKNOWNS}
    return ["object", *(name for name, first in begin.items() if first is not None and epoch >= first)]


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    """What to tell of an epoch: the errors of the frames fitted to and, if there are any, of those judged by."""
    names = dict(error="error", held_out_error="held_out")
    return {name: entry[key] for key, name in names.items() if entry[key] is not None}


STALLED = 1e-3
"""An error that falls by less than this part of itself in `patience` epochs has stopped falling."""


def _stalled(history: list[dict[str, Any]], patience: int, warm_up: int) -> bool:
    errors = [entry["judged"] for entry in history[warm_up:]]
    return len(errors) > patience and min(errors[-patience:]) > (1 - STALLED) * min(errors[:-patience])


class _Checkpoint:
    """What a fit goes on from after a kill, in one file that is replaced at once."""

    def __init__(self, folder: Path, config: RefineConfig, solver: Solver):
        self.path, self.config, self.begin = folder / "refinement.npz", config, _fingerprint(solver)
        self.saved = -np.inf

    def save(self, solver: Solver, history: list, best: dict[str, np.ndarray], last: bool) -> None:
        """Write the state of a fit, unless the last time was only just now."""
        if not last and time.monotonic() - self.saved < SAVED_EVERY_S:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        arrays = solver.snapshot() | {f"best.{name}": value for name, value in best.items()}
        texts = dict(history=json.dumps(history), config=json.dumps(self.config.to_dict()), begin=self.begin)
        with replaced(self.path) as partial:
            np.savez(partial, allow_pickle=False, **arrays, **{name: np.array(text) for name, text in texts.items()})
        self.saved = time.monotonic()

    def load(self, solver: Solver) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Bring a solver to where the last checkpoint was: its history and best state; none if there is no file."""
        if not self.path.exists():
            return [], {}
        with np.load(self.path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        saved, begin = json.loads(str(arrays.pop("config"))), str(arrays.pop("begin"))
        if saved != self.config.to_dict():
            differ = sorted(k for k, v in self.config.to_dict().items() if saved.get(k) != v)
            raise ValueError(
                f"{self.path} holds a fit with other settings ({', '.join(differ)}); resume with the same ones, or "
                "into another folder"
            )
        if begin != self.begin:
            raise ValueError(
                f"{self.path} holds a fit of another scan, or one from another start or with other frames held out; "
                "resume with the same ones, or into another folder"
            )
        history = json.loads(str(arrays.pop("history")))
        solver.restore({name: value for name, value in arrays.items() if not name.startswith("best.")})
        return history, {n.removeprefix("best."): value for n, value in arrays.items() if n.startswith("best.")}


def _fingerprint(solver: Solver) -> str:
    """What a fit begins from, and with which frames, in a few letters."""
    scan, used = solver.scan, np.concatenate([solver.frames, solver.judging])
    counts, mask = scan.frame_counts[used], scan.mask
    arrays = (used, solver.judging, counts, mask, scan.positions, *solver.state.values(), solver.positions)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _result(solver: Solver, probe_fitted: bool) -> Reconstruction:
    coverage = solver.coverage()
    image = np.where(coverage > COVERED, solver.state["object"], 0).astype("complex64")
    used = np.zeros(len(solver.positions), bool)
    used[solver.frames] = True
    probe = solver.state["probe"]
    return Reconstruction(
        object=image,
        probe=orthogonal(probe) if probe_fitted else probe,
        positions_px=solver.positions - solver.origin,
        near_field=solver.scan.near_field,
        origin_px=np.array(solver.origin),
        pixel_size_m=solver.scan.pixel_size_m,
        coverage=np.where(coverage > COVERED, coverage, 0).astype("float32"),
        used_frames=used,
        used=len(solver.frames),
        dropped=0,
    )


def orthogonal(probe: np.ndarray) -> np.ndarray:
    """The same incoherent light ``(M, N, N)`` in modes that are orthogonal, the most powerful first."""
    if len(probe) == 1:
        return probe
    flat = probe.reshape(len(probe), -1)
    _, powers, modes = np.linalg.svd(flat, full_matrices=False)
    return (powers[:, None] * modes).reshape(probe.shape).astype("complex64")
