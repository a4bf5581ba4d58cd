"""Base classes of the blocks: arguments, configuration, inner layers, and the walk over them."""

import contextlib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from sepconv_layers import layers
from sepconv_layers.arguments import check_number, positive_int
from sepconv_layers.blocks import rematerialization
from sepconv_layers.layers.base import BaseConv, channels_of
from sepconv_layers.layers.composite import Composite
from sepconv_layers.ops import on_torch
from sepconv_layers.ops.geometry import Geometry

Normalization = str | Callable[[], keras.layers.Layer] | None
Chain = Sequence[keras.layers.Layer]
Chains = Mapping[str, Any]  # name → chain, or `None` if the block does not have it

CONV = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
DEPTHWISE_CONV = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D, 3: layers.DepthwiseConv3D}
SEPARABLE_CONV = {1: layers.SeparableConv1D, 2: layers.SeparableConv2D, 3: layers.SeparableConv3D}
SQUEEZE_EXCITE = {1: layers.SqueezeExcite1D, 2: layers.SqueezeExcite2D, 3: layers.SqueezeExcite3D}

# With the Keras default of 0.99, inference is at chance level for hundreds of steps. Below 0.9,
# little is gained and the statistics come from few batches: see
# `benchmarks/batch_norm_momentum.py`.
BATCH_NORM_MOMENTUM = 0.9
MAX_GROUPS = 32


class Walker:
    """Defines what each step of `Block.walk` does. The default is meant for tensors.

    `Block.walk` describes how the chains of layers in a block are connected. Building a block,
    calling it, unrolling it into a model and streaming it are all walks, with different walkers, so
    they work for every block.
    """

    def run(self, chain: Chain, x: Any) -> Any:
        """Passes a value through a chain of layers."""
        raise NotImplementedError

    def merge(self, function: Callable[..., Any], *values: Any) -> Any:
        """Merges values of the same shape elementwise."""
        return function(*values)

    def window(
        self, function: Callable[[Any], Any], x: Any, reach: Sequence[int], strides: Sequence[int]
    ) -> Any:
        """Applies a function of unpadded windows of size `reach + 1`, moved by `strides`."""
        return function(x)


