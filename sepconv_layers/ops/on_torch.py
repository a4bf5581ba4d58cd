"""Everything specific to PyTorch: memory layouts, fast gradients, exporters, cheaper calls.

Functions import PyTorch themselves, because the package has to load without it.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.ops import choice, context, rewrites
from sepconv_layers.ops.geometry import Geometry

HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)

Widths = Sequence[tuple[int, int]]


# Convolutions of every kind.


def conv(inputs: Any, kernel: Any, geometry: Geometry, groups: int = 1, bias: Any = None) -> Any:
    """Convolves with a `(*kernel_size, channels / groups, filters)` kernel.

    PyTorch is fastest on a channels-first view of channels-last memory. Keras copies such inputs
    into channels-first memory, which takes longer than the convolution. In one dimension, PyTorch
    has no such layout, so a sequence is convolved as an image: a row, or a column where the
    gradients of a row would be slow.
    """
    import torch
    import torch.nn.functional as F

    rank, is_last, is_depthwise = geometry.rank, geometry.data_format == "channels_last", groups > 1
    trains = torch.is_grad_enabled() and (inputs.requires_grad or kernel.requires_grad)
    if torch.compiler.is_exporting():  # a view would restrict a program to odd sizes, or to even
        inputs = inputs.clone(memory_format=torch.contiguous_format)
    is_copied = is_depthwise and _is_better_copied(inputs, geometry, trains)
    is_misread = is_last and _is_misread(inputs, geometry)
    widths, crop = geometry.pad_widths(inputs.shape), None
    is_known = None not in context.known_sizes([zeros for width in widths for zeros in width])
    if is_depthwise and not trains and is_known:
        widths, crop = _even_padding(inputs.shape, widths, geometry)
    strides, dilation = list(geometry.strides), list(geometry.dilation_rate)
    if rank == 1:
        is_long = geometry.kernel_size[0] > choice.MAX_TORCH_COLUMNS
        is_column = is_depthwise and trains and not is_copied and is_long
        at, flat = int(is_column), geometry.spatial_axes[0] + int(is_column)
        inputs, kernel = inputs.unsqueeze(flat), kernel.unsqueeze(at)
        widths.insert(at, (0, 0))
        strides.insert(at, 1)
        dilation.insert(at, 1)
    dimensions = max(rank, 2)
    if is_misread:
        inputs = inputs.squeeze(-1).unsqueeze(1)
    elif is_last:
        inputs = _channels_first(inputs)
    if is_copied:
        inputs = inputs.contiguous()
    if not is_known or any(before != after for before, after in widths):
        inputs = F.pad(inputs, [zeros for width in reversed(widths) for zeros in width])
        widths = [(0, 0)] * dimensions
    kernel = kernel.permute(dimensions + 1, dimensions, *range(dimensions))
    outputs = (F.conv2d if dimensions == 2 else F.conv3d)(
        inputs, kernel, bias, strides, [before for before, _ in widths], dilation, groups
    )
    if is_last:
        outputs = _channels_last(outputs)
    outputs = outputs.squeeze(flat) if rank == 1 else outputs
    return outputs if crop is None else outputs[crop]


def _channels_first(values: Any) -> Any:
    """A channels-first view of channels-last memory."""
    last = values.dim() - 1  # ONNX files know no negative axes
    return values.permute(0, last, *range(1, last))


def _channels_last(values: Any) -> Any:
    """A channels-last view of channels-first memory."""
    return values.permute(0, *range(2, values.dim()), 1)


def _is_misread(inputs: Any, geometry: Geometry) -> bool:
    """Whether PyTorch, at least up to 2.13, would read numbers from outside the input.

    It mistakes a permuted view of one channel for two layouts at once where a stride leaves a
    single output, possibly in another run than the one that is traced.
    """
    shape = context.known_shape(inputs, -1)
    if shape[-1] != 1:
        return False
    outputs = geometry.output_shape(shape, 1)
    return any(
        outputs[axis] in (1, None) and stride > 1
        for axis, stride in zip(geometry.spatial_axes, geometry.strides, strict=True)
    )


def _is_better_copied(inputs: Any, geometry: Geometry, trains: bool) -> bool:
    """Whether a depthwise convolution is worth a copy to channels-first memory.

    On a GPU it is, except in 2D. There, only float32 gradients of large kernels are.
    """
    if context.device() != "gpu":
        return False
    is_large = math.prod(geometry.kernel_size) > choice.MAX_CUDNN_TAPS
    return geometry.rank != 2 or (trains and is_large and inputs.element_size() > 2)


def _even_padding(
    shape: Sequence[int], widths: list[tuple[int, int]], geometry: Geometry
) -> tuple[list[tuple[int, int]], tuple[slice, ...] | None]:
    """Returns padding that is equal on both sides, and the slices of the outputs to keep.

    PyTorch can only pad evenly, and otherwise copies the input. Computing a few outputs too many is
    less work, except in gradients.
    """
    if all(before == after for before, after in widths):
        return widths, None
    even, crop = [], [slice(None)] * len(shape)
    for axis, (before, after), extent, stride in zip(
        geometry.spatial_axes, widths, geometry.extent, geometry.strides, strict=True
    ):
        more = -(-max(after - before, 0) // stride)  # outputs before the first one
        size = (shape[axis] + before + after - extent - 1) // stride + 1
        even.append((before + more * stride,) * 2)
        crop[axis] = slice(more, more + size)
    return even, tuple(crop)


def check_sample(inputs: Any, extents: Sequence[tuple[int, int]], geometry: Geometry) -> None:
    """Raises a `ValueError` if a sample to trace does not span the kernel, by axis and extent."""
    if any(inputs.shape[axis] <= extent for axis, extent in extents):
        raise ValueError(
            "The sample that PyTorch traces must span the kernel. Keras's `model.export` uses a "
            "sample of size 1 for each unknown size. Received: "
            f"inputs.shape={tuple(map(int, inputs.shape))}, "
            f"kernel_size={geometry.kernel_size}, "
            f"dilation_rate={geometry.dilation_rate}, padding={geometry.padding!r}. Pass a larger "
            "sample to `torch.onnx.export`, pass an `input_signature` with known sizes to "
            "`model.export`, or use padding='same'."
        )


def pointwise(inputs: Any, kernel: Any, geometry: Geometry, bias: Any) -> Any:
    """Multiplies channels-last inputs by a matrix, with PyTorch's own functions.

    Those of Keras take as long as a small product. For many positions, PyTorch's convolution is the
    faster product. On a GPU it always is, because only convolutions multiply float32 on tensor
    cores.
    """
    import torch

    channels, filters = context.fixed_sizes(kernel.shape[-2:])
    positions = inputs.numel() // channels
    is_better_convolved = (
        context.device() == "gpu" or positions >= choice.MIN_POSITIONS_OF_TORCH_CONV
    )
    if is_better_convolved and inputs.dtype == torch.float32:
        alone = Geometry.of(1, geometry.rank, data_format=geometry.data_format)
        return conv(inputs, kernel.reshape(*alone.kernel_size, channels, filters), alone, bias=bias)
    rows, matrix = inputs.reshape(-1, channels), kernel.reshape(channels, filters)
    rows = rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)  # in one kernel
    return rows.reshape(*inputs.shape[:-1], filters)


# Depthwise convolution.


def depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Depthwise convolution with PyTorch's kernels."""
    if context.device() != "cpu":
        return _depthwise(inputs, kernel, geometry)
    # In half precision, PyTorch's gradients of volumes take three times as long as in float32.
    convolve = _on_cpu_in_float32 if geometry.rank == 3 else _on_cpu
    return convolve(inputs, kernel, geometry)


