"""Image classifiers: MobileNet V1, V2 and V3, and their twins with standard convolutions."""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from sepconv_layers import blocks
from sepconv_layers.arguments import lookup, positive_number
from sepconv_layers.models.classifier import (
    FEATURES,
    check_input_shape,
    classifier,
    make_divisible,
    round_down,
)

SEPARABLE = {"separable": blocks.SeparableConvBlock2D, "standard": blocks.ConvBlock2D}
INVERTED = {
    "separable": blocks.InvertedBottleneckBlock2D,
    "standard": blocks.FusedInvertedBottleneckBlock2D,
}
IMAGE = ("height", "width", "channels")

# Filters, strides.
MOBILENET = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


def mobilenet(
    input_shape: Sequence[int | None] = (224, 224, 3),
    classes: int = 1000,
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 1e-3,
    name: str | None = None,
) -> keras.Model:
    """MobileNet V1: a standard convolution followed by 13 separable ones.

    At 224×224 and 1000 classes: 568.7 million MACs and 4.2 million parameters; with
    `conv="standard"` 4,867 million and 29.3 million, as in Table 4 of the paper. It equals
    `keras.applications.MobileNet` where the input of every strided block has an even size, as for
    multiples of 32. `load_keras_application` copies its weights.

    Args:
        input_shape: Shape of an image: `(height, width, channels)`, or channels first if the Keras
            configuration says so. Height and width may be `None`. The paper scales pixels to
            `[-1, 1]`.
        classes: Number of classes.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers, `alpha` in the paper.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        name: Name of the model.

    Returns:
        A model from images to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models, profile
        >>> profile(models.mobilenet()).macs
        568740352

    Reference:
        [Howard et al., "MobileNets", 2017](https://arxiv.org/abs/1704.04861).
    """
    block, width = lookup(SEPARABLE, conv, "conv"), positive_number(width, "width")
    inputs = keras.Input(check_input_shape(input_shape, IMAGE), name="images")
    x = blocks.ConvBlock2D(round_down(32 * width), strides=2, activation="relu6", name="stem")(
        inputs
    )
    for number, (filters, strides) in enumerate(MOBILENET):
        filters = round_down(filters * width)
        x = block(filters, strides=strides, activation="relu6", name=f"block_{number}")(x)
    name = name or "mobilenet"
    return classifier(inputs, x, 2, classes, include_top, pooling, dropout, name)


# Expansion, filters, repeats, strides of the first.
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    input_shape: Sequence[int | None] = (224, 224, 3),
    classes: int = 1000,
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.2,
    name: str | None = None,
) -> keras.Model:
    """MobileNet V2: inverted bottlenecks with linear outputs, connected by shortcuts.

    At 224×224 and 1000 classes: 300.8 million MACs and 3.5 million parameters. In the twin, one
    standard convolution replaces the expansion and the depthwise convolution. The net equals
    `keras.applications.MobileNetV2`. `load_keras_application` copies its weights.

    Args:
        input_shape: Shape of an image, as for `mobilenet`.
        classes: Number of classes.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers. Numbers of filters are rounded to multiples of 8.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        name: Name of the model.

    Returns:
        A model from images to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models
        >>> models.mobilenet_v2((96, 96, 3), classes=10, width=0.35).output_shape
        (None, 10)

    Reference:
        [Sandler et al., "MobileNetV2", 2018](https://arxiv.org/abs/1801.04381).
    """
    block, width = lookup(INVERTED, conv, "conv"), positive_number(width, "width")
    inputs = keras.Input(check_input_shape(input_shape, IMAGE), name="images")
    stem = make_divisible(32 * width)
    x = blocks.ConvBlock2D(stem, strides=2, activation="relu6", name="stem")(inputs)
    number = 0
    for expansion, filters, repeats, strides in MOBILENET_V2:
        for repeat in range(repeats):
            x = block(
                make_divisible(filters * width),
                strides=1 if repeat else strides,
                activation="relu6",
                expansion=expansion,
                name=f"block_{number}",
            )(x)
            number += 1
    last = make_divisible(1280 * max(width, 1))
    x = blocks.ConvBlock2D(last, kernel_size=1, activation="relu6", name="last")(x)
    name = name or "mobilenet_v2"
    return classifier(inputs, x, 2, classes, include_top, pooling, dropout, name)


