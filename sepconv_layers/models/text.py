"""A text classifier: stacked 1D separable convolutions, and its standard twin."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers import blocks
from sepconv_layers.arguments import lookup, positive_int, positive_number
from sepconv_layers.models.classifier import LOGITS, make_divisible

RESIDUAL = {
    "separable": blocks.ResidualSeparableConvBlock1D,
    "standard": blocks.ResidualConvBlock1D,
}

# Filters, kernel size, dilation.
SEP_CNN = (
    (128, 5, 1),
    (128, 5, 2),
    (128, 5, 4),
)
PADDING = 0


def sep_cnn(
    input_shape: Sequence[int | None] = (None,),
    classes: int = 2,
    vocabulary_size: int = 8_000,
    embedding: int = 128,
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    dropout: float = 0.4,
    name: str | None = None,
) -> keras.Model:
    """Residual separable convolutions with growing dilation over embedded tokens.

    Token 0 is padding and never changes the output: padded positions are set to zero before each
    convolution, like the positions beyond the ends of a text, and left out of the average and the
    maximum over tokens that pool the features. There is no normalization: batch statistics would
    depend on the padding, and a net this shallow trains well without.

    Args:
        input_shape: Shape of a text: `(length,)`, where `(None,)` takes any length.
        classes: Number of classes.
        vocabulary_size: Number of different tokens, including the padding token.
        embedding: Size of the embedding vectors.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of all layers. Numbers of filters are rounded to multiples of 8.
        include_top: Whether to classify. Otherwise the output is the pooled features.
        dropout: Dropout rate of the pooled features. The embedded tokens use half of it.
        name: Name of the model.

    Returns:
        A model from integer tokens of shape `(batch, length)` to logits, or to features with
        `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import models
        >>> model = models.sep_cnn((None,), classes=3, vocabulary_size=100)
        >>> tuple(model(np.array([[7, 13, 2, 0, 0]])).shape)
        (1, 3)

    Reference:
        [Chollet, "Xception", 2017](https://arxiv.org/abs/1610.02357);
        [Kaiser et al., "Depthwise Separable Convolutions for Neural Machine Translation", 2017](
        https://arxiv.org/abs/1706.03059).
    """
    block, width = lookup(RESIDUAL, conv, "conv"), positive_number(width, "width")
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) != 1 or not (shape[0] is None or (isinstance(shape[0], int) and shape[0] > 0)):
        raise ValueError(
            "The `input_shape` argument must be (length,), a positive integer or None for any "
            f"length. Received: input_shape={input_shape!r}"
        )
    tokens = keras.Input(shape, dtype="int32", name="tokens")
    x = keras.layers.Embedding(
        positive_int(vocabulary_size, "vocabulary_size"),
        positive_int(embedding, "embedding"),
        name="embedding",
    )(tokens)
    is_token = keras.ops.expand_dims(keras.ops.not_equal(tokens, PADDING), -1)
    mask = keras.ops.cast(is_token, x.dtype)
    if dropout:
        x = keras.layers.SpatialDropout1D(dropout / 2, name="embedding_dropout")(x)
    for number, (filters, kernel_size, dilation_rate) in enumerate(SEP_CNN):
        x = block(
            make_divisible(filters * width),
            kernel_size,
            dilation_rate=dilation_rate,
            normalization=None,
            data_format="channels_last",
            repeats=1,
            name=f"block_{number}",
        )(x * mask)
    x = _pool(x, mask)
    if include_top:
        if dropout:
            x = keras.layers.Dropout(dropout, name="dropout")(x)
        x = keras.layers.Dense(positive_int(classes, "classes"), name=LOGITS)(x)
    return keras.Model(tokens, x, name=name or "sep_cnn")


def _pool(x: Any, mask: Any) -> Any:
    """Average and maximum over the tokens. Activations must not be negative."""
    x = x * mask
    number = keras.ops.maximum(keras.ops.sum(mask, axis=1), 1)
    return keras.ops.concatenate([keras.ops.sum(x, axis=1) / number, keras.ops.max(x, axis=1)], -1)
