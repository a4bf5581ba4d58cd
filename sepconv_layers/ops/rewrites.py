"""Exact rewrites of a convolution in terms of others, which the caller passes in as functions."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.geometry import (
    Convolve,
    Geometry,
    ceil_div,
    concatenate_channels,
    cut,
    or_zero,
    pad,
)


def sums_in_float32(convolve: Convolve) -> Convolve:
    """Makes a function compute half-precision inputs in float32, and round the outputs."""

    @functools.wraps(convolve)
    def in_float32(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if dtype not in ("float16", "bfloat16"):
            return convolve(inputs, kernel, geometry)
        inputs, kernel = keras.ops.cast(inputs, "float32"), keras.ops.cast(kernel, "float32")
        return keras.ops.cast(convolve(inputs, kernel, geometry), dtype)

    return in_float32


def with_channels_last(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Computes a channels-first convolution by calling `convolve` with channels-last inputs."""
    inputs = keras.ops.moveaxis(inputs, 1, -1)
    outputs = convolve(inputs, kernel, geometry.replace(data_format="channels_last"))
    return keras.ops.moveaxis(outputs, -1, 1)


def with_single_kernels(double: Callable[[Any], Any], inputs: Any, kernel: Any) -> tuple[Any, Any]:
    """Repeats channels so that each has one depthwise kernel, by calling `double`."""
    *kernel_size, channels, multiplier = kernel.shape
    for _ in range(int(math.log2(multiplier))):
        inputs = double(inputs)
    return inputs, keras.ops.reshape(kernel, (*kernel_size, channels * multiplier, 1))


def kernel_by_kernel(kernel: Any, pointwise_kernel: Any) -> tuple[list[Any], list[Any]]:
    """The kernels of a separable convolution, with one depthwise kernel per channel after another.

    Returns:
        Depthwise kernels with one kernel per channel, and for each one the part of the pointwise
        kernel that mixes its outputs.
    """
    *_, channels, multiplier = context.fixed_sizes(kernel.shape)
    *ones, _, filters = context.fixed_sizes(pointwise_kernel.shape)
    rows = keras.ops.reshape(pointwise_kernel, (*ones, channels, multiplier, filters))
    return keras.ops.split(kernel, multiplier, -1), keras.ops.unstack(rows, multiplier, -2)


def group_by_group(
    convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry, groups: int
) -> Any:
    """Convolves each group of channels with its own group of filters."""
    axis = geometry.channel_axis
    parts = zip(
        keras.ops.split(inputs, groups, axis), keras.ops.split(kernel, groups, -1), strict=True
    )
    return keras.ops.concatenate([convolve(*part, geometry) for part in parts], axis)


