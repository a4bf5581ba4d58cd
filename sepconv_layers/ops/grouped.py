"""Grouped convolution: each group of filters sees its own group of channels."""

from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.channels_last import torch_conv
from sepconv_layers.ops.geometry import Convolve, Geometry


def grouped(inputs: Any, kernel: Any, geometry: Geometry, groups: int, convolve: Convolve) -> Any:
    """Convolves with a `(*kernel_size, channels / groups, filters)` kernel.

    Uses the backend's own kernel where that is fast and has gradients: on PyTorch, and on JAX
    except on a CPU, where XLA's gradients take up to eighty times as long as those of the parts.
    TensorFlow has no gradients on a CPU without XLA, and LiteRT has no such operator in one and
    three dimensions: there and elsewhere, `convolve` runs group by group.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return torch_conv(inputs, kernel, geometry, groups)
    if backend == "jax" and context.device() != "cpu":
        inputs, geometry = geometry.pad(inputs)
        return keras.ops.conv(
            inputs,
            kernel,
            geometry.strides,
            geometry.padding,
            geometry.data_format,
            geometry.dilation_rate,
        )
    axis = geometry.channel_axis
    parts = zip(
        keras.ops.split(inputs, groups, axis), keras.ops.split(kernel, groups, -1), strict=True
    )
    return keras.ops.concatenate([convolve(*part, geometry) for part in parts], axis)