class Block(Composite):
    """A layer assembled from chains of inner layers, which it creates in `build`.

    A subclass with a single chain defines `_make_stages`. A subclass with any other graph defines
    `_make_chains` and `walk`. Folding, conversion and streaming need nothing else.
    """

    rank: int  # set by the 1D, 2D and 3D subclasses
    _chain_names: tuple[str, ...] = ()  # attributes, set by `build`

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int],
        padding: str,
        dilation_rate: int | Sequence[int],
        activation: Any,
        normalization: Normalization,
        data_format: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = positive_int(filters, "filters")
        self.geometry = Geometry.of(
            kernel_size, self.rank, strides, padding, data_format, dilation_rate
        )
        self.kernel_size = self.geometry.kernel_size
        self.strides = self.geometry.strides
        self.padding = self.geometry.padding
        self.dilation_rate = self.geometry.dilation_rate
        self.data_format = self.geometry.data_format
        self.activation = keras.activations.get(activation)
        self.normalization = _standardize_normalization(normalization)
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)
        self.stages: list[keras.layers.Layer] = []

    def _make_stages(self, channels: int) -> list[keras.layers.Layer]:
        """Creates the layers of the main chain."""
        raise NotImplementedError

    def _make_chains(self, channels: int) -> dict[str, Any]:
        """Creates all inner layers: attribute name → list of layers, one layer, or `None`."""
        return {"stages": self._make_stages(channels)}

    def walk(self, x: Any, chains: Chains, walker: Walker) -> Any:
        """Passes a value through the chains. This is the only description of the graph of a block.

        Args:
            x: The input: a tensor, a shape, or whatever the walker takes.
            chains: The inner layers, by the names in `_make_chains`.
            walker: Runs the chains and merges their results.
        """
        return walker.run(chains["stages"], x)

    def chains(self) -> Chains:
        """The chains of a built block, by the names in `_make_chains`."""
        return _as_chains({name: getattr(self, name) for name in self._chain_names})

    def inner_layers(self) -> list[keras.layers.Layer]:
        """The layers in all chains of a built block."""
        return [layer for chain in self.chains().values() for layer in chain or ()]

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = self._check(input_shape)
        with self._scope_of_inner():
            made = self._make_chains(channels)
        for name, layers_of_chain in made.items():
            setattr(self, name, layers_of_chain)
        self._chain_names = tuple(made)
        self.walk(tuple(input_shape), self.chains(), _Shapes(self._build_inner))
        self.input_spec = keras.layers.InputSpec(
            ndim=self.rank + 2, axes={self.geometry.channel_axis: channels}
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.walk(inputs, self.chains(), _Call(self, training))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        chains = self.chains() or _as_chains(self._make_chains(self._check(input_shape)))
        return self.walk(tuple(input_shape), chains, _Shapes())

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "activation": keras.activations.serialize(self.activation),
            "normalization": _serialize_normalization(self.normalization),
            "data_format": self.data_format,
        }

    def _check(self, input_shape: Sequence[int | None]) -> int:
        """Returns the number of input channels, or raises a `ValueError` with the input shape."""
        channels = channels_of(self, input_shape)
        self.geometry.output_shape(input_shape, self.filters)
        return channels

    def _fold(
        self, stages: Sequence[keras.layers.Layer], inputs: Any, training: bool | None
    ) -> Any:
        rest, is_applied = list(stages), False
        while rest:
            if training and (step := rematerialization.cheap_stages(rest, inputs)):
                inputs, rest = rematerialization.in_training(step, inputs), rest[len(step) :]
                continue
            stage, *rest = rest
            call = self._call_of(stage, training)
            if is_applied:
                inputs, is_applied = call(inputs, is_applied=True), False
                continue
            is_pair = isinstance(stage, BaseConv) and isinstance(
                next(iter(rest), None), layers.BatchNormalization
            )
            if is_pair and not training and stage.should_scale(inputs):
                inputs, is_applied = call(inputs, scale_and_shift=rest[0].scale_and_shift), True
            else:
                inputs = call(inputs)
        # A normalization that the user passes may compute in another dtype than the block.
        return keras.ops.cast(inputs, self.compute_dtype)

    def _call_of(self, stage: keras.layers.Layer, training: bool | None) -> Callable:
        """Returns the function that runs a stage: where it can be, its `call` alone.

        Keras's checks in `__call__` are then done by the block, whose stages have its dtype and
        shapes that follow from its own. A normalization that the user passes may return another
        dtype, which Keras has to cast.
        """
        is_known = not callable(self.normalization)
        is_checked = is_known and on_torch.can_skip_layer_call(stage, self.compute_dtype)
        if isinstance(stage, BaseConv | keras.layers.Activation):
            return stage.call if is_checked else stage
        call: Callable = stage
        if isinstance(stage, layers.BatchNormalization | layers.DropPath):
            call = stage.call if is_checked else stage
        elif "training" not in inspect.signature(stage.call).parameters:
            return stage
        # Keras knows it from the outermost call, which is over when a `keras.RematScope` runs a
        # block once more.
        return functools.partial(call, training=bool(training))

    # The stages that blocks are assembled from.

    def _spatial(self, family: dict[int, Any], *args: Any, **kwargs: Any) -> keras.layers.Layer:
        """A layer with the kernel of the block. `family` has a class for each rank."""
        arguments = {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "data_format": self.data_format,
            "use_bias": self.normalization is None,
            "dtype": self.dtype_policy,
            **kwargs,
        }
        return family[self.rank](*args, **arguments)

    def _pointwise(self, filters: int, name: str) -> keras.layers.Layer:
        return self._spatial(CONV, filters, kernel_size=1, strides=1, dilation_rate=1, name=name)

    def _norm(self, channels: int, name: str) -> list[keras.layers.Layer]:
        """The normalization of that number of channels, if any."""
        if self.normalization is None:
            return []
        if callable(self.normalization):
            return [self.normalization()]
        axis = self.geometry.channel_axis
        common = {"dtype": self.dtype_policy, "name": f"{name}_norm"}
        if self.normalization == "batch":
            return [layers.BatchNormalization(axis, momentum=BATCH_NORM_MOMENTUM, **common)]
        if self.normalization == "group":
            groups = math.gcd(channels, MAX_GROUPS)
            return [keras.layers.GroupNormalization(groups, axis, **common)]
        layer_norm = keras.layers.LayerNormalization(-1, **common)
        if self.data_format == "channels_last":
            return [layer_norm]
        # At least up to Keras 3.15, layer normalization supports only the last axes on PyTorch.
        spatial = range(1, self.rank + 1)
        return [
            keras.layers.Permute((*(n + 1 for n in spatial), 1), dtype=self.dtype_policy),
            layer_norm,
            keras.layers.Permute((self.rank + 1, *spatial), dtype=self.dtype_policy),
        ]

    def _act(self, name: str) -> list[keras.layers.Layer]:
        """The activation, unless it is linear."""
        if self.activation is keras.activations.linear:
            return []
        return [
            keras.layers.Activation(
                self.activation, dtype=self.dtype_policy, name=f"{name}_activation"
            )
        ]

    def _norm_act(self, channels: int, name: str) -> list[keras.layers.Layer]:
        return [*self._norm(channels, name), *self._act(name)]


