"""The taps lowering of a large kernel: a loop over its rows, of which each is a sum of taps.

Written out in full, the hundreds of taps of a large kernel would take minutes to compile. The rows
run along the last spatial axis; strides are the caller's matter.
"""

import math
from collections.abc import Callable
from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.per_channel import sum_per_channel


def correlate_rows(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves padded inputs with stride 1 and a `(*kernel_size, channels, 1)` kernel."""
    rows, taps, band, row = _loop(inputs, geometry)
    kernel = keras.ops.reshape(kernel, (rows, taps, -1))

    def add_row(n: Any, outputs: Any) -> Any:
        here, weights = band(n), kernel[n]
        for i in range(taps):
            outputs = outputs + row(here, i) * geometry.per_channel(weights[i])
        return outputs

    zeros = keras.ops.zeros_like(row(band(0), 0))
    return _repeated(add_row, rows, zeros)


def rows_kernel_gradient(inputs: Any, upstream: Any, geometry: Geometry) -> Any:
    """The gradient towards that kernel."""
    rows, taps, band, row = _loop(inputs, geometry)
    channels = inputs.shape[geometry.channel_axis]

    def add_row(n: Any, gradient: Any) -> Any:
        here = band(n)
        sums = keras.ops.stack(
            [sum_per_channel(row(here, i) * upstream, geometry.channel_axis) for i in range(taps)]
        )
        # Every backend can differentiate and compile this; not so an update in place.
        place = keras.ops.reshape(keras.ops.one_hot(n, rows, dtype=sums.dtype), (rows, 1, 1))
        return gradient + place * sums

    zeros = keras.ops.zeros((rows, taps, channels), inputs.dtype)
    gradient = _repeated(add_row, rows, zeros)
    return keras.ops.reshape(gradient, (*geometry.kernel_size, channels, 1))


def _repeated(step: Callable, times: int, value: Any) -> Any:
    """Applies `step(n, value)` for each `n`, in a loop."""
    if keras.backend.backend() != "tensorflow":
        return keras.ops.fori_loop(0, times, step, value)
    # XLA differentiates only loops with a bound, which Keras's `fori_loop` does not set.
    _, value = keras.ops.while_loop(
        lambda n, _: n < times,
        lambda n, value: (n + 1, step(n, value)),
        (0, value),
        maximum_iterations=times,
    )
    return value


def _loop(inputs: Any, geometry: Geometry) -> tuple[int, int, Callable, Callable]:
    """The numbers of rows and taps; what of the inputs a row meets, and a tap of that."""
    *leading, taps = geometry.kernel_size
    within = geometry.replace(kernel_size=(*(1 for _ in leading), taps))

    def band(n: Any) -> Any:
        starts: list[Any] = [0] * len(inputs.shape)
        sizes = list(keras.ops.shape(inputs))
        for i in reversed(range(len(leading))):
            axis = geometry.spatial_axes[i]
            starts[axis] = n % leading[i] * geometry.dilation_rate[i]
            sizes[axis] = sizes[axis] - geometry.extent[i]
            n = n // leading[i]
        return keras.ops.slice(inputs, starts, sizes)

    def row(here: Any, i: int) -> Any:
        return within.tap(here, (*(0 for _ in leading), i))

    return math.prod(leading), taps, band, row
