"""Depthwise convolution layers."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.initializers import DepthwiseVarianceScaling
from sepconv_layers.layers.base import BaseConv, channels_of
from sepconv_layers.ops import operations


class DepthwiseConv(BaseConv):
    """Convolves each channel with its own `depth_multiplier` kernels.

    A drop-in replacement for the `keras.layers` class of the same name: same arguments, same
    weights. In addition, it supports causal padding, strides combined with dilation, and an
    initializer with the correct fan-in, and it runs in the fastest form that the backend has.

    Args:
        kernel_size: Size of the kernel: one integer, or one per spatial dimension.
        strides: Stride of the convolution: one integer, or one per spatial dimension.
        padding: `"valid"`, `"same"` or `"causal"` (the first spatial dimension is time).
        depth_multiplier: Number of output channels per input channel.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        dilation_rate: Spacing between kernel elements, in input positions.
        activation: Activation function or its name.
        use_bias: Whether to add a bias to each output channel.
        depthwise_initializer: Initializer of the kernel; defaults to `DepthwiseVarianceScaling()`.
        bias_initializer: Initializer of the bias.
        depthwise_regularizer: Regularizer of the kernel.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        depthwise_constraint: Constraint on the kernel.
        bias_constraint: Constraint on the bias.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for channels first.

    Output shape:
        `(batch, *new_spatial, channels * depth_multiplier)`, or with the channels in axis 1 for
        channels first.

    Raises:
        ValueError: If an argument is invalid, the input does not have the rank or the number of
            channels of the layer, or the output would be empty.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import DepthwiseConv2D
        >>> layer = DepthwiseConv2D(3, strides=(2, 1), padding="same", depth_multiplier=2)
        >>> tuple(layer(np.ones((1, 8, 6, 4), "float32")).shape)
        (1, 4, 6, 8)

    Reference:
        [Sifre, "Rigid-motion scattering for image classification", 2014](
        https://arxiv.org/abs/1403.1687).
    """

    _operation: type[operations.Conv] = operations.DepthwiseConv

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = None,
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
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
                "bias_initializer": bias_initializer,
                "depthwise_regularizer": depthwise_regularizer,
                "bias_regularizer": bias_regularizer,
                "depthwise_constraint": depthwise_constraint,
                "bias_constraint": bias_constraint,
            },
            activity_regularizer,
            **kwargs,
        )
        self.depth_multiplier = positive_int(depth_multiplier, "depth_multiplier")

    def build(self, input_shape: Sequence[int | None]) -> None:
        filters = self.compute_output_shape(input_shape)[self.geometry.channel_axis]
        shape = (*self.kernel_size, channels_of(self, input_shape), self.depth_multiplier)
        self.kernel = self._add_weight("kernel", shape, "depthwise")
        self._finish_build(input_shape, filters)

    def _convolve(self, inputs: Any, scale: Any, bias: Any) -> Any:
        kernel = self.kernel
        if scale is not None:
            kernel = kernel * keras.ops.reshape(scale, kernel.shape[-2:])
        return self._run(self._operation, (inputs, kernel), bias)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        filters = channels_of(self, input_shape) * self.depth_multiplier
        return self._output_shape(input_shape, filters)

    def get_config(self) -> dict:
        return {**super().get_config(), "depth_multiplier": self.depth_multiplier}


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseConv1D(DepthwiseConv):
    """`DepthwiseConv` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseConv2D(DepthwiseConv):
    """`DepthwiseConv` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseConv3D(DepthwiseConv):
    """`DepthwiseConv` for volumes and clips: `(batch, depth, height, width, channels)`."""

    rank = 3
