"""Checks of the arguments that all exports share: the model, its labels and a sample."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.export.names import leaves
from sepconv_layers.graph_edit import input_structure

Arrays = list[np.ndarray]

SAMPLES = 8  # size of a random sample


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


def sample_for(model: keras.Model, sample: Any, argument: str = "sample") -> Arrays:
    """Returns the sample as a list of arrays, one for each input; by default random numbers.

    Args:
        model: The model that takes the sample.
        sample: An array, or a list or dictionary of arrays, or `None`.
        argument: The name of the argument that holds the sample, for messages.

    Raises:
        ValueError: If the sample does not fit the model, or if there is none and the model has
            open sizes or takes strings.
    """
    inputs = model.inputs
    dtypes = [array_dtype(tensor) for tensor in inputs]
    if sample is None:
        rng = np.random.default_rng(0)
        arrays = []
        for tensor, dtype in zip(inputs, dtypes, strict=True):
            shape = tensor.shape[1:]
            if None in shape or dtype.hasobject:
                reason = "takes strings as" if dtype.hasobject else "has open sizes in"
                raise ValueError(
                    f"The model {reason} its input {tensor.name!r}, so the `sample` argument must "
                    "be a batch of inputs to run the artifact with. Received: sample=None for the "
                    f"shape {tuple(tensor.shape)}."
                )
            arrays.append(random_array(rng, (tensor.shape[0] or SAMPLES, *shape), dtype))
    else:
        arrays = [np.asarray(array) for array in _in_order(model, sample, argument)]
    _check_shapes(inputs, arrays, argument)
    return [array.astype(dtype) for dtype, array in zip(dtypes, arrays, strict=True)]


def array_dtype(tensor: Any) -> np.dtype:
    """The dtype of arrays for an input of a model; strings are objects."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return np.dtype(object if dtype == "string" else dtype)


def random_array(rng: np.random.Generator, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Random numbers; ones for integers, whose valid range is unknown."""
    is_float = "float" in np.dtype(dtype).name
    return (rng.normal(size=shape) if is_float else np.ones(shape)).astype(dtype)


def check_keys(argument: str, expected: Iterable[Any], received: Iterable[Any]) -> None:
    """Raises a `ValueError` if a dictionary of arrays has other keys than expected."""
    if set(received) != set(expected):
        raise ValueError(
            f"The `{argument}` argument must have the keys {sorted(expected, key=str)}. Received: "
            f"the keys {sorted(received, key=str)}."
        )


def has_sizes(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape has the expected sizes, where `None` stands for any size."""
    return len(shape) == len(expected) and all(
        size in (None, n) for size, n in zip(expected, shape, strict=True)
    )


def _in_order(model: keras.Model, sample: Any, argument: str) -> list[Any]:
    """The parts of a sample in the order of the inputs, found by keys or by input names."""
    if not isinstance(sample, Mapping):
        return keras.tree.flatten(sample)
    structure = input_structure(model)
    has_keys = isinstance(structure, Mapping)
    keys = list(structure) if has_keys else [tensor.name for tensor in model.inputs]
    check_keys(argument, keys, sample)
    return leaves(structure, sample) if has_keys else [sample[key] for key in keys]


def _check_shapes(inputs: Sequence[Any], arrays: Arrays, argument: str) -> None:
    shapes = [tuple(tensor.shape) for tensor in inputs]
    received = [array.shape for array in arrays]
    fits = len(shapes) == len(received) and all(map(has_sizes, received, shapes))
    if not fits or len({shape[0] for shape in received}) > 1 or 0 in received[0]:
        raise ValueError(
            f"The `{argument}` argument must be a batch of inputs of the shapes {shapes}. "
            f"Received: arrays of the shapes {received}."
        )
