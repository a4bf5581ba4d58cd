"""Standard convolution layers: the pointwise step of blocks, and the spatial one of twins."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.layers.base import BaseConv, channels_of
from sepconv_layers.ops import operations


class Conv(BaseConv):
    """A standard convolution with all options of the separable one, for fair comparisons.

    Arguments and weights are those of the `keras.layers` class of the same name. In addition, it
    supports causal padding in any rank, strides combined with dilation, and `groups` on every
    backend in training. A pointwise convolution (kernel size 1) is computed as a matrix product.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the kernel: one integer, or one per spatial dimension.
        strides: Stride of the convolution: one integer, or one per spatial dimension.
        padding: `"valid"`, `"same"` or `"causal"` (the first spatial dimension is time).
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        dilation_rate: Spacing between kernel elements, in input positions.
        groups: Number of groups of channels, each with its own filters.
        activation: Activation function or its name.
        use_bias: Whether to add a bias to each output channel.
        kernel_initializer: Initializer of the kernel.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Regularizer of the kernel.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        kernel_constraint: Constraint on the kernel.
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
        >>> from sepconv_layers import Conv1D
        >>> layer = Conv1D(16, 3, strides=2, dilation_rate=2, padding="causal")
        >>> tuple(layer(np.ones((1, 20, 3), "float32")).shape)
        (1, 10, 16)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
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
                "kernel_initializer": kernel_initializer,
                "bias_initializer": bias_initializer,
                "kernel_regularizer": kernel_regularizer,
                "bias_regularizer": bias_regularizer,
                "kernel_constraint": kernel_constraint,
                "bias_constraint": bias_constraint,
            },
            activity_regularizer,
            **kwargs,
        )
        self.filters = positive_int(filters, "filters")
        self.groups = positive_int(groups, "groups")
        if self.filters % self.groups:
            raise ValueError(
                "The number of filters must be evenly divisible by the number of groups. "
                f"Received: groups={self.groups}, filters={self.filters}."
            )

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.compute_output_shape(input_shape)
        channels = channels_of(self, input_shape)
        if channels % self.groups:
            raise ValueError(
                "The number of input channels must be evenly divisible by the number of groups. "
                f"Received: groups={self.groups}, input_shape={tuple(input_shape)} with {channels} "
                "channels."
            )
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        self.kernel = self._add_weight("kernel", shape, "kernel")
        self._finish_build(input_shape, self.filters)

    def _convolve(self, inputs: Any, scale: Any, bias: Any) -> Any:
        kernel = self.kernel if scale is None else self.kernel * scale
        return self._run(operations.Conv, (inputs, kernel), bias)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        channels_of(self, input_shape)
        return self._output_shape(input_shape, self.filters)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "groups": self.groups}


@keras.saving.register_keras_serializable("sepconv_layers")
class Conv1D(Conv):
    """`Conv` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class Conv2D(Conv):
    """`Conv` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class Conv3D(Conv):
    """`Conv` for volumes and clips: `(batch, depth, height, width, channels)`."""

    rank = 3