def as_product(multiply: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Standard convolution as one product over taps and channels, channels last."""
    alone = Geometry.of(1, geometry.rank, data_format=geometry.data_format)
    matrix = keras.ops.reshape(kernel, (*alone.kernel_size, -1, kernel.shape[-1]))
    return multiply(_taps_as_channels(inputs, geometry), matrix, alone)


def volumes_as_images(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Standard 3D convolution in 2D: neighboring planes are channels, channels last."""
    plane = geometry.axes(slice(1, None))
    batch, depth, *image, channels = keras.ops.shape(inputs)
    # Microcontrollers slice at most four axes.
    rows = keras.ops.reshape(inputs, (batch, depth, math.prod(image), channels))
    rows = _taps_as_channels(rows, geometry.axes(slice(1)))
    size, channels = keras.ops.shape(rows)[1], rows.shape[-1]
    images = keras.ops.reshape(rows, (batch * size, *image, channels))
    kernel = keras.ops.transpose(kernel, (1, 2, 0, 3, 4))
    kernel = keras.ops.reshape(kernel, (*plane.kernel_size, -1, kernel.shape[-1]))
    outputs = convolve(images, kernel, plane)
    return keras.ops.reshape(outputs, (batch, size, *keras.ops.shape(outputs)[1:]))


def _taps_as_channels(inputs: Any, geometry: Geometry) -> Any:
    """The inputs under all kernel taps, as channels at the positions of the outputs."""
    inputs, geometry = geometry.pad(inputs)
    every = itertools.product(*map(range, geometry.kernel_size))
    return concatenate_channels([geometry.tap(inputs, index) for index in every])


def dilated_sequence(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves dilated sequences as columns of an image, one for each phase of the dilation.

    A sequence in memory is that image already.
    """
    ops, (extent,), (rate,) = keras.ops, geometry.extent, geometry.dilation_rate
    ((before, after),) = geometry.pad_widths(ops.shape(inputs))
    length = before + ops.shape(inputs)[1] + after
    rows = ceil_div(length, rate)
    padded = pad(inputs, ((0, 0), (before, rows * rate - length + after), (0, 0)))
    images = ops.reshape(padded, (-1, rows, rate, inputs.shape[-1]))
    columns = Geometry.of((*geometry.kernel_size, 1), 2, data_format="channels_last")
    outputs = convolve(images, kernel[:, None], columns)
    channels = outputs.shape[-1]
    return ops.reshape(outputs, (-1, rows * rate - extent, channels))[:, : length - extent]


def is_dilated_sequence(geometry: Geometry) -> bool:
    """Whether `dilated_sequence` supports a convolution."""
    return (
        geometry.rank == 1
        and geometry.data_format == "channels_last"
        and geometry.strides == (1,)
        and geometry.dilation_rate > (1,)
    )


def planes(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """3D convolution as a sum of 2D ones, one for each plane of the kernel.

    The planes of all volumes form one row, and each plane of the kernel is applied to a piece of
    that row that begins later. This copies nothing. A slice along the depth would be one copy for
    each plane of the kernel, and a slower one in its gradient. Outputs that straddle two volumes
    are cut out at the end.

    With one or two dimensions, the input is a single plane.
    """
    if geometry.rank < 3:
        return convolve(inputs, kernel, geometry)
    if geometry.data_format == "channels_first":
        # Planes are merged with the batch, so the depth has to be next to it.
        of_planes = functools.partial(planes, convolve)
        return with_channels_last(of_planes, inputs, kernel, geometry)
    plane = geometry.axes(slice(1, None))
    if geometry.padding == "causal":  # which concerns the depth only
        plane = plane.replace(padding="same")
    (before, after), *_ = geometry.pad_widths(keras.ops.shape(inputs))
    stride, extent, dilation = geometry.strides[0], geometry.extent[0], geometry.dilation_rate[0]
    batch, depth, *image = keras.ops.shape(inputs)
    padded = before + depth + after
    size = (padded - extent - 1) // stride + 1  # of the output's depth
    each = ceil_div(padded, stride)  # planes per volume in the row, including those that straddle
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


def interleave(
    phase: Callable[[tuple[int, ...]], Any], geometry: Geometry, prefix: tuple[int, ...] = ()
) -> Any:
    """Assembles a tensor from its phases, the positions that are equal modulo the strides.

    Args:
        phase: Returns the tensor of one phase. It is called for the phases that a tap of the kernel
            falls on. The others are zero.
        geometry: The geometry of the kernel.
        prefix: The phase along the first axes, of which all others are interleaved.
    """
    axis = len(prefix)
    if axis == geometry.rank:
        return phase(prefix)
    stride, dilation = geometry.strides[axis], geometry.dilation_rate[axis]
    with_taps = {tap * dilation % stride for tap in range(geometry.kernel_size[axis])}
    parts = [
        interleave(phase, geometry, (*prefix, i)) if i in with_taps else None for i in range(stride)
    ]
    first, *others = parts  # never `None`: the first tap falls on the first phase
    if not others:
        return first
    if len(with_taps) < stride:
        zeros = keras.ops.zeros_like(first)
        parts = [zeros if part is None else part for part in parts]
    position, shape = geometry.spatial_axes[axis], list(keras.ops.shape(first))
    shape[position] = shape[position] * stride
    return keras.ops.reshape(keras.ops.stack(parts, position + 1), shape)


def polyphase(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Computes a strided convolution by calling `convolve` with stride 1 only.

    Vaidyanathan, "Multirate Systems and Filter Banks", 1993: with stride `s` and dilation `d`,
    kernel taps whose offsets are equal modulo `s` overlap the same phase of the input. Each such
    group of taps is a convolution of stride 1. The sum over the groups does no multiplication that
    the strided convolution would not do.
    """
    rank, strides, dilation_rate = geometry.rank, geometry.strides, geometry.dilation_rate
    shared = [math.gcd(s, d) for s, d in zip(strides, dilation_rate, strict=True)]
    periods = [s // g for s, g in zip(strides, shared, strict=True)]
    rates = tuple(d // g for d, g in zip(dilation_rate, shared, strict=True))
    unstrided = geometry.replace(strides=(1,) * rank, padding="valid", dilation_rate=rates)
    # XLA fuses slices. Without it, strided slices take TensorFlow ten times as long as copies.
    overlap = (_slices_of_phases if context.compiled() else _copies_of_phases)(inputs, geometry)
    outputs = None
    phases = [range(min(p, k)) for p, k in zip(periods, geometry.kernel_size, strict=True)]
    for phase in itertools.product(*phases):
        kernel_part = kernel[tuple(slice(j, None, p) for j, p in zip(phase, periods, strict=True))]
        moving = unstrided.replace(kernel_size=tuple(kernel_part.shape[:rank]))
        offsets = [j * d for j, d in zip(phase, dilation_rate, strict=True)]
        part = convolve(overlap(offsets, moving.extent), kernel_part, moving)
        outputs = part if outputs is None else outputs + part
    return outputs


# Returns the inputs that a group of taps overlaps, given the offset of its first tap and its extent
# along each axis.
Overlap = Callable[[Sequence[int], Sequence[int]], Any]


def _slices_of_phases(inputs: Any, geometry: Geometry) -> Overlap:
    inputs, geometry = geometry.pad(inputs)

    def overlap(offsets: Sequence[int], extents: Sequence[int]) -> Any:
        slices = [slice(None)] * len(inputs.shape)
        for i, axis in enumerate(geometry.spatial_axes):
            stride = geometry.strides[i]
            after = geometry.extent[i] - offsets[i] - stride * extents[i]
            slices[axis] = slice(offsets[i], -after if after else None, stride)
        return inputs[tuple(slices)]

    return overlap


def _copies_of_phases(inputs: Any, geometry: Geometry) -> Overlap:
    """Copies each phase of the inputs once, and cuts pieces out of the copies."""
    pad_width: list[tuple[Any, Any]] = [(0, 0)] * len(inputs.shape)
    sizes, output_sizes = keras.ops.shape(inputs), []
    widths = geometry.pad_widths(sizes)
    for i, axis in enumerate(geometry.spatial_axes):
        (before, after), stride = widths[i], geometry.strides[i]
        size = before + sizes[axis] + after
        output_sizes.append((size - geometry.extent[i] - 1) // stride + 1)
        pad_width[axis] = before, after + -size % stride
    copies: dict[tuple[int, ...], Any] = {(): pad(inputs, pad_width)}
    for axis, stride in zip(geometry.spatial_axes, geometry.strides, strict=True):
        copies = {
            (*phase, rest): part
            for phase, values in copies.items()
            for rest, part in enumerate(_unstack(values, stride, axis))
        }

    def overlap(offsets: Sequence[int], extents: Sequence[int]) -> Any:
        starts, phase = zip(*map(divmod, offsets, geometry.strides), strict=True)
        sizes = [size + extent for size, extent in zip(output_sizes, extents, strict=True)]
        return cut(copies[phase], geometry.spatial_axes, starts, sizes)

    return overlap


def _unstack(values: Any, stride: int, axis: int) -> list[Any]:
    """The phases of a tensor along one axis."""
    if stride == 1:
        return [values]
    sizes = keras.ops.shape(values)
    apart = (*sizes[:axis], sizes[axis] // stride, stride, *sizes[axis + 1 :])
    return keras.ops.unstack(keras.ops.reshape(values, apart), stride, axis + 1)
