"""Runs a model on calibration data, and shows what single layers in it get."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

BATCH_SIZE = 128


class Calibration:
    """Inputs of a model, read batch by batch as often as needed.

    Args:
        data: An array or a structure of arrays as the model takes it, or batches that can be
            iterated repeatedly, such as a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            PyTorch `DataLoader`. Of a batch that is a tuple, the first entry counts.
        model: The model.

    Raises:
        ValueError: If there are no inputs, or they do not fit the model.
    """

    def __init__(self, data: Any, model: keras.Model) -> None:
        self.data, self.model = data, model
        leaves = keras.tree.flatten(data)
        self.is_arrays = all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)
        if not (self.is_arrays or isinstance(data, Iterable) or hasattr(data, "__getitem__")):
            raise self._invalid(type(data).__name__)
        if isinstance(data, Iterator):
            raise self._invalid("an iterator, which can be read only once")
        if self.is_arrays and len({len(leaf) for leaf in leaves}) != 1:
            raise self._invalid(f"arrays of {[len(leaf) for leaf in leaves]} samples")
        batch = next(iter(self), None)
        if batch is None:
            raise self._invalid("no samples")
        shapes = [tuple(array.shape) for array in keras.tree.flatten(batch)]
        expected = [tuple(tensor.shape) for tensor in model.inputs]
        if len(shapes) != len(expected) or not all(map(_fits, shapes, expected)):
            raise self._invalid(f"a batch of shapes {shapes}")
        self.input_shapes = [shape[1:] for shape in shapes]

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches."""
        if self.is_arrays:
            size = len(keras.tree.flatten(self.data)[0])
            for start in range(0, size, BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                yield keras.tree.map_structure(lambda array, part=part: array[part], self.data)
            return
        is_indexed = isinstance(self.data, keras.utils.PyDataset)
        batches = map(self.data.__getitem__, range(len(self.data))) if is_indexed else self.data
        for batch in batches:
            yield batch[0] if isinstance(batch, tuple) else batch

    def _invalid(self, received: str) -> ValueError:
        shapes = [tuple(tensor.shape) for tensor in self.model.inputs]
        return ValueError(
            f"The `data` argument must be inputs of the model, of shapes {shapes}: an array, a "
            "structure of arrays with the same number of samples, or batches of them that can be "
            f"iterated repeatedly. Received: {received}."
        )


def _fits(shape: tuple, expected: tuple) -> bool:
    pairs = zip(shape[1:], expected[1:], strict=False)
    return len(shape) == len(expected) and all(want in (None, size) for size, want in pairs)


class Call:
    """The inputs of one call of a layer, as arrays."""

    def __init__(self, layer: Any, inputs: Any, mask: Any) -> None:
        self.layer = layer
        self.inputs = keras.ops.convert_to_numpy(inputs)
        self.mask = None if mask is None else keras.ops.convert_to_numpy(mask)


def calls_in(model: keras.Model, batch: Any, layers: Sequence[Any], stop: int = 0) -> list[Call]:
    """Runs a model and returns the calls of some layers, in order.

    Args:
        model: The model. It runs for inference, without compilation.
        batch: Its inputs.
        layers: The layers.
        stop: Number of calls after which the run ends; by default, the model runs to its end.
    """
    calls: list[Call] = []

    def recording(layer: Any, call: Callable) -> Callable:
        def recording_call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(Call(layer, inputs, kwargs.get("mask")))
            if len(calls) == stop:
                raise _Reached
            return call(inputs, *args, **kwargs)

        return recording_call

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replaced(layer, "call", recording(layer, layer.call)))
            if hasattr(layer, "scale_and_shift"):
                # A block would apply it before the layer gets its input.
                stack.enter_context(replaced(layer, "scale_and_shift", lambda: (1.0, 0.0)))
        stack.enter_context(contextlib.suppress(_Reached))
        stack.enter_context(_without_gradients())
        model(batch, training=False)
    return calls


class _Reached(Exception):
    """Ends the run of a model."""

    _keras_call_info_injected = True  # so that Keras does not describe the inputs of each layer


@contextlib.contextmanager
def replaced(layer: Any, method: str, function: Callable) -> Iterator[None]:
    """Replaces a method of an instance, bypassing the attribute tracking of Keras."""
    object.__setattr__(layer, method, function)
    try:
        yield
    finally:
        object.__delattr__(layer, method)


def _without_gradients() -> Any:
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def measure(model: keras.Model, norm: Any, calibration: Calibration, calls: int) -> None:
    """Sets the moving mean and variance of a batch normalization to those of the data.

    Args:
        model: The model, in which everything before the layer is final.
        norm: The layer.
        calibration: The data.
        calls: Number of calls of the layer in a run of the model.
    """
    count, sums, squares = 0.0, 0.0, 0.0
    for call in itertools.chain.from_iterable(
        calls_in(model, batch, [norm], calls) for batch in calibration
    ):
        values = np.moveaxis(call.inputs, norm.axis, -1).astype("float64")
        if call.mask is None:
            values = values.reshape(-1, values.shape[-1])
        else:
            values = values[call.mask.astype(bool)].reshape(-1, values.shape[-1])
        count += len(values)
        sums, squares = sums + values.sum(0), squares + np.square(values).sum(0)
    if count:
        mean = sums / count
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(np.maximum(squares / count - mean**2, 0.0))
