"""The pointwise step: a 1x1 convolution mixes channels, and that is a matrix product."""

from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.per_channel import add_bias


def pointwise(inputs: Any, kernel: Any, geometry: Geometry, bias: Any = None) -> Any:
    """Multiplies channels at every (strided) position with a `(*ones, channels, filters)` kernel.

    Every backend runs a matrix product faster than a 1x1 convolution, above all its gradients.
    """
    inputs = geometry.tap(inputs, (0,) * geometry.rank)
    channels, filters = kernel.shape[-2:]
    matrix = keras.ops.reshape(kernel, (channels, filters))
    if geometry.data_format == "channels_last":
        sizes = keras.ops.shape(inputs)[:-1]
        rows = keras.ops.reshape(inputs, (-1, channels))
        if keras.backend.backend() == "torch" and bias is not None:
            import torch

            rows = torch.addmm(bias, rows, matrix)  # both in one kernel
        else:
            # `keras.ops` would round float64 to float32. Rows have no spatial axes.
            rows = add_bias(rows @ matrix, bias, geometry.axes(slice(0, 0)))
        return keras.ops.reshape(rows, (*sizes, filters))
    batch, channels, *spatial = keras.ops.shape(inputs)
    positions = 1
    for size in spatial:
        positions = positions * size
    columns = keras.ops.reshape(inputs, (batch, channels, positions))
    outputs = keras.ops.transpose(matrix) @ columns
    return add_bias(keras.ops.reshape(outputs, (batch, filters, *spatial)), bias, geometry)
