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
        rows = _product(keras.ops.reshape(inputs, (-1, channels)), matrix, bias)
        return keras.ops.reshape(rows, (*sizes, filters))
    batch, channels, *spatial = keras.ops.shape(inputs)
    positions = 1
    for size in spatial:
        positions = positions * size
    columns = keras.ops.reshape(inputs, (batch, channels, positions))
    outputs = keras.ops.transpose(matrix) @ columns
    return add_bias(keras.ops.reshape(outputs, (batch, filters, *spatial)), bias, geometry)


def _product(rows: Any, matrix: Any, bias: Any) -> Any:
    """`rows @ matrix + bias`, where a backend can in one kernel."""
    backend = keras.backend.backend()
    if backend == "torch" and bias is not None:
        import torch

        return torch.addmm(bias, rows, matrix)
    outputs = rows @ matrix  # `keras.ops` would round float64 to float32
    if bias is None:
        return outputs
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(outputs, bias)
    return outputs + bias
