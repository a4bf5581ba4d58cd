"""Shared by all reference nets: checks of arguments, rounding of widths, and the classifier."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import is_integer, positive_int

AVERAGE = {
    1: keras.layers.GlobalAveragePooling1D,
    2: keras.layers.GlobalAveragePooling2D,
    3: keras.layers.GlobalAveragePooling3D,
}
MAXIMUM = {
    1: keras.layers.GlobalMaxPooling1D,
    2: keras.layers.GlobalMaxPooling2D,
    3: keras.layers.GlobalMaxPooling3D,
}
FEATURES = "features"
LOGITS = "logits"
TOP = (FEATURES, LOGITS)  # the layers after the pooling


def check_input_shape(input_shape: Any, axes: Sequence[str]) -> tuple[int | None, ...]:
    """Returns the shape of one sample, or raises a `ValueError` that names the expected axes.

    Every size may be `None`, except the number of channels.
    """
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    is_last = keras.config.image_data_format() == "channels_last"
    channels = len(axes) - 1 if is_last else 0
    if len(shape) == len(axes) and all(
        (size is None and axis != channels) or (is_integer(size) and size > 0)
        for axis, size in enumerate(shape)
    ):
        return shape
    order = axes if is_last else (axes[-1], *axes[:-1])
    raise ValueError(
        f"The `input_shape` argument must be ({', '.join(order)}), without the batch: positive "
        "integers, or None for any size except the number of channels. "
        f"Received: input_shape={input_shape!r}"
    )


def round_down(filters: float) -> int:
    """Rounds a number of filters down, to at least one, as MobileNet V1 does."""
    return max(1, int(filters))


def make_divisible(filters: float, divisor: int = 8) -> int:
    """Rounds to a multiple of `divisor`, not down by over 10 %, as MobileNet V2 and V3 do."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor * (rounded < 0.9 * filters)


def classifier(
    inputs: Any,
    features: Any,
    rank: int,
    classes: int,
    include_top: bool,
    pooling: str | None,
    dropout: float,
    name: str,
    hidden: Sequence[Any] = (),
) -> keras.Model:
    """Completes a net: pooling and classifier, or the features if there is no top.

    Args:
        inputs: The symbolic input.
        features: The output of the body of the net.
        rank: Number of spatial dimensions.
        classes: Number of logits.
        include_top: Whether to pool and classify.
        pooling: Pooling of the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        name: Name of the model.
        hidden: Layers between the pooling and the logits.
    """
    poolings = {None: None, "avg": AVERAGE[rank], "max": MAXIMUM[rank]}
    if pooling not in poolings:
        raise ValueError(
            f"The `pooling` argument must be one of {tuple(poolings)}. Received: {pooling!r}"
        )
    if not include_top:
        pool = poolings[pooling]
        return keras.Model(inputs, features if pool is None else pool()(features), name=name)
    x = AVERAGE[rank](name="pool")(features)
    for layer in hidden:
        x = layer(x)
    return logits_model(inputs, x, classes, dropout, name)


def logits_model(
    inputs: Any, features: Any, classes: int, dropout: float, name: str
) -> keras.Model:
    """Completes a net from its pooled features.

    Outside any `keras.RematScope`: this part keeps little for the backward pass, and Keras fails
    to run a model or its own dense layer again in a TensorFlow graph, and its dropout on JAX.
    """
    with keras.RematScope(mode=None):
        if dropout:
            features = keras.layers.Dropout(dropout, name="dropout")(features)
        logits = keras.layers.Dense(positive_int(classes, "classes"), name=LOGITS)(features)
        return keras.Model(inputs, logits, name=name)
