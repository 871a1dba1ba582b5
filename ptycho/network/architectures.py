"""Kinds of network: a record for each, with the properties that the package needs to know.

A new kind is a function from frames to canvases, a record with it in `ARCHITECTURES`, and its name in
`ptycho.config.ArchitectureName`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ptycho.arrays import Array
from ptycho.config import AmplitudeActivation, ModelConfig
from ptycho.network.cnn import amplitude_channel, direct_patches
from ptycho.network.stages import FrameBatch, gradient_channels, learned_gradient
from ptycho.network.unet import Skips, UNet


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One kind of network."""

    reconstruct: Callable[[Sequence[UNet], FrameBatch, Mapping[str, Array], ModelConfig], Array]
    """From the U-Nets, a batch of frames, the network's inputs and its settings to canvases ``(B, H, W)`` complex64."""
    channels: Callable[[ModelConfig, int], int]
    """Channels that the U-Net of stage k sees."""
    needs_neighbours: bool
    """Whether it reconstructs all frames of a canvas together; else each frame is a canvas, merged afterwards."""
    sees_probe: bool = True
    """Whether its object depends on the probe, so that the probe can be retrieved with it."""
    common_phase: bool = True
    """Whether its patches agree in their global phase; else `ptycho.reconstruction.stitch` has to align them."""
    symmetric: bool = True
    """Whether it takes the inputs of a `Symmetry`."""
    skips: Skips = "join"
    """How the levels of its U-Nets reach across."""
    block: int = 2
    """Side in pixels of the blocks that its U-Nets work on."""
    multiple: int = 8
    """Sides of canvases are multiples of this, in pixels, so that the coarsest level of its U-Nets fits."""
    most_stages: int = 32
    """Number of stages at most."""
    activations: tuple[AmplitudeActivation, ...] = ("exp",)
    """How its output can become an amplitude."""
    streamed_frames: int = 64
    """Frames in a tile or batch where an object is watched as it grows: fewer than for the most frames per second."""

    def amplitude_bound(self, settings: ModelConfig) -> float | None:
        """Amplitude that its object cannot exceed; None where there is no bound."""
        return 1.0 if settings.amplitude_activation == "sigmoid" else None


ARCHITECTURES: dict[str, Architecture] = {
    "consensus": Architecture(
        reconstruct=learned_gradient, channels=gradient_channels, needs_neighbours=True, streamed_frames=512
    ),
    "single": Architecture(
        reconstruct=learned_gradient, channels=gradient_channels, needs_neighbours=False, skips="add"
    ),
    "cnn": Architecture(
        reconstruct=direct_patches,
        channels=amplitude_channel,
        needs_neighbours=False,
        sees_probe=False,
        common_phase=False,
        symmetric=False,
        skips="none",
        block=1,
        most_stages=1,
        activations=("sigmoid", "softplus", "exp"),
    ),
}


def architecture_of(settings: ModelConfig) -> Architecture:
    """The record that the settings of a network name; ValueError where the other settings do not go with it."""
    name = settings.architecture
    architecture = ARCHITECTURES[name]
    for field, value, valid, expected in (
        ("stages", settings.stages, settings.stages <= architecture.most_stages, f"1 to {architecture.most_stages}"),
        (
            "amplitude_activation",
            settings.amplitude_activation,
            settings.amplitude_activation in architecture.activations,
            f"one of {architecture.activations}",
        ),
    ):
        if not valid:
            raise ValueError(f"ModelConfig.{field} is {value!r}; expected {expected} with architecture={name!r}")
    return architecture
