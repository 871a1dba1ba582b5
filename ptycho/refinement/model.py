"""What a batch of frames says about each unknown of a scan: pure functions of arrays, compiled by the caller.

The misfit is ``sum (sqrt(k) - sqrt(e))^2 / 2`` over the used pixels (k counted, e expected), or the Poisson likelihood
on the same scale. Its change with the unknowns is that of the amplitudes, ``Re(conj(F psi) F dpsi) / sqrt(e)``: a line
through the unknowns has one such pattern for each frame, and the products of these patterns are the Gauss-Newton
curvature. Descent and curvature are kept apart: the descent of all frames is needed, of the curvature a sample will do.

Unknowns, all arrays of `State`: ``object (H, W)``, ``probe (M, N, N)``, ``background (N, N)`` where there is one, and
``opr (K, N, N)`` where the first mode of the probe varies from frame to frame: frame j has ``sum_k c_jk
variation_k`` more (Odstrcil et al., Opt. Express 24, 8360 (2016)).

A batch: ``corner (B, 2)`` int, whole pixels of the object under the first pixel of the frames; ``fraction (B, 2)``,
``counts (B, N, N)`` of any dtype, ``mask (N, N)``, ``present (B,)``: 0 for frames that only fill up; ``share (B, K)``,
the c above; and ``transfer (N, N)`` (`ptycho.physics.propagation`) where the detector is near. It may bring the factors
``phases (2, B, N)`` of `shift_ramp` along y and x for its fractions: XLA would compute a cosine for each pixel.

The probe carries a phase ramp on its way to a far detector, so that patterns have their zero frequency in the middle as
they are measured: no pixel is moved.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ptycho.physics.diffraction import exit_waves, mode_intensities_sum
from ptycho.physics.fourier import dft, intensity, inverse_dft, make_complex, times_real
from ptycho.physics.noise import root_scatter
from ptycho.physics.patches import gather, patch_index, scatter
from ptycho.physics.propagation import near_field, near_field_adjoint
from ptycho.physics.translation import outer, shift_ramp

State = Mapping[str, Any]
Batch = Mapping[str, Any]

FAINT = 1e-6
"""Photons added to an expected count, at the least, before its root is divided by."""

ONE = 1.0
"""Photon: a pixel that expects less says as much about the background as one that expects it."""


class Optics(NamedTuple):
    """What stays the same for all batches of a scan."""

    shape: tuple[int, int]
    """Of the object."""
    moved: bool
    """Whether positions have fractions, by which the probe is moved."""
    poisson: bool
    """Poisson likelihood instead of the least squares of amplitudes."""
    dark: float = FAINT
    """Photons added to an expected count: where a model expects nothing, one photon must not outweigh all others."""


class Frames:
    """The forward model of a batch, with what its linear changes need."""

    def __init__(self, state: State, batch: Batch, optics: Optics):
        state, batch = tensors(state), tensors(batch)
        self.state, self.batch, self.optics = state, batch, optics
        side = state["probe"].shape[-1]
        self.index = patch_index(ops.expand_dims(batch["corner"] + side // 2, 0), (side, side), optics.shape)
        self.patches = self.cut(state["object"])
        self.centring = None if "transfer" in batch else ops.convert_to_tensor(centring(side))
        frequency = np.fft.fftfreq(side).astype("float32")
        self.frequency = ops.convert_to_tensor(frequency if "transfer" in batch else np.fft.fftshift(frequency))
        self.ramps = None
        if optics.moved:
            far = self.centring is not None
            ramps = (
                outer(batch["phases"][0], batch["phases"][1])
                if "phases" in batch
                else shift_ramp(batch["fraction"], (side, side), far)
            )
            self.ramps = ops.expand_dims(ramps, 1)
        self.transfer = batch.get("transfer")
        if self.transfer is not None and self.ramps is not None:  # as `moved_back`
            self.transfer = self.transfer * ops.conj(self.ramps)
        self.probes = self.placed(state["probe"])
        if "opr" in state:
            own = ops.sum(times_real(self.placed(state["opr"]), batch["share"][:, :, None, None]), axis=1)
            self.probes = ops.concatenate([self.probes[:, :1] + own[:, None], self.all(self.probes[:, 1:])], axis=1)
        self.waves = self.onto_detector(exit_waves(self.patches, self.probes))
        expected = mode_intensities_sum(self.waves)
        self.expected = expected + state["background"] if "background" in state else expected
        self.roots = ops.sqrt(self.expected + optics.dark)
        self.used = batch["mask"] * batch["present"][:, None, None]
        self.measured = ops.sqrt(ops.cast(batch["counts"], "float32"))
        difference = self.measured - self.roots
        if optics.poisson:
            difference = difference * (self.measured + self.roots) / (2 * self.roots)
        self.residual = self.used * difference

    def all(self, probes):
        """Probes for each frame, where they are the same for all."""
        return ops.broadcast_to(probes, (self.batch["corner"].shape[0], *probes.shape[1:]))

    def onto_detector(self, waves):
        """Exit waves on the detector."""
        return dft(waves) if self.transfer is None else near_field(waves, self.transfer)

    def from_detector(self, waves):
        """Adjoint of `onto_detector`."""
        return inverse_dft(waves) if self.transfer is None else near_field_adjoint(waves, self.transfer)

    def cut(self, canvas, step: int = 1):
        """Patches ``(B, N, N)`` of an object, or those of every ``step``-th frame."""
        return gather(ops.expand_dims(canvas, 0), self.index[:, ::step])[0]

    def paste(self, patches):
        """Adjoint of `cut`."""
        return scatter(ops.expand_dims(patches, 0), self.index, self.optics.shape)[0]

    def placed(self, probe, step: int = 1):
        """A probe ``(M, N, N)`` where each frame, or every ``step``-th, has it: ``(B or 1, M, N, N)``."""
        probe = ops.expand_dims(probe if self.centring is None else probe * self.centring, 0)
        return probe if self.ramps is None else inverse_dft(dft(probe) * self.ramps[::step])

    def fetched(self, probes):
        """Sum over frames of ``(B, M, N, N)``, each moved back: adjoint of `placed`."""
        if self.ramps is None:
            total = ops.sum(probes, axis=0)
        else:
            total = inverse_dft(ops.sum(dft(probes) * ops.conj(self.ramps), axis=0))
        return total if self.centring is None else total * ops.conj(self.centring)

    def misfit(self):
        """``sum (sqrt(k) - sqrt(e))^2`` over the used pixels."""
        return ops.sum(self.used * (self.measured - ops.sqrt(self.expected)) ** 2)

    def deviance(self):
        """A quarter of the Poisson deviance over the used pixels: on the scale of the misfit."""
        counts, expected = ops.cast(self.batch["counts"], "float32"), self.expected + self.optics.dark
        excess = counts - expected
        # By `log1p`: of a million counts, rounding would leave more than their noise.
        logs = counts * ops.log1p(ops.where(counts > 0, excess / expected, 0.0))
        return 0.5 * ops.sum(self.used * (logs - excess))

    def noise(self):
        """What shot noise alone would leave of the misfit, were the expected counts the true ones."""
        return ops.sum(self.used * root_scatter(self.expected))

    def measures(self) -> dict[str, Any]:
        """What tells how well a batch is fitted."""
        return dict(misfit=self.misfit(), deviance=self.deviance(), noise=self.noise())

    def missing(self):
        """What the exit waves ``(B, M, N, N)`` lack: the descent of the misfit."""
        return self.from_detector(times_real(self.waves, ops.expand_dims(self.residual / self.roots, 1)))

    def apart(self, waves):
        """What amplitudes gain with exit waves ``(B, M or 1, N, N)``, those of the first modes: each one's part."""
        far, own = self.onto_detector(waves), self.waves[:, : waves.shape[1]]
        return (ops.real(own) * ops.real(far) + ops.imag(own) * ops.imag(far)) / ops.expand_dims(self.roots, 1)

    def gained(self, waves):
        """The same with all of them together, ``(B, N, N)``."""
        return ops.sum(self.apart(waves), axis=1)

    def along_move(self, line):
        """The same along a move ``(B or 1, 2)`` of their frames."""
        line = ops.convert_to_tensor(line)
        y, x = (line[:, axis, None, None, None] for axis in (0, 1))
        turn = -2 * np.pi * (self.frequency[:, None] * y + self.frequency * x)
        slope = lambda waves: inverse_dft(dft(waves) * make_complex(ops.zeros_like(turn), turn))
        waves = exit_waves(self.patches, slope(self.probes))
        if self.transfer is not None:  # what the probe moves in its frame, the detector moves back
            waves = waves - slope(exit_waves(self.patches, self.probes))
        return self.gained(waves)


def tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as the backend's own: PyTorch does not mix its tensors with others."""
    return {name: ops.convert_to_tensor(value) for name, value in arrays.items()}


def centring(side: int) -> np.ndarray:
    """Phase ramp ``(side, side)`` on an exit wave that moves its far field's zero frequency to the middle."""
    ramp = np.exp(2j * np.pi * (side // 2) / side * np.arange(side))
    return (ramp[:, None] * ramp).astype("complex64")


def descent(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...]) -> dict[str, Any]:
    """What a batch asks of each unknown, and its misfit; sums over batches are those of their frames.

    ``x`` is the descent of the misfit by an unknown x. For those of single frames, ``positions (B, 2)`` and ``share
    (B, K)``, there is the curvature too: ``positions_bend (B, 2, 2)``, that of the amplitudes, and ``share_bend (B,
    K)``, that of the exit waves, which is larger. Without unknowns, or with ``measures`` among them, all of
    `Frames.measures` instead of the misfit alone.
    """
    frames = Frames(state, batch, optics)
    state, batch = frames.state, frames.batch
    found = frames.measures() if "measures" in unknowns or not unknowns else dict(misfit=frames.misfit())
    if not set(unknowns) - {"measures"}:
        return found
    missing = frames.missing()
    if "object" in unknowns:
        found["object"] = frames.paste(ops.sum(ops.conj(frames.probes) * missing, axis=1))
    asked = missing * ops.conj(ops.expand_dims(frames.patches, 1))
    if "probe" in unknowns:
        found["probe"] = frames.fetched(asked)
    if "background" in unknowns:
        found["background"] = ops.sum(frames.residual / (2 * frames.roots), axis=0)
        found["background_light"] = ops.sum(frames.used / (4 * ops.maximum(frames.expected, ONE)), axis=0)
    if "positions" in unknowns:
        slopes = [frames.used * frames.along_move(axis[None]) for axis in np.eye(2, dtype="float32")]
        product = lambda a, b: ops.sum(a * b, axis=(1, 2))
        found["positions"] = ops.stack([product(frames.residual, slope) for slope in slopes], axis=-1)
        rows = [ops.stack([product(a, b) for b in slopes], axis=-1) for a in slopes]
        found["positions_bend"] = ops.stack(rows, axis=-2)
    if "opr" in unknowns:
        share = batch["share"][:, :, None, None] * batch["present"][:, None, None, None]
        found["opr"] = frames.fetched(times_real(asked[:, :1], share))
        waves = exit_waves(frames.patches, frames.placed(state["opr"]))
        common = ops.real(waves) * ops.real(missing[:, :1]) + ops.imag(waves) * ops.imag(missing[:, :1])
        found["share"] = ops.sum(common, axis=(2, 3))
        found["share_bend"] = ops.sum(intensity(waves), axis=(2, 3)) * batch["present"][:, None]
    return found


def curvature(state: State, batch: Batch, lines: Mapping[str, list], *, optics: Optics):
    """Gauss-Newton curvature ``(K, K)`` of a batch's misfit along lines through the unknowns.

    ``lines`` has for each unknown the directions to go, for those of single frames (positions, share) those of the
    batch's frames; K is their number, in the order of ``lines``. Each mode of the probe goes a length of its own: a
    line of M modes counts as M.
    """
    frames = Frames(state, batch, optics)
    state, batch = frames.state, frames.batch

    def varied(modes, shares):
        own = times_real(frames.placed(modes), shares[:, :, None, None])
        return frames.gained(exit_waves(frames.patches, ops.sum(own, axis=1, keepdims=True)))

    make: dict[str, Callable] = dict(
        object=lambda line: frames.gained(exit_waves(frames.cut(line), frames.probes)),
        probe=lambda line: ops.moveaxis(frames.apart(exit_waves(frames.patches, frames.placed(line))), 1, 0),
        background=lambda line: line / (2 * frames.roots),
        positions=frames.along_move,
        opr=lambda line: varied(line, batch["share"]),
        share=lambda line: varied(state["opr"], line),
    )
    patterns = [frames.used * make[name](ops.convert_to_tensor(line)) for name, own in lines.items() for line in own]
    flat = ops.concatenate([ops.reshape(pattern, (-1, int(np.prod(frames.used.shape)))) for pattern in patterns])
    return ops.matmul(flat, ops.transpose(flat))
