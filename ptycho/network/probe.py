"""The probe as weights of a network, for those that learn it along with the object."""

import keras
import numpy as np
from keras import ops

from ptycho.arrays import Array, Complex
from ptycho.physics.fourier import make_complex


@keras.saving.register_keras_serializable("ptycho")
class Probe(keras.layers.Layer):
    """The probe ``(M, N, N)`` in sqrt(photons), and one factor between its photons and the counts, as weights.

    Stored as a real and an imaginary variable in a unit of about ten times the probe's largest amplitude, so that
    Adam at its usual 1e-3 moves it by about one per cent of its maximum a step. The unit is a power of two: a probe
    that is not trained comes back bit for bit.
    """

    def __init__(self, modes, side, trainable_probe=False, trainable_scale=False, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.modes, self.side = modes, side
        self.trainable_probe, self.trainable_scale = trainable_probe, trainable_scale

    def build(self, input_shape=None):
        shape = (self.modes, self.side, self.side)
        add = lambda name, shape, trainable: self.add_weight(
            name=name, shape=shape, initializer="zeros", trainable=trainable, dtype="float32"
        )
        self.unit = add("unit", (), False)
        self.real = add("real", shape, self.trainable_probe)
        self.imag = add("imag", shape, self.trainable_probe)
        self.log_scale = add("log_scale", (), self.trainable_scale)
        self.built = True

    def assign(self, probe: np.ndarray) -> None:
        """Set the probe ``(M, N, N)`` in sqrt(photons), and the scale to one."""
        # A power of two: dividing and multiplying by it rounds nothing.
        unit = np.float32(2.0 ** np.ceil(np.log2(10 * np.abs(probe).max())))
        self.unit.assign(unit)
        self.real.assign(probe.real / unit)
        self.imag.assign(probe.imag / unit)
        self.log_scale.assign(0.0)

    def call(self, inputs=None):
        return self.value()

    def value(self) -> Complex[Array, "M N N"]:
        """The probe, the scale applied: ``P sqrt(scale)``, so that its photons change by the scale."""
        # Half the logarithm: the scale is of photons, the factor of amplitudes.
        factor = self.unit * ops.exp(0.5 * self.log_scale)
        return make_complex(self.real * factor, self.imag * factor)

    def get_config(self):
        names = ("modes", "side", "trainable_probe", "trainable_scale")
        return super().get_config() | {name: getattr(self, name) for name in names}
