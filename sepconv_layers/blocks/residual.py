"""The residual separable block of Xception and MatchboxNet, and its standard twin."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import positive_int
from sepconv_layers.blocks.base import (
    CONV,
    SEPARABLE_CONV,
    Normalization,
    ShortcutBlock,
)


class BaseResidualBlock(ShortcutBlock):
    """Arguments and stages of `ResidualSeparableConvBlock` and `ResidualConvBlock`."""

    _convolutions: dict[int, Any]  # rank → class, set by the two subclasses

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
        repeats: int = 2,
        drop_path: float = 0.0,
        project_shortcut: bool = False,
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
            drop_path=drop_path,
            **kwargs,
        )
        self.repeats = positive_int(repeats, "repeats")
        self.project_shortcut = bool(project_shortcut)

    def _make_stages(self, channels: int) -> list[keras.layers.Layer]:
        stages: list[keras.layers.Layer] = []
        for i in range(self.repeats):
            strides = self.strides if i == 0 else 1
            name = f"conv_{i}"
            stages += self._act(f"conv_{i - 1}") if i else []
            stages.append(
                self._spatial(self._convolutions, self.filters, strides=strides, name=name)
            )
            stages += self._norm(self.filters, name)
        return stages

    def _make_shortcut(self, channels: int) -> list[keras.layers.Layer]:
        keeps_shape = channels == self.filters and max(self.strides) == 1
        if keeps_shape and not self.project_shortcut:
            return []
        return [self._pointwise(self.filters, "shortcut"), *self._norm(self.filters, "shortcut")]

    @property
    def shortcut_reach(self) -> tuple[int, ...]:
        """Receptive field of the stages minus one where they are not padded, else 0.

        The first kernel moves over input positions, the later ones over the strided output.
        """
        if self.padding != "valid":
            return super().shortcut_reach
        return tuple(
            extent * (1 + stride * (self.repeats - 1))
            for extent, stride in zip(self.geometry.extent, self.strides, strict=True)
        )

    def _shortcut_input(self, inputs: Any) -> Any:
        """Crops the input to the positions that the outputs are centered on, with their strides."""
        reach = self.shortcut_reach
        if max(reach) == 0 and max(self.strides) == 1:
            return inputs
        body = self.geometry.replace(
            kernel_size=tuple(size + 1 for size in reach), dilation_rate=(1,) * self.rank
        )
        return body.tap(inputs, [size // 2 for size in reach])

    def _make_tail(self) -> list[keras.layers.Layer]:
        return self._act("output")

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "repeats": self.repeats,
            "project_shortcut": self.project_shortcut,
        }


class ResidualSeparableConvBlock(BaseResidualBlock):
    """`repeats` separable convolutions, each with normalization, and a shortcut.

    The block of Xception and MatchboxNet, with activations between the convolutions and after the
    addition. Strides apply to the first convolution. The shortcut is the input, projected by a
    pointwise convolution where the stride or the number of channels changes. With
    `padding="valid"`, it is cropped to the positions that the outputs are centered on.
    `ResidualConvBlock` is the same block with standard convolutions.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the depthwise kernels: one integer, or one per spatial dimension.
        strides: Stride of the convolution: one integer, or one per spatial dimension.
        padding: `"same"`, `"valid"` or `"causal"` (the first spatial dimension is time).
        dilation_rate: Spacing between kernel elements, in input positions.
        activation: Activation function or its name, or `None`.
        normalization: `"batch"`, `"layer"` (over channels), `"group"`, `None`, or a callable that
            returns a new layer. To save the block, pass a class or a registered function.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        repeats: Number of convolutions.
        drop_path: Probability that training skips the convolutions for a sample, in `[0, 1)`.
        project_shortcut: Whether to project the shortcut even if the input has the shape of the
            output, as in MatchboxNet.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for channels first.

    Output shape:
        `(batch, *new_spatial, filters)`, or `(batch, filters, *new_spatial)` for channels first.

    Raises:
        ValueError: If an argument is invalid, the input does not have the rank or the number of
            channels of the block, or the output would be empty.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ResidualSeparableConvBlock1D
        >>> block = ResidualSeparableConvBlock1D(64, kernel_size=13, repeats=2, padding="causal")
        >>> tuple(block(np.ones((1, 50, 32), "float32")).shape)
        (1, 50, 64)

    Reference:
        [Chollet, "Xception", 2017](https://arxiv.org/abs/1610.02357);
        [Majumdar and Ginsburg, "MatchboxNet", 2020](https://arxiv.org/abs/2004.08531).
    """

    _convolutions = SEPARABLE_CONV


class ResidualConvBlock(BaseResidualBlock):
    """The twin of `ResidualSeparableConvBlock`, with standard convolutions.

    Arguments, shapes and errors are the same as for `ResidualSeparableConvBlock`.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ResidualConvBlock2D
        >>> block = ResidualConvBlock2D(8, strides=2, drop_path=0.1)
        >>> tuple(block(np.ones((1, 9, 7, 4), "float32")).shape)
        (1, 5, 4, 8)

    Reference:
        [He et al., "Deep Residual Learning", 2016](https://arxiv.org/abs/1512.03385).
    """

    _convolutions = CONV


@keras.saving.register_keras_serializable("sepconv_layers")
class ResidualSeparableConvBlock1D(ResidualSeparableConvBlock):
    """`ResidualSeparableConvBlock` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class ResidualSeparableConvBlock2D(ResidualSeparableConvBlock):
    """`ResidualSeparableConvBlock` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class ResidualSeparableConvBlock3D(ResidualSeparableConvBlock):
    """`ResidualSeparableConvBlock` for volumes: `(batch, depth, height, width, channels)`."""

    rank = 3


@keras.saving.register_keras_serializable("sepconv_layers")
class ResidualConvBlock1D(ResidualConvBlock):
    """`ResidualConvBlock` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class ResidualConvBlock2D(ResidualConvBlock):
    """`ResidualConvBlock` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class ResidualConvBlock3D(ResidualConvBlock):
    """`ResidualConvBlock` for volumes: `(batch, depth, height, width, channels)`."""

    rank = 3
