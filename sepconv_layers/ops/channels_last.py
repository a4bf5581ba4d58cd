"""Convolutions on channels-last memory: for PyTorch, and for what knows no other."""

from collections.abc import Callable
from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry

# Axes of a channels-first view of channels-last memory, and back.
TO_FIRST = {2: (0, 3, 1, 2), 3: (0, 4, 1, 2, 3)}
TO_LAST = {2: (0, 2, 3, 1), 3: (0, 2, 3, 4, 1)}


def with_channels_last(
    convolve: Callable[[Any, Any, Geometry], Any], inputs: Any, kernel: Any, geometry: Geometry
) -> Any:
    """Computes a channels-first convolution by calling `convolve` with channels-last inputs."""
    inputs = keras.ops.moveaxis(inputs, 1, -1)
    outputs = convolve(inputs, kernel, geometry.replace(data_format="channels_last"))
    return keras.ops.moveaxis(outputs, -1, 1)


def torch_conv(inputs: Any, kernel: Any, geometry: Geometry, groups: int = 1) -> Any:
    """Convolves with a `(*kernel_size, channels / groups, filters)` kernel.

    A channels-first view of channels-last memory is what PyTorch computes fastest; Keras copies
    such inputs into channels-first memory, which takes longer than the convolution. PyTorch has no
    such layout in one dimension, so a sequence goes as an image of width 1.
    """
    import torch.nn.functional as F

    rank, is_last = geometry.rank, geometry.data_format == "channels_last"
    widths = geometry.pad_widths(inputs.shape)
    strides, dilation = geometry.strides, geometry.dilation_rate
    if rank == 1:
        inputs, kernel = inputs.unsqueeze(2 if is_last else 3), kernel.unsqueeze(1)
        widths, strides, dilation = [*widths, (0, 0)], (*strides, 1), (*dilation, 1)
    dimensions = max(rank, 2)
    if is_last:
        inputs = inputs.permute(TO_FIRST[dimensions])
    if any(before != after for before, after in widths):
        inputs = F.pad(inputs, [zeros for width in reversed(widths) for zeros in width])
        widths = [(0, 0)] * dimensions
    kernel = kernel.permute(-1, -2, *range(dimensions))
    outputs = (F.conv2d if dimensions == 2 else F.conv3d)(
        inputs, kernel, None, strides, [before for before, _ in widths], dilation, groups
    )
    if is_last:
        outputs = outputs.permute(TO_LAST[dimensions])
    return outputs.squeeze(2 if is_last else 3) if rank == 1 else outputs
