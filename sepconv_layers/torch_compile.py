"""Keras models that PyTorch's compiler traces into one graph."""

import inspect
from typing import Any

import keras

__all__ = ["single_graph"]


class _Signature(inspect.Signature):
    """A signature whose parameters are a dictionary.

    Those of Python are a read-only view of one. PyTorch's compiler stops at such a view once any
    dictionary has changed, and Keras looks at the signature in each call of a layer.
    """

    __slots__ = ("_dictionary",)

    def __init__(self, signature: inspect.Signature) -> None:
        super().__init__(
            list(signature.parameters.values()), return_annotation=signature.return_annotation
        )
        self._dictionary = dict(signature.parameters)

    @property
    def parameters(self) -> Any:
        return self._dictionary


def single_graph(model: keras.Model) -> keras.Model:
    """Prepares a model for `torch.compile`, and returns it.

    Without this, at least up to Keras 3.15 and PyTorch 2.13, `torch.compile` and
    `model.compile(jit_compile=True)` stop at each layer, and little is fused. The model computes
    the same as before, and its layers and weights stay the same objects.

    Args:
        model: The model. Its layers are prepared in place.

    Returns:
        The same model.

    Raises:
        ValueError: If `model` is not a Keras model.

    Example:
        >>> import keras
        >>> from sepconv_layers import SeparableConvBlock2D, single_graph
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), SeparableConvBlock2D(4)])
        >>> model = single_graph(model)
        >>> model.output_shape
        (None, 8, 8, 4)
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: {type(model).__name__}.")
    for layer in model._flatten_layers():
        if not isinstance(layer._call_signature, _Signature):
            object.__setattr__(layer, "_call_signature", _Signature(layer._call_signature))
    return model
