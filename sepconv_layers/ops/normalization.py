"""Batch normalization in training, by the kernels in which a backend fuses it."""

import math
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.gradients import with_gradients
from sepconv_layers.ops.per_channel import sum_per_channel


def batch_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any] | None:
    """Normalizes each channel, the last axis, by its mean and variance over all others.

    Keras computes this by a dozen operations on tensors of the size of the input, forward and
    backward. XLA fuses them but for the sums, which it does slowly on a CPU; elsewhere the
    backend's own kernel does the work in one.

    Returns:
        The outputs, the mean and the variance, which are of float32 for half-precision inputs;
        `None` where there is nothing better than Keras.
    """
    backend, dtype = keras.backend.backend(), keras.backend.standardize_dtype(inputs.dtype)
    if dtype not in ("float32", "bfloat16", "float16"):
        return None
    gamma, beta = (keras.ops.cast(vector, "float32") for vector in (gamma, beta))
    if backend == "torch":
        return _torch(inputs, gamma, beta, epsilon)
    inputs = keras.ops.cast(inputs, "float32")  # as Keras does: squares would overflow
    if not context.compiled():
        return _tensorflow(inputs, gamma, beta, epsilon)
    return _xla(inputs, gamma, beta, epsilon) if context.device() == "cpu" else None


def _xla(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
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


def _tensorflow(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    import tensorflow as tf

    shape = tf.shape(inputs)
    channels = inputs.shape[-1]
    images = tf.reshape(inputs, (shape[0], -1, 1, channels))
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        images, gamma, beta, epsilon=epsilon, is_training=True
    )
    # It gives the unbiased estimate, Keras's moving variance is of the batches themselves.
    count = tf.cast(tf.size(images) // channels, variance.dtype)
    outputs = tf.reshape(outputs, shape)
    outputs.set_shape(inputs.shape)
    return outputs, mean, variance * (count - 1) / count


def _torch(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    import torch

    batch, *spatial, channels = inputs.shape
    images = inputs.reshape(batch, math.prod(spatial), 1, channels).permute(0, 3, 1, 2)
    outputs, mean, inverse_deviation = torch.native_batch_norm(
        images, gamma, beta, None, None, True, 0.0, epsilon
    )
    variance = inverse_deviation.detach() ** -2 - epsilon
    return outputs.permute(0, 2, 3, 1).reshape(inputs.shape), mean.detach(), variance
