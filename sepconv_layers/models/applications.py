"""Pretrained weights from `keras.applications`."""

import keras
import numpy as np

from sepconv_layers.models.classifier import TOP


def load_keras_application(model: keras.Model, source: keras.Model) -> keras.Model:
    """Copies the weights of a `keras.applications` model into the same net of this package.

    `mobilenet`, `mobilenet_v2` and `mobilenet_v3` take the weights of `MobileNet`, `MobileNetV2`
    and `MobileNetV3Small` or `MobileNetV3Large` of the same width. The outputs are then the same,
    except that they are logits and not probabilities. Inputs are pixels scaled to `[-1, 1]`. The
    two models may have different input sizes.

    If `source` has no top, the classifier of `model` keeps its weights and may have other classes:
    use this to fine-tune a net pretrained on ImageNet.

    Args:
        model: The model to copy to, with separable convolutions.
        source: The model to copy from, such as `keras.applications.MobileNetV2(alpha=0.5)`.

    Returns:
        `model`.

    Raises:
        ValueError: If the weights do not match. It names the first mismatch, and nothing is copied.

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
    """Equal for weights that match: a pointwise kernel may be the kernel of a dense layer."""
    sizes = [size for size in weight.shape if size != 1]
    return weight.name, *sizes


def _words(weight: keras.Variable) -> str:
    return f"{weight.path!r} of shape {tuple(weight.shape)}"


def _misfit(model: keras.Model, source: keras.Model, difference: str) -> ValueError:
    return ValueError(
        "The `source` argument must be a `keras.applications` model of the same architecture and "
        "width as `model`, with the same number of classes or no top, and `model` must have "
        f"separable convolutions. Received: source={source.name!r} for model={model.name!r}: "
        f"`source` has {difference}. No weight was copied. To keep the classifier of `model`, "
        "create `source` with include_top=False."
    )
