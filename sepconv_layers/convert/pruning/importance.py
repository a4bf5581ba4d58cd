"""How much each channel matters to the layers that take it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from sepconv_layers.convert.pruning.channels import Part
from sepconv_layers.convert.unrolling import run_layers

NOISE_ELEMENTS, MIN_NOISE, MAX_NOISE = 2**20, 8, 64  # samples of noise, by the size of a sample


def importance_of(
    model: keras.Model, batches: Iterable[Any], parts: Mapping[int, Part], is_noise: bool
) -> dict[int, np.ndarray]:
    """The share of each input channel in the squared outputs of the layer.

    Args:
        model: A functional model without blocks.
        batches: Inputs, batch by batch.
        parts: The layers, by their ids. Those that mix channels are measured.
        is_noise: Whether the inputs are noise. Then each batch normalization uses the statistics
            of the batch, so that its outputs have the mean and variance that they have in use.

    Returns:
        By the id of the layer, a number for each input channel, with a sum of 1.
    """
    axes = {key: part.axis for key, part in parts.items() if part.inputs.size}
    if not axes:
        return {}
    measured = _MeanSquares(model, axes, is_noise)
    sums = [0.0] * len(axes)
    for batch in batches:
        found = measured.predict_on_batch(batch)
        sums = [total + each.sum(0, "float64") for total, each in zip(sums, found, strict=True)]
    return {
        key: _shares(total * _squared_norms(parts[key]))
        for key, total in zip(axes, sums, strict=True)
    }


class _MeanSquares(keras.Model):
    """A model of the mean square of each channel that layers take, for each sample.

    Args:
        model: A functional model without blocks.
        axes: The channel axis of each layer, by its id.
        is_noise: As for `importance_of`.
    """

    def __init__(self, model: keras.Model, axes: Mapping[int, int], is_noise: bool) -> None:
        super().__init__(name="mean_squares")
        self.model, self.is_noise = model, is_noise
        self.axes = MappingProxyType(axes)  # Keras does not track this type

    def call(self, inputs: Any) -> list[Any]:
        squares: dict[int, Any] = {}

        def call(path: str, layer: Any, *args: Any, **kwargs: Any) -> Any:
            x = args[0]
            if id(layer) in self.axes:
                axes = [n for n in range(1, len(x.shape)) if n != self.axes[id(layer)]]
                found = keras.ops.mean(keras.ops.square(keras.ops.cast(x, "float32")), axes)
                squares[id(layer)] = squares.get(id(layer), 0) + found
            if self.is_noise and isinstance(layer, keras.layers.BatchNormalization):
                return _normalized(layer, x)
            return layer(*args, **kwargs)

        run_layers(self.model, inputs, call)
        return [squares[key] for key in self.axes]


def _shares(values: np.ndarray) -> np.ndarray:
    total = values.sum()
    return values / total if total > 0 else np.full(len(values), 1 / len(values))


def _normalized(norm: Any, x: Any) -> Any:
    """What a batch normalization returns in training."""
    axes = [axis for axis in range(len(x.shape)) if axis != norm.axis % len(x.shape)]
    shape = [1 if axis in axes else -1 for axis in range(len(x.shape))]
    mean, variance = keras.ops.moments(keras.ops.cast(x, "float32"), axes, keepdims=True)
    y = (keras.ops.cast(x, "float32") - mean) / keras.ops.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        y = y * keras.ops.reshape(norm.gamma, shape)
    if norm.beta is not None:
        y = y + keras.ops.reshape(norm.beta, shape)
    return keras.ops.cast(y, norm.compute_dtype)


def _squared_norms(part: Part) -> np.ndarray:
    """The squared norm of the weights of each input channel, as the batch normalization scales."""
    layer, name = part.layer, [name for name, axes in part.cuts.items() if len(axes) == 2][0]
    kernel = _to_numpy(getattr(layer, name))
    rank = kernel.ndim
    axes = {axis % rank: labels for axis, labels in part.cuts[name].items()}
    (output,) = [axis for axis, labels in axes.items() if labels is part.outputs]
    (channel,) = set(axes) - {output}
    if part.norm is not None:
        variance = _to_numpy(part.norm.moving_variance) + part.norm.epsilon
        gamma = 1.0 if part.norm.gamma is None else _to_numpy(part.norm.gamma)
        shape = [1] * rank
        shape[output] = -1
        kernel = kernel * (gamma / np.sqrt(variance)).reshape(shape)
    matrices = np.moveaxis(kernel, (channel, output), (-2, -1)) ** 2
    matrix = matrices.reshape(-1, *matrices.shape[-2:]).sum(0)
    groups = getattr(layer, "groups", 1)
    norms = matrix.reshape(len(matrix), groups, -1).sum(-1).T.ravel()
    if name == "pointwise_kernel":
        depthwise = _to_numpy(layer.depthwise_kernel) ** 2
        weights = depthwise.reshape(-1, depthwise.shape[-2] * depthwise.shape[-1]).sum(0)
        norms = (norms * weights).reshape(depthwise.shape[-2], -1).sum(-1)
    return norms


def _to_numpy(weight: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight).astype("float64")


def noise_for(model: keras.Model, inputs: Any) -> Iterator[Any]:
    """Yields a batch of noise for a model: normal numbers, or indices where they are embedded.

    Args:
        model: A functional model.
        inputs: Symbolic inputs of all sizes.
    """
    limits: dict[int, int] = {}

    def call(path: str, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.layers.Embedding):
            known = limits.get(id(args[0]), layer.input_dim)
            limits[id(args[0])] = min(known, layer.input_dim)
        return layer(*args, **kwargs)

    def sample(tensor: Any) -> np.ndarray:
        shape = (count, *tensor.shape[1:])
        if id(tensor) in limits:
            return rng.integers(limits[id(tensor)], size=shape).astype(tensor.dtype)
        if not keras.backend.is_float_dtype(tensor.dtype):
            raise ValueError(
                "The `data` argument is required for a model with inputs that are neither floats "
                f"nor embedded. Received: data=None, and the input {tensor.name!r} of "
                f"dtype={tensor.dtype!r}"
            )
        return rng.normal(size=shape).astype(tensor.dtype)

    run_layers(model, inputs, call)
    rng = np.random.default_rng(0)
    size = max(math.prod(tensor.shape[1:]) for tensor in keras.tree.flatten(inputs))
    count = min(max(NOISE_ELEMENTS // size, MIN_NOISE), MAX_NOISE)
    yield keras.tree.map_structure(sample, inputs)
