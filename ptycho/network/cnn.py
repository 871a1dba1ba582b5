"""The classic network: one encoder-decoder from amplitudes to a patch, as in the first physics-informed networks."""

from collections.abc import Mapping, Sequence

import numpy as np
from keras import ops

from ptycho.arrays import Array, Complex
from ptycho.config import ModelConfig
from ptycho.network.stages import FrameBatch, channels
from ptycho.network.unet import UNet
from ptycho.physics.detection import mode_sum
from ptycho.physics.fourier import make_complex


def direct_patches(
    nets: Sequence[UNet], frames: FrameBatch, inputs: Mapping[str, Array], settings: ModelConfig
) -> Complex[Array, "B N N"]:
    """Amplitudes of single frames straight to patches ``(B, N, N)``; the phase within +-pi.

    Of the probe only its mean illumination is used, as the unit of the counts.
    """
    # Root mean illumination in sqrt(photons): divides out the dose
    level = ops.sqrt(ops.mean(mode_sum(frames.illumination.probes)[:, 0], axis=(-2, -1), keepdims=True))
    h = nets[0](channels((frames.amplitudes * frames.mask)[:, 0] / level))
    # Offsets that give amplitudes near 1 where the net gives 0.
    amplitude = {
        "sigmoid": lambda x: ops.sigmoid(x + 3.0),
        "softplus": lambda x: ops.softplus(x + 0.5413),
        "exp": ops.exp,
    }[settings.amplitude_activation](h[..., 0])
    phase = ops.tanh(h[..., 1]) * np.pi
    return make_complex(amplitude * ops.cos(phase), amplitude * ops.sin(phase))


def amplitude_channel(settings: ModelConfig, k: int) -> int:
    """Channels that the network sees: the amplitudes."""
    return 1
