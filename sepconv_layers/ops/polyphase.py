"""Strided convolution as a sum of unstrided ones, for kernels that lack a combination.

Vaidyanathan, "Multirate Systems and Filter Banks", 1993: with stride `s` and dilation `d`, kernel
elements whose offsets agree modulo `s` meet the same `s`-th part of the input. Each such group is
a convolution of stride 1, so the sum over groups does no multiplication that the strided
convolution would not do.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.geometry import Convolve, Geometry, cut, pad


def polyphase(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Computes a strided convolution by calling `convolve` with stride 1 only."""
    rank, strides, dilation_rate = geometry.rank, geometry.strides, geometry.dilation_rate
    groups = [math.gcd(s, d) for s, d in zip(strides, dilation_rate, strict=True)]
    periods = [s // g for s, g in zip(strides, groups, strict=True)]
    rates = tuple(d // g for d, g in zip(dilation_rate, groups, strict=True))
    unstrided = geometry.replace(strides=(1,) * rank, padding="valid", dilation_rate=rates)
    # XLA fuses slices. Slices with strides take TensorFlow without it ten times as long as copies.
    met_by = (_slices if context.compiled() else _copies)(inputs, geometry)
    outputs = None
    phases = [range(min(p, k)) for p, k in zip(periods, geometry.kernel_size, strict=True)]
    for phase in itertools.product(*phases):
        kernel_part = kernel[tuple(slice(j, None, p) for j, p in zip(phase, periods, strict=True))]
        moving = unstrided.replace(kernel_size=tuple(kernel_part.shape[:rank]))
        firsts = [j * d for j, d in zip(phase, dilation_rate, strict=True)]
        part = convolve(met_by(firsts, moving.extent), kernel_part, moving)
        outputs = part if outputs is None else outputs + part
    return outputs


# What a part of the kernel meets: by the offset of its first tap on each axis, and its extent.
Met = Callable[[Sequence[int], Sequence[int]], Any]


def _slices(inputs: Any, geometry: Geometry) -> Met:
    inputs, geometry = geometry.pad(inputs)

    def met_by(firsts: Sequence[int], extents: Sequence[int]) -> Any:
        slices = [slice(None)] * len(inputs.shape)
        for i, axis in enumerate(geometry.spatial_axes):
            stride = geometry.strides[i]
            after = geometry.extent[i] - firsts[i] - stride * extents[i]
            slices[axis] = slice(firsts[i], -after if after else None, stride)
        return inputs[tuple(slices)]

    return met_by


def _copies(inputs: Any, geometry: Geometry) -> Met:
    """Cuts out of copies of every `stride`-th input, from one of the first `stride` on."""
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
            (*which, rest): part
            for which, values in copies.items()
            for rest, part in enumerate(_unstack(values, stride, axis))
        }

    def met_by(firsts: Sequence[int], extents: Sequence[int]) -> Any:
        starts, rests = zip(*map(divmod, firsts, geometry.strides), strict=True)
        sizes = [size + extent for size, extent in zip(output_sizes, extents, strict=True)]
        return cut(copies[rests], geometry.spatial_axes, starts, sizes)

    return met_by


def _unstack(values: Any, stride: int, axis: int) -> list[Any]:
    """Every `stride`-th part along an axis, from each of the first ones on."""
    if stride == 1:
        return [values]
    sizes = keras.ops.shape(values)
    apart = (*sizes[:axis], sizes[axis] // stride, stride, *sizes[axis + 1 :])
    return keras.ops.unstack(keras.ops.reshape(values, apart), stride, axis + 1)
