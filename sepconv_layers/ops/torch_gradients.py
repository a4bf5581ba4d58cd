"""Depthwise convolution on PyTorch: its own kernel, with gradients that are faster than its own.

On a CPU, PyTorch's gradients of a depthwise convolution of volumes take up to ten times as long as
the convolution, and so does the one towards a kernel that is more than three elements wide. The one
towards the input is a convolution too, and is computed as one here. The one towards the kernel is
put together of those towards its planes, in strips of three columns, for which PyTorch is fast.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

from sepconv_layers.ops import context
from sepconv_layers.ops.channels_last import SHORT, TO_FIRST, torch_conv
from sepconv_layers.ops.geometry import Geometry

MANY = 2**17  # values of an input, from which on strips are worth their calls

Widths = Sequence[tuple[int, int]]


def are_wanted() -> bool:
    """Whether PyTorch will want gradients in reverse mode: its own know forward mode too.

    No exporter wants them, nor can it write what is differentiated in another way.
    """
    import torch
    from torch.autograd import forward_ad

    # Inside `torch.func` the inputs don't tell.
    is_exported = torch.jit.is_tracing() or torch.compiler.is_exporting()
    is_forward = getattr(forward_ad, "_current_level", -1) >= 0
    return torch.is_grad_enabled() and not (is_exported or is_forward)


def has_slow_gradients(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether gradients are wanted for which `convolve` is faster.

    It knows one layout, a `(*kernel_size, channels, 1)` kernel, and strides for volumes only.
    """
    if not are_wanted():
        return False
    if geometry.data_format == "channels_first" or kernel.shape[-1] > 1:
        return False
    if geometry.rank == 3:
        return math.prod(geometry.kernel_size) > 1
    is_wide = geometry.rank == 2 and geometry.kernel_size[1] > SHORT
    if not is_wide or max(geometry.strides) > 1:
        return False
    return None not in context.known_sizes(inputs.shape) and inputs.numel() >= MANY


def convolve(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves channels-last images or volumes."""
    return _function().apply(inputs, kernel.transpose(-1, -2), geometry)


@functools.cache
def _function() -> Any:
    """What PyTorch differentiates as it is told here."""
    import torch

    class Depthwise(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
            return torch_conv(inputs, kernel, geometry, groups=kernel.shape[-1])

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
            *tensors, ctx.geometry = inputs
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> tuple:
            inputs, kernel = ctx.saved_tensors
            to_inputs, to_kernel = None, None
            if ctx.needs_input_grad[0]:
                to_inputs = _input_gradient(inputs.shape, kernel, upstream, ctx.geometry)
            if ctx.needs_input_grad[1]:
                to_kernel = _kernel_gradient(inputs, upstream, ctx.geometry)
            return to_inputs, to_kernel, None

    return Depthwise


def _input_gradient(shape: Any, kernel: Any, upstream: Any, geometry: Geometry) -> Any:
    """Convolves the upstream gradient, with zeros between for strides, with the flipped kernel."""
    spread = geometry.replace(strides=(1,) * geometry.rank)
    widths = geometry.pad_widths(shape)
    is_even = all(2 * before == e for (before, _), e in zip(widths, geometry.extent, strict=True))
    if geometry.strides != spread.strides or not is_even:
        spread = spread.replace(padding="valid")
        sizes, within = list(shape), [slice(None)] * len(shape)
        for axis, (before, _), extent, stride in zip(
            geometry.spatial_axes, widths, geometry.extent, geometry.strides, strict=True
        ):
            sizes[axis] += extent
            first, count = extent - before, upstream.shape[axis]
            within[axis] = slice(first, first + stride * (count - 1) + 1, stride)
        zeros = upstream.new_zeros(sizes)
        zeros[tuple(within)] = upstream
        upstream = zeros
    flipped = kernel.flip(tuple(range(geometry.rank)))
    return torch_conv(upstream, flipped, spread, groups=kernel.shape[-1])


def _kernel_gradient(inputs: Any, upstream: Any, geometry: Geometry) -> Any:
    import torch

    widths = geometry.pad_widths(inputs.shape)
    if geometry.rank == 2:
        return _image_kernel_gradient(inputs, upstream, widths, geometry)
    if max(geometry.strides) > 1:  # which PyTorch does well
        return _whole_kernel_gradient(inputs, upstream, widths, geometry)
    depth, dilation = upstream.shape[1], geometry.dilation_rate[0]
    first, *widths = widths
    inputs = _padded(inputs, [first, (0, 0), (0, 0)])
    images, plane = upstream.flatten(0, 1), geometry.axes(slice(1, None))
    return torch.stack(
        [
            _image_kernel_gradient(
                inputs.narrow(1, index * dilation, depth).flatten(0, 1), images, widths, plane
            )
            for index in range(geometry.kernel_size[0])
        ]
    )


def _whole_kernel_gradient(inputs: Any, upstream: Any, widths: Widths, geometry: Geometry) -> Any:
    from torch.nn import grad

    inputs, sides = _evenly_padded(inputs, widths)
    channels = inputs.shape[-1]
    gradient = grad.conv3d_weight(
        inputs.permute(TO_FIRST[3]),
        (channels, 1, *geometry.kernel_size),
        upstream.permute(TO_FIRST[3]),
        geometry.strides,
        sides,
        geometry.dilation_rate,
        channels,
    )
    return gradient.permute(2, 3, 4, 1, 0)


def _image_kernel_gradient(inputs: Any, upstream: Any, widths: Widths, geometry: Geometry) -> Any:
    """In strips of a few columns of the kernel, without strides."""
    import torch
    from torch.nn import grad

    rows, columns = geometry.kernel_size
    is_cut = columns > SHORT
    if is_cut:
        inputs, widths = _padded(inputs, widths), [(0, 0), (0, 0)]
    inputs, sides = _evenly_padded(inputs, widths)
    channels, dilation, size = inputs.shape[-1], geometry.dilation_rate[1], upstream.shape[2]
    strips = []
    for first in range(0, columns, SHORT):
        count, met = min(SHORT, columns - first), inputs
        if is_cut:
            met = inputs.narrow(2, first * dilation, size + (count - 1) * dilation)
        strips.append(
            grad.conv2d_weight(
                met.permute(TO_FIRST[2]),
                (channels, 1, rows, count),
                upstream.permute(TO_FIRST[2]),
                1,
                sides,
                geometry.dilation_rate,
                channels,
            )
        )
    return torch.cat(strips, 3).permute(2, 3, 1, 0)


def _evenly_padded(inputs: Any, widths: Widths) -> tuple[Any, list[int]]:
    """The inputs, and how many zeros PyTorch is to put on either side of them."""
    if any(before != after for before, after in widths):
        return _padded(inputs, widths), [0] * len(widths)
    return inputs, [before for before, _ in widths]


def _padded(inputs: Any, widths: Widths) -> Any:
    """Zeros around the spatial axes of channels-last tensors."""
    import torch.nn.functional as F

    return F.pad(inputs, [0, 0, *(zeros for width in reversed(widths) for zeros in width)])
