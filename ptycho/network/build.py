"""Building a network from a frozen config: any number of them, of any sizes, live side by side."""

from collections.abc import Mapping
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from ptycho.arrays import Array
from ptycho.backend import bfloat16_pays
from ptycho.config import ModelConfig
from ptycho.network.architectures import Architecture, architecture_of
from ptycho.network.probe import Probe
from ptycho.network.stages import FrameBatch, FrameProbes, merge
from ptycho.network.unet import UNet
from ptycho.physics.detection import mode_sum
from ptycho.physics.forward import Diffraction, frame_probes
from ptycho.physics.fourier import times_real
from ptycho.physics.patches import patch_index


@keras.saving.register_keras_serializable("ptycho")
class PtychoNetwork(keras.Model):
    """Patterns and probe to an object, stage by stage.

    ``settings`` is the `ModelConfig`. Called on the dictionary of a batch of groups, with

    - ``counts (B, C, N, N)``, ``mask (B, N, N)``;
    - ``positions (B, C, 2)``: integer pixels on the group's canvas; a frame off the canvas is not looked at;
    - ``canvas (B, H, W)``, of which only the shape is used;
    - ``probe (B or 1, M, N, N)`` complex64 in sqrt(photons): optional where the network has a probe of its own;
    - ``subpixel (B, C, 2)``, optional: the sub-pixel parts of the positions;
    - ``transfer (B or 1, N, N)`` complex64, optional: the transfer function of the near field;
    - ``exposure (B,)``, optional: the part of the probe's photons that the counts were taken with;
    - ``symmetry``, ``symmetry_inverse``, ``symmetry_sign``, optional: `Symmetry.arrays`;

    it returns ``canvas (B, H, W)`` complex64, the ``patches (B, C, N, N)`` of it under the frames, the ``coverage
    (B, H, W)``, its illumination over that of the brightest probe pixel, and ``expected (B, C, N, N)`` counts.

    The stages act on the object, pixel by pixel: they serve any N, probe and number of modes.
    """

    def __init__(self, settings, trained_for=None, has_probe=True, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.settings = settings if isinstance(settings, ModelConfig) else ModelConfig.from_dict(settings)
        s = self.settings
        kind = architecture_of(s)
        self.trained_for: dict[str, list[float]] = dict(trained_for or {})
        """Ranges ``[least, most]`` of what the network has learned from: see `ptycho.network.domain`."""
        self.probe = (
            Probe(s.probe_modes, s.N, s.probe_trainable, s.scale_trainable, name="probe") if has_probe else None
        )
        """What ``probe`` is where the inputs have none; None: they always have."""
        self.place_probe = frame_probes
        """What moves a probe to where the frames have it: this function, or the same compiled."""
        self.nets = [
            UNet(
                (s.width, 2 * s.width, 4 * s.width),
                block=kind.block,
                outputs=2 + (s.memory if k < s.stages - 1 else 0),
                skips=kind.skips,
                precision=s.precision,
                name=f"stage_{k}",
            )
            for k in range(s.stages)
        ]

    @property
    def architecture(self) -> Architecture:
        """What kind of network it is."""
        return architecture_of(self.settings)

    def build(self, input_shape=None):
        if self.probe is not None:
            self.probe.build()
        for k, net in enumerate(self.nets):
            net.build((None, None, None, self.architecture.channels(self.settings, k)))
        self.built = True

    def illumination(self, inputs: Mapping[str, Array]) -> FrameProbes:
        """The probe of each frame and its propagation to the detector, with one frame axis of C or 1."""
        probe = inputs.get("probe")
        if probe is None:
            if self.probe is None:
                raise ValueError("the network has no probe of its own: inputs['probe'] is missing")
            probe = ops.expand_dims(self.probe.value(), 0)
        if "exposure" in inputs:
            # Photons times the exposure: the amplitude times its root
            probe = times_real(probe, ops.reshape(ops.sqrt(inputs["exposure"]), (-1, 1, 1, 1)))
        peak = ops.max(mode_sum(probe), axis=(-2, -1), keepdims=True)
        transfer = inputs.get("transfer")
        transfer = None if transfer is None else ops.reshape(transfer, (-1, 1, 1, *transfer.shape[-2:]))
        probes, transfer = self.place_probe(ops.expand_dims(probe, 1), inputs.get("subpixel"), transfer)
        return FrameProbes(probes, transfer, peak)

    def call(self, inputs):
        counts, shape = inputs["counts"], tuple(inputs["canvas"].shape[1:])
        illumination = self.illumination(inputs)
        index = patch_index(inputs["positions"], tuple(counts.shape[-2:]), shape)
        frames = FrameBatch.of(counts, ops.expand_dims(inputs["mask"], 1), illumination, index, shape)
        if self.architecture.needs_neighbours:
            canvas = self.architecture.reconstruct(self.nets, frames, inputs, self.settings)
        else:
            canvas = merge(self.single_frame_patches(inputs, illumination), frames)
        patches = frames.extract(canvas)
        return {
            "canvas": canvas,
            "patches": patches,
            "coverage": frames.accumulate(frames.weights),
            "expected": Diffraction((patches,), illumination.probes, illumination.transfer).expected,
        }

    def single_frame_patches(self, inputs: Mapping[str, Array], illumination: FrameProbes) -> Array:
        """Patches ``(B, C, N, N)`` of frames each reconstructed without its neighbours."""
        counts = inputs["counts"]
        _, group, *shape = counts.shape

        def flat(z):
            """``(B, C or 1, ...)`` to ``(B C, 1, ...)``; what is the same for all frames as it is."""
            if z is None or z.shape[:2] == (1, 1):
                return z
            return ops.reshape(z if z.shape[1] == group else ops.repeat(z, group, axis=1), (-1, 1, *z.shape[2:]))

        # Each frame becomes a batch entry of its own, with one frame: its patch is the canvas.
        probes = FrameProbes(
            flat(illumination.probes), flat(illumination.transfer), flat(illumination.peak[:, None])[:, 0]
        )
        frames = FrameBatch.of(flat(counts), flat(ops.expand_dims(inputs["mask"], 1)), probes, None, tuple(shape))
        patches = self.architecture.reconstruct(self.nets, frames, inputs, self.settings)
        return ops.reshape(patches, (-1, group, *shape))

    def without_probe(self) -> "PtychoNetwork":
        """A network with the same stages that takes the probe of each scan."""
        network = type(self)(self.settings, self.trained_for, has_probe=False, name=self.name)
        network.build()
        network.take_stages(self)
        return network

    def take_stages(self, source: "PtychoNetwork") -> None:
        """Take over what the stages of another network have learned; ValueError where they have other shapes."""
        self.trained_for = dict(source.trained_for)
        for net, start in zip(self.nets, source.nets, strict=True):
            if [w.shape for w in net.weights] != [w.shape for w in start.weights]:
                raise ValueError(
                    f"stages of width {self.settings.width} and N {self.settings.N} cannot take the weights of stages "
                    f"of width {source.settings.width} and N {source.settings.N}; leave the model's settings as they "
                    "are"
                )
            net.set_weights(start.get_weights())

    def get_config(self):
        return {
            "name": self.name,
            "settings": self.settings.to_dict(),
            "trained_for": self.trained_for,
            "has_probe": self.probe is not None,
        }


def build_model(
    config: ModelConfig, probe: np.ndarray | None = None, *, start: PtychoNetwork | None = None
) -> PtychoNetwork:
    """A new network.

    Nothing global is read, seeded or kept.

    Args:
        config: its settings.
        probe: ``(M, N, N)`` or ``(N, N)`` complex, in sqrt(photons): the network uses this probe, and learns it where
            the settings say so. None: it takes the probe of each scan.
        start: a network whose stages it begins with; it is left as it is.

    Raises:
        ValueError: the probe has another size than the config's, or is missing where it is to be learned; the stages
            of ``start`` have other shapes.
    """
    if probe is None and (config.probe_trainable or config.scale_trainable):
        raise ValueError("a network with probe_trainable or scale_trainable needs a probe to start from")
    if probe is not None:
        probe = np.asarray(probe, "complex64").reshape(-1, *np.shape(probe)[-2:])
        expected = (config.probe_modes, config.N, config.N)
        if probe.shape != expected:
            raise ValueError(f"probe has shape {probe.shape}; a model with this config needs {expected}")
        if not np.isfinite(probe).all() or not np.abs(probe).max() > 0:
            raise ValueError("probe is zero everywhere or not finite; give a probe in sqrt(photons)")
    if config.precision == "auto":
        config = replace(config, precision="mixed_bfloat16" if bfloat16_pays() else "float32")
    # The same name for all: TensorFlow keeps something for every variable name it has ever seen.
    network = PtychoNetwork(config, has_probe=probe is not None, name="ptycho")
    network.build()
    if network.probe is not None and probe is not None:
        network.probe.assign(probe)
    if start is None:
        initialise(network, np.random.SeedSequence(config.seed))
    else:
        network.take_stages(start)
    return network


def initialise(network: PtychoNetwork, seed: np.random.SeedSequence) -> None:
    """Draw the initial weights of all stages."""
    for net, stage_seed in zip(network.nets, seed.spawn(len(network.nets)), strict=True):
        net.initialise(np.random.default_rng(stage_seed))


def restored(
    settings: ModelConfig, weights: list[np.ndarray], trained_for=None, *, has_probe: bool = True
) -> PtychoNetwork:
    """The network that has these settings and weights (``get_weights()`` of another)."""
    network = PtychoNetwork(settings, trained_for, has_probe, name="ptycho")
    network.build()
    network.set_weights(weights)
    return network
