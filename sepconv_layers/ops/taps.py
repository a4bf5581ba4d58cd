"""Depthwise convolution as a sum over kernel taps: what a fusing compiler does best."""

import itertools
from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.per_channel import weigh


def taps(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Pads once, then adds up shifted slices times a per-channel weight.

    A compiler fuses it all into one vectorised pass over the input. Half-precision inputs are
    summed in float32, as a backend's own kernel does.
    """
    inputs, geometry = geometry.pad(inputs)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if dtype in ("float16", "bfloat16"):
        inputs, kernel = keras.ops.cast(inputs, "float32"), keras.ops.cast(kernel, "float32")
    multiplier = kernel.shape[-1]
    if multiplier > 1:
        inputs = keras.ops.repeat(inputs, multiplier, axis=geometry.channel_axis)
    outputs = None
    for index in itertools.product(*map(range, geometry.kernel_size)):
        part = weigh(geometry.tap(inputs, index), keras.ops.ravel(kernel[index]), geometry)
        outputs = part if outputs is None else outputs + part
    return keras.ops.cast(outputs, dtype)
