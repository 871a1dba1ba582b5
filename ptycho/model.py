"""Models by the names that existing scripts use; built by the core, from settings read once at this door.

`create_model_with_gridsize` gives Keras models whose inputs are diffraction amplitudes (square roots of counts) and
positions relative to each group. Importing this module builds nothing, traces nothing and seeds nothing.
"""

import functools
import threading
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from ptycho import params
from ptycho.backend import compiled, free_trace_with, jit_compile
from ptycho.config import ModelConfig
from ptycho.network.architectures import ARCHITECTURES
from ptycho.network.build import build_model
from ptycho.physics.forward import frame_probes
from ptycho.physics.fourier import intensity
from ptycho.physics.noise import poisson_nll
from ptycho.simulation.probes import make_probe
from ptycho.tf_helper import should_use_xla
from ptycho.training.losses import total_variation

_CORE = ("architecture", "stages", "width", "precision", "seed")
_LEGACY = ("nphotons", "n_filters_scale", "probe.trainable", "intensity_scale.trainable", "amp_activation")
_LOSS = ("mae_weight", "nll_weight", "tv_weight", "realspace_weight")
_lazy: dict[str, keras.Model] = {}
_lazy_lock = threading.Lock()


def create_model_with_gridsize(gridsize: int, N: int, **overrides: Any) -> tuple[keras.Model, keras.Model]:
    """``(autoencoder, diffraction_to_obj)``: two Keras models that share their weights.

    Inputs of both: diffraction amplitude ``(B, N, N, C)`` in sqrt(photons), C = gridsize**2, zero frequency at
    ``N // 2``; and positions ``(B, 1, 2, C)`` in pixels, order (x, y), ``-(r_c - mean r)``: relative to the group's
    centre of mass with the sign flipped. Outputs of the first: object ``(B, N, N, 1)`` complex64, predicted
    amplitude ``(B, N, N, C)`` and intensity ``(B, N, N, C)``; of the second: the object.

    Args:
        gridsize: 1 or more; a group holds gridsize**2 patterns.
        N: side of the patterns, 16 to 512.
        overrides: settings of this model only: a key of `ptycho.params.cfg` that concerns a model (a dot written as
            an underscore), ``probe`` (an array ``(M, N, N)`` in sqrt(photons); by default a curved disc of
            ``nphotons``), or architecture, stages, width, precision, seed of `ModelConfig`.

    Raises:
        ValueError: a size or an override that does not exist.
    """
    settings = _settings(overrides)
    probe = settings.pop("probe", None)
    if probe is None:
        probe = make_probe(N, photons=float(settings["nphotons"]))
    probe = np.asarray(probe, "complex64").reshape(-1, N, N)
    config = _model_config(gridsize, N, len(probe), settings)
    amplitude = keras.Input((N, N, config.channels), name="input")
    positions = keras.Input((1, 2, config.channels), name="input_positions")
    layer = GroupReconstruction(build_model(config, probe), should_use_xla(), name="reconstruction")
    outputs = layer([amplitude, positions])
    autoencoder = keras.Model([amplitude, positions], list(outputs), name="autoencoder")
    diffraction_to_obj = keras.Model([amplitude, positions], outputs[0], name="diffraction_to_obj")
    for model in (autoencoder, diffraction_to_obj):
        model.jit_compile = jit_compile(False)
    return autoencoder, diffraction_to_obj


def create_compiled_model(
    gridsize: int | None = None, N: int | None = None, **overrides: Any
) -> tuple[keras.Model, keras.Model]:
    """`create_model_with_gridsize` with the first model compiled for training; None reads ``cfg``.

    Targets of `fit` are ``[object, amplitude, intensity]``; the losses are weighted as ``cfg`` says.
    """
    settings = _settings(overrides)
    gridsize = params.cfg["gridsize"] if gridsize is None else gridsize
    N = params.cfg["N"] if N is None else N
    autoencoder, diffraction_to_obj = create_model_with_gridsize(gridsize, N, **overrides)
    realspace, tv, mae, nll = (float(settings[f"{k}_weight"]) for k in ("realspace", "tv", "mae", "nll"))
    autoencoder.compile(
        optimizer=keras.optimizers.Adam(1e-3, name="adam"),
        loss=[
            ObjectLoss(realspace, tv) if realspace or tv else None,
            AmplitudeLoss(mae) if mae else None,
            CountLoss(nll) if nll else None,
        ],
        jit_compile=jit_compile(False),
    )
    # Before the first trace: slots that are made inside one cost a branch each, in time and memory.
    autoencoder.optimizer.build(autoencoder.trainable_variables)
    return autoencoder, diffraction_to_obj


@functools.cache
def _compiled_probes():
    """One for all models: it is a function of arrays alone, and XLA never frees the code of a traced shape."""
    return compiled(frame_probes)


def __getattr__(name: str) -> keras.Model:
    """``autoencoder`` and ``diffraction_to_obj``, built from ``cfg`` when first asked for."""
    if name not in ("autoencoder", "diffraction_to_obj"):
        raise AttributeError(f"module 'ptycho.model' has no attribute {name!r}")
    with _lazy_lock:
        if not _lazy:
            warnings.warn(
                f"ptycho.model.{name} is built from the global settings as they are now; call "
                "create_model_with_gridsize(gridsize, N) instead",
                DeprecationWarning,
                stacklevel=2,
            )
            models = create_compiled_model()
            _lazy.update(zip(("autoencoder", "diffraction_to_obj"), models, strict=True))
    return _lazy[name]


