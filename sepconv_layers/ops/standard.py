"""The standard convolution, with the same reach as the depthwise one: what twins are made of."""

from typing import Any

import keras

from sepconv_layers.ops import runtime
from sepconv_layers.ops.channels_last import torch_conv
from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.pointwise import pointwise
from sepconv_layers.ops.polyphase import polyphase


def standard(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Standard convolution by the backend's kernel, whatever that can't do put around it."""
    if inputs.shape[0] == 0:
        # As in `DepthwiseConv`. No number is computed: any kernel element gives shape and gradient.
        inputs, geometry = geometry.pad(inputs)
        return pointwise(inputs, kernel[(0,) * geometry.rank], geometry)
    if keras.backend.backend() == "torch":
        return torch_conv(inputs, kernel, geometry)
    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    if keras.backend.backend() == "tensorflow":
        # TensorFlow refuses strides together with a dilation.
        if max(geometry.strides) > 1 and max(geometry.dilation_rate) > 1:
            return polyphase(standard, inputs, kernel, geometry)
        # On a CPU its kernels know channels-last only.
        if geometry.data_format == "channels_first" and runtime.device() == "cpu":
            inputs = keras.ops.moveaxis(inputs, 1, -1)
            outputs = standard(inputs, kernel, geometry.replace(data_format="channels_last"))
            return keras.ops.moveaxis(outputs, -1, 1)
    return keras.ops.conv(
        inputs,
        kernel,
        strides=geometry.strides,
        padding=geometry.padding,
        data_format=geometry.data_format,
        dilation_rate=geometry.dilation_rate,
    )
