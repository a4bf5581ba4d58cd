"""The pointwise step: a 1x1 convolution mixes channels, so it is a matrix product."""

from typing import Any

import keras

from sepconv_layers.ops import context, on_tensorflow, on_torch
from sepconv_layers.ops.geometry import Geometry


def pointwise(inputs: Any, kernel: Any, geometry: Geometry, bias: Any = None) -> Any:
    """Multiplies channels at every (strided) position by a `(*ones, channels, filters)` kernel.

    This is faster than a 1x1 convolution, above all in gradients, except sometimes on PyTorch.
    """
    is_traced = None in context.known_sizes(inputs.shape)
    if keras.backend.backend() == "torch" and is_traced and max(geometry.kernel_size) == 1:
        # A reshape would restrict what `torch.export` traces to odd sizes, or to even ones.
        return on_torch.conv(inputs, kernel, geometry, bias=bias)
    inputs = _strided(inputs, geometry)
    if keras.backend.backend() == "torch" and geometry.data_format == "channels_last":
        return on_torch.pointwise(inputs, kernel, geometry, bias)
    channels, filters = kernel.shape[-2:]
    matrix = keras.ops.reshape(kernel, (channels, filters))
    if geometry.data_format == "channels_last":
        sizes = keras.ops.shape(inputs)[:-1]
        # `keras.ops.matmul` would round float64 to float32.
        rows = keras.ops.reshape(inputs, (-1, channels)) @ matrix
        rows = add_bias(rows, bias, geometry.axes(slice(0, 0)))  # rows have no spatial axes
        return keras.ops.reshape(rows, (*sizes, filters))
    batch, channels, *spatial = keras.ops.shape(inputs)
    positions = 1
    for size in spatial:
        positions = positions * size
    columns = keras.ops.reshape(inputs, (batch, channels, positions))
    outputs = keras.ops.transpose(matrix) @ columns
    return add_bias(keras.ops.reshape(outputs, (batch, filters, *spatial)), bias, geometry)


def _strided(inputs: Any, geometry: Geometry) -> Any:
    """The inputs under the first tap."""
    first = (0,) * geometry.rank
    is_portable = context.forced_lowering() == "portable"
    is_last = geometry.data_format == "channels_last"
    if geometry.rank < 3 or max(geometry.strides) == 1 or not (is_portable and is_last):
        return geometry.tap(inputs, first)
    # Microcontrollers slice at most four axes.
    batch, depth, height, width, channels = keras.ops.shape(inputs)
    rows = keras.ops.reshape(inputs, (batch, depth, height * width, channels))
    rows = geometry.axes(slice(1)).tap(rows, first[:1])
    size = keras.ops.shape(rows)[1]
    images = keras.ops.reshape(rows, (batch * size, height, width, channels))
    images = geometry.axes(slice(1, None)).tap(images, first[1:])
    return keras.ops.reshape(images, (batch, size, *keras.ops.shape(images)[1:]))


def add_bias(values: Any, bias: Any, geometry: Geometry) -> Any:
    """Adds one number per channel, unless `bias` is `None`."""
    if bias is None:
        return values
    if keras.backend.backend() == "tensorflow" and geometry.data_format == "channels_last":
        return on_tensorflow.add_bias(values, bias)
    return values + geometry.per_channel(bias)
