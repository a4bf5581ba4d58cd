"""A small residual net for images and volumes: few positions, many channels, and its twin."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from sepconv_layers import blocks
from sepconv_layers.arguments import lookup, positive_int, positive_number
from sepconv_layers.models.classifier import check_input_shape, classifier, make_divisible

AXES = {2: ("height", "width", "channels"), 3: ("depth", "height", "width", "channels")}
STEM: dict[int, Any] = {2: blocks.ConvBlock2D, 3: blocks.ConvBlock3D}
# Its output is linear, so that an activation has to follow the last one.
DEPTHWISE_FIRST = partial(blocks.InvertedBottleneckBlock2D, expansion=2, depthwise="start")
BLOCK: dict[int, dict[str, Any]] = {
    2: {
        "separable": DEPTHWISE_FIRST,
        "standard": blocks.ResidualConvBlock2D,
    },
    3: {
        "separable": blocks.ResidualSeparableConvBlock3D,
        "standard": blocks.ResidualConvBlock3D,
    },
}

# Filters of the stem; then filters, kernel size, strides of the first block and number of blocks of
# each stage.
SEPARABLE_RESNET = {
    2: (32, ((56, 3, 1, 2), (104, 5, 2, 3))),
    3: (16, ((48, 3, 2, 2), (128, 3, 2, 2))),
}
STANDARD_KERNEL = 3  # the MACs of larger ones are better spent on channels
DIVISOR = 4  # numbers of filters are multiples of it


def separable_resnet(
    input_shape: Sequence[int | None] = (32, 32, 3),
    classes: int = 10,
    conv: str = "separable",
    width: float = 1.0,
    depth: float = 1.0,
    kernel_size: int | Sequence[int] | None = None,
    stem_strides: int = 2,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """A residual net that spends its MACs on channels, not on positions.

    The stem halves the resolution, as the first layer of much larger nets does, so that each layer
    after it has a quarter of the positions and can have more channels for the same MACs.

    For images, a block is a separable convolution to twice the channels and a pointwise one back,
    as in ConvNeXt: one depthwise convolution, on the narrow side, for two pointwise ones, so that
    nearly all of it is matrix products. For volumes, a block has two separable convolutions, as in
    Xception. The twin has residual blocks of two standard convolutions.

    It is not a published net. The blocks for images were chosen on the validation part of CIFAR-10.

    Args:
        input_shape: Shape of an image, `(height, width, channels)`, or of a volume,
            `(depth, height, width, channels)`. Channels first if the Keras configuration says so.
            All sizes but the number of channels may be `None`.
        classes: Number of classes.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers. Numbers of filters are rounded to multiples of 4.
        depth: Factor on the number of blocks of each stage, which is rounded, to at least one.
        kernel_size: Size of the kernels after the stem: one integer, or one per spatial dimension.
            By default 3, and 5 in the last stage of the separable net for images.
        stem_strides: Strides of the stem. A larger stride has a kernel of the same size.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        name: Name of the model.

    Returns:
        A model from images or volumes to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models, profile
        >>> f"{profile(models.separable_resnet((32, 32, 3))).macs / 1e6:.1f} million MACs"
        '12.2 million MACs'

    Reference:
        [He et al., "Deep Residual Learning for Image Recognition", 2016](
        https://arxiv.org/abs/1512.03385);
        [Chollet, "Xception", 2017](https://arxiv.org/abs/1610.02357);
        [Liu et al., "A ConvNet for the 2020s", 2022](https://arxiv.org/abs/2201.03545).
    """
    rank = len(input_shape) - 1 if isinstance(input_shape, Sequence) else 0
    shape = check_input_shape(input_shape, AXES.get(rank, AXES[2]))
    block = lookup(BLOCK[rank], conv, "conv")
    width, depth = positive_number(width, "width"), positive_number(depth, "depth")
    filters, stages = SEPARABLE_RESNET[rank]
    inputs = keras.Input(shape, name="images" if rank == 2 else "volumes")
    strides = positive_int(stem_strides, "stem_strides")
    filters = make_divisible(filters * width, DIVISOR)
    x = STEM[rank](filters, max(3, strides), strides, name="stem")(inputs)
    for stage, (filters, size, strides, number) in enumerate(stages):
        default = size if conv == "separable" else STANDARD_KERNEL
        for i in range(max(1, round(number * depth))):
            x = block(
                make_divisible(filters * width, DIVISOR),
                default if kernel_size is None else kernel_size,
                strides=1 if i else strides,
                name=f"stage_{stage}_{i}",
            )(x)
    if block is DEPTHWISE_FIRST:
        x = keras.layers.Activation("relu", name="last_activation")(x)
    name = name or "separable_resnet"
    return classifier(inputs, x, rank, classes, include_top, pooling, dropout, name)
