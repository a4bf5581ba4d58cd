"""Checks of what all exports need: the backend, the model and its labels."""

from collections.abc import Sequence
from typing import Any

import keras


def check_arguments(function: str, model: Any, labels: Sequence[str] | None) -> list[str]:
    """Checks the backend, the model and its labels; returns the labels as a list.

    Args:
        function: The public function that was called.
        model: The model to export.
        labels: Names of its classes, or `None`.

    Raises:
        ValueError: If one of them cannot be exported.
    """
    require_tensorflow(function)
    check_model(model)
    return _checked_labels(labels, model)


def require_tensorflow(function: str) -> None:
    """Raises a `ValueError` on backends other than TensorFlow: exports are TensorFlow graphs."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"`{function}` needs the TensorFlow backend. Received: the backend {backend!r}. Save "
            "the model with `model.save('model.keras')`, which any backend can load, and export it "
            "in a process with KERAS_BACKEND=tensorflow."
        )


def check_model(model: Any) -> None:
    """Raises a `ValueError` unless it is a Keras model with known inputs and a free batch size."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            "The `model` argument must be a Keras model with known inputs: a functional model, or "
            f"a sequential model that is built. Received: model={model!r}"
        )
    for tensor in model.inputs:
        if tensor.shape[0] not in (None, 1):
            raise ValueError(
                "The `model` argument must take batches of any size, or of one sample. Received: a "
                f"model whose input {tensor.name!r} has the shape {tuple(tensor.shape)}. Build it "
                "with `keras.Input(shape)`, which leaves the batch size open, and copy the weights "
                "with `set_weights`."
            )


def _checked_labels(labels: Sequence[str] | None, model: keras.Model) -> list[str]:
    if labels is None:
        return []
    names = [labels] if isinstance(labels, str) else list(labels)
    classes = model.outputs[0].shape[-1]
    fits = all(isinstance(name, str) and "\n" not in name for name in names)
    if len(model.outputs) > 1 or len(names) != classes or not fits:
        raise ValueError(
            f"The `labels` argument must be {classes} strings without newlines, one for each class "
            f"of the model's only output. Received: labels={labels!r}"
        )
    return names
