"""The public functions."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.ops.operations import (
    Conv,
    DepthwiseConv,
    DepthwiseConvTranspose,
    SeparableConv,
    SeparableConvTranspose,
    call,
)


def depthwise_conv(
    inputs: Any,
    kernel: Any,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> Any:
    """Convolves each channel with its own kernels, in one, two or three spatial dimensions.

    Output channel `c * multiplier + j` is input channel `c` convolved with `kernel[..., c, j]`.

    Args:
        inputs: Tensor of shape `(batch, *spatial, channels)`, or `(batch, channels, *spatial)`
            with `data_format="channels_first"`; one to three spatial dimensions, any of them
            unknown until the graph runs.
        kernel: Tensor of shape `(*kernel_size, channels, multiplier)`.
        strides: Step between outputs, in input positions, for all dimensions or for each.
        padding: `"valid"`, `"same"` (`ceil(inputs / stride)` outputs, zeros on both sides) or
            `"causal"` (the first spatial dimension is time, and no output depends on a later input;
            `"same"` in the others).
        data_format: `"channels_last"` or `"channels_first"`; by default the Keras configuration's.
        dilation_rate: Step between kernel elements, in input positions. Any combination with
            strides is allowed, dimension by dimension.

    Returns:
        A tensor of shape `(batch, *new_spatial, channels * multiplier)` in `data_format`.

    Raises:
        ValueError: If ranks or channels do not match, an argument is not as described, or the
            output would be empty.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ops
        >>> y = ops.depthwise_conv(
        ...     np.ones((1, 8, 6, 4, 2), "float32"),
        ...     np.ones((3, 3, 3, 2, 2), "float32"),
        ...     strides=(2, 1, 1),
        ...     padding="same",
        ... )
        >>> tuple(y.shape)
        (1, 4, 6, 4, 4)

    Reference:
        [Sifre, "Rigid-motion scattering for image classification", 2014](
        https://arxiv.org/abs/1403.1687).
    """
    return _run(DepthwiseConv, (inputs, kernel), strides, padding, data_format, dilation_rate)


def separable_conv(
    inputs: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> Any:
    """Convolves each channel on its own, then mixes channels: a convolution in two factors.

    It needs `1/M + 1/K` of the multiply-accumulates of a standard convolution with `M` filters and
    `K` kernel elements.

    Args:
        inputs: As for `depthwise_conv`.
        depthwise_kernel: Tensor of shape `(*kernel_size, channels, multiplier)`.
        pointwise_kernel: Tensor of shape `(*ones, channels * multiplier, filters)`, with a one
            for each spatial dimension.
        strides: As for `depthwise_conv`.
        padding: As for `depthwise_conv`.
        data_format: As for `depthwise_conv`.
        dilation_rate: As for `depthwise_conv`.

    Returns:
        A tensor of shape `(batch, *new_spatial, filters)` in `data_format`.

    Raises:
        ValueError: As for `depthwise_conv`; and if the pointwise kernel does not fit.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ops
        >>> y = ops.separable_conv(
        ...     np.ones((1, 9, 4), "float32"),
        ...     np.ones((3, 4, 1), "float32"),
        ...     np.ones((1, 4, 6), "float32"),
        ...     padding="causal",
        ... )
        >>> tuple(y.shape)
        (1, 9, 6)

    Reference:
        [Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2017](
        https://arxiv.org/abs/1610.02357).
    """
    tensors = (inputs, depthwise_kernel, pointwise_kernel)
    return _run(SeparableConv, tensors, strides, padding, data_format, dilation_rate)


def conv(
    inputs: Any,
    kernel: Any,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> Any:
    """Standard convolution with all the arguments of `depthwise_conv`, for comparisons.

    A pointwise convolution, with a kernel of size 1, is computed as a matrix product.

    Args:
        inputs: As for `depthwise_conv`.
        kernel: Tensor of shape `(*kernel_size, channels, filters)`. With `channels / groups`
            instead of `channels`, each group of filters is applied to its own group of channels.
        strides: As for `depthwise_conv`.
        padding: As for `depthwise_conv`.
        data_format: As for `depthwise_conv`.
        dilation_rate: As for `depthwise_conv`.

    Returns:
        A tensor of shape `(batch, *new_spatial, filters)` in `data_format`.

    Raises:
        ValueError: As for `depthwise_conv`.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ops
        >>> y = ops.conv(np.ones((1, 9, 4), "float32"), np.ones((3, 4, 6), "float32"), strides=2)
        >>> tuple(y.shape)
        (1, 4, 6)
    """
    return _run(Conv, (inputs, kernel), strides, padding, data_format, dilation_rate)


def depthwise_conv_transpose(
    inputs: Any,
    kernel: Any,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    output_padding: int | Sequence[int] | None = None,
    data_format: str | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> Any:
    """Transposed depthwise convolution: upsamples each channel with its own kernels.

    Each input, times the kernel, is added to the outputs from its position times the stride on.
    This is the gradient of `depthwise_conv` with respect to its inputs, and the depthwise form of
    `keras.ops.conv_transpose`.

    Args:
        inputs: As for `depthwise_conv`.
        kernel: Tensor of shape `(*kernel_size, channels, multiplier)`. Output channel
            `c * multiplier + j` is input channel `c` with `kernel[..., c, j]`.
        strides: Upsampling factor, for all dimensions or for each.
        padding: `"valid"`, `"same"` (`strides` times the size of the input), or `"causal"` (the
            same size, and no output in the first dimension depends on a later input).
        output_padding: Additional outputs at the end, fewer than the stride, for all dimensions or
            for each. By default, the sizes are as above.
        data_format: As for `depthwise_conv`.
        dilation_rate: As for `depthwise_conv`.

    Returns:
        A tensor of shape `(batch, *new_spatial, channels * multiplier)` in `data_format`.

    Raises:
        ValueError: As for `depthwise_conv`.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ops
        >>> x, kernel = np.ones((1, 5, 4, 3), "float32"), np.ones((3, 3, 3, 1), "float32")
        >>> tuple(ops.depthwise_conv_transpose(x, kernel, 2, "same").shape)
        (1, 10, 8, 3)

    Reference:
        [Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016](
        https://arxiv.org/abs/1603.07285).
    """
    how = (strides, padding, data_format, dilation_rate, output_padding)
    return _run(DepthwiseConvTranspose, (inputs, kernel), *how)


def separable_conv_transpose(
    inputs: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    output_padding: int | Sequence[int] | None = None,
    data_format: str | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> Any:
    """Transposed depthwise convolution, then a pointwise one that mixes channels.

    Args:
        inputs: As for `depthwise_conv`.
        depthwise_kernel: Tensor of shape `(*kernel_size, channels, multiplier)`.
        pointwise_kernel: Tensor of shape `(*ones, channels * multiplier, filters)`, with a one
            for each spatial dimension.
        strides: As for `depthwise_conv_transpose`.
        padding: As for `depthwise_conv_transpose`.
        output_padding: As for `depthwise_conv_transpose`.
        data_format: As for `depthwise_conv`.
        dilation_rate: As for `depthwise_conv`.

    Returns:
        A tensor of shape `(batch, *new_spatial, filters)` in `data_format`.

    Raises:
        ValueError: As for `depthwise_conv`; and if the pointwise kernel does not fit.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ops
        >>> y = ops.separable_conv_transpose(
        ...     np.ones((1, 9, 4), "float32"),
        ...     np.ones((3, 4, 1), "float32"),
        ...     np.ones((1, 4, 6), "float32"),
        ...     strides=2,
        ... )
        >>> tuple(y.shape)
        (1, 19, 6)
    """
    tensors = (inputs, depthwise_kernel, pointwise_kernel)
    how = (strides, padding, data_format, dilation_rate, output_padding)
    return _run(SeparableConvTranspose, tensors, *how)


def _run(operation: type[Conv], tensors: tuple, *arguments: Any) -> Any:
    """Runs an operation, or adds it to a functional model if an input is symbolic."""
    if any(isinstance(tensor, keras.KerasTensor) for tensor in tensors):
        return operation(*arguments).symbolic_call(*tensors)
    return call(operation, arguments, tensors)
