"""The forward model: what the detector is expected to count. Nothing else in the package computes expected counts.

    expected counts = measure(propagate(interact(estimate, frames)))

    interact    exit waves psi_m of probe modes and sample: thin or multislice       (`ptycho.physics.interaction`)
    propagate   waves on the detector w_m = F psi_m: far field or near field         (`ptycho.physics.propagation`)
    measure     e = B sum_m |w_m|^2 + b: incoherent modes, blur, background          (`ptycho.physics.detection`)

`Diffraction` is the model of frames whose patches and probes are at hand; its ``change`` is the linearisation ``J``
from exit waves to expected counts and its ``adjoint`` is ``J^T``:

    J dpsi = B sum_m 2 Re(conj(w_m) F dpsi_m),      J^T u = 2 F^H[w_m B u].

`ForwardModel` is the same of a batch of frames of a scan: it takes the patches from the object and the probes to where
the frames have them, and gives the change with every unknown, and the adjoint of that.

Estimate, a mapping of arrays: ``object (S, H, W)`` of S slices; ``probe (M, N, N)``; and, where they are unknown, ``opr
(K, N, N)``, by which the first mode of the probe varies from frame to frame, ``P_0 + sum_k c_jk V_k`` in frame j
(orthogonal probe relaxation: Odstrcil et al., Opt. Express 24, 8360 (2016)), ``background (N, N)`` in counts, and
``blur ()``, the variance of the detector's point-spread function in square pixels.

Batch, a mapping of arrays of B frames: ``origin (B, 2)`` int, the object pixel under their first pixels; ``subpixel
(B, 2)``, the rest of their positions; ``opr_weights (B, K)``, the c above; ``transfer (N, N)`` where the detector is in
the near field; and ``spacing (N, N)``, the transfer function between slices. It may bring the factors ``shift_factors
(2, B, N)`` of `shift_ramp` along y and x for its sub-pixel positions: XLA would compute a cosine for each pixel.

Patches stay on the pixel grid of the object, and the probe moves by the sub-pixel part of a position. On its way to the
far field the probe carries a phase ramp (`centring`), so that patterns have their zero frequency at pixel ``N // 2``
as they are measured: no pixel is moved.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ptycho.arrays import Array, Complex, Float, Num
from ptycho.backend import compiled, require_own_threads
from ptycho.physics.detection import blurred, mode_sum
from ptycho.physics.fourier import dft, fftshift, inverse_dft, make_complex, times_real
from ptycho.physics.grid import ObjectGrid
from ptycho.physics.interaction import Slices, exit_wave_adjoint, exit_wave_change, incident_waves, transmitted
from ptycho.physics.patches import accumulate_at, extract_at, patch_index
from ptycho.physics.propagation import propagate, propagate_adjoint
from ptycho.physics.translation import outer, shift_ramp

Arrays = Mapping[str, Array]


ROUNDING = 2.0**-21
"""Four rounding errors in single precision: what a Fourier transform leaves of its brightest pixel in a dark one."""


class Specification(NamedTuple):
    """What a compiled forward model is for: the same for all batches of a scan."""

    shape: tuple[int, int]
    """Height and width of the object in pixels."""
    subpixel: bool
    """Whether positions have sub-pixel parts, by which the probe is moved."""


def centring(n: int) -> np.ndarray:
    """Phase ramp ``(n, n)`` complex64 on an exit wave: its far field has zero frequency at pixel ``n // 2``."""
    # F[exp(2 pi i c x / n) psi](k) = F[psi](k - c), with c = n // 2
    ramp = np.exp(2j * np.pi * (n // 2) / n * np.arange(n))
    return (ramp[:, None] * ramp).astype("complex64")


def frame_probes(
    probe: Complex[Array, "*lead M n n"],
    subpixel: Float[Array, "*frames 2"] | None = None,
    transfer: Complex[Array, "*path n n"] | None = None,
) -> tuple[Array, Array | None]:
    """The probe as the frames see it, and the transfer function of their near field (None: far field).

    ``probe (*lead, M, n, n)`` is moved by ``subpixel (*frames, 2)``, which broadcasts against ``lead``. For the far
    field it carries `centring`. A moved probe takes its near field along, where beam and detector have not moved: the
    transfer function ``(*frames, 1, n, n)`` undoes the shift. Both go to `Diffraction`.
    """
    n = probe.shape[-1]
    if transfer is None:
        probe = ops.multiply(probe, ops.convert_to_tensor(centring(n)))
    if subpixel is None:
        return probe, transfer
    # P_j = F^-1[exp(-2 pi i f.d_j) F P]. `centring` has shifted the spectrum, and so the order of the frequencies.
    ramps = ops.expand_dims(shift_ramp(subpixel, (n, n), centred=transfer is None), -3)
    moved = inverse_dft(ops.multiply(dft(probe), ramps))
    return moved, None if transfer is None else ops.multiply(transfer, ops.conj(ramps))


class Diffraction:
    """Expected counts of frames with these patches and probes, and how they change with the exit waves.

    Args:
        slices: S patches ``(*batch, n, n)``; none: vacuum.
        probes: ``(*lead, M, n, n)``, from `frame_probes`.
        transfer: of the near field, from `frame_probes`; None: far field.
        spacing: transfer function between slices.
        blur: variance of the detector's point-spread function in square pixels; None: none.
        background: counts ``(n, n)`` added to every frame; None: none.
    """

    def __init__(
        self,
        slices: Slices,
        probes: Complex[Array, "*lead M n n"],
        transfer: Array | None = None,
        *,
        spacing: Array | None = None,
        blur: Array | None = None,
        background: Array | None = None,
    ):
        self.slices, self.probes, self.transfer = tuple(slices), probes, transfer
        # The centring of the far field shifts the spectrum of the waves, so that of the vacuum between slices too.
        self.spacing = fftshift(spacing) if spacing is not None and transfer is None else spacing
        self.blur = blur
        self.incident = incident_waves(self.slices, probes, self.spacing)
        self.exit_waves = transmitted(self.slices[-1], self.incident[-1]) if self.slices else probes
        # w_m = F psi_m
        self.waves = propagate(self.exit_waves, transfer)
        self.sharp = mode_sum(self.waves)
        """Counts ``(*batch, n, n)`` before blur and background."""
        counts = self.sharp
        if blur is not None:
            # What the transforms round to in a dark pixel, of either sign, says nothing: amplitudes divide by its root.
            floor = ROUNDING * ops.max(self.sharp, axis=(-2, -1), keepdims=True)
            counts = ops.maximum(blurred(self.sharp, blur), floor)
        self.expected = counts if background is None else counts + background

    def change(self, exit_change: Complex[Array, "*batch M n n"], by_mode: bool = False) -> Array:
        """``J dpsi``: change of the expected counts ``(*batch, n, n)`` with exit waves, of the first modes if fewer.

        ``by_mode`` gives ``(*batch, M, n, n)``: that of each mode.
        """
        waves = propagate(exit_change, self.transfer)
        # 2 Re(conj(w_m) F dpsi_m), in real arithmetic: half the multiplications of the complex product
        present = self.waves[..., : waves.shape[-3], :, :]
        change = 2 * (ops.real(present) * ops.real(waves) + ops.imag(present) * ops.imag(waves))
        change = change if by_mode else ops.sum(change, axis=-3)
        return change if self.blur is None else blurred(change, self.blur)

    def adjoint(self, change: Float[Array, "*batch n n"]) -> Complex[Array, "*batch M n n"]:
        """``chi = J^T u``: a change u of the expected counts carried back to the exit waves; adjoint of `change`."""
        # 2 F^H[w_m B^T u], with B^T = B
        sharp = change if self.blur is None else blurred(change, self.blur)
        return propagate_adjoint(times_real(self.waves, ops.expand_dims(2 * sharp, -3)), self.transfer)

    def slice_gradients(self, chi: Complex[Array, "*batch M n n"]) -> list[Array]:
        """``(*batch, n, n)`` for each slice: `adjoint` by the patches."""
        return exit_wave_adjoint(self.slices, self.incident, chi, self.spacing)[0]

    def probe_gradient(self, chi: Complex[Array, "*batch M n n"]) -> Complex[Array, "*batch M n n"]:
        """`adjoint` by the probes."""
        return exit_wave_adjoint(self.slices, self.incident, chi, self.spacing)[1]


class ForwardModel:
    """`Diffraction` of a batch of frames of a scan at an estimate, with the change by each unknown and its adjoint."""

    def __init__(self, estimate: Arrays, batch: Arrays, specification: Specification):
        estimate, batch = tensors(estimate), tensors(batch)
        self.estimate, self.batch, self.specification = estimate, batch, specification
        n = estimate["probe"].shape[-1]
        # `origin` is the object pixel under the first pixel of a frame, `patch_index` asks for that under pixel n // 2.
        self.index = patch_index(ops.expand_dims(batch["origin"] + n // 2, 0), (n, n), specification.shape)
        self.far = "transfer" not in batch
        self.centring = ops.convert_to_tensor(centring(n)) if self.far else None
        self.ramps = self._ramps(n) if specification.subpixel else None
        transfer = batch.get("transfer")
        if transfer is not None and self.ramps is not None:  # as in `frame_probes`
            transfer = transfer * ops.conj(self.ramps)
        probes = self.place_probe(estimate["probe"])
        if "opr" in estimate:
            frames = batch["origin"].shape[0]
            # First mode of frame j: P_0 + sum_k c_jk V_k. The other modes are the same in all frames.
            varied = ops.sum(
                times_real(self.place_probe(estimate["opr"]), batch["opr_weights"][:, :, None, None]), axis=1
            )
            other = ops.broadcast_to(probes[:, 1:], (frames, *probes[:, 1:].shape[1:]))
            probes = ops.concatenate([probes[:, :1] + varied[:, None], other], axis=1)
        self.diffraction = Diffraction(
            self.extract(estimate["object"]),
            probes,
            transfer,
            spacing=batch.get("spacing"),
            blur=estimate.get("blur"),
            background=estimate.get("background"),
        )
        self.expected = self.diffraction.expected
        """``(B, N, N)``."""

    def _ramps(self, n: int) -> Array:
        """Phase ramps ``(B, 1, N, N)`` of the sub-pixel shifts."""
        factors = self.batch.get("shift_factors")
        if factors is None:
            return ops.expand_dims(shift_ramp(self.batch["subpixel"], (n, n), centred=self.far), 1)
        return ops.expand_dims(outer(factors[0], factors[1]), 1)

    def extract(self, canvas: Num[Array, "S H W"], step: int = 1) -> list[Array]:
        """Patches ``(B, N, N)`` of each slice of an object, or those of every ``step``-th frame."""
        index = self.index[:, ::step]
        return [extract_at(canvas[number : number + 1], index)[0] for number in range(canvas.shape[0])]

    def accumulate(self, patches: Sequence[Array]) -> Num[Array, "S H W"]:
        """Sum of patches on each slice of an object: adjoint of `extract`."""
        shape = self.specification.shape
        return ops.concatenate([accumulate_at(ops.expand_dims(of_slice, 0), self.index, shape) for of_slice in patches])

    def place_probe(self, probe: Complex[Array, "M N N"], step: int = 1) -> Complex[Array, "B M N N"]:
        """A probe as each frame, or every ``step``-th, has it (see `frame_probes`); B is 1 where all have the same."""
        probe = ops.expand_dims(probe if self.centring is None else ops.multiply(probe, self.centring), 0)
        # P_j = F^-1[R_j F(C P)], with R_j the ramp of the shift and C the centring
        return probe if self.ramps is None else inverse_dft(dft(probe) * self.ramps[::step])

    def collect_probe(self, probes: Complex[Array, "B M N N"]) -> Complex[Array, "M N N"]:
        """Sum over the frames of what each has, moved back: adjoint of `place_probe`."""
        if self.ramps is None:
            total = ops.sum(probes, axis=0)
        else:
            # conj(C) F^-1[sum_j conj(R_j) F P_j]: summed before the inverse transform, so that there is only one
            total = inverse_dft(ops.sum(dft(probes) * ops.conj(self.ramps), axis=0))
        return total if self.centring is None else total * ops.conj(self.centring)

    # The change of the expected counts ``(B, N, N)`` with each unknown.

    def object_change(self, change: Complex[Array, "S H W"]) -> Float[Array, "B N N"]:
        return self.diffraction.change(self._exit_change(slice_changes=self.extract(change)))

    def probe_change(self, change: Complex[Array, "M N N"]) -> Float[Array, "B M N N"]:
        """That of each mode apart."""
        return self.diffraction.change(self._exit_change(probe_change=self.place_probe(change)), by_mode=True)

    def opr_change(self, modes: Complex[Array, "K N N"], weights: Float[Array, "B K"]) -> Float[Array, "B N N"]:
        """That with ``sum_k c_jk V_k`` of the first mode: of modes V at given weights c, or the reverse."""
        varied = ops.sum(times_real(self.place_probe(modes), weights[:, :, None, None]), axis=1, keepdims=True)
        return self.diffraction.change(self._exit_change(probe_change=varied))

    def position_change(self, moves: Float[Array, "b 2"]) -> Float[Array, "B N N"]:
        """That with moves (dy, dx) of the frames in pixels (b is B, or 1 for all alike):

        ``d P = F^-1[-2 pi i (f_y dy + f_x dx) F P]``.
        """
        moves = ops.convert_to_tensor(moves)
        n = self.estimate["probe"].shape[-1]
        frequency = np.fft.fftfreq(n).astype("float32")
        frequency = ops.convert_to_tensor(np.fft.fftshift(frequency) if self.far else frequency)
        y, x = (moves[:, axis, None, None, None] for axis in (0, 1))
        # d/dt exp(i t angle) = i angle exp(i t angle)
        angle = -2 * np.pi * (frequency[:, None] * y + frequency * x)
        derivative = lambda waves: inverse_dft(dft(waves) * make_complex(ops.zeros_like(angle), angle))
        change = self._exit_change(probe_change=derivative(self.diffraction.probes))
        # Near field: w = T conj(R) F[O F^-1 R F P]. The move acts on R and, with the opposite sign, on conj(R).
        if not self.far:
            change = change - derivative(self.diffraction.exit_waves)
        return self.diffraction.change(change)

    def blur_change(self) -> Float[Array, "B N N"]:
        """That with the variance of the point-spread function, per square pixel."""
        return blurred(self.diffraction.sharp, self.estimate["blur"], derivative=True)

    # The adjoints: chi is `Diffraction.adjoint` of a change of the expected counts.

    def object_gradient(self, chi: Complex[Array, "B M N N"]) -> Complex[Array, "S H W"]:
        return self.accumulate(self.diffraction.slice_gradients(chi))

    def probe_gradient(self, chi: Complex[Array, "B M N N"]) -> Complex[Array, "M N N"]:
        return self.collect_probe(self.diffraction.probe_gradient(chi))

    def opr_gradient(self, chi: Complex[Array, "B M N N"], weights: Float[Array, "B K"]) -> Complex[Array, "K N N"]:
        """By the OPR modes at given weights."""
        first = self.diffraction.probe_gradient(chi)[:, :1]
        return self.collect_probe(times_real(first, weights[:, :, None, None]))

    def opr_exit_waves(self) -> Complex[Array, "B K N N"]:
        """Exit wave of each OPR mode: the derivative of the exit wave by its weight."""
        return self._exit_change(probe_change=self.place_probe(self.estimate["opr"]))

    def _exit_change(self, **changes: Array | list[Array]) -> Complex[Array, "B M N N"]:
        model = self.diffraction
        return exit_wave_change(model.slices, model.incident, model.spacing, **changes)


def tensors(arrays: Arrays) -> dict[str, Array]:
    """Arrays as the backend's own: PyTorch does not mix its tensors with others."""
    return {name: ops.convert_to_tensor(value) for name, value in arrays.items()}


def expected_counts(estimate: Arrays, batch: Arrays, *, specification: Specification) -> Float[Array, "B N N"]:
    """Expected counts of a batch of frames, a pure function of arrays."""
    return ForwardModel(estimate, batch, specification).expected


@lru_cache(maxsize=8)
def _compiled_counts(specification: Specification) -> Any:
    """One compiled function for all scans and estimates that are alike; TensorFlow traces it for each set of shapes."""
    return compiled(partial(expected_counts, specification=specification))


def specification_of(grid: ObjectGrid, positions: np.ndarray) -> Specification:
    """Of the model of frames at ``positions (P, 2)`` on a grid."""
    return Specification(grid.shape, bool(grid.frames(positions)[1].any()))


def frame_batches(
    grid: ObjectGrid,
    positions: np.ndarray,
    batch_frames: int,
    *,
    opr_weights: np.ndarray | None = None,
    transfer: np.ndarray | None = None,
    spacing: np.ndarray | None = None,
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Batches of frames at ``positions (P, 2)``, in order, with the number of frames in each.

    The last batch is filled up with its last frame: one shape, so that it compiles once.
    """
    origin, subpixel = grid.frames(positions)
    fixed = {name: array for name, array in (("transfer", transfer), ("spacing", spacing)) if array is not None}
    for start in range(0, len(positions), batch_frames):
        rows = np.arange(start, start + batch_frames).clip(max=len(positions) - 1)
        batch = fixed | dict(origin=origin[rows], subpixel=subpixel[rows])
        if opr_weights is not None:
            batch["opr_weights"] = opr_weights[rows]
        yield batch, min(batch_frames, len(positions) - start)


def expected_batches(
    estimate: Arrays,
    grid: ObjectGrid,
    positions: np.ndarray,
    *,
    opr_weights: np.ndarray | None = None,
    transfer: np.ndarray | None = None,
    spacing: np.ndarray | None = None,
    batch_frames: int | None = None,
) -> Iterator[np.ndarray]:
    """Expected counts of frames at ``positions (P, 2)``, in pixels of the scan: ``(<= B, N, N)`` float32, in order.

    Outside the object the transmission is 0. ``batch_frames`` are computed at once; None: as many as take 2^20 pixels
    of all probe modes, 8 MB for each complex array on the way. Other arguments: see the top of this module.
    """
    require_own_threads()
    size = max(1, min(len(positions), batch_frames or 2**20 // estimate["probe"].size))
    padded = grid.rounded_up()
    lacking = [(0, larger - side) for larger, side in zip(padded.shape, grid.shape, strict=True)]
    count = _compiled_counts(specification_of(padded, positions))
    arrays = tensors({**estimate, "object": np.pad(estimate["object"], [(0, 0), *lacking])})
    for batch, frames in frame_batches(
        grid, positions, size, opr_weights=opr_weights, transfer=transfer, spacing=spacing
    ):
        yield ops.convert_to_numpy(count(arrays, tensors(batch)))[:frames]
