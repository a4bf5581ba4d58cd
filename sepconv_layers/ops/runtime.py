"""What is going on: on which kind of device, whether XLA compiles it, and what the user forces."""

import contextvars
import functools

import keras

forced: contextvars.ContextVar[str] = contextvars.ContextVar("lowering", default="auto")


def forced_lowering() -> str:
    """The name of the lowering that the user forces here, or `"auto"`."""
    return forced.get()


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


@functools.cache
def has_onednn() -> bool:
    """Whether the backend runs the kernels of oneDNN, as it does by default on newer CPUs."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.backends.mkldnn.is_available()
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()
