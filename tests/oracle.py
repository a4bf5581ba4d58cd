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


def pad(x, kernel_size, strides, padding, dilation):
    """Pads channels-last input; with causal padding, only the first spatial axis is causal."""
    widths = [(0, 0)]
    for axis, (k, s, d) in enumerate(zip(kernel_size, strides, dilation, strict=True)):
        mode = "same" if padding == "causal" and axis > 0 else padding
        widths.append(pad_widths(x.shape[axis + 1], (k - 1) * d, s, mode))
    return np.pad(x, [*widths, (0, 0)]), widths[1:]


def depthwise_conv(x, kernel, strides, padding, dilation):
    """Depthwise convolution of channels-last `x` by its definition, output by output."""
    *kernel_size, channels, multiplier = kernel.shape
    x, _ = pad(x, kernel_size, strides, padding, dilation)
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


def torch_conv(x, kernel, strides, padding, dilation, upstream=None, *, depthwise):
    """The same by PyTorch, in float64: the output, and its gradients where `upstream` is given."""
    import torch

    *kernel_size, channels, last = kernel.shape
    rank = len(kernel_size)
    inputs = torch.tensor(np.asarray(x, "float64"), requires_grad=True)
    weights = torch.tensor(np.asarray(kernel, "float64"), requires_grad=True)
    _, widths = pad(x, kernel_size, strides, padding, dilation)
    padded = torch.nn.functional.pad(
        torch.movedim(inputs, -1, 1), [n for pair in reversed(widths) for n in pair]
    )
    if depthwise:
        filters = weights.reshape(*kernel_size, 1, channels * last)
    else:
        filters = weights
    convolve = getattr(torch.nn.functional, f"conv{rank}d")
    outputs = convolve(
        padded,
        filters.permute(rank + 1, rank, *range(rank)),
        stride=tuple(strides),
        dilation=tuple(dilation),
        groups=channels if depthwise else 1,
    )
    outputs = torch.movedim(outputs, 1, -1)
    if upstream is None:
        return outputs.detach().numpy()
    outputs.backward(torch.tensor(upstream))
    return outputs.detach().numpy(), inputs.grad.numpy(), weights.grad.numpy()
