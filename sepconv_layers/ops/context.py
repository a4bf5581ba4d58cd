"""What is going on: on which kind of device, whether XLA compiles it, and what the user forces."""

import contextvars
import functools
from collections.abc import Sequence
from typing import Any

import keras

forced: contextvars.ContextVar[str] = contextvars.ContextVar("lowering", default="auto")


def forced_lowering() -> str:
    """The name of the lowering that the user forces here, or `"auto"`."""
    return forced.get()


# As `torch.compiler.assume_constant_result` does: PyTorch's compiler follows no context variables.
forced_lowering._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def device() -> str:
    """The kind of device that the backend puts tensors on by default: `"cpu"`, `"gpu"`, `"tpu"`."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
    if backend == "jax":
        import jax

        return jax.default_backend()
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def compiled() -> bool:
    """Whether XLA compiles what is being traced now."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.ops import control_flow_util

        graph = tf.compat.v1.get_default_graph()
        return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(graph)
    return backend == "jax"


def traced_by_torch() -> bool:
    """Whether PyTorch traces what runs now, to compile or to export it."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def known_sizes(sizes: Sequence[Any]) -> tuple[int | None, ...]:
    """Sizes, with `None` for those that may differ in later runs of what is being traced.

    No decision may depend on those: the trace only sees a sample of them. TensorFlow gives
    `None` itself, PyTorch tensors (`torch.jit`) or symbols (`torch.export`), JAX symbols. Where
    PyTorch rewrites the code that it compiles, its symbols pass for integers.
    """
    if keras.backend.backend() == "torch":
        import torch

        if torch.compiler.is_dynamo_compiling():
            from torch.fx.experimental.symbolic_shapes import has_static_value

            return tuple(size if has_static_value(size) else None for size in sizes)
    return tuple(size if isinstance(size, int) else None for size in sizes)


def known_shape(tensor: Any, channel_axis: int) -> tuple[int | None, ...]:
    """The known sizes of a tensor, always with its channels, which the kernel fixes."""
    sizes = list(tensor.shape)
    known = list(known_sizes(sizes))
    for size in sizes[channel_axis:][:1]:  # too few axes may have none, for a check to name
        if known[channel_axis] is None and size is not None:
            known[channel_axis] = int(size)
    return tuple(known)


def fixed_sizes(sizes: Sequence[Any]) -> tuple[int, ...]:
    """Sizes that never change, such as a weight's, as integers: `torch.jit` has tensors."""
    return tuple(map(int, sizes))


@functools.cache
def has_onednn() -> bool:
    """Whether the backend runs the kernels of oneDNN, as it does by default on newer CPUs."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.backends.mkldnn.is_available()
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()
