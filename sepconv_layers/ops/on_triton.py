"""Depthwise convolution of images by Triton kernels, as PyTorch operators with gradients.

The functions import PyTorch and Triton themselves, because the package has to load without them.
"""

import functools
import importlib.util
import math
import os
from typing import Any, NamedTuple

from sepconv_layers.ops import choice, context
from sepconv_layers.ops.geometry import Geometry

SCHEMA = (  # of all operators
    "(Tensor first, Tensor second, SymInt[] size, SymInt[] strides, SymInt[] pads, "
    "SymInt[] dilation) -> Tensor"
)


@context.constant_to_dynamo
def is_ready() -> bool:
    """Whether Triton is installed. If it is, this registers the operators."""
    is_installed = importlib.util.find_spec("triton") is not None
    return is_installed and _operators() is not None


def supports(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether there are kernels for a convolution: of images, channels last, with known sizes.

    Exporters know none of them, and neither do forward mode and `torch.func`.
    """
    import torch

    if geometry.rank != 2 or geometry.data_format != "channels_last":
        return False
    if kernel.shape[-1] != 1 or math.prod(geometry.kernel_size) > choice.MAX_UNROLLED_TRITON_TAPS:
        return False
    if not (inputs.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") or not is_ready():
        return False
    if inputs.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return False
    if None in context.known_sizes(inputs.shape[1:]):
        return False
    if torch.compiler.is_dynamo_compiling():
        return not torch.compiler.is_exporting()
    is_function = torch._C._functorch.maybe_current_level() is not None
    is_forward = getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0
    return not (torch.jit.is_tracing() or is_function or is_forward)


def depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Depthwise convolution of channels-last images, with one kernel for each channel."""
    import torch

    height, width = geometry.spatial_axes
    sizes = geometry.output_shape(tuple(inputs.shape), kernel.shape[-2])
    pads = [before for before, _ in geometry.pad_widths(inputs.shape)]
    size = [int(sizes[height]), int(sizes[width])]
    how = (size, list(geometry.strides), pads, list(geometry.dilation_rate))
    weights = kernel.squeeze(-1).contiguous()
    return torch.ops.sepconv_layers.depthwise_outputs(inputs.contiguous(), weights, *how)


class _Operators(NamedTuple):
    """A convolution and its two gradients, whose gradients are again these three."""

    outputs: Any
    to_inputs: Any
    to_kernel: Any


@functools.cache
def _operators() -> _Operators:
    import torch
    from torch import Tensor

    from sepconv_layers.ops import triton_kernels as kernels

    def on_its_device(function: Any) -> Any:
        def run(first: Tensor, second: Tensor, *how: Any) -> Tensor:
            with torch.cuda.device_of(first):
                return function(first.contiguous(), second.contiguous(), *how)

        return run

    def image(images: Tensor, _: Tensor, size: list[int], *how: Any) -> Tensor:
        return images.new_empty((images.shape[0], *size, images.shape[-1]))

    def weights(inputs: Tensor, _: Tensor, size: list[int], *how: Any) -> Tensor:
        return inputs.new_empty((*size, inputs.shape[-1]))

    functions = (kernels.convolve, kernels.input_gradient, kernels.kernel_gradient)
    made = _Operators(
        *(
            torch.library.custom_op(
                f"sepconv_layers::depthwise_{name}",
                on_its_device(function),
                mutates_args=(),
                schema=SCHEMA,
            )
            for name, function in zip(_Operators._fields, functions, strict=True)
        )
    )

    def remember(ctx: Any, inputs: tuple, output: Any) -> None:
        first, second, _, *ctx.how = inputs
        ctx.save_for_backward(first, second)

    def size_of(images: Tensor) -> list[int]:
        return list(images.shape[1:3])

    def of_outputs(ctx: Any, upstream: Tensor) -> tuple:
        inputs, kernel = ctx.saved_tensors
        to_inputs = to_kernel = None
        if ctx.needs_input_grad[0]:
            to_inputs = made.to_inputs(upstream, kernel, size_of(inputs), *ctx.how)
        if ctx.needs_input_grad[1]:
            to_kernel = made.to_kernel(inputs, upstream, list(kernel.shape[:2]), *ctx.how)
        return to_inputs, to_kernel, None, None, None, None

    def of_to_inputs(ctx: Any, upstream: Tensor) -> tuple:
        given, kernel = ctx.saved_tensors
        to_given = made.outputs(upstream, kernel, size_of(given), *ctx.how)
        to_kernel = made.to_kernel(upstream, given, list(kernel.shape[:2]), *ctx.how)
        return to_given, to_kernel, None, None, None, None

    def of_to_kernel(ctx: Any, upstream: Tensor) -> tuple:
        inputs, given = ctx.saved_tensors
        to_inputs = made.to_inputs(given, upstream, size_of(inputs), *ctx.how)
        to_given = made.outputs(inputs, upstream, size_of(given), *ctx.how)
        return to_inputs, to_given, None, None, None, None

    gradients = (of_outputs, of_to_inputs, of_to_kernel)
    for operator, shape, gradient in zip(made, (image, image, weights), gradients, strict=True):
        operator.register_fake(shape)
        operator.register_autograd(gradient, setup_context=remember)
    return made
