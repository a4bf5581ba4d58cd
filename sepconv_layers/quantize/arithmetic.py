"""Fake quantization: rounds to the values of an integer type, with straight-through gradients.

An integer stands for `scale * (integer - zero_point)`. Activations have 256 such values in a range
that holds zero exactly, as padding needs it. Kernels have a scale for each output channel, and as
many values above zero as below. The gradient of rounding, which is zero almost everywhere, is
replaced by one within the range and zero outside of it.
"""

from collections.abc import Sequence
from typing import Any

import keras

LARGEST = 255  # the integers of an activation are 0 to 255; a file stores them minus 128
SMALLEST_SCALE = 1e-9  # of a range that holds nothing but zero


def scale_and_zero_point(minimum: Any, maximum: Any) -> tuple[Any, Any]:
    """The scale and the zero point, from 0 to 255, of an activation of that range.

    The range is extended to zero, and moved by up to half a step to make zero one of its values.
    """
    ops = keras.ops
    minimum, maximum = ops.minimum(minimum, 0.0), ops.maximum(maximum, 0.0)
    scale = ops.maximum((maximum - minimum) / LARGEST, SMALLEST_SCALE)
    return scale, ops.round(-minimum / scale)


def fake_quantize(x: Any, minimum: Any, maximum: Any) -> Any:
    """Rounds an activation to the 256 values of a range."""
    ops = keras.ops
    scale, zero_point = scale_and_zero_point(minimum, maximum)
    integers = ops.round(x / scale) + zero_point
    is_inside = ops.logical_and(x >= -zero_point * scale, x <= (LARGEST - zero_point) * scale)
    quantized = (ops.clip(integers, 0.0, float(LARGEST)) - zero_point) * scale
    return _straight_through(quantized, ops.where(is_inside, x, ops.stop_gradient(x)))


def fake_quantize_kernel(kernel: Any, bits: int, channel_axes: Sequence[int]) -> Any:
    """Rounds a kernel to integers of that many bits, with one scale for each channel.

    Args:
        kernel: The kernel.
        bits: The integers are from `1 - 2 ** (bits - 1)` to `2 ** (bits - 1) - 1`.
        channel_axes: The axes, counted from the end, that have scales of their own.
    """
    ops, rank = keras.ops, len(kernel.shape)
    axes = [axis for axis in range(rank) if axis - rank not in channel_axes]
    largest = ops.max(ops.abs(kernel), axes, keepdims=True)
    scale = ops.where(largest > 0, largest, 1.0) / (2 ** (bits - 1) - 1)
    return _straight_through(ops.round(kernel / scale) * scale, kernel)


def _straight_through(value: Any, x: Any) -> Any:
    """The first argument, with the gradient of the second one."""
    return keras.ops.stop_gradient(value) + (x - keras.ops.stop_gradient(x))
