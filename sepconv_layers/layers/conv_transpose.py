"""Transposed depthwise and separable convolution layers, which enlarge their input."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.layers.base import BaseConv
from sepconv_layers.layers.depthwise_conv import DepthwiseConv
from sepconv_layers.layers.separable_conv import SeparableConv
from sepconv_layers.ops import operations
from sepconv_layers.ops.geometry import standardize_output_padding
from sepconv_layers.ops.transposed import output_shape


class Transposed(BaseConv):
    """What is transposed about a layer, before the class that it is a transposed form of."""

    def __init__(self, *args: Any, output_padding: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.output_padding = standardize_output_padding(output_padding, self.strides)

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "output_padding": self.output_padding}

    def _output_shape(self, input_shape: Sequence[int | None], filters: int) -> tuple:
        return output_shape(input_shape, filters, self.geometry, self.output_padding)


class DepthwiseConvTranspose(Transposed, DepthwiseConv):
    """Enlarges each channel by its own `depth_multiplier` kernels.

    The transposed form of `DepthwiseConv`, for decoders and generators, where `Conv2DTranspose`
    would mix all channels. Arguments are those of `keras.layers.Conv2DTranspose` and
    `keras.layers.DepthwiseConv2D`. No multiplication by the zeros between inputs is done.

    Args:
        kernel_size: Size of the kernel, for all or for each spatial dimension.
        strides: How much larger the output is, for all or for each dimension.
        padding: `"valid"`, `"same"` (the output has `strides` times the size of the input), or
            `"causal"` (that size, and no output in the first spatial dimension, which is time,
            depends on a later input).
        output_padding: How much longer the output is than the shortest one, for all or for each
            dimension, and less than the stride; by default such that the sizes are as above.
        depth_multiplier: Number of output channels for each input channel.
        data_format: `"channels_last"` or `"channels_first"`; by default the Keras configuration's.
        dilation_rate: Step between kernel elements, in output positions.
        activation: Activation function, or its name.
        use_bias: Whether to add a bias to each output channel.
        depthwise_initializer: Initializer of the kernel; by default `DepthwiseVarianceScaling()`.
        bias_initializer: Initializer of the bias.
        depthwise_regularizer: Regularizer of the kernel.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        depthwise_constraint: Constraint on the kernel.
        bias_constraint: Constraint on the bias.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for channels first.

    Output shape:
        `(batch, *new_spatial, channels * depth_multiplier)`, or the same for channels first. A new
        size is `strides * size` with `"same"` and `"causal"`, and
        `strides * (size - 1) + max(extent, strides)` with `"valid"`, where the dilated kernel
        extends over `dilation_rate * (kernel_size - 1) + 1` outputs.

    Raises:
        ValueError: If an argument is not of the kind described, the input has another rank or
            number of channels than the layer, or the output would be empty.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import DepthwiseConv2DTranspose
        >>> layer = DepthwiseConv2DTranspose(3, strides=2, padding="same")
        >>> tuple(layer(np.ones((1, 8, 6, 4), "float32")).shape)
        (1, 16, 12, 4)

    Reference:
        [Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016](
        https://arxiv.org/abs/1603.07285).
    """

    _operation = operations.DepthwiseConvTranspose

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
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
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            output_padding=output_padding,
            **kwargs,
        )


class SeparableConvTranspose(Transposed, SeparableConv):
    """Enlarges each channel by its own kernels, then mixes channels.

    The transposed form of `SeparableConv`, for decoders and generators: `Conv2DTranspose` in two
    factors. Arguments are those of `keras.layers.Conv2DTranspose` and
    `keras.layers.SeparableConv2D`.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the depthwise kernel, for all or for each spatial dimension.
        strides: How much larger the output is, for all or for each dimension.
        padding: `"valid"`, `"same"` (the output has `strides` times the size of the input), or
            `"causal"` (that size, and no output in the first spatial dimension, which is time,
            depends on a later input).
        output_padding: How much longer the output is than the shortest one, for all or for each
            dimension, and less than the stride; by default such that the sizes are as above.
        data_format: `"channels_last"` or `"channels_first"`; by default the Keras configuration's.
        dilation_rate: Step between kernel elements, in output positions.
        depth_multiplier: Number of depthwise outputs for each input channel.
        activation: Activation function of the output, or its name.
        use_bias: Whether to add a bias to each output channel.
        depthwise_initializer: Initializer of the depthwise kernel; by default
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
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for channels first.

    Output shape:
        `(batch, *new_spatial, filters)`, or `(batch, filters, *new_spatial)` for channels first,
        with the sizes of `DepthwiseConvTranspose`.

    Raises:
        ValueError: If an argument is not of the kind described, the input has another rank or
            number of channels than the layer, or the output would be empty.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import SeparableConv3DTranspose
        >>> layer = SeparableConv3DTranspose(8, 3, strides=(1, 2, 2), padding="same")
        >>> tuple(layer(np.ones((1, 4, 6, 5, 16), "float32")).shape)
        (1, 4, 12, 10, 8)
    """

    _operation = operations.SeparableConvTranspose

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
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
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            depth_multiplier=depth_multiplier,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            pointwise_initializer=pointwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            pointwise_regularizer=pointwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            pointwise_constraint=pointwise_constraint,
            bias_constraint=bias_constraint,
            output_padding=output_padding,
            **kwargs,
        )


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseConv1DTranspose(DepthwiseConvTranspose):
    """`DepthwiseConvTranspose` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseConv2DTranspose(DepthwiseConvTranspose):
    """`DepthwiseConvTranspose` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseConv3DTranspose(DepthwiseConvTranspose):
    """`DepthwiseConvTranspose` for volumes and clips: `(batch, depth, height, width, channels)`."""

    rank = 3


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConv1DTranspose(SeparableConvTranspose):
    """`SeparableConvTranspose` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConv2DTranspose(SeparableConvTranspose):
    """`SeparableConvTranspose` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConv3DTranspose(SeparableConvTranspose):
    """`SeparableConvTranspose` for volumes and clips: `(batch, depth, height, width, channels)`."""

    rank = 3
