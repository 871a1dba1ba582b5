"""Building a network from a frozen config: any number of them, of any sizes, live side by side."""

import keras
import numpy as np
from keras import ops

from ptycho.config import ModelConfig
from ptycho.network.architectures import (
    Frames,
    amplitude_features,
    cnn_patch,
    corrected_patch,
    first_patch,
    lifted_features,
)
from ptycho.network.layers import Probe, UNet
from ptycho.physics.diffraction import illumination
from ptycho.physics.fourier import make_complex, times_real
from ptycho.physics.patches import accumulate, extract

PRIOR = 1e-3
"""Weight, in units of the brightest probe pixel, of an empty object in a merge: decides where no light fell."""


@keras.saving.register_keras_serializable("ptycho")
class PtychoNetwork(keras.Model):
    """Patterns to object patches, stage by stage, with the probe it was built for.

    ``settings`` is the `ModelConfig`. Called on the dictionary of a batch of groups (``counts (B, C, N, N)``,
    ``positions (B, C, 2)`` whole pixels on the group's canvas, ``fractions (B, C, 2)``, and ``canvas (B, H, W)``,
    of which only the shape is used), it returns, for every stage, the merged ``canvases (B, H, W)`` and their
    ``patches (B, C, N, N)`` under the frames, complex64.
    """

    def __init__(self, settings, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.settings = settings if isinstance(settings, ModelConfig) else ModelConfig.from_dict(settings)
        s = self.settings
        self.probe = Probe(s.probe_modes, s.N, s.probe_trainable, s.scale_trainable, name="probe")
        self.nets = [
            UNet(
                stage_widths(s),
                block=stage_block(s),
                skips=s.architecture == "consensus",
                precision=s.precision,
                name=f"stage_{k}",
            )
            for k in range(s.stages)
        ]

    def build(self, input_shape=None):
        self.probe.build()
        side = self.settings.N
        for k, net in enumerate(self.nets):
            net.build((None, side, side, stage_channels(self.settings, k)))
        self.built = True

    def frames(self, counts, mask, fractions) -> Frames:
        """What the stages need of a batch: counts and mask ``(B, N, N)``, sub-pixel parts of positions ``(B, 2)``."""
        probe = self.probe(fractions)
        features = lifted_features if self.settings.architecture == "consensus" else amplitude_features
        return Frames(counts, mask, probe, features(counts, mask, probe))

    def stage(self, k: int, frames: Frames, merged=None):
        """Stage ``k``: patches ``(B, N, N)`` complex64; from the second on, of the merged ones of the stage before."""
        if self.settings.architecture == "cnn":
            return cnn_patch(self.nets[k], frames, self.settings.amplitude_activation)
        return first_patch(self.nets[k], frames) if k == 0 else corrected_patch(self.nets[k], frames, merged)

    def weight(self, frames: Frames):
        """Weight of each patch pixel in a merge ``(B, N, N)``: the light on it, over the brightest of the probe."""
        return illumination(frames.probe) / ops.max(illumination(self.probe.value()))

    def call(self, inputs):
        counts, positions = inputs["counts"], inputs["positions"]
        shape = tuple(inputs["canvas"].shape[1:])
        group, side = counts.shape[1], counts.shape[-1]
        flat = lambda z: ops.reshape(z, (-1, *z.shape[2:]))
        grouped = lambda z: ops.reshape(z, (-1, group, side, side))
        masks = ops.repeat(inputs["mask"], group, axis=0)
        frames = self.frames(flat(counts), masks, flat(inputs["fractions"]))
        weight = grouped(self.weight(frames))
        canvases, merged = [], [None]
        for k in range(self.settings.stages):
            patches = grouped(self.stage(k, frames, merged[-1]))
            canvases.append(merge(patches, weight, positions, shape))
            merged.append(flat(extract(canvases[-1], positions, (side, side))))
        return {"canvases": canvases, "patches": [grouped(z) for z in merged[1:]]}

    def get_config(self):
        return {"name": self.name, "settings": self.settings.to_dict()}


def merge(patches, weight, positions, shape):
    """``(sum w o + e) / (sum w + e)``: patches ``(B, C, n, n)`` averaged on a canvas ``(B, H, W)``.

    ``e`` is `PRIOR`: the canvas is 1, an empty object, where no patch has light.
    """
    total = accumulate(times_real(patches, weight), positions, shape)
    norm = 1.0 / (accumulate(weight, positions, shape) + PRIOR)
    return make_complex((ops.real(total) + PRIOR) * norm, ops.imag(total) * norm)


def stage_block(settings: ModelConfig) -> int:
    """Side of the space-to-depth blocks: 2 at N 64, growing with N so that a stage sees the whole patch."""
    if settings.architecture == "cnn":
        return 1
    return 2 if settings.N < 96 else 4 if settings.N < 192 else 8


def stage_widths(settings: ModelConfig) -> tuple[int, int, int]:
    """Channels of the three levels; the first holds at least half the pixels of a block."""
    w = settings.width
    first = max(w, w * stage_block(settings) // 2)
    return first, max(2 * w, first), max(4 * w, first)


def stage_channels(settings: ModelConfig, k: int) -> int:
    """Channels that stage ``k`` sees."""
    if settings.architecture == "cnn":
        return 1
    return 3 if k == 0 else 7


def build_model(config: ModelConfig, probe: np.ndarray) -> PtychoNetwork:
    """A new network for a probe ``(M, N, N)`` or ``(N, N)`` complex, in sqrt(photons).

    Nothing global is read, seeded or kept. Raises ValueError for a probe of another size than the config's.
    """
    probe = np.asarray(probe, "complex64").reshape(-1, *np.shape(probe)[-2:])
    expected = (config.probe_modes, config.N, config.N)
    if probe.shape != expected:
        raise ValueError(f"probe has shape {probe.shape}; a model with this config needs {expected}")
    if not np.isfinite(probe).all() or not np.abs(probe).max() > 0:
        raise ValueError("probe is zero everywhere or not finite; give a probe in sqrt(photons)")
    # The same name for all: TensorFlow keeps something for every variable name it has ever seen.
    network = PtychoNetwork(config, name="ptycho")
    network.build()
    network.probe.assign(probe)
    for net, seed in zip(network.nets, np.random.SeedSequence(config.seed).spawn(config.stages), strict=True):
        net.initialise(np.random.default_rng(seed))
    return network
