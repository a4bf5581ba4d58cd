"""Depthwise-separable convolution layers."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.initializers import DepthwiseVarianceScaling
from sepconv_layers.layers.base import BaseConv, channels_of
from sepconv_layers.ops import operations


class SeparableConv(BaseConv):
    """A depthwise convolution followed by a pointwise one that mixes the channels.

    Use it in place of a standard convolution: it needs `1/filters + 1/prod(kernel_size)` of the
    multiply-accumulates. It is a drop-in replacement for the `keras.layers` class of the same name:
    same arguments, same weights. In addition, it supports causal padding, strides combined with
    dilation, and a depthwise initializer with the correct fan-in, and it runs in the fastest form
    that the backend has.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the depthwise kernel: one integer, or one per spatial dimension.
        strides: Stride of the convolution: one integer, or one per spatial dimension.
        padding: `"valid"`, `"same"` or `"causal"` (the first spatial dimension is time).
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        dilation_rate: Spacing between kernel elements, in input positions.
        depth_multiplier: Number of depthwise output channels per input channel.
        activation: Activation function or its name.
        use_bias: Whether to add a bias to each output channel.
        depthwise_initializer: Initializer of the depthwise kernel; defaults to
            `DepthwiseVarianceScaling()`.
        pointwise_initializer: Initializer of the pointwise kernel.
        bias_initializer: Initializer of the bias.
        depthwise_regularizer: Regularizer of the depthwise kernel.
        pointwise_regularizer: Regularizer of the pointwise kernel.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        depthwise_constraint: Constraint on the depthwise kernel.
        pointwise_constraint: Constraint on the pointwise kernel.
        bias_constraint: Constraint on the bias.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for channels first.

    Output shape:
        `(batch, *new_spatial, filters)`, or `(batch, filters, *new_spatial)` for channels first.

    Raises:
        ValueError: If an argument is invalid, the input does not have the rank or the number of
            channels of the layer, or the output would be empty.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import SeparableConv3D
        >>> layer = SeparableConv3D(16, 3, padding="same", activation="relu")
        >>> tuple(layer(np.ones((1, 4, 6, 8, 3), "float32")).shape)
        (1, 4, 6, 8, 16)

    Reference:
        [Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2017](
        https://arxiv.org/abs/1610.02357).
    """

    _operation: type[operations.Conv] = operations.SeparableConv

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = None,
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            {
                "depthwise_initializer": depthwise_initializer or DepthwiseVarianceScaling(),
                "pointwise_initializer": pointwise_initializer,
                "bias_initializer": bias_initializer,
                "depthwise_regularizer": depthwise_regularizer,
                "pointwise_regularizer": pointwise_regularizer,
                "bias_regularizer": bias_regularizer,
                "depthwise_constraint": depthwise_constraint,
                "pointwise_constraint": pointwise_constraint,
                "bias_constraint": bias_constraint,
            },
            activity_regularizer,
            **kwargs,
        )
        self.filters = positive_int(filters, "filters")
        self.depth_multiplier = positive_int(depth_multiplier, "depth_multiplier")

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.compute_output_shape(input_shape)
        channels = channels_of(self, input_shape)
        self.depthwise_kernel = self._add_weight(
            "depthwise_kernel", (*self.kernel_size, channels, self.depth_multiplier), "depthwise"
        )
        self.pointwise_kernel = self._add_weight(
            "pointwise_kernel",
            (*(1,) * self.rank, channels * self.depth_multiplier, self.filters),
            "pointwise",
        )
        self._finish_build(input_shape, self.filters)

    def _convolve(self, inputs: Any, scale: Any, bias: Any) -> Any:
        pointwise = self.pointwise_kernel if scale is None else self.pointwise_kernel * scale
        tensors = (inputs, self.depthwise_kernel, pointwise)
        return self._run(self._operation, tensors, bias)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        channels_of(self, input_shape)
        return self._output_shape(input_shape, self.filters)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "depth_multiplier": self.depth_multiplier,
        }


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConv1D(SeparableConv):
    """`SeparableConv` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConv2D(SeparableConv):
    """`SeparableConv` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConv3D(SeparableConv):
    """`SeparableConv` for volumes and clips: `(batch, depth, height, width, channels)`."""

    rank = 3
