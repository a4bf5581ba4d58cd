"""Depthwise convolution of volumes on PyTorch: its own kernel, and faster gradients.

On a CPU, PyTorch's gradients of such a convolution take ten times as long as the convolution. That
towards the input is a convolution too, and is computed as one here. That towards the kernel is, for
each of its planes, one of images, for which PyTorch is fast.
"""

import functools
from typing import Any

from sepconv_layers.ops.channels_last import TO_FIRST, torch_conv
from sepconv_layers.ops.geometry import Geometry


def convolve_volumes(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves channels-last volumes with a `(*kernel_size, 1, channels)` kernel."""
    return _function().apply(inputs, kernel, geometry)


@functools.cache
def _function() -> Any:
    """What PyTorch differentiates as it is told here."""
    import torch

    class DepthwiseVolumes(torch.autograd.Function):
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
                to_kernel = _kernel_gradient(inputs, kernel, upstream, ctx.geometry)
            return to_inputs, to_kernel, None

    return DepthwiseVolumes


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


def _kernel_gradient(inputs: Any, kernel: Any, upstream: Any, geometry: Geometry) -> Any:
    """Takes the planes of the kernel one by one, or with strides, which PyTorch does well, all."""
    import torch
    from torch.nn import grad

    channels, (depth, *_) = kernel.shape[-1], upstream.shape[1:]
    sizes, (dilation, *in_plane) = geometry.kernel_size, geometry.dilation_rate
    first, *widths = geometry.pad_widths(inputs.shape)
    is_strided = max(geometry.strides) > 1
    if any(before != after for before, after in widths) or (is_strided and first[0] != first[1]):
        inputs, first, widths = _padded(inputs, first, *widths), (0, 0), [(0, 0)] * len(widths)
    sides = [before for before, _ in widths]
    if is_strided:
        whole = grad.conv3d_weight(
            inputs.permute(TO_FIRST[3]),
            (channels, 1, *sizes),
            upstream.permute(TO_FIRST[3]),
            geometry.strides,
            (first[0], *sides),
            geometry.dilation_rate,
            channels,
        )
        return whole.permute(2, 3, 4, 1, 0)
    inputs = _padded(inputs, first, (0, 0), (0, 0))
    images = upstream.flatten(0, 1).permute(TO_FIRST[2])
    planes = [
        grad.conv2d_weight(
            inputs.narrow(1, index * dilation, depth).flatten(0, 1).permute(TO_FIRST[2]),
            (channels, 1, *sizes[1:]),
            images,
            1,
            sides,
            in_plane,
            channels,
        )
        for index in range(sizes[0])
    ]
    return torch.stack(planes).permute(0, 3, 4, 2, 1)


def _padded(inputs: Any, *widths: tuple[int, int]) -> Any:
    """Zeros around the three axes of channels-last volumes."""
    import torch.nn.functional as F

    return F.pad(inputs, [0, 0, *(zeros for width in reversed(widths) for zeros in width)])
