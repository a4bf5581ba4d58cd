"""The Keras operations: argument checks, symbolic shapes, and one cache of what was checked."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.ops import choice, context, on_tensorflow, on_torch, rewrites
from sepconv_layers.ops.depthwise import depthwise
from sepconv_layers.ops.geometry import (
    Geometry,
    standardize_data_format,
    standardize_output_padding,
)
from sepconv_layers.ops.pointwise import add_bias
from sepconv_layers.ops.standard import conv, grouped
from sepconv_layers.ops.transposed import output_shape, transposed

_REAL = ("float", "bfloat", "int", "uint", "bool")  # prefixes of the dtypes of real numbers


class Conv(keras.Operation):
    """Standard convolution as an operation, for functional models."""

    def __init__(
        self,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.strides = strides
        self.padding = padding
        self.data_format = data_format
        self.dilation_rate = dilation_rate

    @property
    def _arguments(self) -> tuple:
        return self.strides, self.padding, self.data_format, self.dilation_rate

    def call(self, inputs: Any, *kernels: Any) -> Any:
        return call(type(self), self._arguments, (inputs, *kernels))

    def compute_output_spec(self, inputs: Any, *kernels: Any) -> keras.KerasTensor:
        _, shape = self._check(inputs, *kernels)
        return keras.KerasTensor(shape, dtype=_common_dtype(inputs, *kernels))

    def get_config(self) -> dict:
        arguments = ("strides", "padding", "data_format", "dilation_rate", "name")
        return {argument: getattr(self, argument) for argument in arguments}

    def _check(self, inputs: Any, *kernels: Any) -> tuple[Geometry, tuple]:
        """Returns the geometry and the output shape, or raises a `ValueError`."""
        shape, kernel_shape = tuple(inputs.shape), tuple(kernels[0].shape)
        rank = len(kernel_shape) - 2
        if rank not in (1, 2, 3) or len(shape) != rank + 2:
            raise ValueError(
                "`inputs` and `kernel` must have the same rank, with 1, 2 or 3 spatial dimensions. "
                f"Received: inputs.shape={shape}, kernel.shape={kernel_shape}."
            )
        for kernel in kernels:
            if 0 in tuple(kernel.shape):
                raise ValueError(
                    "The kernels must have a positive size in every dimension. "
                    f"Received: kernel.shape={tuple(kernel.shape)}."
                )
        geometry = Geometry.of(
            kernel_shape[:-2],
            rank,
            self.strides,
            self.padding,
            self.data_format,
            self.dilation_rate,
        )
        if not self._fits(kernel_shape, shape[geometry.channel_axis]):
            raise ValueError(
                f"`kernel` must have {self._fitting}, axis -2 of the kernel and "
                f"axis {geometry.channel_axis} of the inputs with data_format="
                f"{geometry.data_format!r}. Received: inputs.shape={shape}, "
                f"kernel.shape={kernel_shape}."
            )
        return geometry, self._output_shape(geometry, shape, self._filters(*kernels))

    _fitting = (
        "as many input channels as `inputs`, or an equal share of them per group, with filters for "
        "each group"
    )

    def _fits(self, kernel_shape: tuple, channels: int | None) -> bool:
        """Whether the kernel fits that number of channels, in one group or several."""
        *_, within, filters = kernel_shape
        return bool(channels) and channels % within == 0 and filters % (channels // within) == 0

    def _output_shape(self, geometry: Geometry, input_shape: tuple, filters: int) -> tuple:
        return geometry.output_shape(input_shape, filters)

    def _check_when_run(self, geometry: Geometry, inputs: Any) -> Any:
        """Returns the inputs, with a check of the sizes that are unknown while tracing.

        There is none with XLA, on JAX and for exporters.
        """
        if geometry.padding != "valid" or context.forced_lowering() == "portable":
            return inputs
        unknown = [
            (axis, extent)
            for axis, extent in zip(geometry.spatial_axes, geometry.extent, strict=True)
            if context.known_sizes([inputs.shape[axis]]) == (None,) and extent > 0
        ]
        if unknown and keras.backend.backend() == "tensorflow":
            return on_tensorflow.check_when_run(inputs, unknown)
        if unknown and keras.backend.backend() == "torch":
            on_torch.check_sample(inputs, unknown, geometry)
        return inputs

    def _filters(self, *kernels: Any) -> int:
        (kernel,) = kernels
        return kernel.shape[-1]

    def _compute(self, geometry: Geometry, inputs: Any, *kernels: Any, bias: Any = None) -> Any:
        (kernel,) = kernels
        *kernel_size, within, filters = context.fixed_sizes(kernel.shape)
        (channels,) = context.fixed_sizes([inputs.shape[geometry.channel_axis]])
        if within == channels:
            return conv(inputs, kernel, geometry, bias)
        if within > 1:
            outputs = grouped(inputs, kernel, geometry, channels // within)
        else:
            kernel = keras.ops.reshape(kernel, (*kernel_size, channels, filters // channels))
            outputs = depthwise(inputs, kernel, geometry)
        return add_bias(outputs, bias, geometry)


class DepthwiseConv(Conv):
    """Depthwise convolution as an operation."""

    _fitting = "as many input channels as `inputs`"

    def _fits(self, kernel_shape: tuple, channels: int | None) -> bool:
        return kernel_shape[-2] == channels

    def _filters(self, *kernels: Any) -> int:
        (kernel,) = kernels
        return kernel.shape[-2] * kernel.shape[-1]

    def _compute(self, geometry: Geometry, inputs: Any, *kernels: Any, bias: Any = None) -> Any:
        (kernel,) = kernels
        return add_bias(self._convolve(inputs, kernel, geometry), bias, geometry)

    def _convolve(self, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
        return depthwise(inputs, kernel, geometry)


class SeparableConv(DepthwiseConv):
    """Depthwise-separable convolution as an operation."""

    def _filters(self, *kernels: Any) -> int:
        depthwise_kernel, pointwise_kernel = kernels
        rank = len(depthwise_kernel.shape) - 2
        expected = (1,) * rank + (super()._filters(depthwise_kernel),)
        if tuple(pointwise_kernel.shape[:-1]) != expected:
            raise ValueError(
                f"`pointwise_kernel` must have the shape {(*expected, 'filters')}, for a depthwise "
                f"kernel of shape {tuple(depthwise_kernel.shape)}. Received: "
                f"pointwise_kernel.shape={tuple(pointwise_kernel.shape)}."
            )
        return pointwise_kernel.shape[-1]

    def _compute(self, geometry: Geometry, inputs: Any, *kernels: Any, bias: Any = None) -> Any:
        depthwise_kernel, pointwise_kernel = kernels
        mixing = Geometry.of(1, geometry.rank, data_format=geometry.data_format)

        def move(kernel: Any) -> Any:
            return self._convolve(inputs, kernel, geometry)

        def mix(outputs: Any, kernel: Any, bias: Any = None) -> Any:
            return Conv._compute(self, mixing, outputs, kernel, bias=bias)

        form = choice.form_of_kernels(inputs, depthwise_kernel, geometry)
        if form == "together":
            return mix(move(depthwise_kernel), pointwise_kernel, bias)
        single, parts = rewrites.kernel_by_kernel(depthwise_kernel, pointwise_kernel)
        outputs = [move(kernel) for kernel in single]
        if form == "concatenated":
            together = keras.ops.concatenate(outputs, geometry.channel_axis)
            return mix(together, keras.ops.concatenate(parts, -2), bias)
        mixed = [mix(outputs[0], parts[0], bias), *map(mix, outputs[1:], parts[1:])]
        return functools.reduce(operator.add, mixed)


class DepthwiseConvTranspose(DepthwiseConv):
    """Transposed depthwise convolution as an operation."""

    def __init__(
        self,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        output_padding: int | Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(strides, padding, data_format, dilation_rate, name)
        self.output_padding = output_padding

    @property
    def _arguments(self) -> tuple:
        return (*super()._arguments, self.output_padding)

    def get_config(self) -> dict:
        return {**super().get_config(), "output_padding": self.output_padding}

    def _check_when_run(self, geometry: Geometry, inputs: Any) -> Any:
        return inputs  # no output is empty

    def _checked_output_padding(self, geometry: Geometry) -> tuple[int, ...] | None:
        return standardize_output_padding(self.output_padding, geometry.strides)

    def _output_shape(self, geometry: Geometry, input_shape: tuple, filters: int) -> tuple:
        padding = self._checked_output_padding(geometry)
        return output_shape(input_shape, filters, geometry, padding)

    def _convolve(self, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
        padding = self._checked_output_padding(geometry)
        return transposed(inputs, kernel, geometry, padding, depthwise)


class SeparableConvTranspose(DepthwiseConvTranspose, SeparableConv):
    """Transposed depthwise-separable convolution as an operation."""


def call(operation: type[Conv], arguments: tuple, tensors: tuple) -> Any:
    """Runs an operation as `operation(*arguments)(*tensors)` would, for any batch."""
    inputs, without_sample = on_tensorflow.with_a_sample(tensors[0])
    return without_sample(run(operation, arguments, (inputs, *tensors[1:])))


def run(operation: type[Conv], arguments: tuple, tensors: tuple, bias: Any = None) -> Any:
    """Runs an operation with an optional bias, which some backends' kernels can add.

    In a TensorFlow graph, the output for a batch that turns out to be empty may have the wrong
    shape, as with Keras's own layers. Preventing that takes a small layer a tenth of its time.
    """
    inputs, *kernels = _as_tensors(*tensors)
    checked, geometry = _cached_operation(operation, arguments, inputs, kernels)
    inputs = checked._check_when_run(geometry, inputs)
    return checked._compute(geometry, inputs, *kernels, bias=bias)


def _cached_operation(
    operation: type[Conv], arguments: tuple, inputs: Any, kernels: Sequence[Any]
) -> tuple[Conv, Geometry]:
    """Returns an operation and its geometry, which are checked once for all inputs of a shape.

    Creating and checking one takes Keras longer than a small convolution.
    """
    data_format = standardize_data_format(arguments[2])
    shapes = (
        context.known_shape(inputs, 1 if data_format == "channels_first" else -1),
        *(context.fixed_sizes(kernel.shape) for kernel in kernels),
    )
    # `repr` tells apart arguments that are equal but not the same: 1.0 is an error, 1 is not.
    key: tuple[Any, ...] = (operation, shapes, data_format, repr(arguments))
    try:
        return _checked(*key, *arguments)
    except TypeError:  # an argument without a hash: a list, or an error that the check reports
        return _checked.__wrapped__(*key, *arguments)


@functools.lru_cache(maxsize=4096)
def _checked(
    operation: type[Conv], shapes: tuple, data_format: str, written: str, *arguments: Any
) -> tuple[Conv, Geometry]:
    # A given name, because counting up names would make PyTorch compile each call anew.
    checked = operation(*arguments, name="checked")  # type: ignore[misc]
    geometry, _ = checked._check(*map(_Shaped, shapes))
    return checked, geometry


@dataclasses.dataclass(frozen=True)
class _Shaped:
    """A stand-in for a tensor whose shape is checked."""

    shape: tuple


def _as_tensors(*values: Any) -> tuple:
    """Converts to tensors of one floating-point type."""
    tensors = tuple(map(_as_tensor, values, _names(values)))
    first, *others = {tensor.dtype for tensor in tensors}
    if not others and keras.backend.is_float_dtype(first):
        return tensors
    dtype = _common_dtype(*tensors)
    return tuple(keras.ops.cast(tensor, dtype) for tensor in tensors)


def _as_tensor(value: Any, name: str) -> Any:
    try:
        return keras.ops.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        message = f"Expected a tensor of real numbers. Received: {type(value).__name__}"
        dtype = getattr(value, "dtype", None)
        message += f" of dtype {dtype}." if dtype is not None else "."
        raise ValueError(f"`{name}` cannot be converted. {message}") from error


def _names(tensors: Sequence[Any]) -> tuple[str, ...]:
    """The argument names of two or three tensors."""
    if len(tensors) == 2:
        return "inputs", "kernel"
    return "inputs", "depthwise_kernel", "pointwise_kernel"


def _common_dtype(*tensors: Any) -> str:
    """The floating-point type that Keras promotes tensors to."""
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    for name, dtype in zip(_names(tensors), dtypes, strict=True):
        if not dtype.startswith(_REAL):
            raise ValueError(f"`{name}` must be a tensor of real numbers. Received: dtype={dtype}.")
    if set(dtypes) == {"float64"}:
        return "float64"  # only TensorFlow's promotion keeps it
    return keras.backend.result_type(*dtypes, float)


for _operation in (
    Conv,
    DepthwiseConv,
    SeparableConv,
    DepthwiseConvTranspose,
    SeparableConvTranspose,
):
    keras.saving.register_keras_serializable("sepconv_layers", f"ops.{_operation.__name__}")(
        _operation
    )
