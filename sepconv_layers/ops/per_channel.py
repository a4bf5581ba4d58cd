"""Sums over all positions of a channel, in a form that XLA computes fast on a CPU."""

from typing import Any

import keras

SLICES = (8, 7, 6, 5, 4, 3, 2)
ROWS = 8


def sum_per_channel(values: Any, channel_axis: int) -> Any:
    """Sums over all axes but that of the channels, the last one or the second.

    XLA on a CPU runs such a sum one number at a time. Adding up a few slices is vectorised, with
    whatever computes `values` fused into it. A product with ones adds up the rest: with one row of
    ones it would be a loop again, with eight it is left to a library for matrix products.
    """
    axes = [axis for axis in range(len(values.shape)) if axis != channel_axis]
    size, axis = max((values.shape[axis] or 1, axis) for axis in axes)
    slices = next((number for number in SLICES if size % number == 0), 1)
    first, *others = keras.ops.split(values, slices, axis)
    values = sum(others, first)
    shape = keras.ops.shape(values)
    if channel_axis == 1:
        rows = keras.ops.reshape(values, (*shape[:2], -1))
        ones = keras.ops.ones((keras.ops.shape(rows)[2], ROWS), values.dtype)
        return keras.ops.sum((rows @ ones)[:, :, 0], axis=0)
    rows = keras.ops.reshape(values, (-1, shape[-1]))
    ones = keras.ops.ones((ROWS, keras.ops.shape(rows)[0]), values.dtype)
    return (ones @ rows)[0]
