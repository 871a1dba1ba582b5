"""The one place that asks which Keras backend is in use."""

import ctypes
import os
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import keras

_traces: weakref.WeakSet = weakref.WeakSet()
"""Graphs that have an owner: only to know them again, not to keep them."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays on the backend in use; the result owns its traces and frees them with itself.

    TensorFlow and JAX compile with XLA, once per shape and dtype of the arguments; PyTorch runs the function as it
    is. Differentiable. Every argument is an array: bind sizes and options with `functools.partial`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        return tensorflow.function(function, jit_compile=True, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def free_trace_with(owner: Any) -> None:
    """Called while ``owner`` is being traced: the trace can be freed when its owner is.

    TensorFlow 2.21 keeps the gradient of each `tf.custom_gradient` it traces in a registry of the process, for ever,
    and with it the graph it was traced in. Every training step has one (Keras' optimizers reduce gradients over
    replicas by such a function), so each trained and deleted model would cost 3 to 15 MB. Taken out of the registry,
    they are in plain cycles with their graph: that is freed once nobody can call it.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow
    from tensorflow.python.framework import func_graph

    graph = tensorflow.compat.v1.get_default_graph()
    while isinstance(graph, func_graph.FuncGraph) and graph not in _traces:
        _traces.add(graph)
        weakref.finalize(owner, _forget_gradients, weakref.ref(graph)).atexit = False
        graph = graph.outer_graph


def _forget_gradients(trace: weakref.ref) -> None:
    """Take the custom gradients that were registered in a trace out of TensorFlow's registry.

    The trace can still be called; only a gradient through it that nobody has asked for yet is lost.
    """
    from tensorflow.python.framework import ops

    graph = trace()
    for operation in graph.get_operations() if graph is not None else ():
        if operation.type == "IdentityN":
            try:
                name = operation.get_attr("_gradient_op_type").decode()
            except ValueError:  # an ordinary one
                continue
            if name.startswith("CustomGradient-"):
                ops.gradient_registry._registry.pop(name, None)  # a Registry has no way to unregister


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is asked for next, as it does by itself; once a process.

    The first generator dataset of a process (Keras feeds batches through one) makes TensorFlow 2.21 set the allocator
    to give back all but 128 KB at the end of its heap. Each operation's output then comes as fresh pages of the
    system, and half of a training goes into mapping them. Set back after the first dataset; libraries without
    `mallopt` (musl has none, nor macOS) are left as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if keras.backend.backend() != "tensorflow" or set_option is None:
        return
    import tensorflow

    signature = tensorflow.TensorSpec((), "int32")
    for _ in tensorflow.data.Dataset.from_generator(lambda: iter([0]), output_signature=signature):
        pass
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    set_option(trim_threshold, 1 << 30)
    set_option(mmap_threshold, 1 << 25)  # the most that glibc takes


def jit_compile(wanted: bool) -> bool:
    """What to pass to Keras as ``jit_compile``: JAX is useless without, PyTorch gains nothing from it here."""
    return {"tensorflow": wanted, "jax": True, "torch": False}[keras.backend.backend()]


def split_over_devices(count: int) -> AbstractContextManager:
    """Within it, Keras keeps what is built on each of ``count`` devices, and splits the batches over them.

    GPUs where there are any, else (virtual) CPUs; with one device nothing changes.

    Raises:
        ValueError: there are not so many, or Keras has no such engine for the backend in use.
    """
    if count == 1:
        return nullcontext()
    backend = keras.backend.backend()
    if backend == "torch":
        raise ValueError(
            f"training.devices is {count}, and Keras has no data-parallel engine for PyTorch: set KERAS_BACKEND to "
            "tensorflow or jax, or train on one device"
        )
    if backend == "tensorflow":
        import tensorflow

        kinds = (tensorflow.config.list_logical_devices(kind) for kind in ("GPU", "CPU"))
        names = [device.name for device in next(filter(None, kinds))]
    else:
        names = keras.distribution.list_devices()
    if len(names) < count:
        raise ValueError(f"training.devices is {count}, and {backend} sees {len(names)} here: {', '.join(names)}")
    if backend == "tensorflow":
        return tensorflow.distribute.MirroredStrategy(names[:count]).scope()
    return keras.distribution.DataParallel(devices=names[:count], auto_shard_dataset=False).scope()


