"""Replaces blocks with models of their inner layers, and calls all layers one by one."""

from collections.abc import Callable
from typing import Any

import keras

from sepconv_layers.blocks.base import Block, Chain, Walker
from sepconv_layers.graph_edit import (
    ModelGraph,
    calls_as_defined,
    clone_layer,
    copy_state,
    is_graph,
)
from sepconv_layers.layers.squeeze_excite import SqueezeExcite

Pair = tuple[keras.layers.Layer, keras.layers.Layer]  # old and new
Make = Callable[[Any], tuple[Any, list[Pair]]]


def unrolled(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with each block as a model of its inner layers, by the same name.

    Args:
        model: A functional model or a built sequential model. It is not changed.

    Raises:
        ValueError: If the model is of another kind.
    """
    inner: dict[int, list[Pair]] = {}

    def make(old: Any) -> Any:
        new, inner[id(old)] = _unrolled_layer(old)
        return new

    copy, pairs = ModelGraph(model).rebuild(make)
    for old, _ in pairs:
        for one, other in inner[id(old)]:
            copy_state(one, other)
    return copy


def _unrolled_layer(layer: Any) -> tuple[Any, list[Pair]]:
    if calls_as_defined(layer):
        if isinstance(layer, Block):
            return unrolled_block(layer, _unrolled_layer)
        if isinstance(layer, SqueezeExcite):
            return _unrolled_squeeze_excite(layer)
    new = clone_layer(layer)
    return new, [(layer, new)] if isinstance(layer, keras.layers.Layer) else []


class _Unroller(Walker):
    """Calls replacements of the layers of a block."""

    def __init__(self, block: Block, make: Make) -> None:
        self.block, self.make = block, make
        self.pairs: list[Pair] = []

    def run(self, chain: Chain, x: Any) -> Any:
        for old in chain:
            new, pairs = self.make(old)
            self.pairs += pairs
            x = new(x)
        is_cast = keras.backend.standardize_dtype(x.dtype) == self.block.compute_dtype
        return x if is_cast else keras.ops.cast(x, self.block.compute_dtype)


def unrolled_block(block: Block, make: Make) -> tuple[keras.Model, list[Pair]]:
    """Returns a block as a model of replacements of its inner layers, and old and new layers.

    Args:
        block: The block. It is not changed.
        make: Returns the replacement of a layer, and the pairs of old and new layers in it.
    """
    inputs = keras.Input(batch_shape=block.input.shape, dtype=block.compute_dtype)
    unroller = _Unroller(block, make)
    outputs = block.walk(inputs, block.chains(), unroller)
    return keras.Model(inputs, outputs, name=block.name), unroller.pairs


def _unrolled_squeeze_excite(layer: Any) -> tuple[keras.Model, list[Pair]]:
    common = {"dtype": layer.dtype_policy}
    channels = layer.excite.units
    shape = [1] * (layer.rank + 1)
    shape[layer._channel_axis - 1] = channels
    sizes = [None] * (layer.rank + 1)
    sizes[layer._channel_axis - 1] = channels
    inputs = keras.Input(sizes, dtype=layer.compute_dtype)
    average = getattr(keras.layers, f"GlobalAveragePooling{layer.rank}D")
    pairs = [(dense, clone_layer(dense)) for dense in (layer.squeeze, layer.excite)]
    gates = average(data_format=layer.data_format, name="average", **common)(inputs)
    for _, dense in pairs:
        gates = dense(gates)
    gates = keras.layers.Reshape(shape, name="gates", **common)(gates)
    outputs = keras.layers.Multiply(name="scale", **common)([inputs, gates])
    return keras.Model(inputs, outputs, name=layer.name), pairs


def run_layers(model: keras.Model, inputs: Any, call: Callable[..., Any], path: str = "") -> Any:
    """Runs a functional model with a function in place of each call of a layer or operation.

    Args:
        model: The functional model. The layers of models inside it are called, too.
        inputs: What the calls take in place of the inputs of the model.
        call: Called as `call(path, layer, *args, **kwargs)` with the names of the models around
            the layer and of the layer itself. It returns what the next calls take.
        path: The names of the models around this one, each with a slash.
    """

    def step(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if is_graph(layer):
            return run_layers(layer, args[0], call, f"{path}{layer.name}/")
        return call(f"{path}{layer.name}", layer, *args, **kwargs)

    return model._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=step)
