"""Everything specific to XLA: depthwise convolution as a sum over kernel taps, and fast sums.

XLA runs a depthwise convolution as a naive loop, but fuses shifted slices, products and additions
into one vectorized pass over the input.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from sepconv_layers.ops import choice, context, rewrites
from sepconv_layers.ops.bilinear import Bilinear
from sepconv_layers.ops.correlation import correlate
from sepconv_layers.ops.geometry import Geometry, ceil_div, pad


@rewrites.sums_in_float32
def taps(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Pads once, then adds up shifted slices times a per-channel weight."""
    *kernel_size, channels, multiplier = kernel.shape
    if multiplier > 1:  # before the padding: XLA would repeat a padded tensor again for each tap
        inputs = keras.ops.repeat(inputs, multiplier, axis=geometry.channel_axis)
        kernel = keras.ops.reshape(kernel, (*kernel_size, channels * multiplier, 1))
    inputs, geometry = geometry.pad(inputs)
    if _is_large(geometry) and max(geometry.strides) > 1:
        return rewrites.polyphase(taps, inputs, kernel, geometry)
    convolve = Bilinear(
        _Of(_input_gradient, geometry), _Of(_kernel_gradient, geometry), _Of(_outputs, geometry)
    )
    shape = list(keras.ops.shape(inputs))
    for axis, extent, stride in zip(
        geometry.spatial_axes, geometry.extent, geometry.strides, strict=True
    ):
        shape[axis] = ceil_div(shape[axis] - extent, stride)
    return convolve(inputs, kernel, shape)


@dataclasses.dataclass(frozen=True)
class _Of:
    """A function for one geometry, equal to others of the same: JAX compiles them once."""

    function: Callable[[Any, Any, Sequence[Any], Geometry], Any]
    geometry: Geometry

    def __call__(self, first: Any, second: Any, shape: Sequence[Any]) -> Any:
        return self.function(first, second, shape, self.geometry)


def _is_large(geometry: Geometry) -> bool:
    return geometry.rank > 1 and math.prod(geometry.kernel_size) > choice.MAX_UNROLLED_TAPS


def _outputs(inputs: Any, kernel: Any, shape: Sequence[Any], geometry: Geometry) -> Any:
    if _is_large(geometry):
        return correlate(inputs, _one_sample(kernel, geometry), geometry, _spatial(shape, geometry))
    every = itertools.product(*map(range, geometry.kernel_size))
    return _weighted_sum(((geometry.tap(inputs, at), kernel[at]) for at in every), geometry)


def _one_sample(kernel: Any, geometry: Geometry) -> Any:
    """A depthwise kernel in the form of a sample."""
    weights = keras.ops.squeeze(kernel, -1)
    if geometry.channel_axis == 1:
        weights = keras.ops.moveaxis(weights, -1, 0)
    return weights[None]


def _spatial(shape: Sequence[Any], geometry: Geometry) -> list[Any]:
    return [shape[axis] for axis in geometry.spatial_axes]


def _weighted_sum(parts: Iterable[tuple[Any, Any]], geometry: Geometry) -> Any:
    outputs = None
    for part, weights in parts:
        part = part * geometry.per_channel(weights)
        outputs = part if outputs is None else outputs + part
    return outputs


