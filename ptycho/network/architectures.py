"""What each stage of the network sees and does, as functions of a U-Net and the physics."""

from typing import NamedTuple

from keras import ops

from ptycho.arrays import Array
from ptycho.physics.diffraction import data_residual, illumination, lift
from ptycho.physics.fourier import intensity, make_complex, polar, times_real

DIM = 1e-4
"""Intensity of the object below which its phase and logarithm are not worth looking at."""


class Frames(NamedTuple):
    """A batch of patterns with what every stage needs of them, computed once."""

    counts: Array
    """``(B, n, n)`` float32."""
    mask: Array
    """``(B, n, n)``: 1 where a pixel is used, else 0."""
    probe: Array
    """``(B, M, n, n)``: the probe moved by the sub-pixel part of each position."""
    features: list[Array]
    """What the network sees of the patterns alone: real images ``(B, n, n)``."""


def channels(*parts):
    """Stack real images ``(B, n, n)`` as the channels of one ``(B, n, n, c)``."""
    return ops.stack(parts, axis=-1)


def visibility(probe):
    """``|P| / max |P|``, ``(..., n, n)``: how well each pixel of a patch is lit."""
    light = illumination(probe)
    return ops.sqrt(light / ops.max(light, axis=(-2, -1), keepdims=True))


def lifted_features(counts, mask, probe):
    """``Re(o - 1) w, Im(o) w, w``: the lifted patch against an empty one, where there is light."""
    w = visibility(probe)
    patch = lift(counts, probe, mask)
    return [(ops.real(patch) - 1.0) * w, ops.imag(patch) * w, w]


def amplitude_features(counts, mask, probe):
    """The measured amplitude over that of an empty frame (root mean square)."""
    level = ops.mean(illumination(probe), axis=(-2, -1), keepdims=True)
    return [ops.sqrt(counts) / ops.sqrt(level) * mask]


def consistency_features(frames: Frames, merged):
    """How merged patches ``(B, n, n)`` disagree with their own patterns; then their logarithm and phase."""
    strength = intensity(merged)
    step = data_residual(merged, frames.counts, frames.probe, frames.mask) * ops.conj(merged)
    step = times_real(step, visibility(frames.probe) / (strength + 0.05))
    log_amplitude = 0.5 * ops.log(strength + DIM)
    phase = ops.arctan2(ops.imag(merged), ops.real(merged))
    return [ops.real(step), ops.imag(step), log_amplitude, phase]


def first_patch(net, frames: Frames):
    """Stage 0 of the consensus network: lifted pattern to patch ``(B, n, n)``."""
    h = net(channels(*frames.features))
    return polar(h[..., 0], h[..., 1])


def corrected_patch(net, frames: Frames, merged):
    """A later stage: the merged patch ``(B, n, n)`` times a correction."""
    h = net(channels(*frames.features, *consistency_features(frames, merged)))
    return merged * polar(h[..., 0], h[..., 1])


def cnn_patch(net, frames: Frames, amplitude_activation: str):
    """The classic network: amplitudes straight to a patch ``(B, n, n)``; the phase within +-pi."""
    h = net(channels(*frames.features))
    amplitude = {
        "sigmoid": lambda x: ops.sigmoid(x + 3.0),
        "softplus": lambda x: ops.softplus(x + 0.5413),
        "exp": ops.exp,
    }[amplitude_activation](h[..., 0])
    phase = ops.tanh(h[..., 1]) * 3.1415927
    return make_complex(amplitude * ops.cos(phase), amplitude * ops.sin(phase))
