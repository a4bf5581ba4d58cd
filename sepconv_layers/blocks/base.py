"""What all blocks share: arguments, configuration, shapes, and the folding of stages."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sepconv_layers import layers
from sepconv_layers.arguments import check_number, positive_int
from sepconv_layers.layers.base import BaseConv, channels_of
from sepconv_layers.layers.composite import Composite
from sepconv_layers.ops.geometry import Geometry

Normalization = str | Callable[[], keras.layers.Layer] | None

CONV = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
DEPTHWISE_CONV = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D, 3: layers.DepthwiseConv3D}
SEPARABLE_CONV = {1: layers.SeparableConv1D, 2: layers.SeparableConv2D, 3: layers.SeparableConv3D}
SQUEEZE_EXCITE = {1: layers.SqueezeExcite1D, 2: layers.SqueezeExcite2D, 3: layers.SqueezeExcite3D}

# With Keras's default of 0.99, inference is at chance until hundreds of steps have passed; below
# 0.9 little is won, and few batches make the statistics: see `benchmarks/batch_norm_momentum.py`.
BATCH_NORM_MOMENTUM = 0.9
MAX_GROUPS = 32
_TORCH_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)


class Block(Composite):
    """A chain of layers, made for the channels of the input that it first meets."""

    rank: int  # set by the 1D, 2D and 3D subclasses

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
        """Makes the layers of the chain for an input of so many channels."""
        raise NotImplementedError

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = self._check(input_shape)
        self.stages = self._make_stages(channels)
        self._build_all(self.stages, input_shape)
        self.input_spec = keras.layers.InputSpec(
            ndim=self.rank + 2, axes={self.geometry.channel_axis: channels}
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._fold(self.stages, inputs, training)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        stages = self.stages or self._make_stages(self._check(input_shape))
        return functools.reduce(
            lambda shape, stage: stage.compute_output_shape(shape), stages, tuple(input_shape)
        )

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
        """Returns the input's channels, or raises a `ValueError` that shows the whole input."""
        channels = channels_of(self, input_shape)
        self.geometry.output_shape(input_shape, self.filters)
        return channels

    def _build_all(self, stages: Sequence[keras.layers.Layer], shape: Sequence[int | None]) -> None:
        for stage in stages:
            self._build_inner(stage, shape)
            shape = stage.compute_output_shape(shape)

    def _fold(
        self, stages: Sequence[keras.layers.Layer], inputs: Any, training: bool | None
    ) -> Any:
        is_applied = False
        for stage, after in itertools.zip_longest(stages, stages[1:]):
            call = self._call_of(stage, training)
            if is_applied:
                inputs, is_applied = call(inputs, is_applied=True), False
                continue
            is_pair = isinstance(stage, BaseConv) and isinstance(after, layers.BatchNormalization)
            if is_pair and not training and stage.should_scale(inputs):
                inputs, is_applied = call(inputs, scale_and_shift=after.scale_and_shift), True
            else:
                inputs = call(inputs)
        # A normalization that the user makes may compute in another type than the block.
        return keras.ops.cast(inputs, self.compute_dtype)

    def _call_of(self, stage: keras.layers.Layer, training: bool | None) -> Callable:
        """What runs a stage: on PyTorch its arithmetic alone, where that is known and not hooked.

        What Keras does around it takes as long there as a small convolution. The block's own call
        has done it all: the stages have its types, and shapes that follow from those it has
        checked. Only a normalization that the user makes, or a stage whose type a user has changed,
        may give another one, for Keras to cast.
        """
        is_known = keras.backend.backend() == "torch" and not callable(self.normalization)
        is_known = is_known and stage.compute_dtype == self.compute_dtype
        if not is_known or any(getattr(stage, hooks) for hooks in _TORCH_HOOKS):
            return stage
        if isinstance(stage, layers.BatchNormalization | layers.DropPath):
            return functools.partial(stage.call, training=bool(training))
        return stage.call if isinstance(stage, BaseConv | keras.layers.Activation) else stage

    # The stages that blocks are made of.

    def _spatial(self, family: dict[int, Any], *args: Any, **kwargs: Any) -> keras.layers.Layer:
        """A layer with the block's kernel, of a family that gives a class for each rank."""
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

    def _pointwise(self, filters: int, name: str, strides: Any = 1) -> keras.layers.Layer:
        return self._spatial(
            CONV, filters, kernel_size=1, strides=strides, dilation_rate=1, name=name
        )

    def _norm(self, channels: int, name: str) -> list[keras.layers.Layer]:
        """A normalization of so many channels, or nothing."""
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
        # Until Keras 3.15 at least, its layer normalization knows only the last axes on PyTorch.
        spatial = range(1, self.rank + 1)
        return [
            keras.layers.Permute((*(n + 1 for n in spatial), 1), dtype=self.dtype_policy),
            layer_norm,
            keras.layers.Permute((self.rank + 1, *spatial), dtype=self.dtype_policy),
        ]

    def _act(self, name: str) -> list[keras.layers.Layer]:
        """The activation, or nothing where it is linear."""
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
    """A block whose input is added to the output of its stages, where the shapes allow."""

    def __init__(self, *args: Any, drop_path: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drop_path = check_number(
            drop_path, "drop_path", "a number in [0, 1)", lambda rate: 0 <= rate < 1
        )

    def _make_shortcut(self, channels: int) -> list[keras.layers.Layer] | None:
        """Makes what the input passes on its way to the addition, or `None` for no addition."""
        raise NotImplementedError

    @property
    def shortcut_reach(self) -> tuple[int, ...]:
        """How many input positions the stages reach over without padding, less one."""
        return (0,) * self.rank

    def _shortcut_input(self, inputs: Any) -> Any:
        """What of the input stands where the outputs do."""
        return inputs

    def _make_tail(self) -> list[keras.layers.Layer]:
        """Makes what follows the addition."""
        return []

    def build(self, input_shape: Sequence[int | None]) -> None:
        super().build(input_shape)
        self.shortcut = self._make_shortcut(channels_of(self, input_shape))
        self.drop = layers.DropPath(self.drop_path, dtype=self.dtype_policy, name="drop_path")
        self.tail = self._make_tail()
        self._build_all(self.shortcut or [], input_shape)
        self._build_all([self.drop, *self.tail], self.compute_output_shape(input_shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = super().call(inputs, training)
        if self.shortcut is not None:
            shortcut = self._fold(self.shortcut, self._shortcut_input(inputs), training)
            outputs = self._call_of(self.drop, training)(outputs) + shortcut
        return self._fold(self.tail, outputs, training)

    def get_config(self) -> dict:
        return {**super().get_config(), "drop_path": self.drop_path}

    def _keeps_shape(self, channels: int) -> bool:
        """Whether the input can be added to the output as it is."""
        unpadded = self.padding == "valid" and max(self.geometry.extent) > 0
        return channels == self.filters and max(self.strides) == 1 and not unpadded


def _standardize_normalization(normalization: Any) -> Normalization:
    if isinstance(normalization, dict):  # from a configuration
        with contextlib.suppress(TypeError):  # if it is none, it is refused below
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
        "returns a new layer at each call, such as the class of a layer. Received: "
        f"normalization={normalization!r}"
    )


def _serialize_normalization(normalization: Normalization) -> Any:
    if not isinstance(normalization, type):
        return keras.saving.serialize_keras_object(normalization)
    # Keras writes instances only: this is what it writes of one with default arguments.
    name = normalization.__name__
    built_in = getattr(keras.layers, name, None) is normalization
    return {
        "module": "keras.layers" if built_in else normalization.__module__,
        "class_name": name,
        "config": {},
        "registered_name": (None if built_in else keras.saving.get_registered_name(normalization)),
    }
