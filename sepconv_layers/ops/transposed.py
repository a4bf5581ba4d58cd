"""Transposed depthwise convolution, which multiplies no zeros.

Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, put `stride - 1`
zeros between the inputs. Outputs whose positions agree modulo the stride meet the same kernel
elements, and are a convolution of stride 1 with those: so each such phase is computed on its own,
by the lowering that is fastest for it, and the phases are interleaved.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import LIMIT
from sepconv_layers.ops.geometry import Convolve, Geometry, ceil_div, or_zero, pad

MOST_PHASES = 4096  # along an axis: each is a tensor


def output_window(
    size: Any, geometry: Geometry, axis: int, output_padding: Sequence[int] | None
) -> tuple[int, Any]:
    """Where the outputs begin, and how many there are, in the full transposed convolution.

    As in Keras; a causal axis begins with the first one and has as many as with `"same"`.
    """
    stride, extent = geometry.strides[axis], geometry.extent[axis]
    more = None if output_padding is None else output_padding[axis]
    mode = geometry.modes[axis]
    if mode == "valid":
        more = max(stride - extent - 1, 0) if more is None else more
        return 0, (size - 1) * stride + extent + 1 + more
    if more is None:
        overlap = stride + extent - 1
        length = size * stride
    else:
        overlap = extent + (extent + 1) % 2 - 1 + more
        length = (size - 1) * stride + (extent + 1) % 2 + more
    return 0 if mode == "causal" else extent - min(-(-overlap // 2), extent), length


def output_shape(
    input_shape: Sequence[int | None],
    channels: int,
    geometry: Geometry,
    output_padding: Sequence[int] | None,
) -> tuple:
    """The shape of the output, or a `ValueError` where it would be empty."""
    sizes = [input_shape[axis] for axis in geometry.spatial_axes]
    spatial = [
        None if size is None else output_window(size, geometry, axis, output_padding)[1]
        for axis, size in enumerate(sizes)
    ]
    if any(size is not None and size <= 0 for size in [*sizes, *spatial]):
        raise ValueError(
            "Computed output size would be zero or negative, or there is no input. Expected a "
            "positive size in every dimension. Received: "
            f"input shape={tuple(input_shape)}, kernel_size={geometry.kernel_size}, "
            f"strides={geometry.strides}, padding={geometry.padding!r}, "
            f"output_padding={output_padding}. Use a larger input or output_padding=None."
        )
    positions = math.prod(size for size in spatial if size is not None)
    if max(geometry.strides) > MOST_PHASES or positions >= LIMIT:
        raise ValueError(
            f"The `strides` of a transposed convolution must be {MOST_PHASES} at most, and its "
            f"output must have fewer than {LIMIT} positions. Received: "
            f"strides={geometry.strides}, input shape={tuple(input_shape)}, "
            f"output sizes={tuple(spatial)}."
        )
    return geometry.shape(input_shape[0], spatial, channels)


def transposed(
    inputs: Any,
    kernel: Any,
    geometry: Geometry,
    output_padding: Sequence[int] | None,
    convolve: Convolve,
) -> Any:
    """Adds each input, times the kernel, to the outputs from its position times the stride on."""
    windows, widths = [], []
    for axis, position in enumerate(geometry.spatial_axes):
        size = keras.ops.shape(inputs)[position]
        start, length = output_window(size, geometry, axis, output_padding)
        needed = ceil_div(start + length, geometry.strides[axis])  # inputs that a phase passes
        missing = or_zero(needed - size)
        windows.append(slice(start, start + length))
        widths.append((geometry.extent[axis] // geometry.strides[axis], missing))
    first = geometry.spatial_axes[0]
    around = [(0, 0)] * (geometry.rank + 2)
    around[first : first + geometry.rank] = widths
    inputs = pad(inputs, around)

    def phases(*at: int) -> Any:
        """All outputs whose positions begin with these phases, which meet kernel elements."""
        axis = len(at)
        if axis < geometry.rank:
            taps, stride = range(geometry.kernel_size[axis]), geometry.strides[axis]
            meeting = {tap * geometry.dilation_rate[axis] % stride for tap in taps}
            parts = [phases(*at, i) if i in meeting else None for i in range(stride)]
            return _interleave(parts, first + axis)
        found = [_Phase(geometry, axis, phase) for axis, phase in enumerate(at)]
        pieces = [slice(None)] * (geometry.rank + 2)
        pieces[first : first + geometry.rank] = [phase.piece for phase in found]
        elements = kernel[tuple(phase.taps for phase in found)]
        return convolve(
            inputs[tuple(pieces)],
            keras.ops.flip(elements, axis=tuple(range(geometry.rank))),
            geometry.replace(
                kernel_size=tuple(phase.elements for phase in found),
                strides=(1,) * geometry.rank,
                dilation_rate=tuple(phase.dilation for phase in found),
                padding="valid",
            ),
        )

    crop = [slice(None)] * (geometry.rank + 2)
    crop[first : first + geometry.rank] = windows
    return phases()[tuple(crop)]


class _Phase:
    """Which kernel elements the outputs of a phase meet along an axis, and which inputs."""

    def __init__(self, geometry: Geometry, axis: int, phase: int) -> None:
        stride, dilation = geometry.strides[axis], geometry.dilation_rate[axis]
        shared = math.gcd(stride, dilation)
        taps = range(geometry.kernel_size[axis])
        meeting = [tap for tap in taps if tap * dilation % stride == phase]
        self.elements = len(meeting)
        self.dilation = dilation // shared
        self.taps = slice(meeting[0], None, stride // shared)
        # How many inputs before its own position an output meets the last and first element.
        farthest, nearest = (
            (tap * dilation - phase) // stride for tap in (meeting[-1], meeting[0])
        )
        left = geometry.extent[axis] // stride
        self.piece = slice(left - farthest, -nearest or None)


def _interleave(parts: Sequence[Any], axis: int) -> Any:
    """Puts tensors into one in turns along an axis; `None` stands for zeros."""
    filled, *others = parts  # the first phase meets the first element
    if not others:
        return filled
    if any(part is None for part in others):
        zeros = keras.ops.zeros_like(filled)
        parts = [zeros if part is None else part for part in parts]
    shape = list(keras.ops.shape(filled))
    shape[axis] = shape[axis] * len(parts)
    return keras.ops.reshape(keras.ops.stack(parts, axis + 1), shape)
