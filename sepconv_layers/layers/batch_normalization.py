"""Batch normalization that is cheap even next to a separable convolution."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sepconv_layers.layers.stateful import Stateful
from sepconv_layers.ops import context
from sepconv_layers.ops.normalization import (
    batch_norm,
    moments_over_replicas,
    sum_over_replicas,
)


@keras.saving.register_keras_serializable("sepconv_layers")
class BatchNormalization(Stateful, keras.layers.BatchNormalization):
    """Batch normalization that trains with the backend's fused kernel.

    A drop-in for `keras.layers.BatchNormalization`: same arguments, weights, statistics and
    outputs. Next to a separable convolution, which has few multiplications, the many small
    operations of Keras's training step take most of the time. On TensorFlow without XLA and on
    PyTorch, this layer runs one kernel instead. With XLA on a CPU, it sums in a form that XLA
    vectorizes. At inference, the blocks fold it into the convolution before it.

    Args:
        *args: As for `keras.layers.BatchNormalization`.
        synchronized: Whether to normalize by the statistics of all replicas together: those of a
            `tf.distribute.Strategy`, or the processes of `torch.distributed`. On JAX, a batch over
            several devices is one array, so they always are. Otherwise each replica normalizes its
            share by itself and, on PyTorch, has moving statistics of its own.
        **kwargs: As for `keras.layers.BatchNormalization`.

    Input shape:
        Any, with channels in `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: As `keras.layers.BatchNormalization` does.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import BatchNormalization
        >>> layer = BatchNormalization(momentum=0.9)
        >>> y = layer(np.arange(12, dtype="float32").reshape(2, 3, 2), training=True)
        >>> bool(abs(np.mean(y)) < 1e-6)
        True

    Reference:
        [Ioffe and Szegedy, "Batch Normalization", 2015](https://arxiv.org/abs/1502.03167).
    """

    # What `*args` stands for.
    __signature__ = inspect.signature(keras.layers.BatchNormalization)

    def __init__(self, *args: Any, synchronized: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.synchronized = synchronized  # which Keras takes on TensorFlow alone

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None, is_applied: bool = False
    ) -> Any:
        if is_applied:  # by the convolution before it, with `scale_and_shift`
            return inputs
        fused = None
        if training and mask is None and self.sums_up(inputs):
            fused = batch_norm(inputs, *self.gamma_and_beta(), self.epsilon)
        if fused is None:
            return self._call_of_keras(inputs, training, mask)
        outputs, *moments = fused
        self.follow(moments, inputs)
        return keras.ops.cast(outputs, self.compute_dtype)

    def sums_up(self, inputs: Any) -> bool:
        """Whether training normalizes by nothing but mean and variance of the last axis."""
        is_last = self.axis in (-1, len(inputs.shape) - 1)
        is_plain = not self.synchronized
        is_plain = is_plain and not getattr(self, "renorm", False)  # which older Keras lacks
        is_plain = is_plain and 0 not in context.known_sizes(inputs.shape)
        return bool(self.trainable) and is_last and is_plain

    def gamma_and_beta(self) -> tuple[Any, Any]:
        """Scale and shift in training, of each channel."""
        shape = self.moving_mean.shape
        gamma = self.gamma if self.scale else keras.ops.ones(shape)
        return gamma, self.beta if self.center else keras.ops.zeros(shape)

    def follow(self, moments: Sequence[Any], inputs: Any) -> None:
        """Moves the moving averages towards the moments of a batch."""
        moving_moments = (self.moving_mean, self.moving_variance)
        for moving, now in zip(
            moving_moments, self._or_kept(moments, moving_moments, inputs, None), strict=True
        ):
            before = keras.ops.cast(moving, now.dtype)
            moving.assign(before + (now - before) * (1.0 - self.momentum))

    def _call_of_keras(self, inputs: Any, training: bool | None, mask: Any) -> Any:
        renorms = training and self.trainable and getattr(self, "renorm", False)
        weights = self.non_trainable_variables if renorms else []  # which Keras also updates
        kept = [keras.ops.copy(weight.value) for weight in weights]
        outputs = super().call(inputs, training=training, mask=mask)
        now = [weight.value for weight in weights]
        for weight, value in zip(weights, self._or_kept(now, kept, inputs, mask), strict=True):
            weight.assign(value)
        return outputs

    def _moments(self, inputs: Any, mask: Any) -> Any:
        moving = (self.moving_mean, self.moving_variance)
        if self.synchronized:
            values = moments_over_replicas(inputs, self._reduction_axes, mask)
        else:
            values = super()._moments(inputs, mask)
        return self._or_kept(values, moving, inputs, mask)

    def _or_kept(
        self, values: Sequence[Any], kept: Sequence[Any], inputs: Any, mask: Any
    ) -> Sequence[Any]:
        """Returns the values of a batch, or the old ones if it is empty or entirely masked.

        A replica may get no samples of the last batch in an epoch. If the sizes are unknown, this
        is decided when the graph runs.
        """
        sizes = [size for i, size in enumerate(inputs.shape) if i != self.axis % len(inputs.shape)]
        if mask is None and 0 not in sizes and None not in context.known_sizes(sizes):
            return values
        if mask is None:
            count = keras.ops.cast(math.prod(keras.ops.shape(inputs)), "float32")
        else:
            count = keras.ops.sum(keras.ops.cast(mask, "float32"))
        if self.synchronized:
            count = sum_over_replicas(count)
        return [
            keras.ops.where(count > 0, now, keras.ops.cast(before, now.dtype))
            for now, before in zip(values, kept, strict=True)
        ]

    def scale_and_shift(self) -> tuple[Any, Any]:
        """Per-channel scale and shift used at inference."""
        return scale_and_shift(self, lambda weight: weight.value)


def scale_and_shift(norm: Any, read: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Per-channel scale and shift that a batch normalization uses at inference.

    Args:
        norm: A batch normalization of this package or of Keras.
        read: Returns the value of a weight, as a tensor or as an array.
    """
    scale = (read(norm.moving_variance) + norm.epsilon) ** -0.5
    if norm.gamma is not None:
        scale = scale * read(norm.gamma)
    shift = -read(norm.moving_mean) * scale
    return scale, shift if norm.beta is None else shift + read(norm.beta)
