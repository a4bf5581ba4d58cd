"""A classifier of volumes and video clips: MobileNet in 3D, and its standard twin."""

from collections.abc import Sequence

import keras

from sepconv_layers import blocks
from sepconv_layers.arguments import lookup, positive_number
from sepconv_layers.models.classifier import (
    check_input_shape,
    classifier,
    round_down,
)

SEPARABLE = {"separable": blocks.SeparableConvBlock3D, "standard": blocks.ConvBlock3D}
VOLUME = ("depth", "height", "width", "channels")

# Filters, strides.
MOBILENET_3D = (
    (64, 2),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    *[(1024, 1)] * 2,
)


def mobilenet_3d(
    input_shape: Sequence[int | None] = (16, 112, 112, 3),
    classes: int = 600,
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.2,
    name: str | None = None,
) -> keras.Model:
    """MobileNet in 3D, for volumes, or for video clips with time as the depth.

    At 16×112×112: 233.0 million MACs, and 3.3 million parameters without the classifier, as in the
    paper. The standard twin has 2,560 million MACs.

    Args:
        input_shape: Shape of a volume: `(depth, height, width, channels)`, or channels first if the
            Keras configuration says so. Depth, height and width may be `None`.
        classes: Number of classes.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers.
        include_top: Whether to pool and classify. Otherwise the output is the last feature map.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        name: Name of the model.

    Returns:
        A model from volumes to logits, or to features with `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models
        >>> models.mobilenet_3d((32, 32, 32, 1), classes=10, width=0.25).output_shape
        (None, 10)

    Reference:
        [Köpüklü et al., "Resource Efficient 3D Convolutional Neural Networks", 2019](
        https://arxiv.org/abs/1904.02422).
    """
    block, width = lookup(SEPARABLE, conv, "conv"), positive_number(width, "width")
    inputs = keras.Input(check_input_shape(input_shape, VOLUME), name="volumes")
    x = blocks.ConvBlock3D(round_down(32 * width), strides=(1, 2, 2), name="stem")(inputs)
    for number, (filters, strides) in enumerate(MOBILENET_3D):
        x = block(round_down(filters * width), strides=strides, name=f"block_{number}")(x)
    name = name or "mobilenet_3d"
    return classifier(inputs, x, 3, classes, include_top, pooling, dropout, name)
