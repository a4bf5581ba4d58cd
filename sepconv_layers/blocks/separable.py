"""The depthwise-separable block of MobileNet V1, and its standard twin."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.blocks.base import CONV, DEPTHWISE_CONV, Block, Normalization


class BaseSeparableBlock(Block):
    """Arguments of `SeparableConvBlock` and `ConvBlock`."""

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = 3,
        strides: int | Sequence[int] = 1,
        padding: str = "same",
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = "relu",
        normalization: Normalization = "batch",
        data_format: str | None = None,
        depth_multiplier: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            dilation_rate,
            activation,
            normalization,
            data_format,
            **kwargs,
        )
        self.depth_multiplier = positive_int(depth_multiplier, "depth_multiplier")

    def get_config(self) -> dict:
        return {**super().get_config(), "depth_multiplier": self.depth_multiplier}


class SeparableConvBlock(BaseSeparableBlock):
    """A depthwise and a pointwise convolution, each with normalization and activation.

    The block of MobileNet V1. Use it in place of convolution, normalization and activation, which
    is its twin, `ConvBlock`. The convolutions have a bias only without normalization.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the depthwise kernel: one integer, or one per spatial dimension.
        strides: Stride of the convolution: one integer, or one per spatial dimension.
        padding: `"same"`, `"valid"` or `"causal"` (the first spatial dimension is time).
        dilation_rate: Spacing between kernel elements, in input positions.
        activation: Activation function or its name, or `None`.
        normalization: `"batch"`, `"layer"` (over channels), `"group"`, `None`, or a callable that
            returns a new layer. To save the block, pass a class or a registered function.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        depth_multiplier: Number of depthwise output channels per input channel. The twin ignores
            it and keeps it only in its configuration.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for channels first.

    Output shape:
        `(batch, *new_spatial, filters)`, or `(batch, filters, *new_spatial)` for channels first.

    Raises:
        ValueError: If an argument is invalid, the input does not have the rank or the number of
            channels of the block, or the output would be empty.

    Example:
        >>> import keras
        >>> from sepconv_layers import SeparableConvBlock2D
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((32, 32, 3)),
        ...         SeparableConvBlock2D(16),
        ...         SeparableConvBlock2D(32, strides=2),
        ...     ]
        ... )
        >>> model.output_shape
        (None, 16, 16, 32)

    Reference:
        [Howard et al., "MobileNets", 2017](https://arxiv.org/abs/1704.04861).
    """

    def _make_stages(self, channels: int) -> list[keras.layers.Layer]:
        widened = channels * self.depth_multiplier
        return [
            self._spatial(DEPTHWISE_CONV, depth_multiplier=self.depth_multiplier, name="depthwise"),
            *self._norm_act(widened, "depthwise"),
            self._pointwise(self.filters, "pointwise"),
            *self._norm_act(self.filters, "pointwise"),
        ]


class ConvBlock(BaseSeparableBlock):
    """Standard convolution, normalization and activation: the twin of `SeparableConvBlock`.

    Arguments, shapes and errors are the same as for `SeparableConvBlock`, but `depth_multiplier`
    has no effect.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ConvBlock1D
        >>> tuple(ConvBlock1D(8, kernel_size=5, strides=2)(np.ones((1, 9, 3), "float32")).shape)
        (1, 5, 8)
    """

    def _make_stages(self, channels: int) -> list[keras.layers.Layer]:
        return [
            self._spatial(CONV, self.filters, name="conv"),
            *self._norm_act(self.filters, "conv"),
        ]


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConvBlock1D(SeparableConvBlock):
    """`SeparableConvBlock` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConvBlock2D(SeparableConvBlock):
    """`SeparableConvBlock` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class SeparableConvBlock3D(SeparableConvBlock):
    """`SeparableConvBlock` for volumes: `(batch, depth, height, width, channels)`."""

    rank = 3


@keras.saving.register_keras_serializable("sepconv_layers")
class ConvBlock1D(ConvBlock):
    """`ConvBlock` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class ConvBlock2D(ConvBlock):
    """`ConvBlock` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class ConvBlock3D(ConvBlock):
    """`ConvBlock` for volumes: `(batch, depth, height, width, channels)`."""

    rank = 3
