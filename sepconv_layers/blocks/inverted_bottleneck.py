"""The inverted bottleneck of MobileNet V2, V3 and V4, and its fused twin."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import check_number, lookup, positive_number
from sepconv_layers.blocks.base import (
    CONV,
    DEPTHWISE_CONV,
    SEPARABLE_CONV,
    SQUEEZE_EXCITE,
    Normalization,
    ShortcutBlock,
)

PLACES = {place: place for place in ("middle", "start")}  # of the depthwise convolution


class BaseInvertedBottleneckBlock(ShortcutBlock):
    """Arguments and stages of `InvertedBottleneckBlock` and `FusedInvertedBottleneckBlock`."""

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
        expansion: float = 6,
        se_ratio: float = 0.0,
        drop_path: float = 0.0,
        gate_activation: Any = "sigmoid",
        depthwise: str = "middle",
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
        self.expansion = positive_number(expansion, "expansion")
        self.se_ratio = check_number(
            se_ratio, "se_ratio", "a number in [0, 1]", lambda ratio: 0 <= ratio <= 1
        )
        self.gate_activation = keras.activations.get(gate_activation)
        self.depthwise = lookup(PLACES, depthwise, "depthwise")

    def _expand(self, channels: int, expanded: int) -> list[keras.layers.Layer]:
        """Creates the stages that expand the channels and convolve over space."""
        raise NotImplementedError

    def _make_stages(self, channels: int) -> list[keras.layers.Layer]:
        expanded = max(1, round(channels * self.expansion))
        return [
            *self._expand(channels, expanded),
            *self._squeeze_excite(),
            self._pointwise(self.filters, "project"),
            *self._norm(self.filters, "project"),
        ]

    def _squeeze_excite(self) -> list[keras.layers.Layer]:
        if self.se_ratio == 0:
            return []
        return [
            SQUEEZE_EXCITE[self.rank](
                self.se_ratio,
                gate_activation=self.gate_activation,
                data_format=self.data_format,
                dtype=self.dtype_policy,
                name="squeeze_excite",
            )
        ]

    def _make_shortcut(self, channels: int) -> list[keras.layers.Layer] | None:
        return [] if self._keeps_shape(channels) else None

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "se_ratio": self.se_ratio,
            "gate_activation": keras.activations.serialize(self.gate_activation),
            "depthwise": self.depthwise,
        }


class InvertedBottleneckBlock(BaseInvertedBottleneckBlock):
    """Pointwise expansion, depthwise convolution, linear pointwise projection, and a shortcut.

    The block of MobileNet V2, and with squeeze-and-excitation of MobileNet V3 and EfficientNet:
    narrow between blocks, wide inside. The input is added if the output has the same shape. In the
    twin, `FusedInvertedBottleneckBlock`, one standard convolution replaces the expansion and the
    depthwise convolution.

    With `depthwise="start"` the depthwise convolution comes first, as in ConvNeXt and MobileNetV4,
    and with the expansion it makes a separable convolution, with nothing in between. It then has
    fewer channels, by the factor `expansion`. Nearly all of the block is matrix products, the
    fastest operation on most hardware, above all with integers.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the depthwise kernel: one integer, or one per spatial dimension.
        strides: Stride of the convolution: one integer, or one per spatial dimension.
        padding: `"same"`, `"valid"` or `"causal"` (the first spatial dimension is time).
        dilation_rate: Spacing between kernel elements, in input positions.
        activation: Activation function or its name, or `None`. The output is always linear.
        normalization: `"batch"`, `"layer"` (over channels), `"group"`, `None`, or a callable that
            returns a new layer. To save the block, pass a class or a registered function.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        expansion: Width inside the block relative to the input channels; 1 for no expansion.
        se_ratio: Width of the squeeze layer relative to the width inside the block; 0 for no
            squeeze-and-excitation.
        drop_path: Probability that training skips the block for a sample, in `[0, 1)`.
        gate_activation: Activation of the squeeze-and-excitation gates: `"sigmoid"`, or
            `"hard_sigmoid"` as in MobileNet V3.
        depthwise: Place of the depthwise convolution: `"middle"`, after the expansion, or
            `"start"`, before it. The twin ignores it and keeps it only in its configuration.
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
        >>> from sepconv_layers import InvertedBottleneckBlock2D
        >>> block = InvertedBottleneckBlock2D(16, expansion=4, se_ratio=0.25, activation="relu6")
        >>> tuple(block(np.ones((1, 8, 8, 16), "float32")).shape)
        (1, 8, 8, 16)

    Reference:
        [Sandler et al., "MobileNetV2", 2018](https://arxiv.org/abs/1801.04381);
        [Howard et al., "Searching for MobileNetV3", 2019](https://arxiv.org/abs/1905.02244);
        [Liu et al., "A ConvNet for the 2020s", 2022](https://arxiv.org/abs/2201.03545);
        [Qin et al., "MobileNetV4", 2024](https://arxiv.org/abs/2404.10518).
    """

    def _expand(self, channels: int, expanded: int) -> list[keras.layers.Layer]:
        if self.depthwise == "start":
            expansion = self._spatial(SEPARABLE_CONV, expanded, name="expand")
            return [expansion, *self._norm_act(expanded, "expand")]
        stages: list[keras.layers.Layer] = []
        if expanded != channels:
            stages.append(self._pointwise(expanded, "expand"))
            stages += self._norm_act(expanded, "expand")
        stages.append(self._spatial(DEPTHWISE_CONV, name="depthwise"))
        return [*stages, *self._norm_act(expanded, "depthwise")]


class FusedInvertedBottleneckBlock(BaseInvertedBottleneckBlock):
    """The twin of `InvertedBottleneckBlock`: a standard convolution expands the channels.

    Arguments, shapes and errors are the same as for `InvertedBottleneckBlock`.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import FusedInvertedBottleneckBlock3D
        >>> block = FusedInvertedBottleneckBlock3D(8, strides=(1, 2, 2), expansion=2)
        >>> tuple(block(np.ones((1, 4, 8, 8, 8), "float32")).shape)
        (1, 4, 4, 4, 8)

    Reference:
        [Tan and Le, "EfficientNetV2", 2021](https://arxiv.org/abs/2104.00298).
    """

    def _expand(self, channels: int, expanded: int) -> list[keras.layers.Layer]:
        return [
            self._spatial(CONV, expanded, name="expand"),
            *self._norm_act(expanded, "expand"),
        ]


@keras.saving.register_keras_serializable("sepconv_layers")
class InvertedBottleneckBlock1D(InvertedBottleneckBlock):
    """`InvertedBottleneckBlock` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class InvertedBottleneckBlock2D(InvertedBottleneckBlock):
    """`InvertedBottleneckBlock` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class InvertedBottleneckBlock3D(InvertedBottleneckBlock):
    """`InvertedBottleneckBlock` for volumes: `(batch, depth, height, width, channels)`."""

    rank = 3


@keras.saving.register_keras_serializable("sepconv_layers")
class FusedInvertedBottleneckBlock1D(FusedInvertedBottleneckBlock):
    """`FusedInvertedBottleneckBlock` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class FusedInvertedBottleneckBlock2D(FusedInvertedBottleneckBlock):
    """`FusedInvertedBottleneckBlock` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class FusedInvertedBottleneckBlock3D(FusedInvertedBottleneckBlock):
    """`FusedInvertedBottleneckBlock` for volumes: `(batch, depth, height, width, channels)`."""

    rank = 3
