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
    plane = geometry.axes(slice(1, None))
    if geometry.padding == "causal":  # which is a matter of the depth alone
        plane = plane.replace(padding="same")
    along_depth = geometry.replace(
        kernel_size=(geometry.kernel_size[0], 1, 1),
        strides=(geometry.strides[0], 1, 1),
        dilation_rate=(geometry.dilation_rate[0], 1, 1),
    )
    batch, size, *rest = keras.ops.shape(inputs)
    images = keras.ops.reshape(inputs, (batch * size, *rest))
    outputs = None
    for depth in range(geometry.kernel_size[0]):
        # All planes are convolved and then shifted. To shift them first would copy the input, and
        # its gradient, for each plane of the kernel: for TensorFlow that is most of the work.
        part = native(images, kernel[depth], plane)
        part = keras.ops.reshape(part, (batch, size, *keras.ops.shape(part)[1:]))
        padded, moving = along_depth.pad(part)
        part = moving.tap(padded, (depth, 0, 0))
        outputs = part if outputs is None else outputs + part
    return outputs
