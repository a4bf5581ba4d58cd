"""The pointwise step: a 1x1 convolution mixes channels, and that is a matrix product."""

from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.channels_last import torch_conv
from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.per_channel import add_bias

MANY = 8192  # positions, from which on PyTorch convolves faster than it multiplies


def pointwise(inputs: Any, kernel: Any, geometry: Geometry, bias: Any = None) -> Any:
    """Multiplies channels at every (strided) position with a `(*ones, channels, filters)` kernel.

    That is faster than a 1x1 convolution, above all its gradients, but not always on PyTorch.
    """
    is_traced = None in context.known_sizes(inputs.shape)
    if keras.backend.backend() == "torch" and is_traced and max(geometry.kernel_size) == 1:
        # A reshape would hold what `torch.export` traces to sizes that are odd, or even.
        return torch_conv(inputs, kernel, geometry, bias=bias)
    inputs = geometry.tap(inputs, (0,) * geometry.rank)
    if keras.backend.backend() == "torch" and geometry.data_format == "channels_last":
        return _torch(inputs, kernel, geometry, bias)
    channels, filters = kernel.shape[-2:]
    matrix = keras.ops.reshape(kernel, (channels, filters))
    if geometry.data_format == "channels_last":
        sizes = keras.ops.shape(inputs)[:-1]
        # `keras.ops` would round float64 to float32. Rows have no spatial axes.
        rows = keras.ops.reshape(inputs, (-1, channels)) @ matrix
        rows = add_bias(rows, bias, geometry.axes(slice(0, 0)))
        return keras.ops.reshape(rows, (*sizes, filters))
    batch, channels, *spatial = keras.ops.shape(inputs)
    positions = 1
    for size in spatial:
        positions = positions * size
    columns = keras.ops.reshape(inputs, (batch, channels, positions))
    outputs = keras.ops.transpose(matrix) @ columns
    return add_bias(keras.ops.reshape(outputs, (batch, filters, *spatial)), bias, geometry)


def _torch(inputs: Any, kernel: Any, geometry: Geometry, bias: Any) -> Any:
    """By PyTorch's own functions: those of Keras take as long as a small product.

    For many positions it has the faster product in its convolutions; and on a GPU, where these
    alone multiply float32 by the units for matrices, for any number.
    """
    import torch

    channels, filters = context.fixed_sizes(kernel.shape[-2:])
    is_better_convolved = context.device() == "gpu" or inputs.numel() // channels >= MANY
    if is_better_convolved and inputs.dtype == torch.float32:
        alone = Geometry.of(1, geometry.rank, data_format=geometry.data_format)
        kernel = kernel.reshape(*alone.kernel_size, channels, filters)
        return torch_conv(inputs, kernel, alone, bias=bias)
    rows, matrix = inputs.reshape(-1, channels), kernel.reshape(channels, filters)
    rows = rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)  # in one kernel
    return rows.reshape(*inputs.shape[:-1], filters)
