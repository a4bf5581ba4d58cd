"""Sums and additions with one number for each channel, in the forms that backends do well."""

import math
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.geometry import Geometry

SLICES = (8, 7, 6, 5, 4, 3, 2)
ROWS = 8


def sum_per_channel(values: Any, channel_axis: int) -> Any:
    """Sums over all axes but that of the channels, the last one or the second.

    XLA on a CPU runs such a sum one number at a time. Adding up a few slices is vectorized, with
    whatever computes `values` fused into it. A product with ones adds up the rest: with one row of
    ones it would be a loop again, with eight it is left to a library for matrix products.
    """
    axes = [axis for axis in range(len(values.shape)) if axis != channel_axis]
    if context.device() != "cpu":  # where a product might be rounded to TF32
        return keras.ops.sum(values, axes)
    slices, axis = max((_slices(values.shape[axis]), axis) for axis in axes)
    first, *others = keras.ops.split(values, slices, axis)
    values = sum(others, first)
    shape = keras.ops.shape(values)
    if channel_axis == 1:
        positions = math.prod(shape[2:])  # which -1 would not stand for in an empty batch
        rows = keras.ops.reshape(values, (*shape[:2], positions))
        ones = keras.ops.ones((keras.ops.shape(rows)[2], ROWS), values.dtype)
        return keras.ops.sum((rows @ ones)[:, :, 0], axis=0)
    rows = keras.ops.reshape(values, (-1, shape[-1]))
    ones = keras.ops.ones((ROWS, keras.ops.shape(rows)[0]), values.dtype)
    return (ones @ rows)[0]


def _slices(size: int | None) -> int:
    """The number of equal slices to make of an axis."""
    return next((number for number in SLICES if size and size % number == 0), 1)


def add_bias(values: Any, bias: Any, geometry: Geometry) -> Any:
    """Adds its number to each channel; `None` for nothing."""
    if bias is None:
        return values
    if keras.backend.backend() == "tensorflow" and geometry.data_format == "channels_last":
        import tensorflow as tf

        return tf.nn.bias_add(values, bias)  # which its graphs fuse with what is around it
    return values + geometry.per_channel(bias)