def replicas() -> int:
    """How often a step is computed side by side, each time on its part of the batch.

    So it is with TensorFlow on several devices: a loss is that of one part. JAX sees the whole batch on all of them.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow

    return tensorflow.distribute.get_strategy().num_replicas_in_sync


def summed_over_replicas(values: list[Any]) -> list[Any]:
    """Each value, a tensor, added up over the replicas of a step."""
    if replicas() == 1:
        return values
    import tensorflow

    return tensorflow.distribute.get_replica_context().all_reduce("SUM", values)


def make_complex(real: Any, imag: Any) -> Any:
    """``real + i imag``, in one operation (`keras.ops.view_as_complex` would interleave the parts first)."""
    backend = keras.backend.backend()
    real, imag = keras.ops.convert_to_tensor(real), keras.ops.convert_to_tensor(imag)
    if backend == "tensorflow":
        import tensorflow

        return tensorflow.complex(real, imag)
    if backend == "jax":
        import jax

        return jax.lax.complex(real, imag)
    import torch

    return torch.complex(real, imag)


def segment_sum(values: Any, segments: Any, count: int) -> Any:
    """Sums ``(count,)`` of the values with the same number of a segment, complex ones too.

    `keras.ops.segment_sum` (3.15) leaves out the imaginary part with PyTorch.
    """
    values, segments = keras.ops.convert_to_tensor(values), keras.ops.convert_to_tensor(segments)
    if keras.backend.backend() == "torch":
        import torch

        return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, segments, values)
    return keras.ops.segment_sum(values, segments, num_segments=count)


def fft2(wave: Any) -> Any:
    """The 2-D DFT over the last two axes, unscaled, zero frequency first: complex to complex in one operation."""
    return _fft(wave, "fft2d", "fft2")


def ifft2(wave: Any) -> Any:
    """Inverse of `fft2`."""
    return _fft(wave, "ifft2d", "ifft2")


def _fft(wave: Any, tensorflow_name: str, name: str) -> Any:
    backend = keras.backend.backend()
    wave = keras.ops.convert_to_tensor(wave)
    if backend == "tensorflow":
        import tensorflow

        return getattr(tensorflow.signal, tensorflow_name)(wave)
    if backend == "jax":
        import jax

        return getattr(jax.numpy.fft, name)(wave)
    import torch

    return getattr(torch.fft, name)(wave)


def value_and_gradient(function: Callable[[Any], tuple[Any, Any]], parts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """``function(parts)``, which is ``(value, more)``, and the gradient of the value by each of the real parts."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        with tensorflow.GradientTape() as tape:
            tape.watch(parts)
            found = function(parts)
        return found, tape.gradient(found[0], parts)
    if backend == "jax":
        import jax

        return jax.value_and_grad(function, has_aux=True)(parts)
    import torch

    with torch.enable_grad():
        parts = {name: part.detach().requires_grad_() for name, part in parts.items()}
        found = function(parts)
        slopes = torch.autograd.grad(found[0], list(parts.values()))
    return found, dict(zip(parts, slopes, strict=True))


@cache
def bfloat16_pays() -> bool:
    """Whether this machine trains convolutions faster in bfloat16 than in float32: timed once a process.

    A processor without instructions for it is nearly as fast forwards, and takes eight times as long for the gradient.
    """
    ops = keras.ops

    def seconds(dtype: str) -> float:
        parts = dict(image=ops.ones((8, 32, 32, 16), dtype), window=ops.ones((3, 3, 16, 16), dtype))

        def convolved(parts: dict[str, Any]) -> tuple[Any, None]:
            found = ops.conv(parts["image"], parts["window"], padding="same", data_format="channels_last")
            return ops.sum(ops.cast(found, "float32")), None

        times = []
        for _ in range(4):
            begin = time.perf_counter()
            _, slopes = value_and_gradient(convolved, parts)
            for slope in slopes.values():
                ops.convert_to_numpy(ops.cast(slope, "float32"))  # wait for it
            times.append(time.perf_counter() - begin)
        return min(times[1:])

    return seconds("bfloat16") < seconds("float32")
