"""What all reference nets share: checks of their arguments, and how they begin and end."""

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
TOP = (FEATURES, LOGITS)  # the layers behind pooling


def check_input_shape(input_shape: Any, axes: Sequence[str]) -> tuple[int | None, ...]:
    """Returns the shape of one sample, or a `ValueError` that names the axes that it must have.

    All sizes but that of the channels may be `None`.
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
        "integers, or None for a size, but for that of the channels, that is left open. "
        f"Received: input_shape={input_shape!r}"
    )


def round_down(filters: float) -> int:
    """A whole number of filters, as MobileNet V1 rounds: down, but to one at least."""
    return max(1, int(filters))


def make_divisible(filters: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, as MobileNet V2 and V3 round: not a tenth below."""
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
    """The model from inputs to logits; without a top, to features, pooled if that is asked for.

    Args:
        inputs: The symbolic input.
        features: What the body of the net makes of it.
        rank: Number of spatial dimensions.
        classes: Number of logits.
        include_top: Whether to pool and classify.
        pooling: What to do with the features without a top: `None`, `"avg"` or `"max"`.
        dropout: Dropout rate of the pooled features.
        name: Name of the model.
        hidden: Layers between pooling and logits.
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
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    logits = keras.layers.Dense(positive_int(classes, "classes"), name=LOGITS)(x)
    return keras.Model(inputs, logits, name=name)