def _depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    *kernel_size, channels, multiplier = context.fixed_sizes(kernel.shape)
    grouped = kernel.reshape(*kernel_size, 1, channels * multiplier)
    return conv(inputs, grouped, geometry, groups=channels)


def _on_cpu(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    inputs, kernel = with_single_kernels(inputs, kernel, geometry)
    is_long = geometry.kernel_size[0] > choice.MAX_TORCH_COLUMNS
    if is_long and rewrites.is_dilated_sequence(geometry) and _needs_gradients():
        return rewrites.dilated_sequence(_on_cpu, inputs, kernel, geometry)
    if _has_slow_gradients(inputs, kernel, geometry):
        return _function().apply(inputs, kernel.transpose(-1, -2), geometry)
    return _depthwise(inputs, kernel, geometry)


_on_cpu_in_float32 = rewrites.sums_in_float32(_on_cpu)


def with_single_kernels(inputs: Any, kernel: Any, geometry: Geometry) -> tuple[Any, Any]:
    """Repeats channels so that each has one kernel, where that is faster.

    For several kernels per channel, PyTorch does not use oneDNN. It then takes about three times as
    long.
    """
    if not choice.repeats_channels(inputs, kernel, geometry):
        return inputs, kernel
    return rewrites.with_single_kernels(_double, inputs, kernel)


def _double(values: Any) -> Any:
    """Repeats each channel as both parts of a complex number, three times as fast as other ways."""
    import torch

    pairs = torch.view_as_real(torch.complex(values, values))
    return pairs.reshape(*values.shape[:-1], -1)


# Gradients of depthwise convolutions. On a CPU, those of volumes take PyTorch up to ten times as
# long as the convolution, and so does the one with respect to a kernel of more than three columns.
# Here, the gradient with respect to the inputs is a convolution. The gradient with respect to the
# kernel is assembled from those with respect to its planes, in strips of three columns.


def _needs_gradients() -> bool:
    """Whether PyTorch may need gradients in reverse mode: only its own support forward mode.

    Exporters need none, and cannot write a custom one.
    """
    import torch
    from torch.autograd import forward_ad

    # Inside `torch.func`, the inputs do not show it.
    is_exported = torch.jit.is_tracing() or torch.compiler.is_exporting()
    is_forward = getattr(forward_ad, "_current_level", -1) >= 0
    return torch.is_grad_enabled() and not (is_exported or is_forward)


def _has_slow_gradients(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether gradients are needed for which `_function` is faster.

    It supports channels-last inputs, a `(*kernel_size, channels, 1)` kernel, and strides in 3D.
    """
    if not _needs_gradients():
        return False
    if geometry.data_format == "channels_first" or kernel.shape[-1] > 1:
        return False
    if geometry.rank == 3:
        return math.prod(geometry.kernel_size) > 1
    is_wide = geometry.rank == 2 and geometry.kernel_size[1] > choice.MAX_TORCH_COLUMNS
    if not is_wide or max(geometry.strides) > 1:
        return False
    is_known = None not in context.known_sizes(inputs.shape)
    return is_known and inputs.numel() >= choice.MIN_VALUES_OF_STRIPS


@functools.cache
def _function() -> Any:
    """A depthwise convolution of images or volumes with gradients of its own."""
    import torch

    class Depthwise(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
            return conv(inputs, kernel, geometry, groups=kernel.shape[-1])

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
    """Convolves the upstream gradient, spread out by the strides, with the flipped kernel."""
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
    return conv(upstream, flipped, spread, groups=kernel.shape[-1])


def _kernel_gradient(inputs: Any, upstream: Any, geometry: Geometry) -> Any:
    import torch

    widths = geometry.pad_widths(inputs.shape)
    if geometry.rank == 2:
        return _image_kernel_gradient(inputs, upstream, widths, geometry)
    if max(geometry.strides) > 1:  # for which PyTorch is fast
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
        _channels_first(inputs),
        (channels, 1, *geometry.kernel_size),
        _channels_first(upstream),
        geometry.strides,
        sides,
        geometry.dilation_rate,
        channels,
    )
    return gradient.permute(2, 3, 4, 1, 0)


def _image_kernel_gradient(inputs: Any, upstream: Any, widths: Widths, geometry: Geometry) -> Any:
    """Gradient with respect to a 2D kernel without strides, in strips of a few columns."""
    import torch
    from torch.nn import grad

    rows, columns = geometry.kernel_size
    most = choice.MAX_TORCH_COLUMNS
    is_cut = columns > most
    if is_cut:
        inputs, widths = _padded(inputs, widths), [(0, 0), (0, 0)]
    inputs, sides = _evenly_padded(inputs, widths)
    channels, dilation, size = inputs.shape[-1], geometry.dilation_rate[1], upstream.shape[2]
    strips = []
    for first in range(0, columns, most):
        count, part = min(most, columns - first), inputs
        if is_cut:
            part = inputs.narrow(2, first * dilation, size + (count - 1) * dilation)
        strips.append(
            grad.conv2d_weight(
                _channels_first(part),
                (channels, 1, rows, count),
                _channels_first(upstream),
                1,
                sides,
                geometry.dilation_rate,
                channels,
            )
        )
    return torch.cat(strips, 3).permute(2, 3, 1, 0)


def _evenly_padded(inputs: Any, widths: Widths) -> tuple[Any, list[int]]:
    """The inputs, and the number of zeros that PyTorch adds on both sides of each axis."""
    if any(before != after for before, after in widths):
        return _padded(inputs, widths), [0] * len(widths)
    return inputs, [before for before, _ in widths]


def _padded(inputs: Any, widths: Widths) -> Any:
    """Pads the spatial axes of channels-last tensors with zeros."""
    import torch.nn.functional as F

    return F.pad(inputs, [0, 0, *(zeros for width in reversed(widths) for zeros in width)])


# Around convolutions.


def batch_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Fused batch normalization in training: outputs, mean and variance."""
    import torch

    batch, *spatial, channels = inputs.shape
    images = inputs.reshape(batch, math.prod(spatial), 1, channels).permute(0, 3, 1, 2)
    outputs, mean, inverse_deviation = torch.native_batch_norm(
        images, gamma, beta, None, None, True, 0.0, epsilon
    )
    variance = inverse_deviation.detach() ** -2 - epsilon
    return outputs.permute(0, 2, 3, 1).reshape(inputs.shape), mean.detach(), variance


def sum_over_processes(values: Any) -> Any:
    """The sum over the processes of `torch.distributed`, if they are started."""
    import torch

    is_alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return values if is_alone else _sum_over_processes().apply(values)


@functools.cache
def _sum_over_processes() -> Any:
    """A sum that gradients pass through: `torch.distributed.nn` has one, which is deprecated."""
    import torch

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Any) -> Any:
            total = values.clone()
            torch.distributed.all_reduce(total)
            return total

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            return Sum.apply(upstream.contiguous())

    return Sum


def can_skip_layer_call(layer: keras.layers.Layer, dtype: str) -> bool:
    """Whether `layer.call` can run without `layer.__call__`, on inputs that another layer checked.

    On PyTorch, what Keras does in `__call__` takes as long as a small convolution. It is needed
    where the layer casts its inputs, has hooks or was created in a `keras.RematScope`.
    """
    if keras.backend.backend() != "torch" or layer.compute_dtype != dtype:
        return False
    if layer._remat_mode is not None:
        return False
    return not any(getattr(layer, hooks) for hooks in HOOKS)
