"""The state of a fit and the ways to change it: Gauss-Newton steps in a small space of directions, or minibatches.

A step of `cg_step` takes, of each unknown, the preconditioned gradient and the last change as directions d_i, and the
lengths a that minimise the quadratic model ``L(a) = -b.a + a.G.a / 2`` in their span,

    b_i = <-dL, d_i>,    G_ij = sum J_i J_j,    J_i = change of the amplitudes along d_i:

conjugate gradients, with the lengths of all directions solved for together. A step is accepted only if the objective
falls: the next gradient tells, and while it has grown the step is halved.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from keras import ops

from ptycho.backend import compiled
from ptycho.config import Multislice
from ptycho.data.frames import Workers
from ptycho.data.scan import Scan
from ptycho.network.denoiser import denoised, load_denoiser
from ptycho.physics.forward import Specification, tensors
from ptycho.physics.grid import ObjectGrid
from ptycho.physics.patches import split_positions
from ptycho.physics.propagation import free_space
from ptycho.refinement.batches import Batching, Members, batches
from ptycho.refinement.likelihood import FAINT, Likelihood
from ptycho.refinement.minibatch import RIDGE, Loss, adam_step, lsqml_step, rpie_step
from ptycho.refinement.priors import Priors
from ptycho.refinement.unknowns import BatchFit, Change, Unknown, slice_illumination

Directions = list[tuple[Unknown, Change]]

MARGIN_PX = 4
"""Pixels of object beyond the frames, on all sides: positions may move by so much."""

NOT_FALLEN = 1e-6
"""Part by which an objective may grow by rounding: sums over a million pixels in single precision."""


@lru_cache(maxsize=64)
def _compiled(function, specification: Specification, options: tuple[tuple[str, Any], ...] = (), fused: bool = True):
    """One compiled function for all scans and fits that are alike."""
    return compiled(partial(function, specification=specification, **dict(options)), fused=fused)


def gradients(
    estimate,
    batch,
    *,
    specification: Specification,
    likelihood: Likelihood,
    unknowns: tuple[Unknown, ...],
    measures: bool,
) -> dict[str, Any]:
    """The gradient of a batch by each unknown, as ``<name>.gradient`` and the like; and its objective.

    With ``measures`` also how well it is fitted: deviance, and the misfit that shot noise alone would leave.
    """
    fit = BatchFit(estimate, batch, specification, likelihood)
    totals: dict[str, Any] = dict(objective=fit.residuals.objective(), misfit=fit.residuals.misfit())
    if measures:
        totals |= dict(deviance=fit.residuals.deviance(), shot_noise=fit.residuals.shot_noise())
    for unknown in unknowns:
        totals |= {f"{unknown.name}.{key}": value for key, value in unknown.gradient(fit).items()}
    return totals


def curvature(estimate, batch, directions: Sequence, *, specification: Specification, likelihood: Likelihood, unknowns):
    """``G``: Gauss-Newton curvature ``(K, K)`` of a batch along directions, one unknown for each of them."""
    fit = BatchFit(estimate, batch, specification, likelihood)
    pairs = zip(unknowns, map(ops.convert_to_tensor, directions), strict=True)
    # Rows J_i = d sqrt(e) / d a_i over all frames and pixels, with d sqrt(e) = de / (2 sqrt(e)); G = J J^T.
    changes = [unknown.amplitude_changes(fit, direction) for unknown, direction in pairs]
    flat = ops.concatenate([ops.reshape(change, (change.shape[0], -1)) for change in changes])
    return ops.matmul(flat, ops.transpose(flat))


class Solver:
    """The unknowns of a scan, and steps that change them.

    Args:
        scan: P frames.
        frames: indices of those that object, probe and what all frames share are fitted to.
        held_out: indices of frames that only have their own positions and OPR weights fitted, and say when to stop.
        probe: ``(M, N, N)`` to start from; None: the scan's.
        multislice: a thick sample; None: a thin one.
        poisson: fit the Poisson likelihood, not the least squares of amplitudes.
        margin_px: how far positions may move in all.
        amplitude_bound: largest amplitude of the object; None: any.
        probe_support: ``(N, N)`` bool: where the probe may be; None: everywhere.
        dark: dark rate of the Poisson likelihood over the mean counts of a pixel, and photons that it is at most: dim
            pixels of a bright scan tell fine detail.
        chunk_pixels: pixels of all probe modes and slices worked on at once: 4 MB for each complex array on the way.
            Twice as many take twice as long a pixel where the cache ends.
        workers: chunks worked on at the same time: what one does on one core the others fill up.
        fused_pixels: pixels of all frames, modes and slices from which XLA compiles the steps: of fewer a fit of a
            dozen epochs takes less time than it does to compile them.
        curvature_sample: part of the frames that the curvature is taken from: it only sets the lengths of steps.
        damping: of minibatch steps, see `ptycho.refinement.minibatch`.
        seed: of the order of the frames.
    """

    def __init__(
        self,
        scan: Scan,
        frames: np.ndarray,
        held_out: np.ndarray,
        *,
        probe: np.ndarray | None = None,
        multislice: Multislice | None = None,
        poisson: bool = False,
        margin_px: int = MARGIN_PX,
        amplitude_bound: float | None = None,
        probe_support: np.ndarray | None = None,
        dark: tuple[float, float] = (1e-2, 0.03),
        chunk_pixels: int = 2**19,
        workers: int = 3,
        fused_pixels: float = 1e6,
        curvature_sample: float = 0.1,
        damping: float = 0.3,
        seed: int = 0,
    ):
        self.scan, self.seed, self.margin, self.multislice = scan, seed, margin_px, multislice
        self.frames, self.held_out = np.asarray(frames), np.asarray(held_out)
        self.amplitude_bound, self.probe_support = amplitude_bound, probe_support
        self.workers, self.curvature_sample, self.damping = Workers(workers), curvature_sample, damping
        needed = ObjectGrid.around(scan.positions, scan.N, margin_px)
        self.grid, self.shape = needed.rounded_up(), needed.shape
        """The grid of the object, and how much of it is needed."""
        self.slices = 1 if multislice is None else multislice.slices
        self.state: dict[str, np.ndarray] = dict(
            object=np.ones((self.slices, *self.grid.shape), "complex64"),
            probe=np.array(scan.probe if probe is None else probe, "complex64"),
            positions=np.array(scan.positions),
        )
        """The unknowns by their fields: those of the forward model's estimate, positions ``(P, 2)`` in pixels of the
        scan, and OPR weights ``(P, K)``."""
        self.specification = Specification(self.grid.shape, bool(split_positions(scan.positions)[1].any()))
        mean_pixel = float(scan.frame_counts[self.frames].mean()) / int(scan.mask.sum())
        self.likelihood = Likelihood(poisson, min(dark[0] * mean_pixel, dark[1]) if poisson else FAINT)
        self.momentum: dict[str, np.ndarray] = {}
        """The last change of each unknown."""
        self.moments: dict[str, Any] = {}
        """Of Adam."""
        # n of the priors: photons on a pixel of the object, on average
        photons = float((np.abs(self.state["probe"]) ** 2).sum())
        self.priors = Priors(photons * len(self.frames) / float(np.prod(self.shape)))
        self.epoch = 0
        self.fused = len(self.frames) * self.state["probe"].size * self.slices >= fused_pixels
        # As few chunks as may be, and all of one size: none is nearly empty.
        largest = max(1, chunk_pixels // (self.state["probe"].size * self.slices))
        self.chunk = -(-len(self.frames) // -(-len(self.frames) // largest))
        """Frames that are worked on at once: the same for any number of them, so that it is compiled once."""
        self._objective: float | None = None
        """Before the last step of all frames; None: there is nothing to compare with."""
        self._fixed = dict(mask=scan.mask.astype("float32"))
        spacing = free_space(multislice, scan.N)
        for name, array in (("transfer", scan.transfer), ("spacing", spacing)):
            if array is not None:
                self._fixed[name] = array
        self._pending: dict[str, np.ndarray] = {}
        """Directions of held-out frames' own unknowns, for the next step."""

    # Where a fit starts.

    def start_from(self, image: np.ndarray, origin: np.ndarray, where: np.ndarray) -> None:
        """Start from an image ``(h, w)`` whose first pixel is at ``origin`` of the scan, where ``where`` is True; of a
        thick sample each slice takes its S-th root.

        ``image`` may be ``(S, h, w)``, slice by slice.
        """
        slices = np.asarray(image) if np.ndim(image) == 3 else self._shared_out(np.asarray(image))
        inside = self.grid.placed(where, origin, np.zeros(self.grid.shape, bool))
        canvases = zip(slices, self.state["object"], strict=True)
        self.state["object"] = np.stack(
            [np.where(inside, self.grid.placed(of_slice, origin, canvas), canvas) for of_slice, canvas in canvases]
        )

    def _shared_out(self, image: np.ndarray) -> np.ndarray:
        if self.slices == 1:
            return image[None]
        # prod_s O_s = O: the projection, in which diffraction between the slices is neglected
        root = np.abs(image) ** (1 / self.slices) * np.exp(1j * np.angle(image) / self.slices)
        return np.repeat(root[None], self.slices, axis=0).astype("complex64")

    def vacuum(self) -> None:
        """An empty object, and a fit that has not begun."""
        self.state["object"], self.epoch = np.ones_like(self.state["object"]), 0

    def move_to(self, positions: np.ndarray) -> None:
        """Put the frames at positions ``(P, 2)`` in pixels of the scan."""
        self.state["positions"] = np.array(positions, float)
        if split_positions(positions)[1].any():
            self.moved()

    def moved(self) -> None:
        """From here on positions have sub-pixel parts."""
        self.specification = self.specification._replace(subpixel=True)

    def start(self, unknowns: Sequence[Unknown]) -> None:
        """Add the entries of the state that unknowns need, where there are none yet."""
        for unknown in unknowns:
            unknown.start(self)

    # For the unknowns.

    def beams(self) -> np.ndarray:
        """``(S, N, N)``: illumination of each slice."""
        return slice_illumination(self.state["probe"], self._fixed.get("spacing"), self.slices)

    def prior_gradient(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of ``-dR/dO`` that falls to some of the frames, and of the curvature: ``(S, H, W)`` each.

        Steps by parts of the frames, one after the other, apply the prior once in an epoch, as one step by all does.
        """
        slope, curvature = self.priors.gradient(ops.convert_to_numpy(self.state["object"]))
        return slope * self._part_of(frames), curvature * self._part_of(frames)

    def renew_priors(self) -> None:
        """Renew what the priors take for the object without noise, and for its mean, where they have a weight."""
        if not (self.priors.red or self.priors.flat):
            return
        image = ops.convert_to_numpy(self.state["object"])
        if self.priors.red:
            network, sigma = load_denoiser(), self.priors.sigma
            self.priors = self.priors._replace(denoised=np.stack([denoised(network, plane, sigma) for plane in image]))
        if self.priors.flat:
            light = self.coverage()
            # <O> = sum n O / sum n
            level = (image * light).sum(axis=(1, 2), keepdims=True) / light.sum()
            self.priors = self.priors._replace(level=level.astype("complex64"))
        self.forget_last_step()

    def _part_of(self, frames: np.ndarray) -> np.float32:
        return np.float32(len(frames) / len(self.frames))

    def object_under_frames(self, weights: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Sum over frames of the object's intensity under each probe pixel ``(N, N)``, with weights."""
        # |prod_s O_s|^2, the transmission of the stack in projection
        bright = np.abs(self.state["object"].prod(axis=0)) ** 2
        return self.grid.under_frames(bright, self.state["positions"][frames], weights)

    def bounded(self, name: str, value: np.ndarray) -> np.ndarray:
        """Object and probe within their bounds."""
        if name == "object" and self.amplitude_bound:
            # O min(1, bound / |O|): the phase stays
            value = value * np.minimum(1, self.amplitude_bound / np.maximum(np.abs(value), 1e-12)).astype("float32")
        if name == "probe" and self.probe_support is not None:
            value = value * self.probe_support
        return value

    def moved_within_margin(self, change: np.ndarray) -> np.ndarray:
        """Positions after moves ``(P, 2)``, without their mean (the object would move instead), within the margin."""
        change = change - change[self.frames].mean(axis=0)
        moved = self.state["positions"] + change - self.scan.positions
        return self.scan.positions + np.clip(moved, -self.margin, self.margin)

    # Steps.

    def minibatch_epoch(
        self,
        method: str,
        names: Sequence[str],
        size: int,
        batching: Batching = "compact",
        likelihood: Likelihood | None = None,
    ) -> np.ndarray:
        """Change object and probe (``names``) by batches of ``size`` frames, one after another.

        ``method`` is ``lsqml`` or ``rpie``; ``likelihood`` None: that of the solver. Returns the misfits of the
        batches ``sum (sqrt(k) - sqrt(e))^2``, of each before its step.
        """
        function = dict(lsqml=lsqml_step, rpie=rpie_step)[method]
        options = (("likelihood", likelihood or self.likelihood), ("names", tuple(names)), ("damping", self.damping))
        step = _compiled(function, self.specification, options, self.fused)
        misfits = []
        for batch in self._batches(size, batching):
            values = dict(step(self._estimate(), batch))
            # The misfit stays a tensor until the epoch is over: a number would wait for the device in every batch.
            misfits.append(values.pop("misfit"))
            self._take(values)
        self._finish_epoch()
        return np.array([float(misfit) for misfit in misfits])

    def adam_epoch(
        self,
        names: Sequence[str],
        size: int,
        loss: Loss,
        batching: Batching = "random",
        rates: Mapping[str, float] | None = None,
    ) -> float:
        """The same by Adam, down the gradient of a loss.

        ``rates`` are step sizes, of the object's transmission and of the probe over its largest amplitude.
        """
        rates = dict(object=0.02, probe=0.01) if rates is None else rates
        options = (("likelihood", self.likelihood), ("names", tuple(names)), ("loss", loss))
        step = _compiled(adam_step, self.specification, options, self.fused)
        unit = dict(object=1.0, probe=float(np.abs(self.state["probe"]).max()))
        scaled = {name: np.float32(rates[name] * unit[name]) for name in names}
        # (first and second moment, real and imaginary half, ...)
        empty = lambda name: np.zeros((2, 2, *self.state[name].shape), "float32")
        self.moments = {name: self.moments.get(name, empty(name)) for name in names} | dict(
            step=self.moments.get("step", np.float32(0))
        )
        misfits = []
        for batch in self._batches(size, batching):
            values, self.moments = step(self._estimate(), batch, self.moments, scaled)
            values = dict(values)
            misfits.append(values.pop("misfit"))
            self._take(values)
        self.moments = {name: ops.convert_to_numpy(value) for name, value in self.moments.items()}
        self._finish_epoch()
        return float(sum(float(misfit) for misfit in misfits))

    def cg_step(self, unknowns: Sequence[Unknown], pieces: int = 1) -> float:
        """Change all unknowns at once, by all frames, or by one of ``pieces`` of them after the other.

        Returns the misfit before it.
        """
        self.start(unknowns)
        size = -(-len(self.frames) // pieces)
        groups = batches(self.scan.positions, self.frames, size, "compact", self._generator())
        misfit = sum(self._step(unknowns, group.frames[group.present > 0], pieces == 1) for group in groups)
        self.epoch += 1
        return misfit

    def _step(self, unknowns: Sequence[Unknown], frames: np.ndarray, everything: bool) -> float:
        """One step by some frames, after the last one was accepted; returns their misfit before it."""
        chunks = self._chunks(frames)
        totals = self._gradients(chunks, unknowns)
        # The objective after the last step comes with the gradient that this step needs anyway: to judge it costs
        # nothing unless it has grown.
        while everything and self._grown(totals, unknowns):
            self._halve_last_step(unknowns)
            totals = self._gradients(chunks, unknowns)
        # Objectives of different frames cannot be compared.
        self._objective = self._total_objective(totals) if everything else None
        directions = self._directions(unknowns, totals, frames)
        lengths = iter(self._lengths(directions, totals, chunks, frames))
        # x += sum_i a_i d_i; the directions of one unknown are added up first, so that its bounds apply to their sum.
        changes: dict[Unknown, Change] = {}
        for unknown, direction in directions:
            for component in unknown.components(direction):
                changes[unknown] = changes.get(unknown, 0) + next(lengths) * component
        for unknown, change in changes.items():
            self._change(unknown, change)
        return float(totals["misfit"])

    def _lengths(self, directions: Directions, totals, chunks: list[Members], frames: np.ndarray) -> np.ndarray:
        """``a = G^-1 b`` (see the top of this module), G from a sample of the frames."""
        # b_i = <-dL, d_i> = Re sum conj(d_i) g, g the gradient before preconditioning
        b = np.array(
            [
                np.vdot(component, totals[f"{unknown.name}.gradient"]).real
                for unknown, direction in directions
                for component in unknown.components(direction)
            ]
        )
        options = (("likelihood", self.likelihood), ("unknowns", tuple(unknown for unknown, _ in directions)))
        along, estimate, gram = (
            _compiled(curvature, self.specification, options, self.fused),
            self._estimate(),
            np.zeros((len(b),) * 2),
        )
        sample = chunks[: max(1, round(self.curvature_sample * len(chunks)))]
        for members in sample:
            # G_ij = sum J_i J_j over the sample, then scaled up to all frames
            batch_directions = [d[members.frames] if unknown.per_frame else d for unknown, d in directions]
            gram += ops.convert_to_numpy(along(estimate, self._batch(members), batch_directions))
        gram *= len(frames) / sum(members.present.sum() for members in sample)
        if self.priors.active:
            objects = [direction for unknown, direction in directions if unknown.field == "object"]
            count = len(objects)  # they come first
            slope, _ = self.prior_gradient(frames)
            # b_i += <-dR, d_i>, G_ij += <d_i, R'' d_j>
            b[:count] += [np.vdot(direction, slope).real for direction in objects]
            gram[:count, :count] += self._part_of(frames) * self.priors.curvature(self.state["object"], objects)
        return solved(gram, b)

    def _directions(self, unknowns: Sequence[Unknown], totals: dict[str, np.ndarray], frames: np.ndarray) -> Directions:
        """The preconditioned gradient of each unknown, and its last change."""
        directions: Directions = []
        for unknown in unknowns:
            direction = unknown.direction(self, _of(unknown, totals), frames)
            if unknown.per_frame and unknown.field == unknown.name:
                # Were all frames to change alike, it would be the object, or the probe, that changes.
                direction[frames] -= direction[frames].mean(axis=0)
            directions.append((unknown, direction))
            if unknown.name in self.momentum:
                directions.append((unknown, self.momentum[unknown.name]))
        return directions

    def _change(self, unknown: Unknown, change: Change) -> None:
        """Apply a change, with the pending directions of the held-out frames."""
        if unknown.name in self._pending:
            # The direction of a held-out frame is a full step: its own curvature has set the length.
            change = change.copy()
            change[self.held_out] += self._pending.pop(unknown.name)[self.held_out]
        before = self.state[unknown.field]
        self.state[unknown.field] = unknown.apply(self, change)
        # The change as it was applied, within the bounds: half of it can be taken back, and it is the next direction.
        self.momentum[unknown.name] = (self.state[unknown.field] - before).astype(change.dtype)

    def apply_pending(self, unknown: Unknown) -> None:
        """Apply the pending directions of the held-out frames, and nothing else."""
        change = np.zeros_like(self.state[unknown.field])
        change[self.held_out] = self._pending.pop(unknown.name)[self.held_out]
        self.state[unknown.field] = unknown.apply(self, change)

    # Acceptance.

    def _total_objective(self, totals: dict[str, np.ndarray]) -> float:
        return float(totals["objective"]) / 2 + (self.priors.value(self.state["object"]) if self.priors.active else 0.0)

    def _grown(self, totals: dict[str, np.ndarray], unknowns: Sequence[Unknown]) -> bool:
        if self._objective is None or not self.momentum:
            return False
        now = self._total_objective(totals)
        # Not ``now > ...``: an objective that is not a number counts as grown.
        return not now <= self._objective * (1 + NOT_FALLEN) and self._longest_change(unknowns) > NOT_FALLEN

    def _longest_change(self, unknowns: Sequence[Unknown]) -> float:
        """The largest change of an unknown in the last step, over the largest value of its field."""
        largest = lambda values: float(np.abs(values).max())
        return max(
            (
                largest(self.momentum[unknown.name]) / max(largest(self.state[unknown.field]), 1e-12)
                for unknown in unknowns
                if unknown.name in self.momentum
            ),
            default=0.0,
        )

    def _halve_last_step(self, unknowns: Sequence[Unknown]) -> None:
        """Take half of the last step back."""
        fields = {unknown.name: unknown.field for unknown in unknowns}
        for name, change in self.momentum.items():
            if name in fields:
                self.state[fields[name]] = (self.state[fields[name]] - change / 2).astype(
                    self.state[fields[name]].dtype
                )
                self.momentum[name] = (change / 2).astype(change.dtype)

    def forget_last_step(self) -> None:
        """Compare no longer with the last step: the frames or the weights of the objective have changed."""
        self._objective = None

    # Evaluation.

    def evaluate(self, unknowns: Sequence[Unknown] = ()) -> dict[str, float]:
        """How well the held-out frames are fitted (those fitted to, where there are none), see `Residuals`.

        The directions of their own unknowns are taken along the way, and applied in the next step.
        """
        frames = self.held_out if len(self.held_out) else self.frames
        per_frame = tuple(unknown for unknown in unknowns if unknown.per_frame and unknown.field == unknown.name)
        per_frame = per_frame if len(self.held_out) else ()
        totals = self._gradients(self._chunks(frames), per_frame, measures=True)
        self._pending = {unknown.name: unknown.direction(self, _of(unknown, totals), frames) for unknown in per_frame}
        return {name: float(totals[name]) for name in ("misfit", "deviance", "shot_noise")}

    def coverage(self) -> np.ndarray:
        """Illumination of each pixel of the object ``(H, W)`` float32, in units of the probe's brightest."""
        return self.grid.coverage(self.state["probe"], self.state["positions"][self.frames])

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that is needed to go on with a fit, as named arrays."""
        saved: dict[str, Any] = dict(epoch=np.array(self.epoch), objective=np.array(self._objective or np.nan))
        groups = dict(state=self.state, momentum=self.momentum, moments=self.moments, pending=self._pending)
        for prefix, arrays in groups.items():
            saved |= {f"{prefix}.{name}": ops.convert_to_numpy(value) for name, value in arrays.items()}
        return {name: np.array(value) for name, value in saved.items()}

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Go back to a `snapshot`."""
        group = lambda prefix: {n.partition(".")[2]: v.copy() for n, v in saved.items() if n.startswith(prefix + ".")}
        self.state, self.momentum = group("state"), group("momentum")
        self.moments, self._pending = group("moments"), group("pending")
        self.move_to(self.state["positions"])
        objective = float(saved["objective"])
        self.epoch, self._objective = int(saved["epoch"]), objective if np.isfinite(objective) else None

    # Batches.

    def _finish_epoch(self) -> None:
        self.state = {name: ops.convert_to_numpy(value) for name, value in self.state.items()}
        self.momentum.clear()
        self.forget_last_step()
        self.epoch += 1

    def _take(self, values: dict[str, Any]) -> None:
        """New values of object and probe, within their bounds."""
        for name, value in values.items():
            bounded = self.amplitude_bound if name == "object" else self.probe_support is not None
            self.state[name] = self.bounded(name, ops.convert_to_numpy(value)) if bounded else value

    def _gradients(
        self, chunks: list[Members], unknowns: Sequence[Unknown], measures: bool = False
    ) -> dict[str, np.ndarray]:
        """Sums over chunks of frames; of per-frame unknowns one value a frame of the scan, 0 for other frames."""
        options = (("likelihood", self.likelihood), ("unknowns", tuple(unknowns)), ("measures", measures))
        function, estimate = _compiled(gradients, self.specification, options, self.fused), self._estimate()
        per_frame = {unknown.name for unknown in unknowns if unknown.per_frame}
        total: dict[str, Any] = {}
        values = self.workers.ahead(lambda members: function(estimate, self._batch(members)), chunks)
        for members, batch_values in zip(chunks, values, strict=True):
            present = members.present > 0
            for name, value in batch_values.items():
                if name.partition(".")[0] in per_frame:
                    value = ops.convert_to_numpy(value)
                    if name not in total:
                        total[name] = np.zeros((len(self.scan), *value.shape[1:]), "float32")
                    # Without those that only fill up, which repeat a frame.
                    total[name][members.frames[present]] = value[present]
                else:
                    total[name] = total[name] + value if name in total else value
        return {name: ops.convert_to_numpy(value) for name, value in total.items()}

    def _estimate(self) -> dict[str, Any]:
        """What all frames share, as the forward model takes it."""
        return tensors({name: value for name, value in self.state.items() if name not in ("positions", "opr_weights")})

    def _batch(self, members: Members) -> dict[str, Any]:
        origin, subpixel = self.grid.frames(self.state["positions"][members.frames])
        batch: dict[str, Any] = self._fixed | dict(
            origin=origin, subpixel=subpixel, counts=self.scan.counts[members.frames], present=members.present
        )
        if self.specification.subpixel:
            # exp(-2 pi i f d) along y and along x; in the far field the centring has shifted the spectrum of the probe.
            frequency = np.fft.fftfreq(self.scan.N)
            frequency = frequency if self.scan.transfer is not None else np.fft.fftshift(frequency)
            batch["shift_factors"] = np.exp(-2j * np.pi * subpixel.T[..., None] * frequency).astype("complex64")
        if "opr_weights" in self.state:
            batch["opr_weights"] = self.state["opr_weights"][members.frames]
        return batch

    def _batches(self, size: int, batching: Batching) -> Iterator[dict[str, Any]]:
        """Batches with their part of the priors' gradient, the frames of each made ready while the last is used."""
        groups = batches(self.scan.positions, self.frames, size, batching, self._generator())
        for members, batch in zip(groups, self.workers.ahead(self._batch, groups), strict=True):
            slope, stiffness = np.zeros((1, 1, 1), "complex64"), np.zeros((1, 1, 1), "float32")
            if self.priors.active:
                slope, stiffness = self.prior_gradient(members.frames[members.present > 0])
            yield batch | dict(prior_gradient=slope, prior_curvature=stiffness)

    def _chunks(self, frames: np.ndarray) -> list[Members]:
        """All frames, in chunks that fit into memory, each spread over the scan."""
        chunks = batches(self.scan.positions, frames, self.chunk, "compact", self._generator())
        return [chunk.filled(self.chunk) for chunk in chunks]

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


def _of(unknown: Unknown, totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The totals of one unknown, by what they are."""
    names = [name.split(".") for name in totals if "." in name]
    return {key: totals[f"{owner}.{key}"] for owner, key in names if owner == unknown.name}


def solved(gram: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Lengths ``(K,)`` of steps along K directions: ``G a = b``, each direction in its own unit."""
    # (D G D + ridge)(D^-1 a) = D b with D = diag(G)^(-1/2): the diagonal is 1, and the ridge is relative.
    unit = 1 / np.sqrt(np.diagonal(gram) + 1e-30)
    scaled = gram * unit[:, None] * unit + RIDGE * np.eye(len(unit))
    return (unit * np.linalg.solve(scaled, b * unit)).astype("float32")