def _padded_upstream(
    sizes: Sequence[Any], upstream: Any, geometry: Geometry
) -> tuple[Any, list[int]]:
    """The upstream gradient, padded as far as the kernel reaches, and that reach.

    XLA computes a tensor that it pads and then slices only once. Without the padding, it would
    compute the upstream gradient again for each tap, with all the arithmetic that leads to it.
    """
    reach = [e // s for e, s in zip(geometry.extent, geometry.strides, strict=True)]
    outputs = keras.ops.shape(upstream)
    pad_width: list[tuple[Any, Any]] = [(0, 0)] * len(sizes)
    for axis, before, stride in zip(geometry.spatial_axes, reach, geometry.strides, strict=True):
        pad_width[axis] = (before, ceil_div(sizes[axis], stride) - outputs[axis])
    return pad(upstream, pad_width), reach


def _kernel_gradient(inputs: Any, upstream: Any, shape: Sequence[Any], geometry: Geometry) -> Any:
    """The sum of products of the upstream gradient with the inputs under each kernel tap."""
    if context.device() != "cpu":
        every = itertools.product(*map(range, geometry.kernel_size))
        products = [geometry.tap(inputs, index) * upstream for index in every]
        sums = keras.ops.stack([sum_per_channel(x, geometry.channel_axis) for x in products])
    else:
        moving = geometry.replace(strides=geometry.dilation_rate, dilation_rate=geometry.strides)
        sums = correlate(inputs, upstream, moving, geometry.kernel_size)
        sums = keras.ops.sum(sums, axis=0)
        if geometry.channel_axis == 1:
            sums = keras.ops.moveaxis(sums, 0, -1)
    return keras.ops.reshape(sums, shape)


def _input_gradient(kernel: Any, upstream: Any, sizes: Sequence[Any], geometry: Geometry) -> Any:
    """An unstrided convolution of the upstream gradient for each phase of the strides."""
    padded, reach = _padded_upstream(sizes, upstream, geometry)
    if _is_large(geometry):
        flipped = keras.ops.flip(kernel, tuple(range(geometry.rank)))
        weights = _one_sample(flipped, geometry)
        return correlate(padded, weights, geometry, _spatial(sizes, geometry))
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
        return _weighted_sum(parts, geometry)

    gradient = rewrites.interleave(phase, geometry)
    slices = [slice(None)] * len(sizes)
    for axis, stride in zip(geometry.spatial_axes, geometry.strides, strict=True):
        if stride > 1:
            slices[axis] = slice(0, sizes[axis])
    return gradient[tuple(slices)]


# Sums.


def sum_per_channel(values: Any, channel_axis: int) -> Any:
    """Sums over all axes except the channel axis, which is the last one or the second.

    XLA on a CPU runs such a sum one number at a time. Adding up a few slices is vectorized, with
    the computation of `values` fused into it. A product with ones adds up the rest. With one row of
    ones it would be a loop again. With eight, a matrix-product library computes it. The batch is
    never cut: several devices may hold parts of it.
    """
    axes = [axis for axis in range(len(values.shape)) if axis != channel_axis]
    if context.device() != "cpu":  # where a product might be rounded to TF32
        return keras.ops.sum(values, axes)
    slices = {axis: _slices(values.shape[axis]) for axis in axes if axis != 0}
    if slices:
        axis = max(slices, key=slices.__getitem__)  # of equal ones the first: its slices are long
        first, *others = _split(values, slices[axis], axis)
        values = sum(others, first)
    shape = keras.ops.shape(values)
    if channel_axis == 1:
        positions = math.prod(shape[2:])  # -1 would be ambiguous for an empty batch
        rows = keras.ops.reshape(values, (*shape[:2], positions))
        ones = keras.ops.ones((keras.ops.shape(rows)[2], choice.ROWS_OF_ONES), values.dtype)
        return keras.ops.sum((rows @ ones)[:, :, 0], axis=0)
    rows = keras.ops.reshape(values, (-1, shape[-1]))
    ones = keras.ops.ones((choice.ROWS_OF_ONES, keras.ops.shape(rows)[0]), values.dtype)
    return (ones @ rows)[0]


def _split(values: Any, count: int, axis: int) -> Sequence[Any]:
    """Splits an axis into equal slices."""
    if keras.backend.backend() == "jax":
        return keras.ops.split(values, count, axis)
    # As in `geometry.pad`: the gradient of a split is a concatenation.
    size, before = keras.ops.shape(values)[axis] // count, (slice(None),) * axis
    return [values[(*before, slice(i * size, (i + 1) * size))] for i in range(count)]


def _slices(size: int | None) -> int:
    """The number of equal slices to split an axis into."""
    return next((number for number in choice.SLICES_OF_SUM if size and size % number == 0), 1)
