"""The one place that asks which Keras backend is in use."""

from collections.abc import Callable
from typing import Any

import keras  # noqa: TID253


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays on the backend in use; the result owns its traces and frees them with itself.

    TensorFlow and JAX compile with XLA, once per shape and dtype of the arguments; PyTorch runs the function as it
    is, without recording gradients. Every argument is an array: bind sizes and options with `functools.partial`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        return tensorflow.function(function, jit_compile=True, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    import torch

    return torch.no_grad()(function)
