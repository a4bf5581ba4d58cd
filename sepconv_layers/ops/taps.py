"""Depthwise convolution as a sum over kernel taps: what a fusing compiler does best."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.per_channel import sum_per_channel


def taps(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Pads once, then adds up shifted slices times a per-channel weight.

    A compiler fuses it all into one vectorised pass over the input. Half-precision inputs are
    summed in float32, as a backend's own kernel does.
    """
    inputs, geometry = geometry.pad(inputs)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if dtype in ("float16", "bfloat16"):
        inputs, kernel = keras.ops.cast(inputs, "float32"), keras.ops.cast(kernel, "float32")
    *kernel_size, channels, multiplier = kernel.shape
    if multiplier > 1:
        inputs = keras.ops.repeat(inputs, multiplier, axis=geometry.channel_axis)
        kernel = keras.ops.reshape(kernel, (*kernel_size, channels * multiplier, 1))

    @keras.ops.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> tuple:
        # PyTorch's `custom_gradient` passes all arguments, and the upstream gradient by name.
        def gradients(*args: Any, upstream: Any = None) -> tuple:
            upstream = args[0] if upstream is None else upstream
            return (
                _input_gradient(inputs, kernel, upstream, geometry),
                _kernel_gradient(inputs, kernel, upstream, geometry),
            )

        every = itertools.product(*map(range, geometry.kernel_size))
        shifted = ((geometry.tap(inputs, index), kernel[index]) for index in every)
        return _weighted_sum(shifted, geometry), gradients

    return keras.ops.cast(convolve(inputs, kernel), dtype)


def _weighted_sum(parts: Iterable[tuple[Any, Any]], geometry: Geometry) -> Any:
    outputs = None
    for part, weights in parts:
        part = part * geometry.per_channel(weights)
        outputs = part if outputs is None else outputs + part
    return outputs


def _kernel_gradient(inputs: Any, kernel: Any, upstream: Any, geometry: Geometry) -> Any:
    sums = [
        sum_per_channel(geometry.tap(inputs, index) * upstream, geometry.channel_axis)
        for index in itertools.product(*map(range, geometry.kernel_size))
    ]
    return keras.ops.reshape(keras.ops.stack(sums), kernel.shape)


def _input_gradient(inputs: Any, kernel: Any, upstream: Any, geometry: Geometry) -> Any:
    """A convolution of the padded upstream gradient for each phase of the strides.

    Left to itself, XLA would compute the upstream gradient again for each tap: a tensor that is
    padded, and then sliced more than once, it computes only once.
    """
    shape = keras.ops.shape(inputs)
    reach = [e // s for e, s in zip(geometry.extent, geometry.strides, strict=True)]
    pad_width: list[tuple[Any, Any]] = [(0, 0)] * len(shape)
    for axis, before, stride in zip(geometry.spatial_axes, reach, geometry.strides, strict=True):
        after = -(-shape[axis] // stride) - keras.ops.shape(upstream)[axis]
        pad_width[axis] = (before, after)
    upstream = keras.ops.pad(upstream, pad_width)
    # From here on: how the flipped kernel moves over the padded upstream gradient.
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
                parts.append((moving.tap(upstream, back), kernel[index]))
        if parts:
            return _weighted_sum(parts, geometry)
        return keras.ops.zeros_like(moving.tap(upstream, reach))

    def interleave(which: tuple[int, ...]) -> Any:
        """All phases that begin with these, in one tensor."""
        if len(which) == geometry.rank:
            return phase(which)
        axis, stride = geometry.spatial_axes[len(which)], geometry.strides[len(which)]
        phases = [interleave((*which, i)) for i in range(stride)]
        if stride == 1:
            return phases[0]
        merged = keras.ops.stack(phases, axis + 1)
        sizes = list(keras.ops.shape(phases[0]))
        sizes[axis] = sizes[axis] * stride
        return keras.ops.reshape(merged, sizes)

    gradient = interleave(())
    slices = [slice(None)] * len(shape)
    for axis, stride in zip(geometry.spatial_axes, geometry.strides, strict=True):
        if stride > 1:
            slices[axis] = slice(0, shape[axis])
    return gradient[tuple(slices)]
