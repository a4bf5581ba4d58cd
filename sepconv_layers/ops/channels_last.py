"""Convolutions on channels-last memory: for PyTorch, and for what knows no other."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.geometry import Convolve, Geometry

# Axes of a channels-first view of channels-last memory, and back.
TO_FIRST = {2: (0, 3, 1, 2), 3: (0, 4, 1, 2, 3)}
TO_LAST = {2: (0, 2, 3, 1), 3: (0, 2, 3, 4, 1)}
SHORT = 3  # taps, up to which PyTorch has fast gradients of a row
LARGE = 25  # elements of a kernel, up to which cuDNN has fast gradients in float32


def with_channels_last(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Computes a channels-first convolution by calling `convolve` with channels-last inputs."""
    inputs = keras.ops.moveaxis(inputs, 1, -1)
    outputs = convolve(inputs, kernel, geometry.replace(data_format="channels_last"))
    return keras.ops.moveaxis(outputs, -1, 1)


def torch_conv(
    inputs: Any, kernel: Any, geometry: Geometry, groups: int = 1, bias: Any = None
) -> Any:
    """Convolves with a `(*kernel_size, channels / groups, filters)` kernel.

    A channels-first view of channels-last memory is what PyTorch computes fastest; Keras copies
    such inputs into channels-first memory, which takes longer than the convolution. PyTorch has no
    such layout in one dimension, so a sequence goes as an image: a row, or a column where the
    gradients of a row would be slow.
    """
    import torch
    import torch.nn.functional as F

    rank, is_last, is_depthwise = geometry.rank, geometry.data_format == "channels_last", groups > 1
    trains = torch.is_grad_enabled() and (inputs.requires_grad or kernel.requires_grad)
    if torch.compiler.is_exporting():  # from views, a program would be held to odd sizes, or even
        inputs = inputs.clone(memory_format=torch.contiguous_format)
    is_copied = is_depthwise and _is_better_copied(inputs, geometry, trains)
    is_misread = is_last and _is_misread(inputs, geometry)
    widths, found = geometry.pad_widths(inputs.shape), None
    is_known = None not in context.known_sizes([zeros for width in widths for zeros in width])
    if is_depthwise and not trains and is_known:
        widths, found = _even(inputs.shape, widths, geometry)
    strides, dilation = list(geometry.strides), list(geometry.dilation_rate)
    if rank == 1:
        is_column = is_depthwise and trains and not is_copied and geometry.kernel_size[0] > SHORT
        at, flat = int(is_column), geometry.spatial_axes[0] + int(is_column)
        inputs, kernel = inputs.unsqueeze(flat), kernel.unsqueeze(at)
        widths.insert(at, (0, 0))
        strides.insert(at, 1)
        dilation.insert(at, 1)
    dimensions = max(rank, 2)
    if is_misread:
        inputs = inputs.squeeze(-1).unsqueeze(1)
    elif is_last:
        inputs = inputs.permute(TO_FIRST[dimensions])
    if is_copied:
        inputs = inputs.contiguous()
    if not is_known or any(before != after for before, after in widths):
        inputs = F.pad(inputs, [zeros for width in reversed(widths) for zeros in width])
        widths = [(0, 0)] * dimensions
    kernel = kernel.permute(dimensions + 1, dimensions, *range(dimensions))
    outputs = (F.conv2d if dimensions == 2 else F.conv3d)(
        inputs, kernel, bias, strides, [before for before, _ in widths], dilation, groups
    )
    if is_last:
        outputs = outputs.permute(TO_LAST[dimensions])
    outputs = outputs.squeeze(flat) if rank == 1 else outputs
    return outputs if found is None else outputs[found]


def _is_misread(inputs: Any, geometry: Geometry) -> bool:
    """Whether PyTorch, up to 2.13 at least, would compute with numbers from outside the input.

    It takes a permuted view of one channel for two layouts at once, where a stride gives a single
    output, as it may in another run than the one that is traced.
    """
    shape = context.known_shape(inputs, -1)
    if shape[-1] != 1:
        return False
    outputs = geometry.output_shape(shape, 1)
    return any(
        outputs[axis] in (1, None) and stride > 1
        for axis, stride in zip(geometry.spatial_axes, geometry.strides, strict=True)
    )


def _is_better_copied(inputs: Any, geometry: Geometry, trains: bool) -> bool:
    """Whether a depthwise convolution is worth a copy to channels-first memory.

    On a GPU it is in all dimensions but two, and for the gradients of large kernels in float32.
    """
    if context.device() != "gpu":
        return False
    is_large = math.prod(geometry.kernel_size) > LARGE and inputs.element_size() > 2
    return geometry.rank != 2 or (trains and is_large)


def _even(
    shape: Sequence[int], widths: list[tuple[int, int]], geometry: Geometry
) -> tuple[list[tuple[int, int]], tuple[slice, ...] | None]:
    """As many zeros before as after, and where the outputs are among those that this gives.

    PyTorch can only pad evenly, and otherwise copies the input. To leave out a few outputs is less
    work, but for their gradients.
    """
    if all(before == after for before, after in widths):
        return widths, None
    evens, found = [], [slice(None)] * len(shape)
    for axis, (before, after), extent, stride in zip(
        geometry.spatial_axes, widths, geometry.extent, geometry.strides, strict=True
    ):
        more = -(-max(after - before, 0) // stride)  # outputs, before the first one
        size = (shape[axis] + before + after - extent - 1) // stride + 1
        evens.append((before + more * stride,) * 2)
        found[axis] = slice(more, more + size)
    return evens, tuple(found)
