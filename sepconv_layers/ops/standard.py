"""The standard convolution, with the same reach as the depthwise one: what twins are made of."""

from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.polyphase import polyphase


def standard(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Standard convolution by the backend's kernel, whatever that can't do put around it."""
    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    if keras.backend.backend() == "tensorflow":
        # TensorFlow refuses strides together with a dilation.
        if max(geometry.strides) > 1 and max(geometry.dilation_rate) > 1:
            return polyphase(standard, inputs, kernel, geometry)
        # On a CPU its 3D kernels know channels-last only, and Keras would have XLA compile them,
        # which takes static shapes.
        if geometry.rank == 3 and geometry.data_format == "channels_first":
            inputs = keras.ops.transpose(inputs, (0, 2, 3, 4, 1))
            outputs = standard(inputs, kernel, geometry.replace(data_format="channels_last"))
            return keras.ops.transpose(outputs, (0, 4, 1, 2, 3))
    return keras.ops.conv(
        inputs,
        kernel,
        strides=geometry.strides,
        padding=geometry.padding,
        data_format=geometry.data_format,
        dilation_rate=geometry.dilation_rate,
    )
