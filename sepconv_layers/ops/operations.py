"""Operations: arguments checked, symbolic inputs handled, work given to a lowering."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.choice import choose
from sepconv_layers.ops.empty_batch import with_a_sample
from sepconv_layers.ops.geometry import (
    Geometry,
    standardize_data_format,
    standardize_output_padding,
)
from sepconv_layers.ops.grouped import grouped
from sepconv_layers.ops.per_channel import add_bias
from sepconv_layers.ops.pointwise import pointwise
from sepconv_layers.ops.standard import standard
from sepconv_layers.ops.taps import taps
from sepconv_layers.ops.transposed import output_shape, transposed

MOST_SHAPES = 64  # that an operation remembers to have checked
_REAL = ("float", "bfloat", "int", "uint", "bool")  # how the types of real numbers begin


class Conv(keras.Operation):
    """Standard convolution as an operation, so that it can stand in a functional model."""

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
        self._geometries: dict[tuple, Geometry] = {}  # of what has been checked

    def call(self, inputs: Any, *kernels: Any) -> Any:
        inputs, without_sample = with_a_sample(inputs)
        return without_sample(self.run(inputs, *kernels))

    def run(self, *tensors: Any, bias: Any = None) -> Any:
        """Runs with an optional bias, which some backends' kernels can add.

        In a TensorFlow graph, the output for a batch that turns out to be empty may have the wrong
        shape, as with Keras's own layers: preventing that costs a small layer a tenth of its time.
        """
        inputs, *kernels = _as_tensors(*tensors)
        data_format = standardize_data_format(self.data_format)
        shapes = (
            context.known_shape(inputs, 1 if data_format == "channels_first" else -1),
            *(context.fixed_sizes(kernel.shape) for kernel in kernels),
        )
        what = (shapes, data_format)
        if what not in self._geometries:
            if len(self._geometries) == MOST_SHAPES:
                self._geometries.clear()
            self._geometries[what], _ = self._check(*map(_Shaped, shapes))
        geometry = self._geometries[what]
        return self._compute(geometry, self._long_enough(geometry, inputs), *kernels, bias=bias)

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
        "as many input channels as `inputs`, or in groups a share of them, with filters for each "
        "group"
    )

    def _fits(self, kernel_shape: tuple, channels: int | None) -> bool:
        """Whether the kernel fits so many channels, as one group or several."""
        *_, within, filters = kernel_shape
        return bool(channels) and channels % within == 0 and filters % (channels // within) == 0

    def _output_shape(self, geometry: Geometry, input_shape: tuple, filters: int) -> tuple:
        return geometry.output_shape(input_shape, filters)

    def _long_enough(self, geometry: Geometry, inputs: Any) -> Any:
        """The inputs, in a TensorFlow graph with a check of the sizes that only its runs know.

        XLA leaves the check out, and so do JAX and the form for exporters.
        """
        if geometry.padding != "valid" or context.forced_lowering() == "portable":
            return inputs
        unknown = [
            (axis, extent)
            for axis, extent in zip(geometry.spatial_axes, geometry.extent, strict=True)
            if context.known_sizes([inputs.shape[axis]]) == (None,) and extent > 0
        ]
        if not unknown or keras.backend.backend() == "jax":
            return inputs
        if keras.backend.backend() == "torch":
            if any(inputs.shape[axis] <= extent for axis, extent in unknown):
                raise ValueError(
                    "The sample that PyTorch traces with must span the kernel. `model.export` of "
                    "Keras takes a sample of size 1 for each open size. Received: "
                    f"inputs.shape={tuple(map(int, inputs.shape))}, "
                    f"kernel_size={geometry.kernel_size}, "
                    f"dilation_rate={geometry.dilation_rate}, padding={geometry.padding!r}. Give "
                    "`torch.onnx.export` a larger sample, `model.export` an `input_signature` of "
                    "known sizes, or the layer padding='same'."
                )
            return inputs
        import tensorflow as tf

        checks = [
            tf.debugging.assert_greater(
                tf.shape(inputs)[axis],
                extent,
                "Computed output size would be zero or negative. Use a larger input, a smaller "
                f"kernel or padding='same': axis {axis} of the inputs must be greater than",
            )
            for axis, extent in unknown
        ]
        with tf.control_dependencies(checks):
            return tf.identity(inputs)

    def _filters(self, *kernels: Any) -> int:
        (kernel,) = kernels
        return kernel.shape[-1]

    def _compute(self, geometry: Geometry, inputs: Any, *kernels: Any, bias: Any = None) -> Any:
        (kernel,) = kernels
        *kernel_size, within, filters = context.fixed_sizes(kernel.shape)
        (channels,) = context.fixed_sizes([inputs.shape[geometry.channel_axis]])
        if within == channels:
            return _standard(inputs, kernel, geometry, bias)
        if within > 1:
            outputs = grouped(inputs, kernel, geometry, channels // within, _standard)
        else:
            kernel = keras.ops.reshape(kernel, (*kernel_size, channels, filters // channels))
            outputs = _depthwise(inputs, kernel, geometry)
        return add_bias(outputs, bias, geometry)


@dataclasses.dataclass(frozen=True)
class _Shaped:
    """Stands in for a tensor whose shape is checked."""

    shape: tuple


def _standard(inputs: Any, kernel: Any, geometry: Geometry, bias: Any = None) -> Any:
    inputs, kernel, geometry = geometry.without_idle(inputs, kernel)
    # An exporter keeps a convolution quantized channel by channel, a matrix product it may not;
    # but a convolution of volumes it does not quantize at all, and LiteRT runs it slowly.
    keeps = context.forced_lowering() == "portable" and geometry.rank < 3
    if max(geometry.kernel_size) == 1 and not keeps:
        return pointwise(inputs, kernel, geometry, bias)
    return standard(inputs, kernel, geometry, bias)


def _depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    inputs, kernel, left = geometry.without_idle(inputs, kernel)
    # The oneDNN kernels of TensorFlow give an empty batch the shape of the input.
    is_empty = context.known_sizes(inputs.shape[:1]) == (0,)
    lower = taps if is_empty else choose(geometry, inputs, kernel)
    return lower(inputs, kernel, left)


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
        return _depthwise(inputs, kernel, geometry)


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
        outputs = super()._compute(geometry, inputs, depthwise_kernel)
        mixing = Geometry.of(1, geometry.rank, data_format=geometry.data_format)
        return Conv._compute(self, mixing, outputs, pointwise_kernel, bias=bias)


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

    def get_config(self) -> dict:
        return {**super().get_config(), "output_padding": self.output_padding}

    def _long_enough(self, geometry: Geometry, inputs: Any) -> Any:
        return inputs  # no output is empty

    def _padding_of(self, geometry: Geometry) -> tuple[int, ...] | None:
        return standardize_output_padding(self.output_padding, geometry.strides)

    def _output_shape(self, geometry: Geometry, input_shape: tuple, filters: int) -> tuple:
        return output_shape(input_shape, filters, geometry, self._padding_of(geometry))

    def _convolve(self, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
        padding = self._padding_of(geometry)
        return transposed(inputs, kernel, geometry, padding, _depthwise)


class SeparableConvTranspose(DepthwiseConvTranspose, SeparableConv):
    """Transposed depthwise-separable convolution as an operation."""


def cached_operation(operation: type[Conv], *arguments: Any) -> Conv:
    """An operation to run, cached: creating one takes Keras longer than a small convolution."""
    wanted: list[Any] = [operation, repr(arguments), *arguments]
    try:
        return _made(*wanted)
    except TypeError:  # of what has no hash: a list, or something wrong that the check will name
        return operation(*arguments)


@functools.lru_cache(maxsize=1024)
def _made(operation: type[Conv], which: str, *arguments: Any) -> Conv:
    """`which` tells apart arguments that are equal but not the same: 1.0 is an error, 1 is not."""
    return operation(*arguments)


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
        return "float64"  # which only TensorFlow's promotion keeps
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
