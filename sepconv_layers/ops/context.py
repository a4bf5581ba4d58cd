"""Execution context: device, XLA, tracing, the forced lowering, and sizes known while tracing."""

import contextvars
import functools
from collections.abc import Sequence
from typing import Any

import keras

forced: contextvars.ContextVar[str] = contextvars.ContextVar("lowering", default="auto")


def constant_to_dynamo(function: Any) -> Any:
    """Makes PyTorch's compiler call a function while it traces, instead of tracing it.

    Same as `torch.compiler.assume_constant_result`, without an import of PyTorch.
    """
    function._dynamo_marked_constant = True
    return function


@constant_to_dynamo  # which does not support context variables
def forced_lowering() -> str:
    """The name of the lowering that the user forces, or `"auto"`."""
    return forced.get()


@constant_to_dynamo
def device() -> str:
    """The type of device that the backend puts tensors on by default.

    `"cpu"`, `"gpu"` or `"tpu"`; on PyTorch also the name of any other type, such as `"mps"`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow_device()
    if backend == "jax":
        return _jax_device()
    return _torch_device()


@functools.cache
def _tensorflow_device() -> str:
    import tensorflow as tf

    return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"


@functools.cache
def _jax_device() -> str:
    import jax

    return jax.default_backend()


_torch_devices: list[str] = []  # what `_torch_device` found


def _torch_device() -> str:
    """The device of a tensor that Keras creates: it may have chosen another one than PyTorch."""
    if _torch_devices:
        return _torch_devices[0]
    device_type = keras.ops.zeros(()).device.type
    if device_type == "meta":  # Keras infers a shape there, so any kernel will do
        return "cpu"
    _torch_devices.append("gpu" if device_type == "cuda" else device_type)
    return _torch_devices[0]


def compiled() -> bool:
    """Whether XLA compiles the function that is being traced."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.ops import control_flow_util

        graph = tf.compat.v1.get_default_graph()
        return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(graph)
    return backend == "jax"


def traced_by_torch() -> bool:
    """Whether PyTorch is tracing the current function, to compile or to export it."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def known_sizes(sizes: Sequence[Any]) -> tuple[int | None, ...]:
    """Returns sizes, with `None` for each one that may differ between runs of a trace.

    No decision may depend on those: the trace only sees one sample of them. TensorFlow uses `None`
    itself, PyTorch uses tensors (`torch.jit`) or symbols (`torch.export`), and JAX symbols. Where
    PyTorch rewrites the code that it compiles, its symbols pass for integers.
    """
    if keras.backend.backend() == "torch":
        import torch

        if torch.compiler.is_dynamo_compiling():
            from torch.fx.experimental.symbolic_shapes import has_static_value

            return tuple(size if has_static_value(size) else None for size in sizes)
    return tuple(size if isinstance(size, int) else None for size in sizes)


def known_shape(tensor: Any, channel_axis: int) -> tuple[int | None, ...]:
    """The known sizes of a tensor, always including the channels, which the kernel fixes."""
    sizes = list(tensor.shape)
    known = list(known_sizes(sizes))
    for size in sizes[channel_axis:][:1]:  # a tensor of too low a rank is reported by a later check
        if known[channel_axis] is None and size is not None:
            known[channel_axis] = int(size)
    return tuple(known)


def fixed_sizes(sizes: Sequence[Any]) -> tuple[int, ...]:
    """Sizes that never change, such as those of a weight, as integers: `torch.jit` has tensors."""
    return tuple(map(int, sizes))


@functools.cache
def has_onednn() -> bool:
    """Whether the backend runs oneDNN kernels, as it does by default on newer CPUs."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.backends.mkldnn.is_available()
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()
