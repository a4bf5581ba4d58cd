"""Weights of `keras.applications` for the nets of the same kind."""

import keras
import numpy as np

from sepconv_layers.models.classifier import TOP


def load_keras_application(model: keras.Model, source: keras.Model) -> keras.Model:
    """Copies the weights of a net of `keras.applications` into ours of the same kind.

    `mobilenet`, `mobilenet_v2` and `mobilenet_v3` take those of `MobileNet`, `MobileNetV2` and
    `MobileNetV3Small` or `MobileNetV3Large` of the same width, and then have the same outputs, but
    for the softmax: logits, not probabilities. Inputs are pixels scaled to `[-1, 1]`. The input
    sizes of the two may differ.

    Without a top in `source`, the classifier of `model` keeps its weights, and its classes may be
    other ones: that is how to fine-tune a net that knows ImageNet.

    Args:
        model: The model to copy to, with separable convolutions.
        source: The model to copy from, such as `keras.applications.MobileNetV2(alpha=0.5)`.

    Returns:
        `model`.

    Raises:
        ValueError: If the weights do not fit, with the first that does not. Then none is copied.

    Example:
        >>> import keras
        >>> from sepconv_layers import models
        >>> source = keras.applications.MobileNet((32, 32, 3), weights=None, include_top=False)
        >>> model = models.mobilenet((32, 32, 3), classes=5)
        >>> model is models.load_keras_application(model, source)
        True
    """
    theirs, ours = source.weights, model.weights
    body = [weight for weight in ours if weight.path.split("/")[0] not in TOP]
    if len(theirs) == len(body):
        ours = body
    for mine, other in zip(ours, theirs, strict=False):
        if _kind(mine) != _kind(other):
            raise _misfit(model, source, f"{_words(other)} where the `model` has {_words(mine)}")
    if len(theirs) != len(ours):
        raise _misfit(model, source, f"{len(theirs)} weights where the `model` has {len(ours)}")
    for mine, other in zip(ours, theirs, strict=True):
        mine.assign(np.reshape(keras.ops.convert_to_numpy(other), mine.shape))
    return model


def _kind(weight: keras.Variable) -> tuple:
    """What two weights must have in common: a pointwise kernel may be that of a dense layer."""
    sizes = [size for size in weight.shape if size != 1]
    return weight.name, *sizes


def _words(weight: keras.Variable) -> str:
    return f"{weight.path!r} of shape {tuple(weight.shape)}"


def _misfit(model: keras.Model, source: keras.Model, difference: str) -> ValueError:
    return ValueError(
        "The `source` argument must be a net of `keras.applications` of the kind and width of the "
        "`model`, with as many classes or without a top, and the `model` must have separable "
        f"convolutions. Received: source={source.name!r} for model={model.name!r}: the `source` "
        f"has {difference}. No weight was copied. To keep the classifier of the `model`, make the "
        "`source` with include_top=False."
    )