@keras.saving.register_keras_serializable("ptycho")
class GroupReconstruction(keras.layers.Layer):
    """A network on groups with their own canvas: amplitudes and relative positions to object and prediction.

    The canvas has side 2 N and the group's centre of mass in its middle: frames up to N / 2 away lie on it whole.
    With ``use_xla`` the sub-pixel translation of the probe is compiled by XLA, once for all models. (All of the
    network could be, but on a CPU it takes ten times as long to compile: docs/decisions/002.)
    """

    def __init__(self, network, use_xla=False, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.network, self.use_xla = network, use_xla
        if use_xla:
            network.place_probe = _compiled_probes()

    def build(self, input_shape=None):
        self.built = True

    def call(self, inputs):
        free_trace_with(self)
        amplitude, relative = inputs
        side = self.network.settings.N
        counts = ops.transpose(ops.square(ops.cast(amplitude, "float32")), (0, 3, 1, 2))
        moved = -ops.flip(ops.transpose(ops.cast(relative, "float32")[:, 0], (0, 2, 1)), axis=-1)
        integer = ops.floor(moved + 0.5)
        subpixel = moved - integer
        like = counts[:, 0]
        batch = dict(
            counts=counts,
            mask=ops.ones_like(like),
            positions=ops.cast(integer, "int32") + side,
            subpixel=subpixel,
            canvas=ops.concatenate([ops.concatenate([like, like], 1)] * 2, 2),
        )
        out = self.network(batch)
        predicted = ops.transpose(out["expected"], (0, 2, 3, 1))
        start = side - side // 2
        image = out["canvas"][:, start : start + side, start : start + side]
        return ops.expand_dims(image, -1), ops.sqrt(predicted + 1e-12), predicted

    def compute_output_spec(self, inputs):
        amplitude, _ = inputs
        return (
            keras.KerasTensor((*amplitude.shape[:-1], 1), dtype="complex64"),
            keras.KerasTensor(amplitude.shape, dtype="float32"),
            keras.KerasTensor(amplitude.shape, dtype="float32"),
        )

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return super().get_config() | {"network": network, "use_xla": self.use_xla}

    @classmethod
    def from_config(cls, config):
        config["network"] = keras.saving.deserialize_keras_object(config["network"])
        return cls(**config)


@keras.saving.register_keras_serializable("ptycho")
class ObjectLoss(keras.losses.Loss):
    """Weighted mean absolute error against the true object, and total variation of the predicted one."""

    def __init__(self, realspace_weight=1.0, tv_weight=0.0, name="object_loss"):
        super().__init__(name=name)
        self.realspace_weight, self.tv_weight = realspace_weight, tv_weight

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Not the inherited call: that one casts to float32 and loses the phase.
        error = ops.cast(y_true, "complex64") - y_pred
        loss = self.realspace_weight * ops.mean(ops.sqrt(intensity(error) + 1e-12))
        return loss + self.tv_weight * total_variation(y_pred[..., 0])

    def get_config(self):
        return dict(realspace_weight=self.realspace_weight, tv_weight=self.tv_weight, name=self.name)


@keras.saving.register_keras_serializable("ptycho")
class AmplitudeLoss(keras.losses.Loss):
    """Weighted mean absolute error of amplitudes over their mean square root."""

    def __init__(self, weight=1.0, name="amplitude_loss"):
        super().__init__(name=name)
        self.weight = weight

    def call(self, y_true, y_pred):
        level = ops.sqrt(ops.mean(ops.square(y_true)) + 1e-12)
        return self.weight * ops.mean(ops.abs(y_true - y_pred), axis=-1) / level

    def get_config(self):
        return dict(weight=self.weight, name=self.name)


@keras.saving.register_keras_serializable("ptycho")
class CountLoss(keras.losses.Loss):
    """Weighted Poisson negative log-likelihood of counts over their mean."""

    def __init__(self, weight=1.0, name="count_loss"):
        super().__init__(name=name)
        self.weight = weight

    def call(self, y_true, y_pred):
        return self.weight * ops.mean(poisson_nll(y_true, y_pred), axis=-1) / (ops.mean(y_true) + 1e-12)

    def get_config(self):
        return dict(weight=self.weight, name=self.name)


def _settings(overrides: dict[str, Any]) -> dict[str, Any]:
    """``cfg`` as it is now, with this model's overrides; underscores may stand for the dots of its keys."""
    settings = params.params()
    by_name = {key.replace(".", "_"): key for key in settings}
    for name, value in overrides.items():
        key = by_name.get(name.replace(".", "_"), name)
        if key not in (*_LEGACY, *_LOSS, *_CORE, "probe"):
            if key in settings:
                warnings.warn(f"{name}={value!r} has no effect on a model", UserWarning, stacklevel=3)
            else:
                known = ", ".join((*_LEGACY, *_LOSS, *_CORE, "probe"))
                raise ValueError(f"no setting {name!r} of a model; there are {known}")
        settings[key] = value
    return settings


def _model_config(gridsize: int, N: int, modes: int, settings: dict[str, Any]) -> ModelConfig:
    name = settings.get("architecture", "consensus")
    kind = ARCHITECTURES.get(name, ARCHITECTURES["consensus"])  # an unknown name is refused below
    defaults: dict[str, Any] = dict(
        stages=min(3, kind.most_stages),
        width=(4 if kind.most_stages > 1 else 16) * int(settings["n_filters_scale"]),
        amplitude_activation=settings["amp_activation"] if len(kind.activations) > 1 else kind.activations[0],
    )
    return ModelConfig(
        N=N,
        gridsize=gridsize,
        probe_modes=modes,
        probe_trainable=bool(settings["probe.trainable"]),
        scale_trainable=bool(settings["intensity_scale.trainable"]),
        **(defaults | {key: settings[key] for key in _CORE if key in settings}),
    )
