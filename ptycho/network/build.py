"""Building a network from a frozen config: any number of them, of any sizes, live side by side."""

from dataclasses import replace

import keras
import numpy as np
from keras import ops

from ptycho.backend import bfloat16_pays
from ptycho.config import Architecture, ModelConfig
from ptycho.network.architectures import (
    FIRST_CHANNELS,
    LATER_CHANNELS,
    add,
    cnn_patch,
    everywhere,
    frames_of,
    learned_descent,
    merge,
    read,
)
from ptycho.network.layers import Probe, Skips, UNet
from ptycho.physics.diffraction import expected_counts, illumination
from ptycho.physics.fourier import make_complex, times_real
from ptycho.physics.patches import patch_index

SKIPS: dict[Architecture, Skips] = dict(consensus="join", single="add", cnn="none")


@keras.saving.register_keras_serializable("ptycho")
class PtychoNetwork(keras.Model):
    """Patterns to an object, stage by stage, with the probe it was built for.

    ``settings`` is the `ModelConfig`. Called on the dictionary of a batch of groups, with

    - ``counts (B, C, N, N)``, ``mask (B, N, N)``;
    - ``positions (B, C, 2)``: whole pixels on the group's canvas; a frame off the canvas is not looked at;
    - ``canvas (B, H, W)``, of which only the shape is used;
    - ``fractions (B, C, 2)``, optional: the sub-pixel parts of the positions;
    - ``exposure (B,)``, optional: the part of the probe's photons that the counts were taken with;
    - ``probe_parts (B, 2, M, N, N)``, optional: real and imaginary part of another probe than the network's own;
    - ``view``, ``view_back``, ``view_sign``, optional: `View.arrays`;

    it returns ``canvas (B, H, W)`` complex64, the ``patches (B, C, N, N)`` of it under the frames, the ``light
    (B, H, W)`` on it over that of the brightest probe pixel, and ``expected (B, C, N, N)`` counts.
    """

    def __init__(self, settings, trained_for=None, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.settings = settings if isinstance(settings, ModelConfig) else ModelConfig.from_dict(settings)
        s = self.settings
        self.trained_for: dict[str, list[float]] = dict(trained_for or {})
        """Ranges ``[least, most]`` of what the network has learned from: see `ptycho.training.train.conditions`."""
        self.probe = Probe(s.probe_modes, s.N, s.probe_trainable, s.scale_trainable, name="probe")
        self.nets = [
            UNet(
                (s.width, 2 * s.width, 4 * s.width),
                block=1 if s.architecture == "cnn" else 2,
                outputs=2 + (s.memory if k < s.stages - 1 else 0),
                skips=SKIPS[s.architecture],
                precision=s.precision,
                name=f"stage_{k}",
            )
            for k in range(s.stages)
        ]

    def build(self, input_shape=None):
        self.probe.build()
        for k, net in enumerate(self.nets):
            net.build((None, None, None, stage_channels(self.settings, k)))
        self.built = True

    def illuminate(self, inputs):
        """The probe of each frame ``(B, C, M, N, N)`` (or broadcasting to it); its brightest light ``(B, 1, 1)``."""
        parts = inputs.get("probe_parts")
        own = parts is None
        probe = ops.expand_dims(self.probe.value(), 0) if own else make_complex(parts[:, 0], parts[:, 1])
        if "exposure" in inputs:
            probe = times_real(probe, ops.reshape(ops.sqrt(inputs["exposure"]), (-1, 1, 1, 1)))
        brightest = ops.max(illumination(probe), axis=(-2, -1), keepdims=True)
        probe = ops.expand_dims(probe, 1)
        fractions = inputs.get("fractions")
        return (probe if fractions is None else self.probe.moved(probe, fractions)), brightest

    def call(self, inputs):
        counts, positions = inputs["counts"], inputs["positions"]
        shape = tuple(inputs["canvas"].shape[1:])
        side = self.settings.N
        probe, brightest = self.illuminate(inputs)
        index = patch_index(positions, (side, side), shape)
        frames = frames_of(counts, ops.expand_dims(inputs["mask"], 1), probe, brightest[:, None], index, shape)
        if self.settings.architecture == "consensus":
            canvas = learned_descent(self.nets, frames, brightest, inputs)
        else:
            canvas = merge(self.alone(inputs, probe, brightest), frames)
        patches = read(canvas, frames)
        light = add(everywhere(frames.weight, frames), frames)
        return {"canvas": canvas, "patches": patches, "light": light, "expected": expected_counts(patches, probe)}

    def alone(self, inputs, probe, brightest):
        """Patches ``(B, C, N, N)`` of frames that know nothing of each other."""
        counts, side = inputs["counts"], self.settings.N
        group = counts.shape[1]

        def each(z):
            """``(B, C or 1, ...)`` to ``(B C, 1, ...)``; what is the same for all frames as it is."""
            if z.shape[:2] == (1, 1):
                return z
            return ops.reshape(z if z.shape[1] == group else ops.repeat(z, group, axis=1), (-1, 1, *z.shape[2:]))

        bright = each(brightest[:, None])
        mask = each(ops.expand_dims(inputs["mask"], 1))
        frames = frames_of(each(counts), mask, each(probe), bright, None, (side, side))
        if self.settings.architecture == "cnn":
            patches = cnn_patch(self.nets[0], frames, self.settings.amplitude_activation)
        else:
            patches = learned_descent(self.nets, frames, bright[:, 0], inputs)
        return ops.reshape(patches, (-1, group, side, side))

    def get_config(self):
        return {"name": self.name, "settings": self.settings.to_dict(), "trained_for": self.trained_for}


def stage_channels(settings: ModelConfig, k: int) -> int:
    """Channels that stage ``k`` sees."""
    if settings.architecture == "cnn":
        return 1
    return FIRST_CHANNELS if k == 0 else LATER_CHANNELS + settings.memory


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
    if config.precision == "auto":
        config = replace(config, precision="mixed_bfloat16" if bfloat16_pays() else "float32")
    # The same name for all: TensorFlow keeps something for every variable name it has ever seen.
    network = PtychoNetwork(config, name="ptycho")
    network.build()
    network.probe.assign(probe)
    initialise(network, np.random.SeedSequence(config.seed))
    return network


def initialise(network: PtychoNetwork, seed: np.random.SeedSequence) -> None:
    """Draw the initial weights of all stages."""
    for net, own in zip(network.nets, seed.spawn(len(network.nets)), strict=True):
        net.initialise(np.random.default_rng(own))


def twin(network: PtychoNetwork) -> PtychoNetwork:
    """A network with the same settings and weights, and variables of its own."""
    return restored(network.settings, network.get_weights(), network.trained_for)


def restored(settings: ModelConfig, weights: list[np.ndarray], trained_for=None) -> PtychoNetwork:
    """The network that has these settings and weights (``get_weights()`` of another)."""
    network = PtychoNetwork(settings, trained_for, name="ptycho")
    network.build()
    network.set_weights(weights)
    return network
