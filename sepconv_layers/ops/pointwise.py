"""The pointwise step: a 1x1 convolution mixes channels, and that is a matrix product."""

from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry


def pointwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Multiplies channels at every (strided) position with a `(*ones, channels, filters)` kernel.

    Every backend runs a matrix product faster than a 1x1 convolution, above all its gradients.
    """
    inputs = geometry.tap(inputs, (0,) * geometry.rank)
    matrix = keras.ops.reshape(kernel, kernel.shape[-2:])
    if geometry.data_format == "channels_last":
        if keras.backend.backend() == "tensorflow":
            return keras.ops.tensordot(inputs, matrix, axes=1)
        # `keras.ops` would round float64 to float32 here.
        return inputs @ matrix
    batch, channels, *spatial = keras.ops.shape(inputs)
    positions = 1
    for size in spatial:
        positions = positions * size
    columns = keras.ops.reshape(inputs, (batch, channels, positions))
    outputs = keras.ops.transpose(matrix) @ columns
    return keras.ops.reshape(outputs, (batch, kernel.shape[-1], *spatial))