class V3(NamedTuple):
    """A block of MobileNet V3, at a width multiplier of 1."""

    kernel_size: int
    expansion: float
    filters: int
    has_se: bool
    activation: str
    strides: int


# Units of the hidden layer after the pooling, and the blocks.
MOBILENET_V3 = {
    "small": (
        1024,
        (
            V3(3, 1, 16, True, "relu", 2),
            V3(3, 72 / 16, 24, False, "relu", 2),
            V3(3, 88 / 24, 24, False, "relu", 1),
            V3(5, 4, 40, True, "hard_silu", 2),
            *[V3(5, 6, 40, True, "hard_silu", 1)] * 2,
            *[V3(5, 3, 48, True, "hard_silu", 1)] * 2,
            V3(5, 6, 96, True, "hard_silu", 2),
            *[V3(5, 6, 96, True, "hard_silu", 1)] * 2,
        ),
    ),
    "large": (
        1280,
        (
            V3(3, 1, 16, False, "relu", 1),
            V3(3, 4, 24, False, "relu", 2),
            V3(3, 3, 24, False, "relu", 1),
            V3(5, 3, 40, True, "relu", 2),
            *[V3(5, 3, 40, True, "relu", 1)] * 2,
            V3(3, 6, 80, False, "hard_silu", 2),
            V3(3, 2.5, 80, False, "hard_silu", 1),
            *[V3(3, 2.3, 80, False, "hard_silu", 1)] * 2,
            *[V3(3, 6, 112, True, "hard_silu", 1)] * 2,
            V3(5, 6, 160, True, "hard_silu", 2),
            *[V3(5, 6, 160, True, "hard_silu", 1)] * 2,
        ),
    ),
}
SQUEEZE = 0.25


def mobilenet_v3(
    input_shape: Sequence[int | None] = (224, 224, 3),
    classes: int = 1000,
    size: str = "large",
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.2,
    name: str | None = None,
) -> keras.Model:
    """MobileNet V3, small or large: inverted bottlenecks with squeeze-excite and hard swish.

    At 224×224 and 1000 classes, in millions of MACs and parameters: large 216.6 and 5.5 (the paper
    has 219 and 5.4), small 56.5 and 2.6 (the paper has 56 and 2.5). It equals
    `keras.applications.MobileNetV3Large` and `MobileNetV3Small` after their rescaling of pixels to
    `[-1, 1]`. `load_keras_application` copies their weights.

    Args:
        input_shape: Shape of an image, as for `mobilenet`.
        classes: Number of classes.
        size: `"small"` or `"large"`.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier. Numbers of filters are rounded to multiples of 8.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate before the classifier.
        name: Name of the model.

    Returns:
        A model from images to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models
        >>> models.mobilenet_v3((96, 96, 3), classes=10, size="small").output_shape
        (None, 10)

    Reference:
        [Howard et al., "Searching for MobileNetV3", 2019](https://arxiv.org/abs/1905.02244).
    """
    block, width = lookup(INVERTED, conv, "conv"), positive_number(width, "width")
    hidden, table = lookup(MOBILENET_V3, size, "size")
    inputs = keras.Input(check_input_shape(input_shape, IMAGE), name="images")
    channels = 16
    x = blocks.ConvBlock2D(channels, strides=2, activation="hard_silu", name="stem")(inputs)
    for number, row in enumerate(table):
        expanded = make_divisible(channels * row.expansion)
        channels_before, channels = channels, make_divisible(row.filters * width)
        x = block(
            channels,
            row.kernel_size,
            strides=row.strides,
            activation=row.activation,
            expansion=expanded / channels_before,
            se_ratio=make_divisible(expanded * SQUEEZE) / expanded if row.has_se else 0,
            gate_activation="hard_sigmoid",
            name=f"block_{number}",
        )(x)
    x = blocks.ConvBlock2D(
        make_divisible(channels * 6), kernel_size=1, activation="hard_silu", name="last"
    )(x)
    units = make_divisible(hidden * max(width, 1))
    with keras.RematScope(mode=None):  # as for the logits
        hidden_layer = keras.layers.Dense(units, activation="hard_silu", name=FEATURES)
    name = name or f"mobilenet_v3_{size}"
    return classifier(inputs, x, 2, classes, include_top, pooling, dropout, name, [hidden_layer])
