"""Inputs of models and artifacts as arrays: the user's sample or random numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.export.checks import check_model
from sepconv_layers.export.names import leaves
from sepconv_layers.graph_edit import input_structure

Arrays = list[np.ndarray]

SAMPLES = 8  # size of a random sample


def random_inputs(
    model: Any, batch_size: int = 1, shapes: Sequence[Sequence[int]] | None = None
) -> Any:
    """Returns random inputs to run a model or a loaded artifact with, the same ones at every call.

    Floats are normally distributed. Integers are 1, because their valid range is unknown.

    Args:
        model: A Keras model with known inputs, or the result of `load`.
        batch_size: Number of samples.
        shapes: Shape of each input without the batch. Needed if the model has open sizes.

    Returns:
        The inputs in the structure that the model takes; for an artifact, a list of arrays.

    Raises:
        ValueError: If a size is open, an input takes strings, or the model has unknown inputs.

    Example:
        >>> import keras
        >>> from sepconv_layers import export
        >>> model = keras.Sequential([keras.Input((8, 3)), keras.layers.Dense(2)])
        >>> export.random_inputs(model, batch_size=4).shape
        (4, 8, 3)
    """
    is_model = isinstance(model, keras.layers.Layer)
    if is_model:
        check_model(model)
    dtypes = [array_dtype(tensor) if is_model else tensor.dtype for tensor in model.inputs]
    arrays = _random_arrays(model.inputs, dtypes, batch_size, shapes)
    return keras.tree.pack_sequence_as(input_structure(model), arrays) if is_model else arrays


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
        batch_size = next((tensor.shape[0] for tensor in inputs if tensor.shape[0]), SAMPLES)
        try:
            arrays = _random_arrays(inputs, dtypes, batch_size)
        except ValueError as error:
            raise ValueError(
                f"{error} The `sample` argument must be a batch of inputs to run the artifact "
                "with. Received: sample=None."
            ) from None
    else:
        arrays = [np.asarray(array) for array in _in_order(model, sample, argument)]
    _check_shapes(inputs, arrays, argument)
    return [array.astype(dtype) for dtype, array in zip(dtypes, arrays, strict=True)]


def array_dtype(tensor: Any) -> np.dtype:
    """The dtype of arrays for an input of a model; strings are objects."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return np.dtype(object if dtype == "string" else dtype)


def _random_arrays(
    tensors: Sequence[Any],
    dtypes: Sequence[np.dtype],
    batch_size: int,
    shapes: Sequence[Sequence[int]] | None = None,
) -> Arrays:
    rng, arrays = np.random.default_rng(0), []
    sizes = [tuple(shape) for shape in shapes or [tensor.shape[1:] for tensor in tensors]]
    for tensor, dtype, shape in zip(tensors, dtypes, sizes, strict=True):
        if None in shape or dtype.hasobject:
            problem = "takes strings" if dtype.hasobject else f"has the open sizes {shape}"
            raise ValueError(f"The input {tensor.name!r} {problem}, so it cannot be random.")
        is_float = "float" in dtype.name
        size = (batch_size, *shape)
        arrays.append((rng.normal(size=size) if is_float else np.ones(size)).astype(dtype))
    return arrays


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
