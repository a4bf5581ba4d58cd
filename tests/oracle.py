"""What the operators must compute: a NumPy definition, and PyTorch where it is installed."""

import itertools

import numpy as np


def pad_widths(size, extent, stride, mode):
    """Zeros before and after an axis of that size, for a dilated kernel of `extent + 1`."""
    if mode == "valid":
        return 0, 0
    if mode == "causal":
        return extent, 0
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + extent + 1 - size, 0)
    return total // 2, total - total // 2


def all_pad_widths(spatial, kernel_size, strides, padding, dilation):
    """The same for each spatial axis; with causal padding, only the first one is causal."""
    modes = [padding] + ["same" if padding == "causal" else padding] * (len(spatial) - 1)
    return [
        pad_widths(n, (k - 1) * d, s, mode)
        for n, k, s, d, mode in zip(spatial, kernel_size, strides, dilation, modes, strict=True)
    ]


def depthwise_conv(x, kernel, strides, padding, dilation):
    """Depthwise convolution of channels-last `x` by its definition, output by output."""
    *kernel_size, channels, multiplier = kernel.shape
    widths = all_pad_widths(x.shape[1:-1], kernel_size, strides, padding, dilation)
    x = np.pad(x, [(0, 0), *widths, (0, 0)])
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:-1], kernel_size, strides, dilation, strict=True)
    ]
    y = np.zeros((x.shape[0], *sizes, channels, multiplier), "float64")
    for position in itertools.product(*map(range, sizes)):
        for tap in itertools.product(*map(range, kernel_size)):
            at = tuple(
                p * s + t * d for p, s, t, d in zip(position, strides, tap, dilation, strict=True)
            )
            y[(slice(None), *position)] += x[(slice(None), *at)][:, :, None] * kernel[tap]
    return y.reshape(*y.shape[:-2], channels * multiplier)


def transposed_window(size, extent, stride, mode):
    """Where the outputs begin and end in all that a transposed convolution of that axis gives."""
    if mode == "valid":
        return 0, (size - 1) * stride + max(extent + 1, stride)
    start = 0 if mode == "causal" else max((extent + 1 - stride) // 2, 0)
    return start, start + size * stride


def depthwise_conv_transpose(x, kernel, strides, padding, dilation):
    """Transposed depthwise convolution of channels-last `x` by its definition, input by input."""
    *kernel_size, channels, multiplier = kernel.shape
    sizes = [
        (n - 1) * s + (k - 1) * d + 1
        for n, k, s, d in zip(x.shape[1:-1], kernel_size, strides, dilation, strict=True)
    ]
    y = np.zeros((x.shape[0], *sizes, channels, multiplier))
    for position in itertools.product(*map(range, x.shape[1:-1])):
        for tap in itertools.product(*map(range, kernel_size)):
            at = tuple(
                p * s + t * d for p, s, t, d in zip(position, strides, tap, dilation, strict=True)
            )
            y[(slice(None), *at)] += x[(slice(None), *position)][:, :, None] * kernel[tap]
    y = y.reshape(*y.shape[:-2], channels * multiplier)
    return in_window(y, x, kernel, strides, padding, dilation, np.pad)


def torch_conv_transpose(x, kernel, strides, padding, dilation):
    """The same of PyTorch tensors."""
    from torch.nn import functional

    *kernel_size, channels, multiplier = kernel.shape
    rank = len(kernel_size)
    outputs = getattr(functional, f"conv_transpose{rank}d")(
        x.movedim(-1, 1),
        kernel.permute(rank, rank + 1, *range(rank)).contiguous(),
        stride=tuple(strides),
        dilation=tuple(dilation),
        groups=channels,
    ).movedim(1, -1)

    def pad(y, widths):
        return functional.pad(y, [n for pair in reversed(widths) for n in pair])

    return in_window(outputs, x, kernel, strides, padding, dilation, pad)


def in_window(y, x, kernel, strides, padding, dilation, pad):
    """Cuts all outputs to those that the padding mode asks for; those beyond the last are zeros."""
    rank = len(strides)
    modes = [padding] + ["same" if padding == "causal" else padding] * (rank - 1)
    windows = [
        transposed_window(n, (k - 1) * d, s, mode)
        for n, k, s, d, mode in zip(
            x.shape[1:-1], kernel.shape[:rank], strides, dilation, modes, strict=True
        )
    ]
    beyond = [(0, max(end - n, 0)) for (_, end), n in zip(windows, y.shape[1:-1], strict=True)]
    y = pad(y, [(0, 0), *beyond, (0, 0)])
    return y[(slice(None), *(slice(*window) for window in windows))]


def torch_conv(x, kernel, strides, padding, dilation, depthwise):
    """Convolution of channels-last tensors by PyTorch, depthwise as `groups=channels`."""
    from torch.nn import functional

    *kernel_size, channels, last = kernel.shape
    rank = len(kernel_size)
    widths = all_pad_widths(x.shape[1:-1], kernel_size, strides, padding, dilation)
    x = functional.pad(x.movedim(-1, 1), [n for pair in reversed(widths) for n in pair])
    if depthwise:
        kernel = kernel.reshape(*kernel_size, 1, channels * last)
    convolve = getattr(functional, f"conv{rank}d")
    outputs = convolve(
        x,
        kernel.permute(rank + 1, rank, *range(rank)).contiguous(),
        stride=tuple(strides),
        dilation=tuple(dilation),
        groups=channels if depthwise else 1,
    )
    return outputs.movedim(1, -1)


def torch_with_gradients(function, arguments, rng):
    """Draws an upstream gradient; returns it, and the outputs and gradients of PyTorch."""
    import torch

    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arguments]
    outputs = function(*tensors)
    upstream = rng.normal(size=outputs.shape)
    outputs.backward(torch.tensor(upstream))
    results = (outputs.detach(), *(tensor.grad for tensor in tensors))
    return upstream, [result.numpy() for result in results]
