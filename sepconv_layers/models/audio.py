"""Keyword spotting on spectrograms: published nets, one with long kernels, and their twins."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from sepconv_layers import blocks, layers
from sepconv_layers.arguments import lookup, positive_int, positive_number
from sepconv_layers.blocks.base import BATCH_NORM_MOMENTUM
from sepconv_layers.models.classifier import (
    check_input_shape,
    classifier,
    make_divisible,
)

SEPARABLE = {"separable": blocks.SeparableConvBlock2D, "standard": blocks.ConvBlock2D}
RESIDUAL_2D = {
    "separable": blocks.ResidualSeparableConvBlock2D,
    "standard": blocks.ResidualConvBlock2D,
}
RESIDUAL = {
    "separable": blocks.ResidualSeparableConvBlock1D,
    "standard": blocks.ResidualConvBlock1D,
}
CONV = {"separable": layers.SeparableConv1D, "standard": layers.Conv1D}
PADDING = {padding: padding for padding in ("same", "causal")}

# Filters, strides of the stem, strides of the first block, number of blocks.
DS_CNN = {
    "s": (64, (2, 2), 1, 4),
    "m": (172, (2, 1), 2, 4),
    "l": (276, (2, 1), 2, 5),
}


def ds_cnn(
    input_shape: Sequence[int | None] = (49, 10, 1),
    classes: int = 12,
    size: str = "s",
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.0,
    padding: str = "same",
    name: str | None = None,
) -> keras.Model:
    """DS-CNN of "Hello Edge", small, medium or large: the keyword-spotting net of MLPerf Tiny.

    With 49 frames of 10 MFCCs and 12 classes, in millions of MACs: small 2.66, medium 9.82, large
    28.33. The paper has 5.4, 19.8 and 56.9 million operations, two per MAC.

    Args:
        input_shape: Shape of a spectrogram: `(time, frequency, 1)`, or channels first if the Keras
            configuration says so. Time and frequency may be `None`.
        classes: Number of classes.
        size: `"s"`, `"m"` or `"l"`.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        padding: `"same"`, or `"causal"` for a net that can stream (`streaming.to_streaming`).
        name: Name of the model.

    Returns:
        A model from spectrograms to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models
        >>> models.ds_cnn((98, 40, 1), classes=10, size="m").output_shape
        (None, 10)

    Reference:
        [Zhang et al., "Hello Edge", 2017](https://arxiv.org/abs/1711.07128).
    """
    block, width = lookup(SEPARABLE, conv, "conv"), positive_number(width, "width")
    padding = lookup(PADDING, padding, "padding")
    filters, stem_strides, strides, number = lookup(DS_CNN, size, "size")
    filters = _scaled(filters, width)
    inputs = keras.Input(
        check_input_shape(input_shape, ("time", "frequency", "channels")), name="spectrograms"
    )
    x = blocks.ConvBlock2D(filters, (10, 4), stem_strides, padding, name="stem")(inputs)
    for i in range(number):
        x = block(filters, 3, 1 if i else strides, padding, name=f"block_{i}")(x)
    name = name or f"ds_cnn_{size}"
    return classifier(inputs, x, 2, classes, include_top, pooling, dropout, name)


# Filters and strides of the stem; then filters, strides and number of blocks of each stage.
KEYWORD_RESNET = (
    (16, (2, 2)),
    (
        (24, (1, 1), 1),
        (32, (1, 2), 2),
        (64, (2, 2), 3),
    ),
)


def keyword_resnet(
    input_shape: Sequence[int | None] = (49, 40, 1),
    classes: int = 12,
    conv: str = "separable",
    width: float = 1.0,
    kernel_size: int | Sequence[int] = (5, 3),
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.2,
    padding: str = "same",
    name: str | None = None,
) -> keras.Model:
    """A residual net for spectrograms, with kernels that are long in time and few early channels.

    It is no published net. It takes log-mel bands, keeps their resolution where there are few
    channels, and halves it where there are more. Blocks that keep the shape of their input add it
    to their output.

    Args:
        input_shape: Shape of a spectrogram: `(time, frequency, 1)`, or channels first if the Keras
            configuration says so. Time and frequency may be `None`.
        classes: Number of classes.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers.
        kernel_size: Size of the kernels after the stem: over time, and over frequency.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        padding: `"same"`, or `"causal"` for a net that can stream (`streaming.to_streaming`).
        name: Name of the model.

    Returns:
        A model from spectrograms to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models
        >>> models.keyword_resnet((98, 40, 1), classes=10, width=0.5).output_shape
        (None, 10)
    """
    first, block = lookup(SEPARABLE, conv, "conv"), RESIDUAL_2D[conv]
    width = positive_number(width, "width")
    padding = lookup(PADDING, padding, "padding")
    (filters, strides), stages = KEYWORD_RESNET
    inputs = keras.Input(
        check_input_shape(input_shape, ("time", "frequency", "channels")), name="spectrograms"
    )
    x = blocks.ConvBlock2D(_scaled(filters, width), 3, strides, padding, name="stem")(inputs)
    for stage, (filters, strides, number) in enumerate(stages):
        shared: dict[str, Any] = {
            "filters": _scaled(filters, width),
            "kernel_size": kernel_size,
            "padding": padding,
        }
        x = first(strides=strides, name=f"stage_{stage}_0", **shared)(x)
        for i in range(1, number):
            x = block(repeats=1, name=f"stage_{stage}_{i}", **shared)(x)
    name = name or "keyword_resnet"
    return classifier(inputs, x, 2, classes, include_top, pooling, dropout, name)


MATCHBOXNET_KERNELS = (13, 15, 17)


def matchboxnet(
    input_shape: Sequence[int | None] = (128, 64),
    classes: int = 30,
    repeats: int = 2,
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.0,
    padding: str = "same",
    name: str | None = None,
) -> keras.Model:
    """MatchboxNet 3×R×64: residual blocks of long separable convolutions over time.

    With two convolutions per block, 64 MFCCs and the 30 classes of Speech Commands v1, it has
    92,766 trainable parameters. The paper has 93 thousand.

    Args:
        input_shape: Shape of a spectrogram: `(time, frequency)`, or frequency first if the Keras
            configuration says channels first. Time may be `None`.
        classes: Number of classes.
        repeats: Number of convolutions per block, `R` in the paper.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers. Numbers of filters are rounded to multiples of 8.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        padding: `"same"`, or `"causal"` for a net that can stream (`streaming.to_streaming`).
        name: Name of the model.

    Returns:
        A model from spectrograms to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models
        >>> models.matchboxnet((98, 40), classes=10, repeats=1).output_shape
        (None, 10)

    Reference:
        [Majumdar and Ginsburg, "MatchboxNet", 2020](https://arxiv.org/abs/2004.08531).
    """
    block, width = lookup(RESIDUAL, conv, "conv"), positive_number(width, "width")
    padding = lookup(PADDING, padding, "padding")
    narrow, wide = make_divisible(64 * width), make_divisible(128 * width)

    def outer(x: Any, kernel_size: int, name: str, dilation_rate: int = 1) -> Any:
        x = CONV[conv](
            wide,
            kernel_size,
            padding=padding,
            dilation_rate=dilation_rate,
            use_bias=False,
            name=name,
        )(x)
        return _norm_act(x, "relu", name)

    inputs = keras.Input(check_input_shape(input_shape, ("time", "frequency")), name="spectrograms")
    x = outer(inputs, 11, "first")
    for number, kernel_size in enumerate(MATCHBOXNET_KERNELS):
        x = block(
            narrow,
            kernel_size,
            padding=padding,
            repeats=positive_int(repeats, "repeats"),
            project_shortcut=True,
            name=f"block_{number}",
        )(x)
    x = outer(x, 29, "wide", dilation_rate=2)
    x = blocks.ConvBlock1D(wide, kernel_size=1, name="last")(x)
    name = name or f"matchboxnet_3x{repeats}x{narrow}"
    return classifier(inputs, x, 1, classes, include_top, pooling, dropout, name)


# Filters, number of blocks, strides of the first, dilation over time.
BC_RESNET = (
    (8, 2, (1, 1), 1),
    (12, 2, (2, 1), 2),
    (16, 4, (2, 1), 4),
    (20, 4, (1, 1), 8),
)
BANDS = 5
FREQUENCY_STRIDE = 8


def bc_resnet(
    input_shape: Sequence[int | None] = (40, 101, 1),
    classes: int = 12,
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.1,
    name: str | None = None,
) -> keras.Model:
    """BC-ResNet: 2D convolutions over frequency, 1D over time on the average, broadcast back.

    BC-ResNet-1 is `width=1`, with 9,232 trainable parameters for 12 classes (the paper has 9.2
    thousand), and BC-ResNet-8 is `width=8`. In the twin, a standard kernel over frequency replaces
    each depthwise kernel, and a standard kernel over time replaces each depthwise and pointwise
    pair.

    Args:
        input_shape: Shape of a spectrogram: `(frequency, time, 1)`, where the number of frequencies
            is a multiple of 40. Time may be `None`. Channels come last whatever the Keras
            configuration says.
        classes: Number of classes.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers, `tau` in the paper.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Rate of the channel dropout in each block.
        name: Name of the model.

    Returns:
        A model from spectrograms to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models
        >>> models.bc_resnet((40, None, 1), classes=10).output_shape
        (None, 10)

    Reference:
        [Kim et al., "Broadcasted Residual Learning for Efficient Keyword Spotting", 2021](
        https://arxiv.org/abs/2106.04140);
        [Chang et al., "SubSpectral Normalization", 2021](https://arxiv.org/abs/2103.13620).
    """
    lookup(SEPARABLE, conv, "conv")
    width = positive_number(width, "width")
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    frequencies = shape[0] if len(shape) == 3 else None
    multiple = BANDS * FREQUENCY_STRIDE
    if not isinstance(frequencies, int) or frequencies <= 0 or frequencies % multiple:
        raise ValueError(
            "The `input_shape` argument must be (frequency, time, 1), without the batch, and the "
            f"number of frequencies a multiple of {multiple}: it is halved three times and split "
            f"into {BANDS} bands. Received: input_shape={input_shape!r}"
        )

    scaled = partial(_scaled, width=width)
    inputs = keras.Input(shape, name="spectrograms")
    x = blocks.ConvBlock2D(scaled(16), 5, strides=(2, 1), data_format="channels_last", name="stem")(
        inputs
    )
    channels = scaled(16)
    for stage, (filters, number, strides, dilation) in enumerate(BC_RESNET):
        for i in range(number):
            block = f"block_{stage}_{i}"
            x = _broadcasted_residual(
                x,
                channels,
                scaled(filters),
                strides=(1, 1) if i else strides,
                dilation=dilation,
                dropout=dropout,
                conv=conv,
                name=block,
            )
            channels = scaled(filters)
    last = scaled(32)
    x = keras.layers.ZeroPadding2D((0, 2), data_format="channels_last", name="last_padding")(x)
    if conv == "separable":
        x = layers.DepthwiseConv2D(5, name="last_depthwise", **PLAIN)(x)
        x = layers.Conv2D(last, 1, name="last", **PLAIN)(x)
    else:
        x = layers.Conv2D(last, 5, name="last", **PLAIN)(x)
    x = _norm_act(x, "relu", "last")
    name = name or f"bc_resnet_{width:g}"
    return classifier(inputs, x, 2, classes, include_top, pooling, 0, name)


PLAIN: dict[str, Any] = {"use_bias": False, "data_format": "channels_last"}


def _broadcasted_residual(
    x: Any,
    channels: int,
    filters: int,
    strides: tuple[int, int],
    dilation: int,
    dropout: float,
    conv: str,
    name: str,
) -> Any:
    """A block: a 2D branch over frequency, a 1D branch over time, and the shortcut."""
    shortcut = x if channels == filters and max(strides) == 1 else None
    if shortcut is None:
        x = layers.Conv2D(filters, 1, name=f"{name}_widen", **PLAIN)(x)
        x = _norm_act(x, "relu", f"{name}_widen")
    over_frequency = {"kernel_size": (3, 1), "strides": strides, "padding": "same", **PLAIN}
    over_time = {"kernel_size": (1, 3), "dilation_rate": (1, dilation), "padding": "same", **PLAIN}
    if conv == "separable":
        x = layers.DepthwiseConv2D(name=f"{name}_frequency", **over_frequency)(x)
    else:
        x = layers.Conv2D(filters, name=f"{name}_frequency", **over_frequency)(x)
    x = _sub_spectral_norm(x, f"{name}_frequency")
    average = keras.layers.AveragePooling2D(
        (x.shape[1], 1), data_format="channels_last", name=f"{name}_average"
    )(x)
    if conv == "separable":
        y = layers.DepthwiseConv2D(name=f"{name}_time", **over_time)(average)
        y = _norm_act(y, "silu", f"{name}_time")
        y = layers.Conv2D(filters, 1, name=f"{name}_mix", **PLAIN)(y)
    else:
        y = layers.Conv2D(filters, name=f"{name}_time", **over_time)(average)
        y = _norm_act(y, "silu", f"{name}_time")
    if dropout:
        y = keras.layers.SpatialDropout2D(
            dropout, data_format="channels_last", name=f"{name}_dropout"
        )(y)
    x = keras.layers.Add(name=f"{name}_broadcast")([x, y])
    if shortcut is not None:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.Activation("relu", name=f"{name}_activation")(x)


def _sub_spectral_norm(x: Any, name: str) -> Any:
    """Batch normalization with separate statistics and weights for each frequency band."""
    _, frequencies, _, channels = x.shape
    size = frequencies // BANDS
    x = keras.layers.Reshape((BANDS, size, -1, channels), name=f"{name}_bands")(x)
    x = keras.layers.Permute((2, 3, 1, 4), name=f"{name}_bands_last")(x)
    x = keras.layers.Reshape((size, -1, BANDS * channels), name=f"{name}_band_channels")(x)
    x = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"{name}_norm")(x)
    x = keras.layers.Reshape((size, -1, BANDS, channels), name=f"{name}_bands_again")(x)
    x = keras.layers.Permute((3, 1, 2, 4), name=f"{name}_bands_first")(x)
    return keras.layers.Reshape((frequencies, -1, channels), name=f"{name}_whole")(x)


def _norm_act(x: Any, activation: str, name: str) -> Any:
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1
    x = layers.BatchNormalization(axis, momentum=BATCH_NORM_MOMENTUM, name=f"{name}_norm")(x)
    return keras.layers.Activation(activation, name=f"{name}_activation")(x)


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))
