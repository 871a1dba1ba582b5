"""The unknowns of a scan, and ways to change them all for the counts."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from keras import ops
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from ptycho.backend import compiled
from ptycho.data.frames import ahead
from ptycho.data.scan import Scan
from ptycho.physics.patches import placed, split_positions
from ptycho.refinement.batches import Batching, Members, batches
from ptycho.refinement.minibatch import RIDGE, Loss, adam, lsqml, rpie
from ptycho.refinement.model import FAINT, Optics, curvature, descent
from ptycho.refinement.priors import Penalties

MARGIN_PX = 4
"""Pixels of object around what the frames see: positions may move by so much."""

CHUNK_PIXELS = 2**19
"""Pixels of all probe modes that are worked on at once: 4 MB for each complex array on the way. Twice as many take
twice as long a pixel where the cache ends."""

DAMPING = 0.3
"""Light that is added to the denominator of a step, over the brightest pixel's."""

BACKGROUND_DAMPING = 0.003
"""The same for the background, whose pixels are told apart by nothing but their light."""

WORKERS = 3
"""Chunks that are worked on at the same time: what one does on one core the others fill up."""

SAMPLE = 0.1
"""Part of the frames that the curvature is taken from: it only sets the lengths of steps."""

DARK, DARKEST = 1e-2, 0.1
"""Dark rate of the Poisson likelihood, over the mean counts of a pixel; and photons that it is at most: the dim pixels
of a bright scan tell fine detail."""

POSITION_DAMPING = 0.03
"""The same of positions, over the mean of what all frames know of theirs."""

LONGEST_MOVE_PX = 0.5
"""A position moves by so much in a step at most."""

ADAM_RATES = dict(object=0.02, probe=0.01)
"""Step sizes of Adam: of the object's transmission, and of the probe over its largest amplitude."""

OF_FRAMES = ("positions", "share")
"""Unknowns that each frame has of its own."""


@lru_cache(maxsize=64)
def _compiled(function, optics: Optics, options: tuple[tuple[str, Any], ...] = ()):
    """One compiled function for all scans and fits that are alike."""
    return compiled(partial(function, optics=optics, **dict(options)))


