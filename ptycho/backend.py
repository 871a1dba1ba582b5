"""The only module that asks which Keras backend is in use, and what depends on it."""

import ctypes
import os
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import keras
import numpy as np

_traces: weakref.WeakSet = weakref.WeakSet()
"""Graphs that are freed with an owner, so that each is registered once."""


_computing: set[int] = set()
"""The process that computed first; a forked one inherits it."""


def backend_name() -> str:
    """``tensorflow``, ``jax`` or ``torch``, for records and messages: what depends on the backend belongs here."""
    return keras.backend.backend()


def require_own_threads() -> None:
    """Called before anything is computed; RuntimeError in a process that was forked from one that had computed.

    A fork copies memory, but not the threads of the backend: the copy would wait for them for ever.
    """
    if not _computing:
        _computing.add(os.getpid())
    if os.getpid() not in _computing:
        raise RuntimeError(
            "this process was forked from one in which ptycho had computed, and has none of its threads; start "
            "processes afresh: multiprocessing.get_context('spawn'), or 'forkserver'"
        )


def compiled(function: Callable[..., Any], *, fused: bool = True) -> Callable[..., Any]:
    """Compile a function of arrays on the backend in use; the result owns its traces, which are freed with it.

    TensorFlow and JAX compile with XLA, once for each shape and dtype of the arguments; PyTorch runs the function
    unchanged. Without ``fused`` TensorFlow runs a graph operation by operation, which is ready in half the time and
    then slower, the more so the larger the arrays. The result is differentiable. Every argument is an array: bind
    sizes and options with `functools.partial`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        return tensorflow.function(function, jit_compile=fused, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def free_trace_with(owner: Any) -> None:
    """Call this while ``owner`` is traced: its trace is then freed with it.

    TensorFlow 2.21 stores the gradient of each `tf.custom_gradient` that it traces in a registry of the process, and
    with it the graph of the trace, for ever. Every training step has one (Keras' optimizers reduce gradients over
    replicas by such a function), so each model that is trained and deleted would leak 3 to 15 MB. Removed from the
    registry, these gradients are in ordinary reference cycles with their graph, which the garbage collector frees.
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
    """Remove the custom gradients of a trace from TensorFlow's registry.

    The trace can still be called; only gradients through it that were not traced yet are lost.
    """
    from tensorflow.python.framework import ops

    graph = trace()
    for operation in graph.get_operations() if graph is not None else ():
        if operation.type == "IdentityN":
            try:
                name = operation.get_attr("_gradient_op_type").decode()
            except ValueError:  # an ordinary identity
                continue
            if name.startswith("CustomGradient-"):
                ops.gradient_registry._registry.pop(name, None)  # a Registry has no way to unregister


@cache
def keep_freed_memory() -> None:
    """Let the C library reuse freed memory, as it does by default; done once a process.

    The first generator dataset of a process (Keras feeds batches through one) makes TensorFlow 2.21 set the allocator
    to return all but 128 KB at the end of its heap to the system. Each operation's output then needs fresh pages, and
    mapping them takes half of a training's time. This restores the default after the first dataset. Libraries without
    `mallopt` (musl, macOS) are unaffected.
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
    set_option(mmap_threshold, 1 << 25)  # the largest value that glibc accepts


def jit_compile(enabled: bool) -> bool:
    """The value of Keras' ``jit_compile``: JAX always needs it, PyTorch gains nothing from it here."""
    return {"tensorflow": enabled, "jax": True, "torch": False}[keras.backend.backend()]


def split_over_devices(count: int) -> AbstractContextManager:
    """A context in which Keras replicates models on ``count`` devices and splits batches over them.

    The devices are GPUs where there are any, else (virtual) CPUs. One device needs no context.

    Raises:
        ValueError: there are fewer devices, or Keras has no data-parallel engine for the backend in use.
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
    """Number of replicas that compute a step, each on its shard of the batch.

    More than one with TensorFlow on several devices, where a loss is that of one shard. JAX computes the loss of the
    full batch.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow

    return tensorflow.distribute.get_strategy().num_replicas_in_sync


def shared_out(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """The arrays of a batch as tensors, of which each replica gets its part along the first axis."""
    if replicas() == 1:
        # PyTorch does not mix its tensors with NumPy's arrays, which Keras leaves to a loss as they are.
        return {name: keras.ops.convert_to_tensor(array) for name, array in batch.items()}
    import tensorflow

    def shard(context: Any) -> dict[str, Any]:
        shards = lambda array: np.array_split(array, context.num_replicas_in_sync)
        index = context.replica_id_in_sync_group
        return {name: tensorflow.convert_to_tensor(shards(array)[index]) for name, array in batch.items()}

    return tensorflow.distribute.get_strategy().experimental_distribute_values_from_function(shard)


def summed_over_replicas(values: list[Any]) -> list[Any]:
    """The tensors, summed over the replicas of a step."""
    if replicas() == 1:
        return values
    import tensorflow

    return tensorflow.distribute.get_replica_context().all_reduce("SUM", values)


def make_complex(real: Any, imag: Any) -> Any:
    """``real + i imag``, in one operation (`keras.ops.view_as_complex` would first interleave the two)."""
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
    """Sums ``(count,)`` over the values, real or complex, of each segment.

    `keras.ops.segment_sum` (3.15) drops the imaginary part with PyTorch.
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


def value_and_gradient(
    function: Callable[[dict[str, Any]], tuple[Any, Any]], variables: dict[str, Any]
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """``function(variables)``, a pair (value, auxiliary), and the gradient of the value for each real variable."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        with tensorflow.GradientTape() as tape:
            tape.watch(variables)
            result = function(variables)
        return result, tape.gradient(result[0], variables)
    if backend == "jax":
        import jax

        return jax.value_and_grad(function, has_aux=True)(variables)
    import torch

    with torch.enable_grad():
        variables = {name: value.detach().requires_grad_() for name, value in variables.items()}
        result = function(variables)
        gradients = torch.autograd.grad(result[0], list(variables.values()))
    return result, dict(zip(variables, gradients, strict=True))


@cache
def bfloat16_pays() -> bool:
    """Whether this machine trains convolutions faster in bfloat16 than in float32; timed once a process.

    A processor without bfloat16 instructions is nearly as fast in the forward pass, and eight times slower in the
    gradient.
    """
    ops = keras.ops

    def seconds(dtype: str) -> float:
        variables = dict(image=ops.ones((8, 32, 32, 16), dtype), kernel=ops.ones((3, 3, 16, 16), dtype))

        def convolve(variables: dict[str, Any]) -> tuple[Any, None]:
            image = ops.conv(variables["image"], variables["kernel"], padding="same", data_format="channels_last")
            return ops.sum(ops.cast(image, "float32")), None

        times = []
        for _ in range(4):
            begin = time.perf_counter()
            _, gradients = value_and_gradient(convolve, variables)
            for gradient in gradients.values():
                ops.convert_to_numpy(ops.cast(gradient, "float32"))  # waits for the result
            times.append(time.perf_counter() - begin)
        return min(times[1:])

    return seconds("bfloat16") < seconds("float32")
