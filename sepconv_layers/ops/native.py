"""The backend's own depthwise kernel."""

from typing import Any

import keras

from sepconv_layers.ops.channels_last import torch_conv
from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.polyphase import polyphase


def native(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Depthwise convolution by the backend's kernel, whatever that can't do put around it."""
    backend = keras.backend.backend()
    if backend == "torch":
        *kernel_size, channels, multiplier = kernel.shape
        grouped = keras.ops.reshape(kernel, (*kernel_size, 1, channels * multiplier))
        return torch_conv(inputs, grouped, geometry, groups=channels)
    if backend != "tensorflow":
        return _depthwise(inputs, kernel, geometry)
    if geometry.rank == 3:
        return _tensorflow_3d(inputs, kernel, geometry)
    # TensorFlow's kernel wants one stride for both axes, and none together with a dilation.
    strided = max(geometry.strides) > 1
    if len(set(geometry.strides)) > 1 or (strided and max(geometry.dilation_rate) > 1):
        return polyphase(_depthwise, inputs, kernel, geometry)
    return _depthwise(inputs, kernel, geometry)


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
