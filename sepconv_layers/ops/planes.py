"""3D depthwise convolution as a sum of 2D ones over the kernel's depth."""

from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.native import native


def planes(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves each plane of a volume natively, and adds up what the kernel's planes give.

    With one or two dimensions the input is a single plane, and this is the native lowering.
    """
    if geometry.rank < 3:
        return native(inputs, kernel, geometry)
    if geometry.data_format == "channels_first":
        # Planes are merged with the batch, so depth has to stand beside it.
        inputs = keras.ops.moveaxis(inputs, 1, -1)
        outputs = planes(inputs, kernel, geometry.replace(data_format="channels_last"))
        return keras.ops.moveaxis(outputs, -1, 1)
    inputs, geometry = geometry.pad(inputs)
    along_depth, plane = geometry.axes(slice(0, 1)), geometry.axes(slice(1, None))
    outputs = None
    for depth in range(geometry.kernel_size[0]):
        volume = along_depth.tap(inputs, (depth,))
        batch, size, *rest = keras.ops.shape(volume)
        part = native(keras.ops.reshape(volume, (batch * size, *rest)), kernel[depth], plane)
        part = keras.ops.reshape(part, (batch, size, *keras.ops.shape(part)[1:]))
        outputs = part if outputs is None else outputs + part
    return outputs
