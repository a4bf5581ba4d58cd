"""Transposed depthwise and separable convolution layers, which upsample their input."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sepconv_layers.layers.base import BaseConv
from sepconv_layers.layers.depthwise_conv import DepthwiseConv
from sepconv_layers.layers.separable_conv import SeparableConv
from sepconv_layers.ops import operations
from sepconv_layers.ops.geometry import standardize_output_padding
from sepconv_layers.ops.transposed import output_shape


def _with_output_padding(init: Callable[..., None]) -> Callable[..., None]:
    """Returns a constructor that also takes `output_padding`, after `padding`."""
    parameters = list(inspect.signature(init).parameters.values())
    index = [parameter.name for parameter in parameters].index("padding") + 1
    new = inspect.Parameter(
        "output_padding",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=int | Sequence[int] | None,
    )
    signature = inspect.Signature([*parameters[:index], new, *parameters[index:]])

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        output_padding = given.pop("output_padding", None)
        init(**given.pop("kwargs", {}), **given)
        self.output_padding = standardize_output_padding(output_padding, self.strides)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


class BaseConvTranspose(BaseConv):
    """The transposed form of a convolution layer, to list before that layer in the bases."""

    output_padding: tuple[int, ...] | None

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "output_padding": self.output_padding}

    def _output_shape(self, input_shape: Sequence[int | None], filters: int) -> tuple:
        return output_shape(input_shape, filters, self.geometry, self.output_padding)


class DepthwiseConvTranspose(BaseConvTranspose, DepthwiseConv):
    """Upsamples each channel with its own `depth_multiplier` kernels.

    The transposed form of `DepthwiseConv`, for decoders and generators, where `Conv2DTranspose`
    would mix all channels. Arguments are those of `keras.layers.Conv2DTranspose` and
    `keras.layers.DepthwiseConv2D`. It computes no products with the zeros between inputs.

    Args:
        kernel_size: Size of the kernel: one integer, or one per spatial dimension.
        strides: Upsampling factor: one integer, or one per spatial dimension.
        padding: `"valid"`, `"same"` (the output has `strides` times the size of the input), or
            `"causal"` (the same size, and no output depends on a later input along the first
            spatial dimension, which is time).
        output_padding: Positions that the output has beyond its shortest size: one integer, or
            one per spatial dimension, each less than the stride. Defaults to the sizes above.
        depth_multiplier: Number of output channels per input channel.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        dilation_rate: Spacing between kernel elements, in output positions.
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
        channels first. A new size is `strides * size` with `"same"` and `"causal"`, and
        `strides * (size - 1) + max(extent, strides)` with `"valid"`, where
        `extent = dilation_rate * (kernel_size - 1) + 1` is the size of the dilated kernel.

    Raises:
        ValueError: If an argument is invalid, the input does not have the rank or the number of
            channels of the layer, or the output would be empty.

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
    __init__ = _with_output_padding(DepthwiseConv.__init__)


class SeparableConvTranspose(BaseConvTranspose, SeparableConv):
    """Upsamples each channel with its own kernels, then mixes the channels.

    The transposed form of `SeparableConv`, for decoders and generators: `Conv2DTranspose` in two
    factors. Arguments are those of `keras.layers.Conv2DTranspose` and
    `keras.layers.SeparableConv2D`.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the depthwise kernel: one integer, or one per spatial dimension.
        strides: Upsampling factor: one integer, or one per spatial dimension.
        padding: `"valid"`, `"same"` (the output has `strides` times the size of the input), or
            `"causal"` (the same size, and no output depends on a later input along the first
            spatial dimension, which is time).
        output_padding: Positions that the output has beyond its shortest size: one integer, or
            one per spatial dimension, each less than the stride. Defaults to the sizes above.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        dilation_rate: Spacing between kernel elements, in output positions.
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
        `(batch, *new_spatial, filters)`, or `(batch, filters, *new_spatial)` for channels first,
        with sizes as for `DepthwiseConvTranspose`.

    Raises:
        ValueError: If an argument is invalid, the input does not have the rank or the number of
            channels of the layer, or the output would be empty.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import SeparableConv3DTranspose
        >>> layer = SeparableConv3DTranspose(8, 3, strides=(1, 2, 2), padding="same")
        >>> tuple(layer(np.ones((1, 4, 6, 5, 16), "float32")).shape)
        (1, 4, 12, 10, 8)
    """

    _operation = operations.SeparableConvTranspose
    __init__ = _with_output_padding(SeparableConv.__init__)


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
