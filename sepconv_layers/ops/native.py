"""The kernels that Keras calls, moved by a `Geometry`."""

from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry


def depthwise_conv(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Depthwise convolution with a `(*kernel_size, channels, multiplier)` kernel."""
    return _run(keras.ops.depthwise_conv, inputs, kernel, geometry)


def conv(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolution with a `(*kernel_size, channels / groups, filters)` kernel."""
    return _run(keras.ops.conv, inputs, kernel, geometry)


def _run(operator: Any, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    if geometry.padding == "causal":  # which `keras.ops` does not support
        inputs, geometry = geometry.pad(inputs)
    return operator(
        inputs,
        kernel,
        strides=geometry.strides,
        padding=geometry.padding,
        data_format=geometry.data_format,
        dilation_rate=geometry.dilation_rate,
    )
