"""The learned gradient scheme: stages that step by step change an object to fit its frames.

The gradient of the data fit is computed frame by frame and added up on a canvas, over the illumination there: that is
what an iterative engine has as well. A U-Net on the canvas turns it, with what it remembers of the stages before, into
the next step (Adler & Oktem, Inverse Problems 33, 124007 (2017)). Many frames illuminate each canvas pixel, so the
U-Nets cost little beside the Fourier transforms.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keras import ops

from ptycho.arrays import Array, Complex, Float, Num
from ptycho.config import ModelConfig
from ptycho.network.symmetries import Symmetry
from ptycho.network.unet import UNet
from ptycho.physics.detection import mode_sum
from ptycho.physics.forward import Diffraction
from ptycho.physics.fourier import intensity, make_complex, polar, times_real
from ptycho.physics.noise import amplitude_residual
from ptycho.physics.patches import accumulate_at, extract_at


class FrameProbes(NamedTuple):
    """The probe of each frame, and its way to the detector."""

    probes: Array
    """``(B, P, M, N, N)`` or anything that broadcasts to it, from `frame_probes`."""
    transfer: Array | None
    """``(B, P, 1, N, N)``, likewise: of the near field; None for the far field."""
    peak: Array
    """``(B, 1, 1)``: illumination ``sum_m |P_m|^2`` at its brightest pixel, in photons."""


class FrameBatch(NamedTuple):
    """Frames, and where they lie on a batch of canvases."""

    amplitudes: Array
    """``(B, P, N, N)`` float32: square roots of the counts."""
    mask: Array
    """``(B, 1, N, N)``: 1 where a pixel is used, else 0."""
    illumination: FrameProbes
    """What falls on the sample."""
    weight: Array
    """``(B, P, N, N)`` (or broadcasting to it): ``sum_m |P_m|^2`` on each patch pixel, over its peak."""
    patch_index: Array | None
    """``(B, P, N, N)``: `patch_index` of the patches; None where each canvas is one patch (P is 1)."""
    shape: tuple[int, int]
    """H, W of the canvases."""

    @classmethod
    def of(cls, counts: Array, mask: Array, probes: FrameProbes, index: Array | None, shape: tuple[int, int]):
        """From counts."""
        # sum_m |P_m|^2 over its peak: 1 where the beam is brightest
        weight = mode_sum(probes.probes) / probes.peak[:, None]
        return cls(ops.sqrt(counts), mask, probes, weight, index, shape)

    def extract(self, canvas: Num[Array, "B H W"]) -> Num[Array, "B P N N"]:
        """Patches ``(B, P, N, N)`` of canvases ``(B, H, W)``."""
        return ops.expand_dims(canvas, 1) if self.patch_index is None else extract_at(canvas, self.patch_index)

    def accumulate(self, patches: Num[Array, "B P N N"]) -> Num[Array, "B H W"]:
        """Sum of patches on canvases: adjoint of `extract`."""
        return patches[:, 0] if self.patch_index is None else accumulate_at(patches, self.patch_index, self.shape)

    @property
    def weights(self) -> Float[Array, "B P N N"]:
        """``weight`` of every frame ``(B, P, N, N)``, also where it is the same for all."""
        return ops.multiply(self.weight, ops.ones_like(self.amplitudes))

    @property
    def coverage(self) -> Float[Array, "A H W"]:
        """Sum of the weights on the canvases: ``(B, H, W)``, or ``(1, H, W)`` where it is the same for all."""
        return self.weight[:, 0] if self.patch_index is None else self.accumulate(self.weights)

    def gradient(self, canvas: Complex[Array, "B H W"] | None) -> Complex[Array, "B H W"]:
        """``sum_j conj(P_j) chi_j`` on canvases ``(B, H, W)``, with chi_j the exit-wave residual of frame j.

        The direction in which an object has to change for its patterns to come nearer to the counts, times the
        illumination. A canvas of None is vacuum: its exit waves are the probes, often one for all frames.
        """
        probes, transfer, _ = self.illumination
        slices = () if canvas is None else (self.extract(canvas),)
        model = Diffraction(slices, probes, transfer)
        # chi_j = J^T u_j = F^H[w (sqrt(k) - E sqrt(k)) / sqrt(e + d)] (see `amplitude_residual`)
        chi = model.adjoint(amplitude_residual(self.amplitudes, model.expected, self.mask))
        if canvas is None:
            # sum over modes and frames of conj(P) chi: with O = 1 the incident wave is the probe.
            return self.accumulate(ops.sum(ops.multiply(ops.conj(probes), chi), axis=-3))
        return self.accumulate(model.slice_gradients(chi)[0])


def merge(patches: Complex[Array, "B P N N"], frames: FrameBatch, vacuum: float = 1e-3) -> Complex[Array, "B H W"]:
    """``(sum_j w_j o_j + e) / (sum_j w_j + e)``: patches ``(B, P, N, N)`` averaged on canvases ``(B, H, W)``.

    ``vacuum`` is e, in units of the brightest probe pixel: the canvas is 1, vacuum, where no probe falls.
    """
    weights = frames.weights
    total = frames.accumulate(times_real(patches, weights))
    norm = 1.0 / (frames.accumulate(weights) + vacuum)
    return make_complex((ops.real(total) + vacuum) * norm, ops.imag(total) * norm)


def learned_gradient(
    nets: Sequence[UNet],
    frames: FrameBatch,
    inputs: Mapping[str, Array],
    settings: ModelConfig,
    *,
    least_illumination: float = 0.02,
    least_intensity: float = 0.05,
) -> Complex[Array, "B H W"]:
    """Canvases ``(B, H, W)`` complex64 by the stages ``(a_k+1, phi_k+1) = (a_k, phi_k) + net_k(g_k, ...)``.

    ``O_k = exp(a_k + i phi_k)`` is the object after k stages, vacuum at first. Each net sees

        g_k = conj(O_k) sum_j conj(P_j) chi_j(O_k) / ((|O_k|^2 + i_0) (sum_j |P_j|^2 + w_0)),

    the preconditioned gradient with respect to log-amplitude (real part) and phase (imaginary part), with chi_j the
    exit-wave residual of frame j; the illumination; and what the last net left to remember. All act in the symmetry
    that ``inputs`` give (`Symmetry.arrays`), if any.

    Args:
        nets: one for each stage.
        frames: what was measured.
        inputs: of the network, for its symmetry.
        settings: of the network.
        least_illumination: w_0, over the brightest probe pixel. The weights of a network belong to its value.
        least_intensity: i_0. Likewise.
    """
    symmetry = Symmetry(inputs)
    coverage = frames.coverage
    # Where the illumination is weak, the gradient is noise: it is faded out.
    fade = ops.sqrt(ops.minimum(coverage, 1.0))
    # 1 / (sum_j |P_j|^2 + w_0), in photons: coverage is over the peak.
    preconditioner = fade / ((coverage + least_illumination) * frames.illumination.peak)
    known = symmetry.apply(channels(fade, ops.log1p(coverage)))
    if frames.patch_index is None:
        known = ops.broadcast_to(known, (ops.shape(frames.amplitudes)[0], *known.shape[1:]))
    canvas: Array | None = None
    first: Array = None
    state: Array = None
    memory: Array = None
    for k, net in enumerate(nets):
        change = frames.gradient(canvas)
        if canvas is None:
            # |O|^2 = 1
            change = times_real(change, preconditioner / (1 + least_intensity))
        else:
            # dO = O (da + i dphi): the real part of conj(O) g is the gradient by a, the imaginary part that by phi.
            change = times_real(change * ops.conj(canvas), preconditioner / (intensity(canvas) + least_intensity))
        # Conjugation of the object negates the phase, and its gradient.
        gradient = symmetry.apply(channels(ops.real(change), ops.imag(change)), [1, -1])
        if k == 0:
            first = gradient
            h = net(ops.concatenate([gradient, known], axis=-1))
            # Log-amplitude and phase stay one array: apart they would have to be put together again.
            state = h[..., :2]
        else:
            phase = state[..., 1]
            # sin and 1 - cos: a phase without jumps of 2 pi; both are 0 for vacuum.
            now = channels(state[..., 0], ops.sin(phase), 1 - ops.cos(phase))
            h = net(ops.concatenate([4.0 * gradient, first, now, known, memory], axis=-1))
            state = state + h[..., :2]
        memory = h[..., 2:]
        out = symmetry.undo(state, [1, -1])
        canvas = polar(out[..., 0], out[..., 1])
    return canvas


def gradient_channels(settings: ModelConfig, k: int) -> int:
    """Channels that stage ``k`` of `learned_gradient` sees: gradient and illumination; later the state as well."""
    return 4 if k == 0 else 9 + settings.memory


def channels(*images: Float[Array, "B H W"]) -> Float[Array, "B H W c"]:
    """Stack real images ``(B, H, W)`` as the channels of one ``(B, H, W, c)``."""
    return ops.stack(images, axis=-1)
