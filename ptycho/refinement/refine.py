"""A scan refined from what is known of it, until frames that the fit does not see say that it is at its best."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array
from ptycho.backend import require_own_threads
from ptycho.config import RefineConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.physics.noise import amplitude_error, poisson_nll
from ptycho.progress import Progress
from ptycho.reconstruction.tiles import COVERED
from ptycho.refinement.checkpoint import Checkpoint, FitEpoch
from ptycho.refinement.likelihood import AMPLITUDES
from ptycho.refinement.minibatch import Loss
from ptycho.refinement.priors import Priors
from ptycho.refinement.projections import can_project, project
from ptycho.refinement.slow_phase import SlowPhase
from ptycho.refinement.solver import MARGIN_PX, Solver
from ptycho.refinement.starts import find_focus, find_map
from ptycho.refinement.unknowns import Object, OprWeights, Unknown, unknowns_at

WARM_UP = (("lsqml", 24), ("cg", 4))
"""How a fit from vacuum begins: method, and parts the frames are cut into, epoch by epoch. Small batches come near the
solution in one pass, conjugate gradients of all frames at once converge to it (docs/decisions/009-refinement.md)."""

WARM_UP_BLIND = (("lsqml", 32), ("lsqml", 32))
"""The same where the probe is not known either."""

AT_LIMIT = "the fit ended at its limit"
"""How `still_improving` begins."""

FINISH = 3
"""Epochs at the end in which the held-out frames belong to the fit."""

FINISH_SMOOTH = 20
"""The same with total variation or a denoiser, which slow phase follows slowly: of seven simulated scans of 9 to 104
photons on an object pixel five gain 0.2 to 0.8 dB, two lose 0.1
(docs/decisions/014-total-variation-by-held-out-photons.md)."""

RAMP = ((12, 0.0), (12, 0.1), (12, 0.3))
"""How total variation comes in: epochs, and part of its weight; in fits that may take twice as many. With all of it at
once slow phase stays where it is (docs/decisions/014-total-variation-by-held-out-photons.md)."""


RAMP_DENOISER = ((8, 0.03), (12, 0.1), (12, 0.3))
"""The same for a network that takes out noise: it is told of more noise where it has less weight, so that slow phase
comes first. With two steps, and half of the noise, two of three scans with little overlap stayed 4 dB below
(docs/decisions/016-a-denoiser-as-prior.md)."""


class Refinement(NamedTuple):
    """A refined image, and how it came to be."""

    result: Reconstruction
    history: list[FitEpoch]
    """The last `FINISH` epochs (`FINISH_SMOOTH`) are fitted to all frames; their ``held_out_error`` is None."""
    best: int
    """The epoch that was best; 0: what the fit started from, which the result is then."""
    notes: tuple[str, ...] = ()
    """Sentences that a user should be told: of a search or a fit that ended at its limit."""
    at_limit: bool = False
    """Whether the fit ended at its limit of epochs while it was still improving."""
    unseen: np.ndarray = np.arange(0)
    """Indices of the frames that said when to stop."""
    without_unseen: Reconstruction | None = None
    """The image as it was before those frames became part of the fit: they can judge it. None without such frames."""

    @property
    def epoch_seconds(self) -> float:
        """What an epoch took, in the median; 0 of a fit without any."""
        return float(np.median([entry["seconds"] for entry in self.history[1:]])) if len(self.history) > 1 else 0.0

    @property
    def criterion(self) -> float:
        """What was lowest in the best epoch: compares fits of the same scan that hold out the same frames."""
        return self.history[self.best]["criterion"]


@renamed_keywords
def refine(
    scan: Scan,
    config: RefineConfig | None = None,
    *,
    start: Reconstruction | None = None,
    held_out: np.ndarray | None = None,
    start_counts: bool = True,
    loss: Loss | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Refinement:
    """Fit object, probe and nuisance parameters to the counts of a scan.

    Args:
        scan: P frames; its probe is the first guess where there is no ``start``.
        config: which unknowns, how, and until when.
        start: an estimate to start from, whole; None: vacuum.
        held_out: ``(P,)`` bool: frames that must not be looked at, beside those that the fit itself holds out.
        start_counts: whether what the fit starts from may be its best; else one of the epochs with the whole prior is.
        loss: of counts and expected counts, pixel by pixel, for the method ``adam``; None: as ``config.noise`` says.
            The priors are added to its sum.
        folder: where checkpoints are kept.
        resume: go on from the checkpoint in ``folder``, if there is one; the result is that of an uninterrupted run.
        progress: told of the progress.

    Raises:
        ValueError: ``start`` is of another scan, no frame is left to fit to, or the checkpoint is of other settings.
    """
    require_own_threads()
    config = config or RefineConfig()
    if loss is not None and config.method != "adam":
        raise ValueError(f"a loss of one's own needs the method 'adam', not {config.method!r}")
    fitted, stopping = divided(scan, held_out, config)
    solver = make_solver(scan, fitted, stopping, config, start)
    warm_up: tuple[tuple[str, int], ...] = ()
    if start is None and config.method == "cg":
        warm_up = WARM_UP if config.probe_from is None else WARM_UP_BLIND
    loss = loss or (amplitude_loss if config.noise == "amplitude" else poisson_loss)
    schedule = _Schedule(solver, config, loss, after=len(warm_up))
    checkpoint = None if folder is None else Checkpoint(Path(folder), config, solver)
    history, best = checkpoint.load(solver) if checkpoint and resume else ([], {})
    notes: list[str] = []
    if not history:
        begin = time.perf_counter()
        notes += searched(solver, config, start)
        history.append(schedule.entry(0, None, (), begin))
        best = solver.snapshot()
    # The epochs at the end are among those that the config allows.
    finish = (
        min(FINISH_SMOOTH if config.tv_weight or config.red_weight else FINISH, config.epochs // 4)
        if len(stopping)
        else 0
    )
    # Nothing is judged before all of the prior is there.
    begun = len(warm_up) + sum(epochs for epochs, _ in schedule.ramp)
    first = 0 if start_counts else begun + 1

    def on_epoch(epoch: int, best: dict) -> None:
        if checkpoint:
            checkpoint.save(solver, history, best, last=epoch == limit)
        if progress:
            image = partial(result_of, solver, config, unknowns_at(config, epoch))
            progress("refining", epoch, config.epochs, _numbers(history[-1]), image)

    limit = config.epochs - finish
    best, at_limit = schedule.go_on(history, best, limit, begun=begun, first=first, warm_up=warm_up, on_epoch=on_epoch)
    best_epoch = best_of(history, first)
    solver.restore(best)
    if start is None and may_be_stuck(solver, config):
        history, best_epoch, at_limit = unstuck(schedule, history, best_epoch, at_limit)
    notes += [still_improving(config)] if at_limit else []
    unknowns = unknowns_at(config, best_epoch)
    history, best_epoch = with_slow_phase(schedule, history, best_epoch)
    without_unseen = result_of(solver, config, unknowns) if len(stopping) else None
    if finish and best_epoch > 0:
        history += finished(schedule, unknowns, len(history), finish)
    result = result_of(solver, config, unknowns)
    return Refinement(result, history, best_epoch, tuple(notes), at_limit, stopping, without_unseen)


def best_of(history: Sequence[FitEpoch], first: int) -> int:
    """The epoch of the lowest criterion from the ``first`` on; the last one before."""
    if len(history) <= first:
        return len(history) - 1
    return first + int(np.argmin([entry["criterion"] for entry in history[first:]]))


def warmed_up(solver: Solver) -> None:
    """Put the object alone where minibatches bring it from vacuum in one pass."""
    solver.vacuum()
    for method, pieces in WARM_UP:
        if method != "cg":
            solver.minibatch_epoch(method, ["object"], -(-len(solver.frames) // pieces))


def without_priors(config: RefineConfig) -> RefineConfig:
    """Conjugate gradients to the counts and nothing else."""
    return replace(config, method="cg", tv_weight=0.0, red_weight=0.0, h1_weight=0.0, l2_weight=0.0, flat_weight=0.0)


def object_epochs(
    solver: Solver, epochs: int, *, tv: float = 0.0, red: float = 0.0, flat: float = 0.0, fraction: float = 1.0
) -> None:
    """Conjugate gradients of the object alone, with a fraction of the weights of its priors."""
    solver.priors = solver.priors._replace(tv=fraction * tv, flat=fraction * flat).coming_in(red, fraction)
    solver.forget_last_step()
    for _ in range(epochs):
        solver.renew_priors()
        solver.cg_step((Object(),))


def searched(solver: Solver, config: RefineConfig, start: Reconstruction | None) -> list[str]:
    """Begin with the focus and the map of the positions that short fits like best; what is to be told of them."""
    notes: list[str] = []
    if start is None and config.focus and config.probe_from is not None and not solver.scan.probe_known:
        notes += filter(None, [find_focus(solver)])
    if config.maps_positions and (start is None or config.focus):
        find_map(solver, scales=config.affine_from is not None)
    return notes


def slow_phase_step(solver: Solver) -> float:
    """A step of the slow phase alone, without a prior; the misfit before it."""
    priors, solver.priors = solver.priors, Priors(solver.priors.illumination)
    solver.momentum = {name: change for name, change in solver.momentum.items() if name == "slow_phase"}
    misfit = solver.cg_step((SlowPhase(),))
    solver.priors = priors
    return misfit


def slow_phase_epochs(solver: Solver, epochs: int) -> None:
    """So many of them."""
    solver.forget_last_step()
    for _ in range(epochs):
        slow_phase_step(solver)


def with_slow_phase(schedule: "_Schedule", history: list[FitEpoch], best_epoch: int) -> tuple[list[FitEpoch], int]:
    """The history of a fit, and its best epoch, after those in which the slow phase alone follows the counts."""
    solver, config = schedule.solver, schedule.config
    if not config.slow_phase or config.flat_weight or solver.slices > 1 or best_epoch == 0:
        return history, best_epoch
    best, history = solver.snapshot(), list(history)
    lowest = history[best_epoch]["criterion"]
    solver.forget_last_step()
    for epoch in range(len(history), len(history) + config.slow_phase):
        begin = time.perf_counter()
        misfit = slow_phase_step(solver)
        history.append(schedule.entry(epoch, misfit, (), begin))
        if history[-1]["criterion"] < lowest:
            best, best_epoch, lowest = solver.snapshot(), epoch, history[-1]["criterion"]
    solver.restore(best)
    return history, best_epoch


def has_time(config: RefineConfig) -> bool:
    """Whether a fit may take the epochs that some need to come to the noise: twice those in which priors come in."""
    return config.epochs >= 2 * sum(epochs for epochs, _ in RAMP)


def may_be_stuck(solver: Solver, config: RefineConfig, least_overlap: float = 0.5) -> bool:
    """Whether a fit of the object alone may have ended in a wrong minimum: frames overlap less than this, or the misfit
    is above the shot noise, of which a right one takes some up."""
    alone = config.method == "cg" and config.probe_from is None and len(solver.frames) > 1
    if not (alone and has_time(config) and can_project(solver)):
        return False
    return solver.scan.overlap < least_overlap or own_misfit(solver) > 1


def own_misfit(solver: Solver) -> float:
    """The misfit of the frames that a solver fits, over what shot noise would leave."""
    held_out, solver.held_out = solver.held_out, np.arange(0)
    measures = solver.evaluate()
    solver.held_out = held_out
    return measures["misfit"] / max(measures["shot_noise"], 1e-30)


def unstuck(
    schedule: "_Schedule", history: list[FitEpoch], best_epoch: int, at_limit: bool, least_gain: float = 0.1
) -> tuple[list[FitEpoch], int, bool]:
    """The history of a fit, its best epoch, and whether it ended at its limit, after another from where reflected
    projections lead.

    That is taken where the criterion is lower, or the misfit of the frames that were fitted, by this part: both fit the
    same numbers to the same counts, and held-out frames tell little where others hardly overlap with them.
    """
    solver, config = schedule.solver, schedule.config
    before, misfit, entries = solver.snapshot(), own_misfit(solver), list(history)
    project(solver)
    begun = len(history)
    limit = begun + config.epochs - 1
    best, at_new_limit = schedule.go_on(entries, solver.snapshot(), limit, begun=begun, first=begun)
    solver.restore(best)
    later_best = best_of(entries, begun)
    if (
        entries[later_best]["criterion"] < history[best_epoch]["criterion"]
        or own_misfit(solver) < (1 - least_gain) * misfit
    ):
        return entries, later_best, at_new_limit
    solver.restore(before)
    return history, best_epoch, at_limit


def still_improving(config: RefineConfig) -> str:
    """What is said of a fit that ended at its limit."""
    return f"{AT_LIMIT} of {config.epochs} epochs while it was still improving: allow more (refine.epochs)"


def finished(schedule: "_Schedule", unknowns: tuple[Unknown, ...], first: int, epochs: int) -> list[FitEpoch]:
    """The last epochs, in which all frames belong to the image: where to stop is known by now.

    The held-out frames are fitted too from here on, so that their error must fall; where it does not, something is
    wrong with these steps and they are taken back.
    """
    solver = schedule.solver
    fitted, stopping, before = solver.frames, solver.held_out, solver.snapshot()
    error_before = solver.evaluate()["misfit"]
    solver.frames, solver.held_out = np.sort(np.concatenate([fitted, stopping])), np.arange(0)
    solver.forget_last_step()
    schedule.count_photons()
    entries: list[FitEpoch] = []
    for epoch in range(first, first + epochs):
        entries.append({**schedule.epoch(epoch, None, unknowns), "held_out_error": None})
    everything = solver.frames
    solver.frames, solver.held_out = fitted, stopping
    if not solver.evaluate()["misfit"] <= error_before:
        solver.restore(before)
        return []
    # The result says which frames it was fitted to.
    solver.frames, solver.held_out = everything, np.arange(0)
    return entries


class _Schedule:
    """A solver that goes through epochs as a config says."""

    def __init__(self, solver: Solver, config: RefineConfig, loss: Loss, after: int):
        self.solver, self.config, self.loss, self.after = solver, config, loss, after
        ramp = RAMP_DENOISER if config.red_weight else RAMP if config.tv_weight else ()
        self.ramp = ramp if config.method == "cg" and has_time(config) else ()
        self.count_photons()

    def count_photons(self) -> None:
        """Counts of the frames fitted to, and of those held out."""
        solver, counts = self.solver, self.solver.scan.frame_counts
        judges = solver.held_out if len(solver.held_out) else solver.frames
        self.totals = [max(float(counts[frames].sum()), 1.0) for frames in (solver.frames, judges)]

    def go_on(
        self,
        history: list[FitEpoch],
        best: dict,
        limit: int,
        *,
        begun: int,
        first: int,
        warm_up: Sequence[tuple[str, int]] = (),
        on_epoch: Callable[[int, dict], None] = lambda epoch, best: None,
    ) -> tuple[dict, bool]:
        """Epochs until the criterion settles: the best state, and whether they ended at their limit, still improving.

        Args:
            history: grows.
            best: the state that is best so far.
            limit: the last epoch.
            begun: nothing is judged before the epoch after this.
            first: the first epoch that may be best.
            warm_up: methods and parts of the first epochs of a fit.
            on_epoch: called with each epoch and the best state after it.
        """
        settled = False
        # Two units of log-likelihood: a gain below that may be noise of the held-out frames.
        least = 1 / self.totals[1]
        for epoch in range(len(history), limit + 1):
            values = [entry["criterion"] for entry in history[begun:]]
            settled = epoch > begun and has_settled(values, self.config.patience, self.config.tolerance, least)
            if settled:
                break
            plan = warm_up[epoch - 1] if epoch <= len(warm_up) else None
            history.append(self.epoch(epoch, plan, unknowns_at(self.config, epoch)))
            if best_of(history, first) == epoch:
                best = self.solver.snapshot()
            on_epoch(epoch, best)
        return best, not settled and best_of(history, first) == limit

    def epoch(self, epoch: int, plan: tuple[str, int] | None, unknowns: tuple[Unknown, ...]) -> FitEpoch:
        """One pass over the frames, by the config's method or as the plan says: method and parts."""
        begin = time.perf_counter()
        config, solver = self.config, self.solver
        part = part_at(epoch - self.after, self.ramp)
        tv = config.tv_weight * part
        if tv != solver.priors.tv:
            solver.forget_last_step()
        solver.priors = solver.priors._replace(tv=tv, flat=config.flat_weight).coming_in(config.red_weight, part)
        solver.renew_priors()
        frames = len(solver.frames)
        minibatches = -(-frames // config.batch_frames) if config.batch_frames else 16
        method, pieces = plan or (config.method, 1 if config.method == "cg" else minibatches)
        size = -(-frames // pieces)
        names = [unknown.name for unknown in unknowns if unknown.name in ("object", "probe")]
        if method == "cg":
            misfit = solver.cg_step(unknowns, pieces)
        elif method == "adam":
            misfit = solver.adam_epoch(names, size, self.loss, config.batching)
        else:
            # Beside a guessed probe; with a known one the likelihood's steps are better, by 0.3 dB at 700 counts.
            likelihood = AMPLITUDES if plan and config.probe_from is not None else None
            misfit = float(solver.minibatch_epoch(method, names, size, config.batching, likelihood).sum())
        if not np.isfinite(misfit):
            raise ValueError(
                f"the misfit is {misfit} in epoch {epoch}: check the probe's scale, and the counts for wild values"
            )
        return self.entry(epoch, misfit, unknowns, begin)

    def entry(self, epoch: int, misfit: float | None, unknowns: Sequence[Unknown], begin: float) -> FitEpoch:
        """The record of an epoch."""
        measures = self.solver.evaluate(unknowns)
        error = measures["misfit"] / self.totals[1]
        held_out = len(self.solver.held_out) > 0
        criterion = error if self.config.noise == "amplitude" else measures["deviance"] / self.totals[1]
        if not np.isfinite(criterion):
            raise ValueError(f"the criterion is {criterion} in epoch {epoch}: check the counts for wild values")
        return FitEpoch(
            epoch=epoch,
            error=misfit / self.totals[0] if misfit is not None else None if held_out else error,
            held_out_error=error if held_out else None,
            shot_noise=measures["shot_noise"] / self.totals[1],
            criterion=criterion,
            seconds=round(time.perf_counter() - begin, 4),
        )


def part_at(epoch: int, ramp: Sequence[tuple[int, float]]) -> float:
    """The part of the weight of total variation in an epoch, the first of a ramp being 1."""
    for epochs, fraction in ramp:
        if epoch <= epochs:
            return fraction
        epoch -= epochs
    return 1.0


def amplitude_loss(counts: Array, expected: Array) -> Array:
    """``(sqrt(k) - sqrt(e))^2 / 2``, with a gradient at zero: L of `ptycho.refinement.likelihood`."""
    return amplitude_error(counts, expected) ** 2 / 2


def poisson_loss(counts: Array, expected: Array) -> Array:
    """``(e - k log(e)) / 4``: L of the Poisson likelihood, but for a constant."""
    return poisson_nll(counts, expected) / 4


def make_solver(
    scan: Scan,
    fitted: np.ndarray,
    stopping: np.ndarray,
    config: RefineConfig,
    start: Reconstruction | None,
    affine_range: float = 0.05,
) -> Solver:
    """A solver as a config says, from vacuum or from an estimate.

    An affine map may move a frame by ``affine_range`` times its distance from the middle.
    """
    affine_px = affine_range * np.linalg.norm(scan.positions - scan.positions.mean(axis=0), axis=1).max()
    margin = MARGIN_PX + (int(np.ceil(affine_px)) if config.maps_positions else 0)
    moved = np.zeros_like(scan.positions)
    if start is not None:
        # Maps and positions fitted one after the other may add up.
        origin, moved = fitted_onto(scan, start, max(MARGIN_PX + affine_px, scan.N / 2))
        margin += int(np.ceil(np.abs(moved).max()))
    solver = Solver(
        scan,
        fitted,
        stopping,
        probe=None if start is None else start.probe,
        multislice=config.multislice,
        poisson=config.noise == "poisson",
        margin_px=margin,
        amplitude_bound=config.amplitude_bound,
        probe_support=None if config.probe_support is None else disc(scan.N, config.probe_support),
        # With the lower and the higher rate steps of all frames at once settle at 31.8 and 31.5 dB, those batch after
        # batch at 27.4 and 27.9 (sim64_test).
        dark=(1e-2, 0.03 if config.method == "cg" else 0.1),
        seed=config.seed,
    )
    if start is not None:
        slices = start.slices if start.slices is not None and len(start.slices) == solver.slices else None
        solver.start_from(start.object if slices is None else slices, origin, start.coverage > 0)
        solver.move_to(scan.positions + moved)
        solver.state |= start.nuisance_parameters()
    for name in ("object",) if config.probe_from is None else ("object", "probe"):
        solver.state[name] = solver.bounded(name, solver.state[name])  # what a fit begins with can be its best
    solver.priors = solver.priors._replace(
        tv=config.tv_weight,
        l2=config.l2_weight,
        h1=config.h1_weight,
        red=config.red_weight,
        flat=config.flat_weight,
        image=solver.state["object"].copy(),
    )
    return solver


def fitted_onto(scan: Scan, start: Reconstruction, most_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Where an image's first pixel is in a scan, and how far its frames ``(P, 2)`` have been moved."""
    if start.positions_px.shape != scan.positions.shape or start.probe.shape[-1] != scan.N:
        raise ValueError(
            f"the image to start from has {len(start.positions_px)} frames of {start.probe.shape[-1]} pixels, the scan "
            f"{len(scan)} of {scan.N}: it is of another scan"
        )
    # What all frames have in common is where the image lies; what is left are moves of the frames.
    origin = np.rint((scan.positions - start.positions_px).mean(axis=0)).astype(int)
    moved = start.positions_px + origin - scan.positions
    if np.abs(moved).max() > most_px:
        raise ValueError(
            f"frames of the image to start from are up to {np.abs(moved).max():.3g} pixels from where the scan has "
            "them: it is of another scan"
        )
    return origin, moved


def with_own_weights(scan: Scan, estimate: Reconstruction, frames: np.ndarray, steps: int = 8) -> Reconstruction:
    """An estimate in which some frames that it was not fitted to have OPR weights of their own.

    Nothing else changes: K numbers are fitted to each of these frames, by Newton's steps from 0. Without them a probe
    that varies from frame to frame would be judged by its mean. Without OPR modes the estimate comes back as it is.
    """
    if estimate.opr_modes is None or not len(frames):
        return estimate
    config = RefineConfig(held_out=0.0, multislice=estimate.multislice)
    solver = make_solver(scan, np.setdiff1d(np.arange(len(scan)), frames), np.asarray(frames), config, estimate)
    for _ in range(steps):
        solver.evaluate([OprWeights()])
        solver.apply_pending(OprWeights())
    return replace(estimate, opr_weights=solver.state["opr_weights"])


def disc(N: int, diameter: float) -> np.ndarray:
    """``(N, N)`` bool: a disc around the middle, its diameter a part of N."""
    y, x = np.mgrid[:N, :N] - N // 2
    return np.hypot(y, x) <= diameter * N / 2


def divided(scan: Scan, held_out: np.ndarray | None, config: RefineConfig) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the frames to fit to, and of those that say when to stop."""
    used = np.arange(len(scan)) if held_out is None else np.flatnonzero(~np.asarray(held_out, bool))
    if not len(used):
        raise ValueError("all frames are held out: none is left to fit to")
    count = round(config.held_out * len(used))
    # A generator of its own: the same frames are held out whatever else draws random numbers.
    stopping = np.sort(np.random.default_rng([config.seed, 1]).permutation(used)[:count])
    return np.setdiff1d(used, stopping), stopping


def _numbers(entry: FitEpoch) -> dict[str, float]:
    """What to tell of an epoch: the errors of the frames fitted to and, if there are any, of those held out."""
    numbers = dict(error=entry["error"], held_out=entry["held_out_error"])
    return {name.replace("_", "-"): value for name, value in numbers.items() if value is not None}


def has_settled(values: list[float], patience: int, tolerance: float, unit: float) -> bool:
    """Whether the last ``patience`` of some values lie no lower than the best before them, by what is worth going on.

    That is the part ``tolerance`` of the best, and a ``unit`` at least.
    """
    if len(values) <= patience:
        return False
    best = min(values[:-patience])
    return min(values[-patience:]) > best - max(tolerance * best, unit)


def result_of(solver: Solver, config: RefineConfig, unknowns: Sequence[Unknown]) -> Reconstruction:
    """The estimate that a solver has come to, all its unknowns."""
    scan, state = solver.scan, solver.state
    height, width = solver.shape
    coverage = solver.coverage()[:height, :width]
    covered = coverage > COVERED
    # Outside the coverage nothing was fitted: the object still is what the fit started from.
    slices = np.where(covered, state["object"][:, :height, :width], 0).astype("complex64")
    used = np.zeros(len(scan), bool)
    used[solver.frames] = True
    names = {unknown.name for unknown in unknowns}
    return Reconstruction(
        object=slices.prod(axis=0),
        # OPR modes vary the first mode: mixing the modes would change what they mean.
        probe=orthogonal(state["probe"]) if "probe" in names and "opr" not in state else state["probe"],
        positions_px=solver.grid.on_grid(state["positions"]),
        coverage=np.where(covered, coverage, 0).astype("float32"),
        slices=slices if solver.slices > 1 else None,
        multislice=config.multislice,
        near_field=scan.near_field,
        opr_modes=state.get("opr"),
        opr_weights=state.get("opr_weights"),
        background=state.get("background"),
        blur_px=float(np.sqrt(state.get("blur", 0.0))),
        affine=_linear_map(scan.positions, state["positions"]) if names & {"affine", "rotation"} else None,
        origin_px=np.array(solver.grid.origin),
        pixel_size_m=scan.pixel_size_m,
        used_frames=used,
        used=len(solver.frames),
        dropped=0,
    )


def _linear_map(given: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """``(2, 2)``: the linear map about their means that takes positions nearest to others."""
    x, y = given - given.mean(axis=0), fitted - fitted.mean(axis=0)
    # Positions are rows: x A^T = y.
    return np.linalg.lstsq(x, y, rcond=None)[0].T


def orthogonal(probe: np.ndarray) -> np.ndarray:
    """The same incoherent illumination ``(M, N, N)`` in modes that are orthogonal, the most powerful first."""
    if len(probe) == 1:
        return probe
    flat = probe.reshape(len(probe), -1)
    # P = U S V^H over the modes: S V^H = U^H P has the same sum_m |P_m|^2, since U is unitary.
    _, powers, modes = np.linalg.svd(flat, full_matrices=False)
    return (powers[:, None] * modes).reshape(probe.shape).astype("complex64")
