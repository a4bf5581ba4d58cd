"""Batch normalization in training, with the fused kernels of the backends."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.ops import context, on_tensorflow, on_torch
from sepconv_layers.ops.gradients import with_gradients
from sepconv_layers.ops.taps import sum_per_channel


def batch_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any] | None:
    """Normalizes each channel, the last axis, by its mean and variance over all others.

    Keras computes this with a dozen operations on tensors of the size of the input, forward and
    backward. XLA fuses them except for the sums, which it computes slowly on a CPU. Elsewhere, one
    kernel of the backend does the work.

    Returns:
        The outputs, the mean and the variance, in float32 for half-precision inputs, or `None`
        where Keras is at least as fast.
    """
    backend, dtype = keras.backend.backend(), keras.backend.standardize_dtype(inputs.dtype)
    if dtype not in ("float32", "bfloat16", "float16"):
        return None
    gamma, beta = (keras.ops.cast(vector, "float32") for vector in (gamma, beta))
    if backend == "torch":
        return on_torch.batch_norm(inputs, gamma, beta, epsilon)
    inputs = keras.ops.cast(inputs, "float32")  # as Keras does: squares would overflow
    if not context.compiled():
        return on_tensorflow.batch_norm(inputs, gamma, beta, epsilon)
    return _with_xla(inputs, gamma, beta, epsilon) if context.device() == "cpu" else None


def _with_xla(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    ops, axis = keras.ops, len(inputs.shape) - 1

    def share() -> Any:
        count = ops.cast(math.prod(ops.shape(inputs)[:-1]), "float32")
        return 1 / ops.maximum(count, 1)

    def moments(inputs: Any) -> tuple[Any, Any]:
        mean = sum_per_channel(inputs, axis) * share()
        return mean, sum_per_channel(ops.square(inputs - mean), axis) * share()

    def normalized(inputs: Any) -> tuple[Any, Any]:
        mean, variance = moments(inputs)
        scale = ops.rsqrt(variance + epsilon)
        return (inputs - mean) * scale, scale

    def normalize(inputs: Any, gamma: Any, beta: Any) -> Any:
        normal, _ = normalized(inputs)
        return normal * gamma + beta

    def gradients(inputs: Any, gamma: Any, beta: Any, upstream: Any) -> tuple:
        normal, scale = normalized(inputs)
        to_beta = sum_per_channel(upstream, axis)
        to_gamma = sum_per_channel(upstream * normal, axis)
        to_inputs = gamma * scale * (upstream - share() * (to_beta + normal * to_gamma))
        return to_inputs, to_gamma, to_beta

    return with_gradients(normalize, gradients)(inputs, gamma, beta), *moments(inputs)


def moments_over_replicas(inputs: Any, axes: Sequence[int], mask: Any) -> tuple[Any, Any]:
    """Mean and variance of each channel over all replicas.

    Args:
        inputs: The inputs of this replica. Their number may differ between replicas.
        axes: All axes but that of the channels.
        mask: What counts, as a boolean tensor without the last axis; or `None` for everything.
    """
    ops = keras.ops
    weights = ops.ones_like(inputs)
    if mask is not None:
        weights *= ops.cast(ops.expand_dims(mask, axis=-1), inputs.dtype)
    count = ops.maximum(sum_over_replicas(ops.sum(weights, axes, keepdims=True)), 1)
    mean = sum_over_replicas(ops.sum(inputs * weights, axes, keepdims=True)) / count
    squares = weights * ops.square(inputs - mean)
    variance = sum_over_replicas(ops.sum(squares, axes, keepdims=True)) / count
    return ops.squeeze(mean, axes), ops.squeeze(variance, axes)


def sum_over_replicas(values: Any) -> Any:
    """The sum of a tensor over all replicas that compute the same; gradients pass through it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, values) if replica else values
    if keras.backend.backend() == "torch":
        return on_torch.sum_over_processes(values)
    return values
