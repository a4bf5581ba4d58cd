"""Depthwise convolution as a sum over kernel taps: what a fusing compiler does best."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry, ceil_div, pad
from sepconv_layers.ops.gradients import with_gradients
from sepconv_layers.ops.per_channel import sum_per_channel
from sepconv_layers.ops.polyphase import polyphase
from sepconv_layers.ops.precision import sums_in_float32
from sepconv_layers.ops.rows import correlate_rows, rows_kernel_gradient

# Number of taps above which a loop goes over the kernel's rows: XLA takes seconds for so many.
WRITTEN_OUT = 49


@sums_in_float32
def taps(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Pads once, then adds up shifted slices times a per-channel weight.

    A compiler fuses it all into one vectorized pass over the input.
    """
    *kernel_size, channels, multiplier = kernel.shape
    if multiplier > 1:  # before the padding: XLA would repeat a padded tensor again for each tap
        inputs = keras.ops.repeat(inputs, multiplier, axis=geometry.channel_axis)
        kernel = keras.ops.reshape(kernel, (*kernel_size, channels * multiplier, 1))
    inputs, geometry = geometry.pad(inputs)
    is_large = geometry.rank > 1 and math.prod(kernel_size) > WRITTEN_OUT
    if is_large and max(geometry.strides) > 1:
        return polyphase(taps, inputs, kernel, geometry)

    def convolve(inputs: Any, kernel: Any) -> Any:
        if is_large:
            return correlate_rows(inputs, kernel, geometry)
        every = itertools.product(*map(range, geometry.kernel_size))
        shifted = ((geometry.tap(inputs, index), kernel[index]) for index in every)
        return _weighted_sum(shifted, geometry)

    def gradients(inputs: Any, kernel: Any, upstream: Any) -> tuple:
        if is_large:
            padded, _ = _padded_upstream(inputs, upstream, geometry)
            flipped = keras.ops.flip(kernel, tuple(range(geometry.rank)))
            return (
                correlate_rows(padded, flipped, geometry),
                rows_kernel_gradient(inputs, upstream, geometry),
            )
        return (
            _input_gradient(inputs, kernel, upstream, geometry),
            _kernel_gradient(inputs, upstream, geometry),
        )

    return with_gradients(convolve, gradients, loops=is_large)(inputs, kernel)


def _weighted_sum(parts: Iterable[tuple[Any, Any]], geometry: Geometry) -> Any:
    outputs = None
    for part, weights in parts:
        part = part * geometry.per_channel(weights)
        outputs = part if outputs is None else outputs + part
    return outputs


def _padded_upstream(inputs: Any, upstream: Any, geometry: Geometry) -> tuple[Any, list[int]]:
    """The upstream gradient between zeros, as far as the kernel reaches, and that reach.

    XLA computes a tensor that it pads and then slices only once. It would compute the upstream
    gradient itself, with all the arithmetic that leads to it, again for each tap.
    """
    reach = [e // s for e, s in zip(geometry.extent, geometry.strides, strict=True)]
    sizes, outputs = keras.ops.shape(inputs), keras.ops.shape(upstream)
    pad_width: list[tuple[Any, Any]] = [(0, 0)] * len(sizes)
    for axis, before, stride in zip(geometry.spatial_axes, reach, geometry.strides, strict=True):
        pad_width[axis] = (before, ceil_div(sizes[axis], stride) - outputs[axis])
    return pad(upstream, pad_width), reach


def _kernel_gradient(inputs: Any, upstream: Any, geometry: Geometry) -> Any:
    outputs = keras.ops.shape(upstream)
    padded, reach = _padded_upstream(inputs, upstream, geometry)
    sums, last = [], geometry.spatial_axes[-1]
    for index in itertools.product(*map(range, geometry.kernel_size)):
        at_inputs = [slice(None)] * len(outputs)
        at_upstream = [slice(None)] * len(outputs)
        for i, axis in enumerate(geometry.spatial_axes):
            stride, offset = geometry.strides[i], index[i] * geometry.dilation_rate[i]
            # One zero more on either side, where there are inputs to meet it: a slice that has
            # nothing of the padding would be one of the unpadded tensor again.
            before = int(axis == last and offset >= stride)
            after = int(axis == last and not before and geometry.extent[i] - offset >= stride)
            start, size = reach[i] - before, before + outputs[axis] + after
            at_upstream[axis] = slice(start, start + size)
            start = offset - stride * before
            at_inputs[axis] = slice(start, start + stride * (size - 1) + 1, stride)
        products = inputs[tuple(at_inputs)] * padded[tuple(at_upstream)]
        sums.append(sum_per_channel(products, geometry.channel_axis))
    return keras.ops.reshape(
        keras.ops.stack(sums), (*geometry.kernel_size, inputs.shape[geometry.channel_axis], 1)
    )


def _input_gradient(inputs: Any, kernel: Any, upstream: Any, geometry: Geometry) -> Any:
    """An unstrided convolution of the upstream gradient for each phase of the strides."""
    padded, reach = _padded_upstream(inputs, upstream, geometry)
    # How the flipped kernel moves over it.
    moving = geometry.replace(
        kernel_size=tuple(r + 1 for r in reach),
        strides=(1,) * geometry.rank,
        dilation_rate=(1,) * geometry.rank,
    )

    def phase(which: Sequence[int]) -> Any:
        parts = []
        for index in itertools.product(*map(range, geometry.kernel_size)):
            offsets = [i * d for i, d in zip(index, geometry.dilation_rate, strict=True)]
            steps = [divmod(o, s) for o, s in zip(offsets, geometry.strides, strict=True)]
            if [rest for _, rest in steps] == list(which):
                back = [r - step for r, (step, _) in zip(reach, steps, strict=True)]
                parts.append((moving.tap(padded, back), kernel[index]))
        if parts:
            return _weighted_sum(parts, geometry)
        return keras.ops.zeros_like(moving.tap(padded, reach))

    def interleave(which: tuple[int, ...]) -> Any:
        """All phases that begin with these, in one tensor."""
        if len(which) == geometry.rank:
            return phase(which)
        axis, stride = geometry.spatial_axes[len(which)], geometry.strides[len(which)]
        phases = [interleave((*which, i)) for i in range(stride)]
        if stride == 1:
            return phases[0]
        sizes = list(keras.ops.shape(phases[0]))
        sizes[axis] = sizes[axis] * stride
        return keras.ops.reshape(keras.ops.stack(phases, axis + 1), sizes)

    gradient = interleave(())
    sizes = keras.ops.shape(inputs)
    slices = [slice(None)] * len(sizes)
    for axis, stride in zip(geometry.spatial_axes, geometry.strides, strict=True):
        if stride > 1:
            slices[axis] = slice(0, sizes[axis])
    return gradient[tuple(slices)]
