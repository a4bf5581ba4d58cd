"""Base class of all convolution layers: arguments, shapes, bias, activation, configuration."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sepconv_layers.ops import context, operations
from sepconv_layers.ops.geometry import Geometry

_WEIGHT_OPTIONS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}


def channels_of(layer: Any, input_shape: Sequence[int | None]) -> int:
    """Returns the input channels of a layer, or raises a `ValueError` for a wrong input shape."""
    axis = 1 if layer.data_format == "channels_first" else layer.rank + 1
    channels = input_shape[axis] if len(input_shape) == layer.rank + 2 else None
    if not channels:
        raise ValueError(
            f"{type(layer).__name__} expects inputs with {layer.rank} spatial dimensions, of rank "
            f"{layer.rank + 2}, with a known, positive number of channels in axis {axis} "
            f"(data_format={layer.data_format!r}). Received: input_shape={tuple(input_shape)}"
        )
    return channels


class BaseConv(keras.layers.Layer):
    """A convolution layer without kernels, which its subclasses create."""

    rank: int  # set by the 1D, 2D and 3D subclasses

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int],
        padding: str,
        data_format: str | None,
        dilation_rate: int | Sequence[int],
        activation: Any,
        use_bias: bool,
        weight_options: dict[str, Any],
        activity_regularizer: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            activity_regularizer=keras.regularizers.get(activity_regularizer), **kwargs
        )
        self.geometry = Geometry.of(
            kernel_size, self.rank, strides, padding, data_format, dilation_rate
        )
        self.kernel_size = self.geometry.kernel_size
        self.strides = self.geometry.strides
        self.padding = self.geometry.padding
        self.data_format = self.geometry.data_format
        self.dilation_rate = self.geometry.dilation_rate
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self._weight_options = tuple(weight_options)
        for option, value in weight_options.items():
            setattr(self, option, _WEIGHT_OPTIONS[option.rpartition("_")[2]].get(value))
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)

    def _add_weight(self, name: str, shape: tuple[int, ...], options: str) -> keras.Variable:
        """Adds a weight with the initializer, regularizer and constraint of that prefix."""
        return self.add_weight(
            name=name,
            shape=shape,
            **{kind: getattr(self, f"{options}_{kind}") for kind in _WEIGHT_OPTIONS},
        )

    def _finish_build(self, input_shape: Sequence[int | None], filters: int) -> None:
        """Adds the bias, and restricts later inputs to the number of channels seen here."""
        self.bias = self._add_weight("bias", (filters,), "bias") if self.use_bias else None
        self.input_spec = keras.layers.InputSpec(
            ndim=self.rank + 2, axes={self.geometry.channel_axis: channels_of(self, input_shape)}
        )

    def call(self, inputs: Any, scale_and_shift: Callable[[], tuple] | None = None) -> Any:
        """Convolves.

        With `scale_and_shift` of the batch normalization that follows, it is applied as well.
        """
        if scale_and_shift is not None:
            return self._convolve(inputs, *scale_and_shift())
        outputs = self._convolve(inputs, None, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _convolve(self, inputs: Any, scale: Any, bias: Any) -> Any:
        """Convolves with the kernels, of which the last one is scaled per output channel."""
        raise NotImplementedError

    def should_scale(self, inputs: Any) -> bool:
        """Whether to scale the kernel instead of the output, where that is less work.

        The kernel is scaled again in each call. XLA scales outputs at no cost, and in half
        precision a scaled kernel would be rounded once more.

        At inference, it makes MobileNet 6 to 22 % faster, except on PyTorch at batch size 1.
        """
        if self.use_bias or self.activation not in (None, keras.activations.linear):
            return False
        if context.compiled() or self.compute_dtype not in ("float32", "float64"):
            return False
        axis = self.geometry.channel_axis
        shape = self.compute_output_shape(context.known_shape(inputs, axis))
        positions = math.prod([shape[axis] or math.inf for axis in self.geometry.spatial_axes])
        filters = shape[axis]
        last_kernel = [weight for weight in self.weights if len(weight.shape) > 1][-1]
        return math.prod(last_kernel.shape) <= filters * positions

    def _output_shape(self, input_shape: Sequence[int | None], filters: int) -> tuple:
        """Returns the shape of the output, or raises a `ValueError` if it would be empty."""
        return self.geometry.output_shape(input_shape, filters)

    def _run(self, operation: type[operations.Conv], tensors: tuple, bias: Any) -> Any:
        """Runs an operation of `ops` with the arguments of the layer."""
        if bias is not None:
            bias = keras.ops.cast(bias, self.compute_dtype)
        return operations.run(operation, tuple(self._arguments().values()), tensors, bias)

    def _arguments(self) -> dict[str, Any]:
        """The arguments of the operation in `ops`."""
        return {
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
        }

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(
            kernel_size=self.kernel_size,
            **self._arguments(),
            activation=keras.activations.serialize(self.activation),
            use_bias=self.use_bias,
            activity_regularizer=keras.regularizers.serialize(self.activity_regularizer),
        )
        for option in self._weight_options:
            module = _WEIGHT_OPTIONS[option.rpartition("_")[2]]
            config[option] = module.serialize(getattr(self, option))
        return config