class Solver:
    """The unknowns of a scan, and steps that change them.

    Args:
        scan: P frames.
        frames: indices of those that object, probe and what all frames share are fitted to.
        judging: indices of frames that only have their own positions and shares fitted.
        probe: ``(M, N, N)`` to start from; None: the scan's.
        poisson: fit the Poisson likelihood, not the least squares of amplitudes.
        margin_px: how far positions may move in all.
        opr: modes that the probe's first mode varies by from frame to frame.
        amplitude_bound: largest amplitude of the object; None: any.
        probe_support: ``(N, N)`` bool: where the probe may be; None: everywhere.
        background_blur_px: the background is smooth on this scale.
        seed: of the order of the frames.
    """

    def __init__(
        self,
        scan: Scan,
        frames: np.ndarray,
        judging: np.ndarray,
        *,
        probe: np.ndarray | None = None,
        poisson: bool = False,
        margin_px: int = MARGIN_PX,
        opr: int = 0,
        amplitude_bound: float | None = None,
        probe_support: np.ndarray | None = None,
        background_blur_px: float = 0.0,
        seed: int = 0,
    ):
        side = scan.N
        self.scan, self.seed, self.margin = scan, seed, margin_px
        self.frames, self.judging = np.asarray(frames), np.asarray(judging)
        self.amplitude_bound, self.probe_support = amplitude_bound, probe_support
        self.background_blur_px = background_blur_px
        self.positions = np.array(scan.positions)
        """(P, 2) in pixels of the scan, as far as they have been corrected."""
        whole, fractions = split_positions(self.positions)
        self.origin = whole.min(axis=0) - side // 2 - margin_px
        """(y, x) of the first pixel of the object, in pixels of the scan."""
        shape = tuple(int(n) for n in whole.max(axis=0) - whole.min(axis=0) + side + 2 * margin_px)
        dark = (
            min(DARK * float(scan.frame_counts[self.frames].mean()) / int(scan.mask.sum()), DARKEST)
            if poisson
            else FAINT
        )
        self.optics = Optics((shape[0], shape[1]), bool(fractions.any()), poisson, dark)
        self.state: dict[str, np.ndarray] = dict(
            object=np.ones(shape, "complex64"), probe=np.array(scan.probe if probe is None else probe, "complex64")
        )
        self.share = np.zeros((len(scan), opr), "float32")
        """(P, K): how much of each opr of the probe a frame has."""
        self.momentum: dict[str, np.ndarray] = {}
        """The last change of each unknown."""
        self.moments: dict[str, Any] = {}
        """Of Adam."""
        self.penalties = Penalties(float((np.abs(self.state["probe"]) ** 2).sum()) * len(self.frames) / np.prod(shape))
        self.epoch = 0
        most = max(1, CHUNK_PIXELS // self.state["probe"].size)
        self.chunk = -(-len(self.frames) // -(-len(self.frames) // most))
        """Frames that are worked on at once: the same for any number of them, so that it is compiled once."""
        self._mask = scan.mask.astype("float32")
        self._judging_asks: dict[str, np.ndarray] = {}

    def place(self, image: np.ndarray, origin: np.ndarray, where: np.ndarray) -> None:
        """Start from an image ``(h, w)`` whose first pixel is at ``origin`` of the scan, where ``where`` is True."""
        corner = origin - self.origin
        canvas = self.state["object"]
        here = placed(where, corner, np.zeros(canvas.shape, bool))
        self.state["object"] = np.where(here, placed(image, corner, canvas), canvas)

    def move_to(self, positions: np.ndarray) -> None:
        """Put the frames at positions ``(P, 2)`` in pixels of the scan."""
        self.positions = positions.copy()
        self.optics = self.optics._replace(moved=self.optics.moved or bool(split_positions(positions)[1].any()))

    def bound(self, names: Sequence[str]) -> None:
        """Bring object and probe within their bounds, as every step does: what a fit begins with can be its best."""
        self.state |= {name: self._bounded(name, self.state[name]) for name in names}

    def start(self, unknowns: Sequence[str]) -> None:
        """Make ready for unknowns that a state does not begin with."""
        side = self.scan.N
        if "background" in unknowns and "background" not in self.state:
            self.state["background"] = np.zeros((side, side), "float32")
        if "opr" in unknowns and "opr" not in self.state:
            self.state["opr"] = first_variations(self.state["probe"][0], self.share.shape[1])
        if "positions" in unknowns or "affine" in unknowns:
            self.optics = self.optics._replace(moved=True)

    def stochastic(self, method: str, unknowns: Sequence[str], size: int, batching: Batching = "compact") -> float:
        """Change object and probe by batches of ``size`` frames, one after another.

        ``method`` is ``lsqml`` or ``rpie``. Returns the misfit ``sum (sqrt(k) - sqrt(e))^2``, of each batch before its
        step.
        """
        function = dict(lsqml=lsqml, rpie=rpie)[method]
        names = _movable(unknowns)
        step = _compiled(function, self.optics, (("unknowns", names), ("damping", DAMPING)))
        misfits = []
        for batch in self._batches(size, batching):
            found = dict(step(self._tensors(), batch))
            misfits.append(found["misfit"])
            self._take(found, names)
        return self._finished(misfits)

    def adam(self, unknowns: Sequence[str], size: int, loss: Loss, batching: Batching = "random") -> float:
        """The same by Adam, down the gradient of a loss."""
        names = _movable(unknowns)
        step = _compiled(adam, self.optics, (("unknowns", names), ("loss", loss)))
        self.moments = {name: self.moments.get(name, _no_moments(self.state[name])) for name in names} | dict(
            step=self.moments.get("step", np.float32(0))
        )
        rates = dict(
            object=np.float32(ADAM_RATES["object"]),
            probe=np.float32(ADAM_RATES["probe"] * np.abs(self.state["probe"]).max()),
        )
        misfits = []
        for batch in self._batches(size, batching):
            found, self.moments = step(self._tensors(), batch, self.moments, {name: rates[name] for name in names})
            misfits.append(found["misfit"])
            self._take(found, names)
        self.moments = {name: ops.convert_to_numpy(value) for name, value in self.moments.items()}
        return self._finished(misfits)

    def together(self, unknowns: Sequence[str], parts: int = 1) -> float:
        """Change all unknowns at once, by all frames, or by one of ``parts`` of them after the other.

        The step is the best, to second order, in the space of the descent of each unknown and its last change: as
        conjugate gradients, with the lengths of all directions solved for together. Returns the misfit before it.
        """
        self.start(unknowns)
        size = -(-len(self.frames) // parts)
        groups = batches(self.scan.positions, self.frames, size, "compact", self._generator())
        misfit = sum(self._step(unknowns, group.frames[group.present > 0]) for group in groups)
        self.epoch += 1
        return misfit

    def _step(self, unknowns: Sequence[str], frames: np.ndarray) -> float:
        """One step by some frames; returns their misfit before it."""
        asked = _asked(unknowns)
        chunks = self._chunks(frames)
        total = self._descent(chunks, asked)
        lines = self._lines(unknowns, total, frames)
        of_kind = {name: [line for own, line in lines if own == name] for name in dict.fromkeys(n for n, _ in lines)}
        wanted = [
            np.vdot(a, b).real
            for name, own in of_kind.items()
            for line in own
            for a, b in _parts(name, line, total[name])
        ]
        sample = chunks[: max(1, round(SAMPLE * len(chunks)))]
        bend, gram, tensors = _compiled(curvature, self.optics), np.zeros((len(wanted),) * 2), self._tensors()
        for members in sample:
            here = {
                name: [line[members.frames] if name in OF_FRAMES else line for line in own]
                for name, own in of_kind.items()
            }
            gram += ops.convert_to_numpy(bend(tensors, self._batch(members), here))
        gram *= len(frames) / sum(members.present.sum() for members in sample)
        objects = len(of_kind.get("object", ()))
        pull, _ = self.penalties.descent(self.state["object"])
        for k, line in enumerate(of_kind.get("object", ())):  # the object's lines come first
            wanted[k] += np.vdot(line, pull).real
        gram[:objects, :objects] += self.penalties.curvature(self.state["object"], of_kind.get("object", []))
        lengths = iter(solved(gram, np.array(wanted)))
        for name, own in of_kind.items():
            change = np.zeros_like(own[0])
            for line in own:
                for part, much in _parts(name, line, change):
                    much += next(lengths) * part
            if name == "positions":
                self._move(change, alone="positions" in unknowns)
            else:
                self._change(name, change)
        return float(total["misfit"])

    def judge(self, unknowns: Sequence[str] = ()) -> dict[str, float]:
        """How well the judging frames are fitted (those fitted to, where there are none): see `Frames.measures`.

        What frames have of their own is asked for along the way, and changed in the next step.
        """
        frames = self.judging if len(self.judging) else self.frames
        own = tuple(name for name in _asked(unknowns) if name in OF_FRAMES and len(self.judging))
        if "positions" not in unknowns:  # an affine map moves all frames alike
            own = tuple(name for name in own if name != "positions")
        wanted = ("measures", *own, *(("opr",) if "share" in own else ()))
        total = self._descent(self._chunks(frames), wanted)
        self._judging_asks = {name: self._own_line(name, total) for name in own}
        return {name: float(total[name]) for name in ("misfit", "deviance", "noise")}

    def coverage(self) -> np.ndarray:
        """Light on each pixel of the object ``(H, W)`` float32, in units of the probe's brightest."""
        light = _light(self.state["probe"])
        return self._spread(light / light.max(), self.frames)

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that a fit goes on from, as named arrays."""
        saved: dict[str, Any] = dict(positions=self.positions, share=self.share, epoch=np.array(self.epoch))
        for prefix, arrays in (("state", self.state), ("momentum", self.momentum), ("moments", self.moments)):
            saved |= {f"{prefix}.{name}": ops.convert_to_numpy(value) for name, value in arrays.items()}
        saved |= {f"judging.{name}": value for name, value in self._judging_asks.items()}
        return {name: np.array(value) for name, value in saved.items()}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Go back to a `snapshot`."""
        self.move_to(saved["positions"])
        self.share = saved["share"].copy()
        self.epoch = int(saved["epoch"])
        part = lambda prefix: {n.partition(".")[2]: v.copy() for n, v in saved.items() if n.startswith(prefix + ".")}
        self.state, self.momentum, self.moments = part("state"), part("momentum"), part("moments")
        self._judging_asks = part("judging")

    def _finished(self, misfits: list) -> float:
        self.state = {name: ops.convert_to_numpy(value) for name, value in self.state.items()}
        self.momentum.clear()
        self.epoch += 1
        return float(sum(float(misfit) for misfit in misfits))

    def _take(self, found: dict[str, Any], names: Sequence[str]) -> None:
        """New values of object and probe, within their bounds."""
        for name in names:
            self.state[name] = found[name]
            if (name == "object" and self.amplitude_bound) or (name == "probe" and self.probe_support is not None):
                self.state[name] = self._bounded(name, ops.convert_to_numpy(self.state[name]))

    def _bounded(self, name: str, value: np.ndarray) -> np.ndarray:
        if name == "object" and self.amplitude_bound:
            value = value * np.minimum(1, self.amplitude_bound / np.maximum(np.abs(value), 1e-12)).astype("float32")
        if name == "probe" and self.probe_support is not None:
            value = value * self.probe_support
        return value

    def _descent(self, chunks: list[Members], unknowns: tuple[str, ...]) -> dict[str, np.ndarray]:
        part, tensors = _compiled(descent, self.optics, (("unknowns", unknowns),)), self._tensors()
        total: dict[str, Any] = {}
        found = ahead(lambda members: part(tensors, self._batch(members)), chunks, WORKERS)
        for members, own in zip(chunks, found, strict=True):
            here = members.present > 0
            for name, value in own.items():
                if name.partition("_")[0] in OF_FRAMES:
                    value = ops.convert_to_numpy(value)
                    if name not in total:
                        total[name] = np.zeros((len(self.scan), *value.shape[1:]), "float32")
                    total[name][members.frames[here]] = value[here]
                else:
                    total[name] = total[name] + value if name in total else value
        return {name: ops.convert_to_numpy(value) for name, value in total.items()}

    def _lines(
        self, unknowns: Sequence[str], total: dict[str, np.ndarray], frames: np.ndarray
    ) -> list[tuple[str, np.ndarray]]:
        """Directions to go, each with what it changes: the descent of each unknown over its light, and its last
        change."""
        found: list[tuple[str, np.ndarray]] = []
        for name in (*unknowns, *(("share",) if "opr" in unknowns else ())):
            if name == "affine":
                found.append(("positions", self._affine_line(total)))
                continue
            line = self._own_line(name, total) if name in OF_FRAMES else self._line(name, total, frames)
            if name in OF_FRAMES:  # were all to change alike, it would be the object, or the probe, that changes
                line[frames] -= line[frames].mean(axis=0)
            found.append((name, line))
            if name in self.momentum:
                found.append((name, self.momentum[name]))
        if "affine" in unknowns and "positions" not in unknowns and "positions" in self.momentum:
            found.append(("positions", self.momentum["positions"]))
        return found

    def _line(self, name: str, total: dict[str, np.ndarray], frames: np.ndarray) -> np.ndarray:
        """The descent of what frames share, over the light on it."""
        asked = total[name]
        if name == "object":
            light = self._spread(_light(self.state["probe"]), frames)
            pull, bend = self.penalties.descent(self.state["object"])
            return ((asked + pull) / (light + bend + DAMPING * light.max())).astype("complex64")
        if name == "background":
            light = total["background_light"]
            line = np.where((self.state[name] > 0) | (asked > 0), asked, 0) / (light + BACKGROUND_DAMPING * light.max())
            return gaussian_filter(line, self.background_blur_px) if self.background_blur_px else line
        if name == "probe":
            light = self._probe_light(np.ones(len(frames)), frames)
            return (asked / (light + DAMPING * light.max())).astype("complex64")
        light = np.stack([self._probe_light(weight, frames) for weight in self.share[frames].T ** 2])
        return (asked / (light + DAMPING * light.max(axis=(1, 2), keepdims=True) + 1e-12)).astype("complex64")

    def _own_line(self, name: str, total: dict[str, np.ndarray]) -> np.ndarray:
        """What each frame asks of its own unknowns: Newton's step, frame by frame."""
        asked, bend = total[name], total[f"{name}_bend"]
        if name == "share":
            return asked / (bend + DAMPING * bend.max(axis=0) + 1e-12)
        ridge = POSITION_DAMPING * np.trace(bend, axis1=1, axis2=2)[self.frames].mean() + 1e-12
        return np.linalg.solve(bend + ridge * np.eye(2), asked[..., None])[..., 0].astype("float32")

    def _affine_line(self, total: dict[str, np.ndarray]) -> np.ndarray:
        """The linear map of positions that all frames together ask for, as a move of each ``(P, 2)``."""
        x = (self.scan.positions - self.scan.positions[self.frames].mean(axis=0)).astype("float64")
        own, bend = total["positions"][self.frames].astype("float64"), total["positions_bend"][self.frames]
        here = x[self.frames]
        normal = np.einsum("pa,pb,pij->iajb", here, here, bend).reshape(4, 4)
        normal += 1e-6 * np.trace(normal) * np.eye(4)
        matrix = np.linalg.solve(normal, np.einsum("pi,pa->ia", own, here).ravel()).reshape(2, 2)
        return (x @ matrix.T).astype("float32")

    def _change(self, name: str, change: np.ndarray) -> None:
        if name == "share":
            if "share" in self._judging_asks:
                change[self.judging] = self._judging_asks.pop("share")[self.judging]
            self.share = self.share + change
        elif name == "background":
            self.state[name] = np.maximum(self.state[name] + change, 0)
        else:
            self.state[name] = self._bounded(name, (self.state[name] + change).astype("complex64"))
        self.momentum[name] = change

    def _move(self, change: np.ndarray, alone: bool) -> None:
        """Move frames by ``(P, 2)``, each on its ``alone`` or by one map for all."""
        if "positions" in self._judging_asks:
            change[self.judging] += self._judging_asks.pop("positions")[self.judging]
        if alone:
            change = np.clip(change, -LONGEST_MOVE_PX, LONGEST_MOVE_PX)
        else:
            change = change * min(1, 2 * LONGEST_MOVE_PX / max(np.abs(change).max(), 1e-12))
        change = change - change[self.frames].mean(axis=0)  # it is the object that would move
        moved = self.positions + change - self.scan.positions
        self.positions = self.scan.positions + np.clip(moved, -self.margin, self.margin)
        self.momentum["positions"] = change.astype("float32")

    def _spread(self, light: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Sum over frames of light ``(N, N)`` where they are: ``(H, W)`` float32."""
        total = fftconvolve(self._points(np.ones(len(frames)), frames), light)
        return np.maximum(total[: self.optics.shape[0], : self.optics.shape[1]], 0).astype("float32")

    def _probe_light(self, weight: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Sum over frames of the object's intensity under each probe pixel ``(N, N)``, with weights."""
        bright = np.abs(self.state["object"]) ** 2
        full = fftconvolve(bright, self._points(weight, frames)[::-1, ::-1])
        height, width = self.optics.shape
        side = self.scan.N
        return np.maximum(full[height - 1 : height - 1 + side, width - 1 : width - 1 + side], 0).astype("float32")

    def _points(self, weight: np.ndarray, frames: np.ndarray) -> np.ndarray:
        points = np.zeros(self.optics.shape, "float32")
        np.add.at(points, tuple(self._corner(split_positions(self.positions[frames])[0]).T), weight)
        return points

    def _corner(self, whole: np.ndarray) -> np.ndarray:
        """First pixels, on the object, of frames whose middle pixels ``(B, 2)`` are at these of the scan."""
        return whole - self.scan.N // 2 - self.origin

    def _tensors(self) -> dict[str, Any]:
        return {name: ops.convert_to_tensor(value) for name, value in self.state.items()}

    def _batch(self, members: Members) -> dict[str, Any]:
        whole, fraction = split_positions(self.positions[members.frames])
        batch: dict[str, Any] = dict(
            corner=self._corner(whole).astype("int32"),
            fraction=fraction,
            counts=self.scan.counts[members.frames],
            mask=self._mask,
            present=members.present,
        )
        if self.optics.moved:
            frequency = np.fft.fftfreq(self.scan.N)
            frequency = frequency if self.scan.transfer is not None else np.fft.fftshift(frequency)
            batch["phases"] = np.exp(-2j * np.pi * fraction.T[..., None] * frequency).astype("complex64")
        if "opr" in self.state:
            batch["share"] = self.share[members.frames]
        if self.scan.transfer is not None:
            batch["transfer"] = self.scan.transfer
        return batch

    def _batches(self, size: int, batching: Batching) -> Iterator[dict[str, Any]]:
        """Batches with their part of what the penalties ask, the frames of each made ready while the last is used."""
        groups = batches(self.scan.positions, self.frames, size, batching, self._generator())
        for here, batch in zip(groups, ahead(self._batch, groups, 1), strict=True):
            part = np.float32(here.present.sum() / len(self.frames))
            if self.penalties.tv or self.penalties.anchor or self.penalties.drift:
                pull, bend = self.penalties.descent(ops.convert_to_numpy(self.state["object"]))
            else:
                pull, bend = np.zeros((1, 1), "complex64"), np.zeros((1, 1), "float32")
            yield batch | dict(pull=pull * part, pull_bend=bend * part)

    def _chunks(self, frames: np.ndarray) -> list[Members]:
        """All frames, in parts that fit into memory, each spread over the scan."""
        parts = batches(self.scan.positions, frames, self.chunk, "compact", self._generator())
        return [part.filled(self.chunk) for part in parts]

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


def _parts(name: str, *lines: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Of lines of a kind: parts that go lengths of their own, which are the modes of a probe."""
    return zip(*(line if name == "probe" else [line] for line in lines), strict=True)


def solved(curvature: np.ndarray, descent: np.ndarray) -> np.ndarray:
    """Lengths ``(K,)`` of steps along K lines: least squares, each line in its own unit."""
    unit = 1 / np.sqrt(np.diagonal(curvature) + 1e-30)
    scaled = curvature * unit[:, None] * unit + RIDGE * np.eye(len(unit))
    return (unit * np.linalg.solve(scaled, descent * unit)).astype("float32")


def _movable(unknowns: Sequence[str]) -> tuple[str, ...]:
    """Those that a stochastic step changes."""
    return tuple(name for name in unknowns if name in ("object", "probe"))


def _asked(unknowns: Sequence[str]) -> tuple[str, ...]:
    """What `descent` has to compute for these: the affine comes from the positions, shares with the opr."""
    names = [name for name in unknowns if name != "affine"]
    if "affine" in unknowns and "positions" not in names:
        names.append("positions")
    if "opr" in names:
        names.append("share")
    return tuple(names)


def _no_moments(value: np.ndarray) -> np.ndarray:
    return np.zeros((4, *value.shape), "float32")


def _light(probe: np.ndarray) -> np.ndarray:
    return (np.abs(probe) ** 2).sum(axis=0)


def first_variations(mode: np.ndarray, count: int) -> np.ndarray:
    """``(K, N, N)``: what a probe ``(N, N)`` most likely varies by, each with its power.

    Its strength, and its place along y and x.
    """
    made = [mode, *(np.roll(mode, -1, axis) - np.roll(mode, 1, axis) for axis in (0, 1))][:count]
    power = np.linalg.norm(mode)
    return np.stack([opr * (power / np.linalg.norm(opr)) for opr in made]).astype("complex64")
