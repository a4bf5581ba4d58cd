"""Transposed depthwise convolution, which multiplies no zeros.

Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, insert `stride - 1`
zeros between the inputs. Outputs whose positions are equal modulo the stride depend on the same
kernel taps, and are a convolution of stride 1 with those. Each such phase is computed on its own,
with the lowering that is fastest for it, and the phases are interleaved.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import LIMIT
from sepconv_layers.ops.geometry import Convolve, Geometry, ceil_div, or_zero, pad
from sepconv_layers.ops.rewrites import interleave

MAX_PHASES = 4096  # along an axis: each one is a tensor


def output_window(
    size: Any, geometry: Geometry, axis: int, output_padding: Sequence[int] | None
) -> tuple[int, Any]:
    """Returns the first output and the number of outputs within the full transposed convolution.

    Same as in Keras. A causal axis begins with the first one, and is as long as with `"same"`.
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
    """Returns the shape of the output, or raises a `ValueError` if it would be empty."""
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
    if max(geometry.strides) > MAX_PHASES or positions >= LIMIT:
        raise ValueError(
            f"The `strides` of a transposed convolution must be {MAX_PHASES} at most, and its "
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
    """Adds each input, times the kernel, to the outputs from its position times the stride on.

    Args:
        inputs: As in `depthwise_conv_transpose`.
        kernel: As in `depthwise_conv_transpose`.
        geometry: The geometry of the convolution whose gradient this is.
        output_padding: The checked `output_padding`.
        convolve: Computes a convolution with stride 1.
    """
    windows, widths = [], []
    for axis, position in enumerate(geometry.spatial_axes):
        size = keras.ops.shape(inputs)[position]
        start, length = output_window(size, geometry, axis, output_padding)
        needed = ceil_div(start + length, geometry.strides[axis])  # inputs that a phase covers
        missing = or_zero(needed - size)
        windows.append(slice(start, start + length))
        widths.append((geometry.extent[axis] // geometry.strides[axis], missing))
    first = geometry.spatial_axes[0]
    around = [(0, 0)] * (geometry.rank + 2)
    around[first : first + geometry.rank] = widths
    inputs = pad(inputs, around)

    def phase(which: tuple[int, ...]) -> Any:
        axes = [_Phase(geometry, axis, i) for axis, i in enumerate(which)]
        pieces = [slice(None)] * (geometry.rank + 2)
        pieces[first : first + geometry.rank] = [axis.inputs for axis in axes]
        elements = kernel[tuple(axis.taps for axis in axes)]
        return convolve(
            inputs[tuple(pieces)],
            keras.ops.flip(elements, axis=tuple(range(geometry.rank))),
            geometry.replace(
                kernel_size=tuple(axis.kernel_size for axis in axes),
                strides=(1,) * geometry.rank,
                dilation_rate=tuple(axis.dilation for axis in axes),
                padding="valid",
            ),
        )

    crop = [slice(None)] * (geometry.rank + 2)
    crop[first : first + geometry.rank] = windows
    return interleave(phase, geometry)[tuple(crop)]


class _Phase:
    """The taps that contribute to one phase of the outputs along an axis, and their inputs."""

    def __init__(self, geometry: Geometry, axis: int, phase: int) -> None:
        stride, dilation = geometry.strides[axis], geometry.dilation_rate[axis]
        shared = math.gcd(stride, dilation)
        every = range(geometry.kernel_size[axis])
        taps = [tap for tap in every if tap * dilation % stride == phase]
        self.kernel_size = len(taps)
        self.dilation = dilation // shared
        self.taps = slice(taps[0], None, stride // shared)
        # How far before the position of an output its first and last input are.
        farthest, nearest = ((tap * dilation - phase) // stride for tap in (taps[-1], taps[0]))
        left = geometry.extent[axis] // stride
        self.inputs = slice(left - farthest, -nearest or None)
