"""3D depthwise convolution as a sum of 2D ones over the kernel's depth."""

from functools import partial
from typing import Any

import keras

from sepconv_layers.ops import onednn
from sepconv_layers.ops.channels_last import with_channels_last
from sepconv_layers.ops.geometry import Convolve, Geometry, ceil_div, cut, or_zero, pad
from sepconv_layers.ops.native import native


def planes(
    inputs: Any,
    kernel: Any,
    geometry: Geometry,
    convolve: Convolve = native,
) -> Any:
    """Convolves each plane of a volume natively, and adds up what the kernel's planes give.

    The planes of all volumes stand in one row, so that a kernel's plane meets a piece of the row
    that begins later: no copy, where a slice along the depth would be one for each plane of the
    kernel, and a slower one in its gradient. What straddles two volumes is cut out at the end.

    With one or two dimensions the input is a single plane, and this is the native lowering.
    Convolutions of another kind are made of 2D ones in the same way: by `convolve`.
    """
    if geometry.rank < 3:
        return convolve(inputs, kernel, geometry)
    if geometry.data_format == "channels_first":
        # Planes are merged with the batch, so depth has to stand beside it.
        return with_channels_last(partial(planes, convolve=convolve), inputs, kernel, geometry)
    if convolve is native:  # once, and not for each plane of the kernel
        inputs, kernel = onednn.with_single_kernels(inputs, kernel, geometry)
    plane = geometry.axes(slice(1, None))
    if geometry.padding == "causal":  # which is a matter of the depth alone
        plane = plane.replace(padding="same")
    (before, after), *_ = geometry.pad_widths(keras.ops.shape(inputs))
    stride, extent, dilation = geometry.strides[0], geometry.extent[0], geometry.dilation_rate[0]
    batch, depth, *image = keras.ops.shape(inputs)
    padded = before + depth + after
    size = (padded - extent - 1) // stride + 1  # of the output's depth
    each = ceil_div(padded, stride)  # planes of a volume in the row: those, and some that straddle
    length = or_zero(batch * each - extent // stride)

    widths = [(0, 0), (before, after + each * stride - padded), (0, 0), (0, 0), (0, 0)]
    volumes = keras.ops.reshape(pad(inputs, widths), (batch * each, stride, *image))
    rows = keras.ops.unstack(volumes, stride, axis=1)  # one for each phase of the stride
    outputs = None
    for index in range(geometry.kernel_size[0]):
        start, phase = divmod(index * dilation, stride)
        part = convolve(cut(rows[phase], [0], [start], [length]), kernel[index], plane)
        outputs = part if outputs is None else outputs + part
    outputs = pad(outputs, [(0, batch * each - length), (0, 0), (0, 0), (0, 0)])
    outputs = keras.ops.reshape(outputs, (batch, each, *keras.ops.shape(outputs)[1:]))
    return cut(outputs, [1], [0], [size])
