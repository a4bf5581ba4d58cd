"""Random inputs for models and for artifacts."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.export.checks import array_dtype, check_model, random_array
from sepconv_layers.graph_edit import input_structure


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
    rng, arrays = np.random.default_rng(0), []
    expected = [tensor.shape[1:] for tensor in model.inputs]
    for tensor, shape in zip(model.inputs, shapes or expected, strict=True):
        sizes = tuple(shape)
        dtype = array_dtype(tensor) if is_model else tensor.dtype
        if None in sizes or dtype.hasobject:
            problem = "takes strings" if dtype.hasobject else f"has the open sizes {sizes}"
            raise ValueError(f"The input {tensor.name!r} {problem}, so it cannot be random.")
        arrays.append(random_array(rng, (batch_size, *sizes), dtype))
    return keras.tree.pack_sequence_as(input_structure(model), arrays) if is_model else arrays
