"""What a training minimises: the misfit of the counts, and priors of the object (smoothness, nearness to the truth)."""

from collections.abc import Mapping

import keras
from keras import ops

from ptycho.arrays import Array, Complex, Float
from ptycho.backend import free_trace_with, replicas
from ptycho.config import TrainingConfig
from ptycho.network.build import PtychoNetwork
from ptycho.physics.fourier import intensity, times_real
from ptycho.physics.noise import amplitude_error, poisson_nll


class PhysicsTraining(keras.Model):
    """A network with its physics loss, as Keras' `fit` wants it. Lives for one training; the network stays."""

    def __init__(self, network: PtychoNetwork, config: TrainingConfig):
        super().__init__()
        self.network, self.config = network, config
        self.built = True

    def call(self, inputs):
        free_trace_with(self)
        return self.network(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # Keras adds up the losses of replicas.
        return (self.data_loss(x, y_pred["expected"]) + self.object_loss(x, y_pred)) / replicas()

    def data_loss(
        self, x: Mapping[str, Array], expected: Float[Array, "B C N N"], *, dark: float = 1e-3
    ) -> Float[Array, ""]:
        """Disagreement of expected counts ``(B, C, N, N)`` with the measured ones, masked pixels left out.

        ``dark`` is the dark rate of the likelihood, over the mean counts of a pixel. A fixed one of 0.01 photons was a
        third of the mean at 690 counts a frame: the likelihood then asks for darker dark pixels, and the slow phase is
        lost (a start from the pretrained network fell from 15.4 to 12.8 dB on its own object).
        """
        mask = ops.expand_dims(ops.convert_to_tensor(x["mask"]), 1)
        counts = ops.multiply(x["target"], mask)
        expected = ops.multiply(expected, target_exposure(self.config) * mask)
        # Mean counts of a pixel of the group: losses over it, or over its root, weigh the same at any dose.
        mean = ops.mean(counts, axis=(1, 2, 3), keepdims=True) + 1e-6
        loss = 0.0
        if self.config.nll_weight:
            # Less that of a perfect model, so that it says how far there is to go: shot noise alone leaves about 1/2.
            floor = dark * mean
            nll = poisson_nll(counts, expected, floor) - poisson_nll(counts, counts, floor)
            loss = loss + self.config.nll_weight * ops.mean(nll / mean)
        if self.config.mae_weight:
            loss = loss + self.config.mae_weight * ops.mean(amplitude_error(counts, expected) / ops.sqrt(mean))
        return loss

    def object_loss(self, x: Mapping[str, Array], y: Mapping[str, Array]) -> Array | float:
        """Priors of the object ``(B, H, W)``: smoothness, nearness to the truth."""
        loss = 0.0
        if self.config.tv_weight:
            loss = loss + self.config.tv_weight * total_variation(y["canvas"])
        if self.config.realspace_weight:
            weight = x["truth_mask"] * ops.minimum(y["coverage"], 1.0)
            loss = loss + self.config.realspace_weight * distance(y["canvas"], x["truth"], weight)
        return loss


def target_exposure(config: TrainingConfig) -> float:
    """Photons in the frames that a prediction is compared with, over those in the frames that it is made from."""
    return (1.0 - config.thinning) / config.thinning if config.thinning < 1 else 1.0


def distance(
    canvas: Complex[Array, "B H W"], truth: Complex[Array, "B H W"], weight: Float[Array, "B H W"]
) -> Float[Array, ""]:
    """Mean over the groups of ``|canvas - truth|``, each with a weight ``(B, H, W)`` and its best phase taken out."""
    # c = sum w t conj(o) / |.| is the phase of least sum w |c o - t|^2; it is held constant for the gradient.
    overlap = ops.sum(times_real(truth * ops.conj(canvas), weight), axis=(-2, -1), keepdims=True)
    phase = ops.stop_gradient(times_real(overlap, ops.rsqrt(intensity(overlap) + 1e-12)))
    # 1e-8 keeps the gradient of the root finite where both agree.
    error = ops.sqrt(intensity(canvas * phase - truth) + 1e-8)
    return ops.mean(ops.sum(error * weight, axis=(-2, -1)) / (ops.sum(weight, axis=(-2, -1)) + 1e-6))


def total_variation(image: Complex[Array, "B H W"]) -> Float[Array, ""]:
    """Mean absolute difference of neighbouring pixels of a complex image ``(B, H, W)``, both directions."""
    tiny = 1e-12
    # |z| with a finite gradient at 0
    size = lambda z: ops.mean(ops.sqrt(ops.real(z) ** 2 + ops.imag(z) ** 2 + tiny))
    return size(image[:, 1:] - image[:, :-1]) + size(image[:, :, 1:] - image[:, :, :-1])
