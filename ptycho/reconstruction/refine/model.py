"""What a batch of frames says about each unknown of a scan: pure functions of arrays, compiled by the caller.

The misfit is ``sum (sqrt(k) - sqrt(e))^2 / 2`` over the used pixels (k counted, e expected), or the Poisson likelihood
on the same scale. Its change with the unknowns is that of the amplitudes, ``Re(conj(F psi) F dpsi) / sqrt(e)``: a line
through the unknowns has one such pattern for each frame, and the products of these patterns are the Gauss-Newton
curvature. Descent and curvature are kept apart: the descent of all frames is needed, of the curvature a sample will do.

State: ``object (H, W)``, ``probe (M, N, N)``, and ``background (N, N)`` where there is one, with the zero frequency at
pixel (0, 0), as all patterns here. A batch: ``corner (B, 2)`` int, ``fraction (B, 2)``, ``counts (B, N, N)`` as
measured, with the zero frequency in the middle, ``mask (N, N)`` and ``present (B,)``: 0 for frames that only fill up.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from keras import ops

from ptycho.physics.diffraction import exit_waves, illumination, mode_intensities_sum
from ptycho.physics.fourier import dft, ifftshift, intensity, inverse_dft, times_real
from ptycho.physics.patches import gather, patch_index, scatter
from ptycho.physics.translation import shift_ramp

State = Mapping[str, Any]
Batch = Mapping[str, Any]
Noise = str

FAINT = 1e-6
"""Photons added to an expected count before its root is divided by."""


class Optics(NamedTuple):
    """What stays the same for all batches of a scan."""

    shape: tuple[int, int]
    """Of the object."""
    moved: bool
    """Whether positions have fractions, by which the probe is moved."""
    poisson: bool
    """Poisson likelihood instead of the least squares of amplitudes."""


class Frames:
    """The forward model of a batch, with what its linear changes need."""

    def __init__(self, state: State, batch: Batch, optics: Optics):
        self.state, self.batch, self.optics = state, batch, optics
        side = state["probe"].shape[-1]
        centre = ops.expand_dims(batch["corner"] + side // 2, 0)
        self.index = patch_index(centre, (side, side), optics.shape)
        self.patches = self.cut(state["object"])
        self.ramps = ops.expand_dims(shift_ramp(batch["fraction"], (side, side)), 1) if optics.moved else None
        self.probes = self.placed(state["probe"])
        self.waves = dft(exit_waves(self.patches, self.probes))
        expected = mode_intensities_sum(self.waves)
        if "background" in state:
            expected = expected + state["background"]
        self.expected = expected
        self.roots = ops.sqrt(expected + FAINT)
        self.used = batch["mask"] * batch["present"][:, None, None]
        self.measured = ops.sqrt(ifftshift(batch["counts"]))
        difference = self.measured - self.roots
        if optics.poisson:
            difference = difference * (self.measured + self.roots) / (2 * self.roots)
        self.residual = self.used * difference

    def cut(self, canvas):
        """Patches ``(B, N, N)`` of an object."""
        return gather(ops.expand_dims(canvas, 0), self.index)[0]

    def paste(self, patches):
        """Adjoint of `cut`."""
        return scatter(ops.expand_dims(patches, 0), self.index, self.optics.shape)[0]

    def placed(self, probe):
        """A probe ``(M, N, N)`` where each frame has it: ``(B or 1, M, N, N)``."""
        probe = ops.expand_dims(probe, 0)
        return probe if self.ramps is None else inverse_dft(dft(probe) * self.ramps)

    def fetched(self, probes):
        """Sum over frames of ``(B, M, N, N)``, each moved back: adjoint of `placed`."""
        if self.ramps is None:
            return ops.sum(probes, axis=0)
        return inverse_dft(ops.sum(dft(probes) * ops.conj(self.ramps), axis=0))

    def misfit(self):
        """``sum (sqrt(k) - sqrt(e))^2`` over the used pixels."""
        return ops.sum(self.used * (self.measured - ops.sqrt(self.expected)) ** 2)

    def missing(self):
        """What the exit waves ``(B, M, N, N)`` lack: the descent of the misfit."""
        return inverse_dft(times_real(self.waves, ops.expand_dims(self.residual / self.roots, 1)))

    def slopes(self):
        """Exit waves that a frame gains when it moves by one pixel along y, x: ``(B, M, N, N)`` each.

        The object under the probe moves, so that frame positions keep their meaning.
        """
        canvas = self.state["object"]
        for axis in (0, 1):
            rise = (ops.roll(canvas, -1, axis) - ops.roll(canvas, 1, axis)) * 0.5
            yield exit_waves(self.cut(rise), self.probes)


def descent(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...]) -> dict[str, Any]:
    """What a batch asks of each unknown, and its misfit; sums over batches are those of their frames.

    ``x`` is the descent of the misfit by an unknown x, and ``x_light`` what makes ``x / x_light`` a step.
    """
    frames = Frames(state, batch, optics)
    found: dict[str, Any] = dict(misfit=frames.misfit())
    missing = frames.missing()
    if "object" in unknowns:
        found["object"] = frames.paste(ops.sum(ops.conj(frames.probes) * missing, axis=1))
        found["object_light"] = frames.paste(illumination(frames.probes) * batch["present"][:, None, None])
    if "probe" in unknowns:
        found["probe"] = frames.fetched(missing * ops.conj(ops.expand_dims(frames.patches, 1)))
        found["probe_light"] = ops.sum(intensity(frames.patches) * batch["present"][:, None, None], axis=0)
    if "background" in unknowns:
        found["background"] = ops.sum(frames.residual / (2 * frames.roots), axis=0)
        found["background_light"] = ops.sum(frames.used / (4 * frames.roots**2), axis=0)
    if "positions" in unknowns:
        slopes = list(frames.slopes())
        product = lambda a, b: ops.sum(ops.real(a * ops.conj(b)), axis=(1, 2, 3))
        found["positions"] = ops.stack([product(slope, missing) for slope in slopes], axis=-1)
        found["positions_light"] = ops.stack([product(slope, slope) for slope in slopes], axis=-1)
    return found


def curvature(state: State, batch: Batch, lines: Mapping[str, list], *, optics: Optics):
    """Gauss-Newton curvature ``(K, K)`` of a batch's misfit along lines through the unknowns.

    ``lines`` has for each unknown the directions to go, for positions those of the batch's frames; K is their number,
    in the order of ``lines``.
    """
    frames = Frames(state, batch, optics)
    along = lambda waves: ops.sum(ops.real(ops.conj(frames.waves) * dft(waves)), axis=1) / frames.roots
    make: dict[str, Callable] = dict(
        object=lambda line: along(exit_waves(frames.cut(line), frames.probes)),
        probe=lambda line: along(exit_waves(frames.patches, frames.placed(line))),
        background=lambda line: line / (2 * frames.roots),
        positions=lambda line: along(
            sum(times_real(slope, line[:, k, None, None, None]) for k, slope in enumerate(frames.slopes()))
        ),
    )
    patterns = [frames.used * make[name](line) for name, own in lines.items() for line in own]
    flat = ops.stack([ops.reshape(pattern, (-1,)) for pattern in patterns])
    return ops.matmul(flat, ops.transpose(flat))
