"""Runs a model on calibration data, and shows what single layers in it get."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from sepconv_layers import sources
from sepconv_layers.cost.trace import replaced
from sepconv_layers.layers.base import BaseConv

# Samples in a batch of arrays, and numbers in them: activations of a batch have to fit in memory.
MOST_SAMPLES = 128
MOST_NUMBERS = 2**22


class Calibration:
    """Inputs of a model, read batch by batch as often as needed.

    Args:
        data: An array or a structure of arrays as the model takes it, a data set that is read by
            index, or batches that can be iterated repeatedly, such as a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a PyTorch `DataLoader`. Labels and sample weights beside the
            inputs are ignored.
        model: The model.
        batch_size: Number of samples in a batch of arrays; by default, what fits in memory.

    Attributes:
        input_shapes: The shape of a sample of each input.

    Raises:
        ValueError: If there are no inputs, or they do not fit the model.
    """

    def __init__(self, data: Any, model: keras.Model, batch_size: int | None = None) -> None:
        self.data, self.model, self.batch_size = data, model, batch_size
        self.is_by_sample = sources.is_by_sample(data)
        if isinstance(data, Iterator):
            raise self._invalid("an iterator, which can be read only once")
        if self.is_by_sample:
            self.data = sources.sources_of(data, "The `data` argument")
            lengths = [len(source) for source in keras.tree.flatten(self.data)]
            if len(set(lengths)) != 1:
                raise self._invalid(f"arrays of {lengths} samples")
        elif not isinstance(data, Iterable | keras.utils.PyDataset):
            raise self._invalid(type(data).__name__)
        batch = next(iter(self), None)
        if batch is None:
            raise self._invalid("no samples")
        shapes = [tuple(getattr(array, "shape", ())) for array in keras.tree.flatten(batch)]
        expected = [tuple(tensor.shape) for tensor in model.inputs]
        if len(shapes) != len(expected) or not all(map(_fits, shapes, expected)):
            raise self._invalid(f"a batch of shapes {shapes}")
        self.input_shapes = [shape[1:] for shape in shapes]

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches."""
        if self.is_by_sample:
            inputs = len(self.model.inputs)
            yield from sources.in_turn(self.data, self.batch_size or self._most_samples(), inputs)
            return
        is_indexed = isinstance(self.data, keras.utils.PyDataset)
        batches = map(self.data.__getitem__, range(len(self.data))) if is_indexed else self.data
        for batch in batches:
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]

    def _most_samples(self) -> int:
        first = next(sources.in_turn(self.data, 1, len(self.model.inputs)), ())
        numbers = sum(array.size for array in keras.tree.flatten(first))
        return min(max(MOST_NUMBERS // max(numbers, 1), 1), MOST_SAMPLES)

    def _invalid(self, received: str) -> ValueError:
        shapes = [tuple(tensor.shape) for tensor in self.model.inputs]
        return ValueError(
            f"The `data` argument must be inputs of the model, of shapes {shapes}: an array or a "
            "data set with `len` and `[indices]`, a structure of arrays with the same number of "
            "samples, or batches of them that can be iterated repeatedly. Received: "
            f"{received}."
        )


def _fits(shape: tuple, expected: tuple) -> bool:
    pairs = zip(shape[1:], expected[1:], strict=False)
    return len(shape) == len(expected) and all(want in (None, size) for size, want in pairs)


class Call(NamedTuple):
    """A call of a layer while a model runs."""

    layer: Any
    tensor: Any
    tensor_mask: Any

    @property
    def inputs(self) -> np.ndarray:
        """The inputs, as an array."""
        return keras.ops.convert_to_numpy(self.tensor)

    def values(self) -> np.ndarray:
        """The inputs that no mask hides, `(number, channels)`, for a layer with an axis."""
        values = np.moveaxis(self.inputs, self.layer.axis, -1)
        if self.tensor_mask is not None:
            values = values[keras.ops.convert_to_numpy(self.tensor_mask).astype(bool)]
        return values.reshape(-1, values.shape[-1]).astype("float64")


def run(
    model: keras.Model,
    batch: Any,
    layers: Sequence[Any],
    on_call: Callable[[Call], None],
    stop: int = 0,
) -> None:
    """Runs a model for inference, without compilation, and reports the calls of some layers.

    Args:
        model: The model.
        batch: Its inputs.
        layers: The layers.
        on_call: Called with each call of these layers, before the layer computes.
        stop: Number of calls after which the run ends; by default, the model runs to its end.
    """
    numbers = itertools.count(1)

    def recording(layer: Any, call: Callable) -> Callable:
        def recording_call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            on_call(Call(layer, inputs, kwargs.get("mask")))
            if next(numbers) == stop:
                raise _Reached
            return call(inputs, *args, **kwargs)

        return recording_call

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replaced(layer, "call", recording(layer, layer.call)))
        for conv in model._flatten_layers():
            if isinstance(conv, BaseConv):  # or a block may apply a normalization to its kernel
                stack.enter_context(replaced(conv, "should_scale", lambda inputs: False))
        stack.enter_context(contextlib.suppress(_Reached))
        stack.enter_context(_without_gradients())
        model(batch, training=False)


def inputs_of(model: keras.Model, batch: Any, layer: Any, calls: int) -> list[np.ndarray]:
    """Runs a model up to the last one of so many calls of a layer, and returns their inputs."""
    found: list[np.ndarray] = []
    run(model, batch, [layer], lambda call: found.append(call.inputs), calls)
    return found


class _Reached(Exception):
    """Ends the run of a model."""

    _keras_call_info_injected = True  # so that Keras does not describe the inputs of each layer


def _without_gradients() -> Any:
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


class Statistics:
    """Mean and variance of the inputs of batch normalizations, by the id of the layer."""

    def __init__(self) -> None:
        self.sums: dict[int, np.ndarray] = {}

    def add(self, call: Call) -> None:
        """Adds the inputs of a call."""
        values = call.values()
        counts = np.full(values.shape[-1], len(values))
        sums = np.stack([counts, values.sum(0), np.square(values).sum(0)])
        self.sums[id(call.layer)] = self.sums.get(id(call.layer), 0.0) + sums

    def of(self, layer: Any) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the variance."""
        count, total, squares = self.sums[id(layer)]
        mean = total / np.maximum(count, 1)
        return mean, np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0)
