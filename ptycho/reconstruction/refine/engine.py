"""Refinement of a scan: object, probe and nuisance parameters fitted to the counts."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from ptycho.backend import compiled
from ptycho.data.scan import Scan
from ptycho.physics.fourier import ifftshift
from ptycho.physics.patches import split_positions
from ptycho.reconstruction.refine.batches import Batching, Members, batches
from ptycho.reconstruction.refine.model import Optics, curvature, descent
from ptycho.reconstruction.refine.steps import lsqml, rpie, solved

MARGIN_PX = 4
"""Pixels of object around what the frames see: positions may move by so much."""

CHUNK_PIXELS = 2**20
"""Pixels of all probe modes that are worked on at once: 8 MB for each complex array on the way."""

DAMPING = 0.1
"""Light that is added to the denominator of a step, over the brightest pixel's."""

SAMPLE = 0.25
"""Part of the frames that the curvature is taken from: it only sets the lengths of steps."""

LONGEST_MOVE_PX = 0.5
"""A position moves by so much in a step at most."""


class Solver:
    """The unknowns of a scan, and steps that change them.

    Args:
        scan: P frames.
        frames: indices of those to fit to.
        object: ``(H, W)`` on the canvas of the solver, see `placed`; None: empty space.
        probe: ``(M, N, N)``; None: the scan's.
        poisson: fit the Poisson likelihood, not the least squares of amplitudes.
        seed: of the order of the frames.
    """

    def __init__(
        self,
        scan: Scan,
        frames: np.ndarray,
        *,
        probe: np.ndarray | None = None,
        poisson: bool = False,
        seed: int = 0,
    ):
        side = scan.N
        self.scan, self.frames, self.seed = scan, np.asarray(frames), seed
        self.positions = np.array(scan.positions)
        """(P, 2) in pixels of the scan, as far as they have been corrected."""
        whole, fractions = split_positions(self.positions)
        self.origin = whole.min(axis=0) - side // 2 - MARGIN_PX
        """(y, x) of the first pixel of the object, in pixels of the scan."""
        shape = tuple(int(n) for n in whole.max(axis=0) - whole.min(axis=0) + side + 2 * MARGIN_PX)
        self.optics = Optics((shape[0], shape[1]), bool(fractions.any()), poisson)
        self.state: dict[str, Any] = dict(
            object=np.ones(shape, "complex64"), probe=np.array(scan.probe if probe is None else probe, "complex64")
        )
        self.momentum: dict[str, np.ndarray] = {}
        """The last change of each unknown."""
        self.lengths = np.zeros(0)
        """Lengths of the last step, for each unknown along its descent and along its last change."""
        self.epoch = 0
        self._mask = ops.convert_to_numpy(ifftshift(scan.mask.astype("float32")))
        self._functions: dict[Any, Any] = {}

    def place(self, image: np.ndarray, origin: Sequence[int], where: np.ndarray) -> None:
        """Start from an image ``(h, w)`` whose first pixel is at ``origin`` of the scan, where ``where`` is True."""
        corner = np.asarray(origin) - self.origin
        low, high = np.maximum(corner, 0), np.minimum(corner + image.shape, self.optics.shape)
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        there = tuple(slice(a, b) for a, b in zip(low - corner, high - corner, strict=True))
        canvas = np.array(ops.convert_to_numpy(self.state["object"]))
        canvas[here] = np.where(where[there], image[there], canvas[here])
        self.state["object"] = canvas

    def start(self, unknowns: Sequence[str]) -> None:
        """Make ready for unknowns that a state does not begin with."""
        if "background" in unknowns and "background" not in self.state:
            self.state["background"] = np.zeros((self.scan.N, self.scan.N), "float32")
        if "positions" in unknowns:
            self.optics = self.optics._replace(moved=True)

    def stochastic(self, method: str, unknowns: Sequence[str], size: int, batching: Batching = "compact") -> float:
        """Change object and probe by batches of ``size`` frames, one after another.

        ``method`` is ``lsqml`` or ``rpie``. Returns the misfit ``sum (sqrt(k) - sqrt(e))^2``, of each batch before its
        step.
        """
        settings: dict[str, Any] = dict(unknowns=tuple(unknowns))
        if method == "lsqml":
            step = self._compiled(lsqml, damping=DAMPING, **settings)
        else:
            step = self._compiled(rpie, alpha=DAMPING, **settings)
        misfits = []
        for members in batches(self.scan.positions, self.frames, size, batching, self._generator()):
            found = dict(step(self.state, self._batch(members)))
            misfits.append(found.pop("misfit"))
            self.state |= found
        self.momentum.clear()
        self.epoch += 1
        return float(sum(float(misfit) for misfit in misfits))

    def together(self, unknowns: Sequence[str]) -> float:
        """Change all unknowns at once, by all frames.

        The step is the best, to second order, in the space of the descent of each unknown and its last change: as
        conjugate gradients, with the lengths of all directions solved for together. Returns the misfit before it.
        """
        self.start(unknowns)
        chunks = self._chunks(self.frames)
        total = self._descent(chunks, tuple(unknowns))
        lines = {name: [self._line(name, total), *self._again(name)] for name in unknowns}
        wanted = [np.vdot(line, total[name]).real for name, own in lines.items() for line in own]
        sample = chunks[: max(1, round(SAMPLE * len(chunks)))]
        bend, gram = self._compiled(curvature), np.zeros((len(wanted),) * 2, "float32")
        for members in sample:
            here = {
                name: [line[members.frames] if name == "positions" else line for line in own]
                for name, own in lines.items()
            }
            gram += ops.convert_to_numpy(bend(self.state, self._batch(members), here))
        gram *= len(self.frames) / sum(members.present.sum() for members in sample)
        self.lengths = ops.convert_to_numpy(solved(gram, np.array(wanted, "float32")))
        lengths = iter(self.lengths)
        for name, own in lines.items():
            self._change(name, sum((next(lengths) * line for line in own), np.zeros_like(own[0])))
        self.epoch += 1
        return float(total["misfit"])

    def misfit(self, frames: np.ndarray) -> float:
        """``sum (sqrt(k) - sqrt(e))^2`` of some frames."""
        if not len(frames):
            return 0.0
        measure = self._compiled(descent, unknowns=())
        return sum(float(measure(self.state, self._batch(chunk))["misfit"]) for chunk in self._chunks(frames))

    def coverage(self) -> np.ndarray:
        """Light on each pixel of the object ``(H, W)`` float32, in units of the probe's brightest."""
        probe = ops.convert_to_numpy(self.state["probe"])
        light = (np.abs(probe) ** 2).sum(axis=0)
        light /= light.max()
        total = np.zeros(self.optics.shape, "float32")
        whole, _ = split_positions(self.positions[self.frames])
        for y, x in whole - self.scan.N // 2 - self.origin:
            total[y : y + self.scan.N, x : x + self.scan.N] += light
        return total

    def snapshot(self) -> dict[str, np.ndarray]:
        """A copy of the unknowns."""
        return dict(positions=self.positions.copy()) | {k: ops.convert_to_numpy(v) for k, v in self.state.items()}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Go back to a `snapshot`."""
        self.positions = saved["positions"].copy()
        self.state = {name: value for name, value in saved.items() if name != "positions"}
        self.momentum.clear()

    def _descent(self, chunks: list[Members], unknowns: tuple[str, ...]) -> dict[str, np.ndarray]:
        part = self._compiled(descent, unknowns=unknowns)
        total: dict[str, Any] = {
            name: np.zeros((len(self.scan), 2), "float32")
            for name in ("positions", "positions_light")
            if "positions" in unknowns
        }
        for members in chunks:
            here = members.present > 0
            for name, value in part(self.state, self._batch(members)).items():
                if name in ("positions", "positions_light"):
                    total[name][members.frames[here]] = ops.convert_to_numpy(value)[here]
                else:
                    total[name] = total[name] + value if name in total else value
        return {name: ops.convert_to_numpy(value) for name, value in total.items()}

    def _line(self, name: str, total: dict[str, np.ndarray]) -> np.ndarray:
        """The descent of an unknown over the light on it."""
        asked, light = total[name], total[f"{name}_light"]
        return (asked / (light + DAMPING * light.max())).astype(asked.dtype)

    def _again(self, name: str) -> list[np.ndarray]:
        return [self.momentum[name]] if name in self.momentum else []

    def _change(self, name: str, change: np.ndarray) -> None:
        if name == "positions":
            change = np.clip(change, -LONGEST_MOVE_PX, LONGEST_MOVE_PX)
            change[self.frames] -= change[self.frames].mean(axis=0)  # it is the object that would move
            moved = self.positions + change - self.scan.positions
            self.positions = self.scan.positions + np.clip(moved, -MARGIN_PX, MARGIN_PX)
        elif name == "background":
            self.state[name] = np.maximum(ops.convert_to_numpy(self.state[name]) + change, 0)
        else:
            self.state[name] = (ops.convert_to_numpy(self.state[name]) + change).astype("complex64")
        self.momentum[name] = change

    def _batch(self, members: Members) -> dict[str, Any]:
        whole, fraction = split_positions(self.positions[members.frames])
        return dict(
            corner=(whole - self.scan.N // 2 - self.origin).astype("int32"),
            fraction=fraction,
            counts=self.scan.counts[members.frames].astype("float32"),
            mask=self._mask,
            present=members.present,
        )

    def _chunks(self, frames: np.ndarray) -> list[Members]:
        """All frames, in parts that fit into memory, each spread over the scan."""
        size = max(1, CHUNK_PIXELS // ops.convert_to_numpy(self.state["probe"]).size)
        return batches(self.scan.positions, frames, size, "compact", self._generator())

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])

    def _compiled(self, function, **options):
        key = (function, tuple(options.items()), self.optics)
        if key not in self._functions:
            self._functions[key] = compiled(partial(function, optics=self.optics, **options))
        return self._functions[key]
