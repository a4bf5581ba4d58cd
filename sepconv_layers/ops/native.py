"""The backend's own depthwise kernel."""

from typing import Any

import keras

from sepconv_layers.ops import context, onednn, torch_gradients
from sepconv_layers.ops.channels_last import SHORT, torch_conv
from sepconv_layers.ops.geometry import Convolve, Geometry, ceil_div, pad
from sepconv_layers.ops.polyphase import polyphase
from sepconv_layers.ops.precision import sums_in_float32


def native(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Depthwise convolution by the backend's kernel, whatever that can't do put around it."""
    backend, on_cpu = keras.backend.backend(), context.device() == "cpu"
    if backend == "torch":
        lowering = _torch if not on_cpu else _torch_cpu_3d if geometry.rank == 3 else _torch_cpu
    elif backend == "tensorflow":
        lowering = _tensorflow_cpu if on_cpu else _tensorflow
    else:
        lowering = _depthwise
    return lowering(inputs, kernel, geometry)


def _torch(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    *kernel_size, channels, multiplier = context.fixed_sizes(kernel.shape)
    grouped = kernel.reshape(*kernel_size, 1, channels * multiplier)
    return torch_conv(inputs, grouped, geometry, groups=channels)


def _torch_cpu(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    inputs, kernel = onednn.with_single_kernels(inputs, kernel, geometry)
    is_long = geometry.kernel_size[0] > SHORT
    if is_long and _is_dilated_sequence(geometry) and torch_gradients.are_wanted():
        return _dilated_sequence(_torch_cpu, inputs, kernel, geometry)
    if torch_gradients.has_slow_gradients(inputs, kernel, geometry):
        return torch_gradients.convolve(inputs, kernel, geometry)
    return _torch(inputs, kernel, geometry)


# In half precision the gradients of volumes take PyTorch three times as long.
_torch_cpu_3d = sums_in_float32(_torch_cpu)


def _is_dilated_sequence(geometry: Geometry) -> bool:
    return (
        geometry.rank == 1
        and geometry.data_format == "channels_last"
        and geometry.strides == (1,)
        and geometry.dilation_rate > (1,)
    )


def _tensorflow(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    if geometry.rank == 3:
        return _tensorflow_3d(inputs, kernel, geometry)
    inputs, kernel = onednn.with_single_kernels(inputs, kernel, geometry)
    strided, dilated = max(geometry.strides) > 1, max(geometry.dilation_rate) > 1
    if _is_dilated_sequence(geometry):
        return _dilated_sequence(_depthwise, inputs, kernel, geometry)
    # TensorFlow's kernel wants one stride for both axes, and none together with a dilation.
    if len(set(geometry.strides)) > 1 or (strided and dilated):
        return polyphase(_tensorflow, inputs, kernel, geometry)
    if onednn.has_slow_gradient(inputs, kernel, geometry):
        return onednn.convolve(inputs, kernel, geometry)
    return _depthwise(inputs, kernel, geometry)


# On a CPU without instructions for half precision TensorFlow's kernel sums in it: gradients towards
# a kernel are off by a fifth, and take twice as long as in float32.
_tensorflow_cpu = sums_in_float32(_tensorflow)


def _depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    return keras.ops.depthwise_conv(
        inputs,
        kernel,
        strides=geometry.strides,
        padding=geometry.padding,
        data_format=geometry.data_format,
        dilation_rate=geometry.dilation_rate,
    )


def _dilated_sequence(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves sequences as columns of an image, one for each phase of the dilation.

    In memory a sequence is that image. TensorFlow copies inputs and outputs into another order, and
    PyTorch has slow gradients for a long kernel.
    """
    ops, (extent,), (rate,) = keras.ops, geometry.extent, geometry.dilation_rate
    ((before, after),) = geometry.pad_widths(ops.shape(inputs))
    length = before + ops.shape(inputs)[1] + after
    rows = ceil_div(length, rate)
    padded = pad(inputs, ((0, 0), (before, rows * rate - length + after), (0, 0)))
    images = ops.reshape(padded, (-1, rows, rate, inputs.shape[-1]))
    columns = Geometry.of((*geometry.kernel_size, 1), 2, data_format="channels_last")
    outputs = convolve(images, kernel[:, None], columns)
    channels = outputs.shape[-1]
    return ops.reshape(outputs, (-1, rows * rate - extent, channels))[:, : length - extent]


def _tensorflow_3d(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """TensorFlow has no 3D depthwise kernel: a grouped one stands in, which Keras has XLA compile.

    It can't stride with dilation; and it needs static shapes for its gradient.
    """
    if max(geometry.strides) > 1 and max(geometry.dilation_rate) > 1:
        return polyphase(_tensorflow_3d, inputs, kernel, geometry)
    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    *taps, channels, multiplier = kernel.shape
    grouped = keras.ops.reshape(kernel, (*taps, 1, channels * multiplier))
    return keras.ops.conv(
        inputs,
        grouped,
        strides=geometry.strides,
        padding=geometry.padding,
        data_format=geometry.data_format,
        dilation_rate=geometry.dilation_rate,
    )
