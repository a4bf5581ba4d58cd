"""Everything specific to XLA: depthwise convolution as a sum over kernel taps, and fast sums.

XLA runs a depthwise convolution as a naive loop, but fuses shifted slices, products and additions
into one vectorized pass over the input.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras

from sepconv_layers.ops import choice, context, rewrites
from sepconv_layers.ops.geometry import Geometry, ceil_div, or_zero, pad
from sepconv_layers.ops.gradients import Bilinear


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
        *(_Of(function, geometry) for function in (_input_gradient, _kernel_gradient, _outputs))
    )
    sizes, channels = keras.ops.shape(inputs), inputs.shape[geometry.channel_axis]
    return convolve(inputs, kernel, geometry.output_shape(sizes, channels))


class _Of(NamedTuple):
    """A function for one geometry, equal to others of the same: JAX compiles them once."""

    function: Callable[[Any, Any, Sequence[Any], Geometry], Any]
    geometry: Geometry

    def __call__(self, first: Any, second: Any, shape: Sequence[Any]) -> Any:
        return self.function(first, second, shape, self.geometry)


def _is_large(geometry: Geometry) -> bool:
    return geometry.rank > 1 and math.prod(geometry.kernel_size) > choice.MAX_UNROLLED_TAPS


def _outputs(inputs: Any, kernel: Any, _: Any, geometry: Geometry) -> Any:
    if _is_large(geometry):
        return _correlate_pieces(inputs, kernel, geometry)
    every = itertools.product(*map(range, geometry.kernel_size))
    return _weighted_sum(((geometry.tap(inputs, at), kernel[at]) for at in every), geometry)


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
        sums = keras.ops.sum(_correlate_samples(inputs, upstream, geometry), axis=0)
        if geometry.channel_axis == 1:
            sums = keras.ops.moveaxis(sums, 0, -1)
    return keras.ops.reshape(sums, shape)


def _correlate_samples(inputs: Any, upstream: Any, geometry: Geometry) -> Any:
    """Moves the upstream gradient of each sample over its inputs, as if it were the kernel.

    One pass adds up the products at many positions, in registers, for all kernel taps. A loop over
    pieces of the upstream gradient, at least two, also has it computed once, before the loop.
    """
    sizes = context.known_sizes([upstream.shape[axis] for axis in geometry.spatial_axes])
    lengths = _piece_lengths(sizes)
    numbers, starts, reach = [], [], []
    pad_upstream: list[tuple[Any, Any]] = [(0, 0)] * len(inputs.shape)
    pad_inputs: list[tuple[Any, Any]] = [(0, 0)] * len(inputs.shape)
    for axis, length, stride, extent in zip(
        geometry.spatial_axes, lengths, geometry.strides, geometry.extent, strict=True
    ):
        size = keras.ops.shape(upstream)[axis]
        numbers.append(ceil_div(size, length))
        padded = numbers[-1] * length
        pad_upstream[axis] = (0, padded - size)
        missing = (padded - 1) * stride + extent + 1 - keras.ops.shape(inputs)[axis]
        pad_inputs[axis] = (0, or_zero(missing))
        reach.append((length - 1) * stride + extent + 1)
    inputs, upstream = pad(inputs, pad_inputs), pad(upstream, pad_upstream)

    def piece(
        values: Any, at: Sequence[Any], lengths: Sequence[int], strides: Sequence[int]
    ) -> Any:
        starts: list[Any] = [0] * len(values.shape)
        sizes = list(keras.ops.shape(values))
        for axis, i, length, stride in zip(
            geometry.spatial_axes, at, lengths, strides, strict=True
        ):
            starts[axis], sizes[axis] = i * stride, length
        return keras.ops.slice(values, starts, sizes)

    def add_piece(n: Any, sums: Any) -> Any:
        at = []
        for number, length in zip(reversed(numbers), reversed(lengths), strict=True):
            at.insert(0, n % number * length)
            n = n // number
        here = piece(inputs, at, reach, geometry.strides)
        weights = piece(upstream, at, lengths, (1,) * geometry.rank)
        for index in itertools.product(*map(range, lengths)):
            at_inputs, at_weights = [slice(None)] * len(here.shape), [slice(None)] * len(here.shape)
            for axis, i, stride, extent, dilation in zip(
                geometry.spatial_axes,
                index,
                geometry.strides,
                geometry.extent,
                geometry.dilation_rate,
                strict=True,
            ):
                at_inputs[axis] = slice(i * stride, i * stride + extent + 1, dilation)
                at_weights[axis] = slice(i, i + 1)
            sums = sums + here[tuple(at_inputs)] * weights[tuple(at_weights)]
        return sums

    shape = geometry.shape(
        keras.ops.shape(inputs)[0], geometry.kernel_size, inputs.shape[geometry.channel_axis]
    )
    return _repeated(add_piece, math.prod(numbers), keras.ops.zeros(shape, inputs.dtype))


def _piece_lengths(sizes: Sequence[int | None]) -> list[int]:
    room, lengths = choice.MAX_UNROLLED_POSITIONS, []
    for size in reversed(sizes):
        lengths.insert(0, 1 if size is None else ceil_div(size, ceil_div(size, room)))
        room //= lengths[0]
    for i, length in enumerate(lengths):
        if lengths == list(sizes) and length > 1:
            lengths[i] = ceil_div(length, 2)
    return lengths


def _input_gradient(kernel: Any, upstream: Any, sizes: Sequence[Any], geometry: Geometry) -> Any:
    """An unstrided convolution of the upstream gradient for each phase of the strides."""
    padded, reach = _padded_upstream(sizes, upstream, geometry)
    if _is_large(geometry):
        flipped = keras.ops.flip(kernel, tuple(range(geometry.rank)))
        return _correlate_pieces(padded, flipped, geometry)
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


# A large kernel: a loop over pieces of it, each a sum of taps. Unrolled, hundreds of taps would
# take minutes to compile. The stride is 1.


class _Pieces:
    """A kernel in pieces with equal numbers of rows, which run along the last spatial axis.

    Where the rows cannot be divided equally, the last piece of a column starts earlier, and has
    zeros in the rows that it shares with the piece before.

    Args:
        geometry: That of the whole kernel.
        limit: The largest number of rows in a piece.
    """

    def __init__(self, geometry: Geometry, limit: int) -> None:
        *self.leading, rows, columns = geometry.kernel_size
        self.in_column = ceil_div(rows, limit)
        height = ceil_div(rows, self.in_column)
        self.before = (self.in_column - 1) * height  # rows before the last piece of a column
        self.overlap = self.before + height - rows
        self.number = math.prod(self.leading) * self.in_column
        self.whole = geometry
        self.piece = geometry.replace(kernel_size=(*(1 for _ in self.leading), height, columns))

    def split(self, kernel: Any) -> Any:
        """Returns `(number, taps, channels)` from a `(*kernel_size, channels, 1)` kernel."""
        *_, rows, columns = self.whole.kernel_size
        channels = kernel.shape[-2]
        kernel = keras.ops.reshape(kernel, (-1, rows, columns, channels))
        if self.overlap:
            zeros = keras.ops.zeros_like(kernel[:, : self.overlap])
            parts = [kernel[:, : self.before], zeros, kernel[:, self.before :]]
            kernel = keras.ops.concatenate(parts, axis=1)
        return keras.ops.reshape(kernel, (self.number, -1, channels))

    def taps(self, inputs: Any, n: Any) -> list[Any]:
        """Returns what each tap of the piece `n` overlaps."""
        starts: list[Any] = [0] * len(inputs.shape)
        sizes = list(keras.ops.shape(inputs))
        *outer, row = self.whole.spatial_axes[:-1]
        first = n % self.in_column * self.piece.kernel_size[-2]
        if self.overlap:
            first = keras.ops.minimum(first, self.before - self.overlap)
        starts[row] = first * self.whole.dilation_rate[-2]
        n = n // self.in_column
        for i in reversed(range(len(outer))):
            starts[outer[i]] = n % self.leading[i] * self.whole.dilation_rate[i]
            n = n // self.leading[i]
        for i, axis in enumerate((*outer, row)):
            sizes[axis] = sizes[axis] - self.whole.extent[i] + self.piece.extent[i]
        here = keras.ops.slice(inputs, starts, sizes)
        every = itertools.product(*map(range, self.piece.kernel_size))
        return [self.piece.tap(here, index) for index in every]


def _correlate_pieces(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves padded inputs with a `(*kernel_size, channels, 1)` kernel."""
    pieces = _Pieces(geometry, max(1, choice.MAX_UNROLLED_TAPS // geometry.kernel_size[-1]))
    kernel = pieces.split(kernel)

    def add_piece(n: Any, outputs: Any) -> Any:
        weights = kernel[n]
        parts = ((tap, weights[i]) for i, tap in enumerate(pieces.taps(inputs, n)))
        return outputs + _weighted_sum(parts, geometry)

    zeros = keras.ops.zeros_like(pieces.taps(inputs, 0)[0])
    return _repeated(add_piece, pieces.number, zeros)


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


# Sums.


def sum_per_channel(values: Any, channel_axis: int) -> Any:
    """Sums over all axes except the channel axis, which is the last one or the second.

    XLA on a CPU runs such a sum one number at a time. Adding up a few slices is vectorized, with
    the computation of `values` fused into it. A product with ones adds up the rest. With one row of
    ones it would be a loop again. With eight, a matrix-product library computes it.
    """
    axes = [axis for axis in range(len(values.shape)) if axis != channel_axis]
    if context.device() != "cpu":  # where a product might be rounded to TF32
        return keras.ops.sum(values, axes)
    count, axis = max((_slices(values.shape[axis]), axis) for axis in axes)
    first, *others = _split(values, count, axis)
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
