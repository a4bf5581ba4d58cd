"""Text classifiers of 1D separable or depthwise convolutions, and their standard twins."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers import blocks, layers
from sepconv_layers.arguments import lookup, positive_int, positive_number
from sepconv_layers.models.classifier import logits_model, make_divisible

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
# The kernel size of each layer of `region_cnn`.
REGION_CNN = (7, 7)
CONV: dict[str, Any] = {"separable": layers.DepthwiseConv1D, "standard": layers.Conv1D}
PADDING = 0
MOST_TOKENS = 2**20  # in texts of unknown length


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
    tokens, x, mask = _embed(input_shape, vocabulary_size, embedding, dropout / 2)
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
    return _classify(tokens, x, classes, include_top, dropout, name or "sep_cnn")


def region_cnn(
    input_shape: Sequence[int | None] = (None,),
    classes: int = 2,
    vocabulary_size: int = 8_000,
    embedding: int = 128,
    kernel_sizes: Sequence[int] = REGION_CNN,
    conv: str = "separable",
    width: float = 1.0,
    include_top: bool = True,
    dropout: float = 0.6,
    name: str | None = None,
) -> keras.Model:
    """Depthwise convolutions over wide embeddings: each channel is a detector of its own.

    A separable convolution whose output is averaged over the text does not need its pointwise
    part: the classifier after the average is one already, and costs next to nothing there. What
    remains is a weight for each channel and each place in a window of words. Every layer adds its
    rectified output to its input, and the embedded tokens and the outputs of all layers are pooled.
    In the twin, a standard convolution replaces each depthwise one.

    Token 0 is padding and never changes the output, as in `sep_cnn`.

    Args:
        input_shape: Shape of a text: `(length,)`, where `(None,)` takes any length.
        classes: Number of classes.
        vocabulary_size: Number of different tokens, including the padding token.
        embedding: Size of the embedding vectors, and number of channels of all layers.
        kernel_sizes: The kernel size of each layer, in tokens.
        conv: `"separable"`, or `"standard"` for the twin.
        width: Width multiplier of the embedding, and so of all layers. The product is rounded to a
            multiple of 4.
        include_top: Whether to classify. Otherwise the output is the pooled features.
        dropout: Dropout rate of the pooled features. The embedded tokens use half of it.
        name: Name of the model.

    Returns:
        A model from integer tokens of shape `(batch, length)` to logits, or to features with
        `include_top=False`.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> from sepconv_layers import models, profile
        >>> model = models.region_cnn((48,), embedding=128, vocabulary_size=100)
        >>> profile(model).macs
        87552

    Reference:
        [Johnson and Zhang, "Effective Use of Word Order for Text Categorization with Convolutional
        Neural Networks", 2015](https://arxiv.org/abs/1412.1058);
        [Shen et al., "Baseline Needs More Love", 2018](https://arxiv.org/abs/1805.09843).
    """
    layer, width = lookup(CONV, conv, "conv"), positive_number(width, "width")
    channels = make_divisible(positive_int(embedding, "embedding") * width, divisor=4)
    tokens, x, mask = _embed(input_shape, vocabulary_size, channels, dropout / 2)
    pooled = [_pool(x, mask)]
    filters = {"filters": channels} if conv == "standard" else {}
    if not isinstance(kernel_sizes, Sequence) or isinstance(kernel_sizes, str):
        raise ValueError(
            "The `kernel_sizes` argument must be a sequence of positive integers, one for each "
            f"layer. Received: kernel_sizes={kernel_sizes!r}"
        )
    for number, kernel_size in enumerate(kernel_sizes):
        convolution = layer(
            kernel_size=kernel_size,
            padding="same",
            activation="relu",
            data_format="channels_last",
            name=f"conv_{number}",
            **filters,
        )
        x = x * mask
        x = x + convolution(x)
        pooled.append(_pool(x, mask))
    x = keras.ops.concatenate(pooled, -1)
    return _classify(tokens, x, classes, include_top, dropout, name or "region_cnn")


def _embed(
    input_shape: Any, vocabulary_size: int, channels: int, dropout: float
) -> tuple[Any, Any, Any]:
    """The symbolic tokens, their embeddings, and a mask that is 0 for padding and else 1."""
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) != 1 or not (shape[0] is None or (isinstance(shape[0], int) and shape[0] > 0)):
        raise ValueError(
            "The `input_shape` argument must be (length,), a positive integer or None for any "
            f"length. Received: input_shape={input_shape!r}"
        )
    tokens = keras.Input(shape, dtype="int32", name="tokens")
    x = keras.layers.Embedding(
        positive_int(vocabulary_size, "vocabulary_size"),
        positive_int(channels, "embedding"),
        name="embedding",
    )(tokens)
    is_token = keras.ops.expand_dims(keras.ops.not_equal(tokens, PADDING), -1)
    mask = keras.ops.cast(is_token, x.dtype)
    if dropout:
        x = keras.layers.SpatialDropout1D(dropout, name="embedding_dropout")(x)
    return tokens, x, mask


def _classify(
    tokens: Any, x: Any, classes: int, include_top: bool, dropout: float, name: str
) -> keras.Model:
    """Completes a net from its pooled features."""
    if include_top:
        return logits_model(tokens, x, classes, dropout, name)
    return keras.Model(tokens, x, name=name)


def _pool(x: Any, mask: Any) -> Any:
    """Average and maximum over the tokens. A negative maximum counts as zero, as padding does."""
    x = x * mask
    # Of means, whose range does not grow with the length: int8 has 256 values for each tensor.
    share = keras.ops.maximum(keras.ops.mean(mask, axis=1), 1 / (x.shape[1] or MOST_TOKENS))
    largest = keras.ops.maximum(keras.ops.max(x, axis=1), 0)
    return keras.ops.concatenate([keras.ops.mean(x, axis=1) / share, largest], -1)
