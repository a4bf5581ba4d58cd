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
    inputs = geometry.tap(inputs, (0,) * geometry.rank)
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


def add_bias(values: Any, bias: Any, geometry: Geometry) -> Any:
    """Adds one number per channel, unless `bias` is `None`."""
    if bias is None:
        return values
    if keras.backend.backend() == "tensorflow" and geometry.data_format == "channels_last":
        return on_tensorflow.add_bias(values, bias)
    return values + geometry.per_channel(bias)
