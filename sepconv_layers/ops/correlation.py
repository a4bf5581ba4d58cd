"""Depthwise correlation with many weights, for XLA: a loop over pieces of them.

Unrolled, hundreds of weights would take minutes to compile.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sepconv_layers.ops import choice, context
from sepconv_layers.ops.geometry import Geometry, ceil_div, or_zero, pad


@dataclasses.dataclass(frozen=True)
class _Axis:
    """How weights move along an axis.

    Attributes:
        axis: The number of the axis.
        length: The number of weights in a piece.
        pieces: The number of pieces.
        outputs: The number of outputs.
        stride: Inputs from one output to the next.
        dilation: Inputs from one weight to the next.
    """

    axis: int
    length: int
    pieces: Any
    outputs: Any
    stride: int
    dilation: int

    @property
    def span(self) -> Any:
        """The number of inputs that a piece needs."""
        return (self.length - 1) * self.dilation + (self.outputs - 1) * self.stride + 1

    def overlapped(self, i: int) -> slice:
        """Those that one weight of a piece overlaps."""
        first = i * self.dilation
        return slice(first, first + (self.outputs - 1) * self.stride + 1, self.stride)


def correlate(inputs: Any, weights: Any, geometry: Geometry, output_sizes: Sequence[Any]) -> Any:
    """Moves weights over inputs, channel by channel and sample by sample.

    One pass adds up the products with many weights, in registers. Unless there is a single weight,
    there are at least two passes: what a loop needs, XLA computes once, and not for each product.

    Args:
        inputs: The inputs. Where the weights reach beyond their end, there are zeros.
        weights: The weights in the same data format, for each sample, or for all as one sample.
        geometry: Strides and dilation rate, and the data format.
        output_sizes: The spatial sizes of the outputs.

    Returns:
        The outputs of each sample.
    """
    sizes = [keras.ops.shape(weights)[axis] for axis in geometry.spatial_axes]
    lengths = _lengths(context.known_sizes(sizes))
    pieces = [ceil_div(size, length) for size, length in zip(sizes, lengths, strict=True)]
    moves = geometry.spatial_axes, lengths, pieces, output_sizes
    axes = [
        _Axis(*move) for move in zip(*moves, geometry.strides, geometry.dilation_rate, strict=True)
    ]
    needed = {a.axis: (a.pieces - 1) * a.length * a.dilation + a.span for a in axes}
    inputs = _extend(inputs, needed)
    weights = _extend(weights, {a.axis: a.pieces * a.length for a in axes})

    def add_piece(n: Any, outputs: Any) -> Any:
        at_inputs, at_weights = {}, {}
        for a in reversed(axes):
            first, n = n % a.pieces * a.length, n // a.pieces
            at_inputs[a.axis], at_weights[a.axis] = (first * a.dilation, a.span), (first, a.length)
        here, piece = _cut(inputs, at_inputs), _cut(weights, at_weights)
        for index in itertools.product(*map(range, lengths)):
            under = {a.axis: a.overlapped(i) for a, i in zip(axes, index, strict=True)}
            alone = {a.axis: slice(i, i + 1) for a, i in zip(axes, index, strict=True)}
            outputs = outputs + _at(here, under) * _at(piece, alone)
        return outputs

    channels = inputs.shape[geometry.channel_axis]
    shape = geometry.shape(keras.ops.shape(inputs)[0], output_sizes, channels)
    return _repeated(add_piece, math.prod(pieces), keras.ops.zeros(shape, inputs.dtype))


def _lengths(sizes: Sequence[int | None]) -> list[int]:
    """The numbers of weights in a piece along each axis, first of all along the last one."""
    room = choice.MAX_UNROLLED_WEIGHTS
    lengths: list[int] = []
    for size in reversed(sizes):
        length = 1 if size is None else ceil_div(size, ceil_div(size, room))
        room, lengths = room // length, [length, *lengths]
    if lengths == list(sizes):  # a single piece
        axis = max(range(len(lengths)), key=lengths.__getitem__)
        lengths[axis] = ceil_div(lengths[axis], 2)
    return lengths


def _extend(values: Any, sizes: dict[int, Any]) -> Any:
    """Adds zeros to the end of axes that are shorter than these sizes."""
    shape = keras.ops.shape(values)
    missing = [sizes.get(axis, size) - size for axis, size in enumerate(shape)]
    return pad(values, [(0, or_zero(number)) for number in missing])


def _cut(values: Any, parts: dict[int, tuple[Any, Any]]) -> Any:
    """Cuts starts and sizes out of axes, in a loop."""
    starts: list[Any] = [parts.get(axis, (0,))[0] for axis in range(len(values.shape))]
    sizes = [parts.get(axis, (0, size))[1] for axis, size in enumerate(keras.ops.shape(values))]
    return keras.ops.slice(values, starts, sizes)


def _at(values: Any, slices: dict[int, slice]) -> Any:
    return values[tuple(slices.get(axis, slice(None)) for axis in range(len(values.shape)))]


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