class ShortcutBlock(Block):
    """A block that adds its input to the output of its stages where the shapes allow it."""

    def __init__(self, *args: Any, drop_path: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drop_path = check_number(
            drop_path, "drop_path", "a number in [0, 1)", lambda rate: 0 <= rate < 1
        )

    def _make_shortcut(self, channels: int) -> list[keras.layers.Layer] | None:
        """Creates the layers between the input and the addition, or `None` for no addition."""
        raise NotImplementedError

    def _make_tail(self) -> list[keras.layers.Layer]:
        """Creates the layers after the addition."""
        return []

    def _make_chains(self, channels: int) -> dict[str, Any]:
        return {
            **super()._make_chains(channels),
            "shortcut": self._make_shortcut(channels),
            "drop": layers.DropPath(self.drop_path, dtype=self.dtype_policy, name="drop_path"),
            "tail": self._make_tail(),
        }

    @property
    def shortcut_reach(self) -> tuple[int, ...]:
        """Receptive field of the stages minus one where they are not padded, else 0."""
        return (0,) * self.rank

    def _shortcut_input(self, inputs: Any) -> Any:
        """Returns the input positions that the outputs are centered on."""
        return inputs

    def walk(self, x: Any, chains: Chains, walker: Walker) -> Any:
        outputs = super().walk(x, chains, walker)
        if chains["shortcut"] is not None:
            x = walker.window(self._shortcut_input, x, self.shortcut_reach, self.strides)
            shortcut = walker.run(chains["shortcut"], x)
            outputs = walker.merge(operator.add, walker.run(chains["drop"], outputs), shortcut)
        return walker.run(chains["tail"], outputs)

    def get_config(self) -> dict:
        return {**super().get_config(), "drop_path": self.drop_path}

    def _keeps_shape(self, channels: int) -> bool:
        """Whether the input can be added to the output without a projection."""
        unpadded = self.padding == "valid" and max(self.geometry.extent) > 0
        return channels == self.filters and max(self.strides) == 1 and not unpadded


class _Call(Walker):
    """Computes the outputs of a block."""

    def __init__(self, block: Block, training: bool | None) -> None:
        self.block, self.training = block, training

    def run(self, chain: Chain, x: Any) -> Any:
        return self.block._fold(chain, x, self.training)


class _Shapes(Walker):
    """Computes the output shape of a block, and optionally builds its layers.

    Args:
        build: Called with each layer and its input shape.
    """

    def __init__(self, build: Callable[[Any, tuple], None] | None = None) -> None:
        self.build = build

    def run(self, chain: Chain, x: tuple) -> tuple:
        for layer in chain:
            if self.build is not None:
                self.build(layer, x)
            x = tuple(layer.compute_output_shape(x))
        return x

    def merge(self, function: Callable[..., Any], *values: tuple) -> tuple:
        return values[0]

    def window(
        self,
        function: Callable[[Any], Any],
        x: tuple,
        reach: Sequence[int],
        strides: Sequence[int],
    ) -> tuple:
        return x  # only the number of channels matters


def _as_chains(made: dict[str, Any]) -> Chains:
    """Wraps each single layer in a list."""
    return {
        name: [value] if isinstance(value, keras.layers.Layer) else value
        for name, value in made.items()
    }


def _standardize_normalization(normalization: Any) -> Normalization:
    if isinstance(normalization, dict):  # from a configuration
        with contextlib.suppress(TypeError):  # an invalid one is refused below
            normalization = keras.saving.deserialize_keras_object(normalization)
        if isinstance(normalization, keras.layers.Layer):
            return type(normalization)
    if isinstance(normalization, str | None):
        known = normalization in ("batch", "layer", "group", None)
    else:
        known = callable(normalization) and not isinstance(normalization, keras.layers.Layer)
    if known:
        return normalization
    raise ValueError(
        "The `normalization` argument must be 'batch', 'layer', 'group', None or a callable that "
        "returns a new layer on each call, such as a layer class. Received: "
        f"normalization={normalization!r}"
    )


def _serialize_normalization(normalization: Normalization) -> Any:
    if not isinstance(normalization, type):
        return keras.saving.serialize_keras_object(normalization)
    # Keras serializes instances only. This is its form for one with default arguments.
    name = normalization.__name__
    built_in = getattr(keras.layers, name, None) is normalization
    return {
        "module": "keras.layers" if built_in else normalization.__module__,
        "class_name": name,
        "config": {},
        "registered_name": (None if built_in else keras.saving.get_registered_name(normalization)),
    }
