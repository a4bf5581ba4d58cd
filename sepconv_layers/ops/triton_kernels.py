# mypy: ignore-errors
"""Triton kernels of the depthwise convolution of images, and of its two gradients.

A depthwise convolution is bound by memory, and cuDNN is far from that bound with strides, with
small maps and in the gradient with respect to the kernel. Here, each thread computes a patch of
`ROWS × COLUMNS` neighboring outputs of eight channels. It loads each input once and multiplies it
with all the kernel elements that need it.

Only `on_triton` imports this, where Triton is installed: it compiles these functions from their
source.
"""

import functools
from typing import Any

import triton
import triton.language as tl

from sepconv_layers.ops import choice


@triton.constexpr_function
def _index(position, output, stride, dilation, size):
    """Index of the kernel element that takes an input position to an output, or -1."""
    index, rest = divmod(position - output * stride, dilation)
    return index if rest == 0 and 0 <= index < size else -1


@triton.constexpr_function
def _flat(row, column, height, width, is_flipped):
    """Index of an element in a kernel whose elements are listed, or listed backward."""
    index = row * width + column
    return height * width - 1 - index if is_flipped else index


@triton.jit
def _plus(sums, at: tl.constexpr, value):
    return sums[:at] + (sums[at] + value,) + sums[at + 1 :]


@triton.jit
def _zeros(COUNT: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr):
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros((SPAN, BLOCK), tl.float32),)
    return sums


@triton.jit
def _load(image, row, column, height, width, channels, channel):
    """Loads values of a `(height, width, channels)` image, with zeros around it."""
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    mask = is_inside[:, None] & (channel < channels)[None, :]
    offsets = (row * width + column)[:, None] * channels + channel[None, :]
    return tl.load(image + offsets, mask=mask, other=0.0)


@triton.jit
def _store(image, values, row, column, height, width, channels, channel):
    mask = ((row < height) & (column < width))[:, None] & (channel < channels)[None, :]
    offsets = (row * width + column)[:, None] * channels + channel[None, :]
    tl.store(image + offsets, values.to(image.dtype.element_ty), mask=mask)


@triton.jit
def _weights(kernel, at: tl.constexpr, channels, channel):
    weights = tl.load(kernel + at * channels + channel, mask=channel < channels, other=0.0)
    return weights.to(tl.float32)[None, :]


@triton.jit
def _outputs(
    inputs, kernel, outputs, height, width, channels, out_height, out_width, down, across,
    TOP: tl.constexpr, LEFT: tl.constexpr, STRIDE: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION: tl.constexpr, DILATION_W: tl.constexpr, SIZE: tl.constexpr, SIZE_W: tl.constexpr,
    IS_FLIPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    sample = (tile // (down * across)).to(tl.int64)
    row = (tile // across) % down * ROWS
    column = tile % across * (SPAN * COLUMNS) + tl.arange(0, SPAN) * COLUMNS
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inputs += sample * height * width * channels
    outputs += sample * out_height * out_width * channels
    sums = _zeros(ROWS * COLUMNS, SPAN, BLOCK)
    for y in tl.static_range((ROWS - 1) * STRIDE + (SIZE - 1) * DILATION + 1):
        for x in tl.static_range((COLUMNS - 1) * STRIDE_W + (SIZE_W - 1) * DILATION_W + 1):
            at_row, at_column = row * STRIDE + (y - TOP), column * STRIDE_W + (x - LEFT)
            values = _load(inputs, at_row, at_column, height, width, channels, channel)
            values = values.to(tl.float32)
            for a in tl.static_range(ROWS):
                for b in tl.static_range(COLUMNS):
                    if (
                        _index(y, a, STRIDE, DILATION, SIZE) >= 0
                        and _index(x, b, STRIDE_W, DILATION_W, SIZE_W) >= 0
                    ):
                        weights = _weights(
                            kernel,
                            _flat(
                                _index(y, a, STRIDE, DILATION, SIZE),
                                _index(x, b, STRIDE_W, DILATION_W, SIZE_W),
                                SIZE, SIZE_W, IS_FLIPPED,
                            ),
                            channels, channel,
                        )  # fmt: skip
                        sums = _plus(sums, a * COLUMNS + b, values * weights)
    for a in tl.static_range(ROWS):
        for b in tl.static_range(COLUMNS):
            _store(
                outputs, sums[a * COLUMNS + b], row + a, column + b, out_height, out_width,
                channels, channel,
            )  # fmt: skip


@triton.jit
def _to_strided_inputs(
    upstream, kernel, outputs, height, width, channels, out_height, out_width, down, across,
    TOP: tl.constexpr, LEFT: tl.constexpr, STRIDE: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION: tl.constexpr, DILATION_W: tl.constexpr, SIZE: tl.constexpr, SIZE_W: tl.constexpr,
    ROWS: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each phase of the strides has kernel elements of its own."""
    tile = tl.program_id(0)
    sample = (tile // (down * across)).to(tl.int64)
    row = (tile // across) % down * ROWS
    column = tile % across * SPAN + tl.arange(0, SPAN)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    upstream += sample * out_height * out_width * channels
    outputs += sample * height * width * channels
    sums = ()  # stored at the end: until then, the compiler knows that it loads a value again
    for a in tl.static_range(ROWS):
        for y in tl.static_range(STRIDE):
            for x in tl.static_range(STRIDE_W):
                total = tl.zeros((SPAN, BLOCK), tl.float32)
                for i in tl.static_range(SIZE):
                    for j in tl.static_range(SIZE_W):
                        if (y + TOP - i * DILATION) % STRIDE == 0 and (
                            x + LEFT - j * DILATION_W
                        ) % STRIDE_W == 0:
                            at_row = row + (a + (y + TOP - i * DILATION) // STRIDE)
                            at_column = column + (x + LEFT - j * DILATION_W) // STRIDE_W
                            values = _load(
                                upstream, at_row, at_column, out_height, out_width, channels,
                                channel,
                            )  # fmt: skip
                            weights = _weights(kernel, i * SIZE_W + j, channels, channel)
                            total += values.to(tl.float32) * weights
                sums = sums + (total,)
    for a in tl.static_range(ROWS):
        for y in tl.static_range(STRIDE):
            for x in tl.static_range(STRIDE_W):
                _store(
                    outputs, sums[(a * STRIDE + y) * STRIDE_W + x], (row + a) * STRIDE + y,
                    column * STRIDE_W + x, height, width, channels, channel,
                )  # fmt: skip


@triton.jit
def _to_kernel(
    inputs, upstream, parts, height, width, channels, out_height, out_width, down, across,
    tiles, programs,
    TOP: tl.constexpr, LEFT: tl.constexpr, STRIDE: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION: tl.constexpr, DILATION_W: tl.constexpr, SIZE: tl.constexpr, SIZE_W: tl.constexpr,
    SHARE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program sums over its share of the outputs, for `SHARE` rows of the kernel."""
    program, first = tl.program_id(0), tl.program_id(2) * SHARE
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums = _zeros(SHARE * SIZE_W, SPAN, BLOCK)
    for tile in range(program, tiles, programs):
        sample = (tile // (down * across)).to(tl.int64)
        row = (tile // across) % down * ROWS
        column = tile % across * (SPAN * COLUMNS) + tl.arange(0, SPAN) * COLUMNS
        image = inputs + sample * height * width * channels
        gradient = upstream + sample * out_height * out_width * channels
        factors = ()
        for a in tl.static_range(ROWS):
            for b in tl.static_range(COLUMNS):
                factor = _load(
                    gradient, row + a, column + b, out_height, out_width, channels, channel
                )
                factors = factors + (factor,)
        for y in tl.static_range((ROWS - 1) * STRIDE + (SHARE - 1) * DILATION + 1):
            for x in tl.static_range((COLUMNS - 1) * STRIDE_W + (SIZE_W - 1) * DILATION_W + 1):
                at_row = row * STRIDE + first * DILATION + (y - TOP)
                at_column = column * STRIDE_W + (x - LEFT)
                values = _load(image, at_row, at_column, height, width, channels, channel)
                values = values.to(tl.float32)
                for a in tl.static_range(ROWS):
                    for b in tl.static_range(COLUMNS):
                        if (
                            _index(y, a, STRIDE, DILATION, SHARE) >= 0
                            and _index(x, b, STRIDE_W, DILATION_W, SIZE_W) >= 0
                        ):
                            sums = _plus(
                                sums,
                                _index(y, a, STRIDE, DILATION, SHARE) * SIZE_W
                                + _index(x, b, STRIDE_W, DILATION_W, SIZE_W),
                                values * factors[a * COLUMNS + b].to(tl.float32),
                            )
    for at in tl.static_range(SHARE * SIZE_W):
        place = parts + ((program * SIZE + first) * SIZE_W + at) * channels + channel
        is_needed = (channel < channels) & (first * SIZE_W + at < SIZE * SIZE_W)
        tl.store(place, tl.sum(sums[at], 0), mask=is_needed)


# How the kernels are started: with one warp, whose threads hold as many outputs as registers allow.


def _tile(values: Any, strides: Any, patch: tuple[int, int]) -> dict[str, int]:
    """Channels of a program, patches beside each other that fill its warp, and outputs of each."""
    most = choice.MAX_CHANNELS_OF_PROGRAM[min(2, max(strides))]
    block = min(most, triton.next_power_of_2(values.shape[-1]))
    span = max(1, 32 * choice.BYTES_OF_LOAD // values.element_size() // block)
    return {"BLOCK": block, "SPAN": span, "ROWS": patch[0], "COLUMNS": patch[1], "num_warps": 1}


def _tiles(size: Any, how: dict[str, int]) -> tuple[int, int]:
    """The numbers of tiles that cover rows and columns."""
    columns = how.get("COLUMNS", 1) * how["SPAN"]
    return triton.cdiv(size[0], how["ROWS"]), triton.cdiv(size[1], columns)


def _is_small(size: Any) -> bool:
    return size[0] * size[1] <= choice.MAX_TRITON_TAPS


def _geometry(size: Any, strides: list[int], pads: list[int], dilation: list[int]) -> tuple:
    return (*pads, *strides, *dilation, *size)


def convolve(
    inputs: Any, kernel: Any, size: Any, strides: Any, pads: Any, dilation: Any,
    is_flipped: bool = False,
) -> Any:  # fmt: skip
    """Outputs of the spatial `size`; `pads` are the zeros before the first row and column."""
    batch, height, width, channels = inputs.shape
    outputs = inputs.new_empty((batch, *size, channels))
    patch = choice.PATCH if _is_small(kernel.shape) else choice.PATCH_OF_LARGE_KERNEL
    how = _tile(inputs, strides, choice.PATCH_WITH_STRIDES if max(strides) > 1 else patch)
    down, across = _tiles(size, how)
    grid = (batch * down * across, triton.cdiv(channels, how["BLOCK"]))
    _outputs[grid](
        inputs, kernel, outputs, height, width, channels, *size, down, across,
        *_geometry(kernel.shape[:2], strides, pads, dilation), is_flipped, **how,
    )  # fmt: skip
    return outputs


def input_gradient(
    upstream: Any, kernel: Any, size: Any, strides: Any, pads: Any, dilation: Any
) -> Any:
    """The gradient with respect to inputs of the spatial `size`."""
    if max(strides) == 1:
        shape = kernel.shape[:2]
        around = [(k - 1) * d - pad for k, d, pad in zip(shape, dilation, pads, strict=True)]
        return convolve(upstream, kernel, size, strides, around, dilation, True)
    batch, *out_size, channels = upstream.shape
    outputs = upstream.new_empty((batch, *size, channels))
    how = _tile(upstream, strides, choice.PATCH_WITH_STRIDES)
    del how["COLUMNS"]  # it has one for each phase
    phase = [triton.cdiv(n, stride) for n, stride in zip(size, strides, strict=True)]
    down, across = _tiles(phase, how)
    grid = (batch * down * across, triton.cdiv(channels, how["BLOCK"]))
    _to_strided_inputs[grid](
        upstream, kernel, outputs, *size, channels, *out_size, down, across,
        *_geometry(kernel.shape[:2], strides, pads, dilation), **how,
    )  # fmt: skip
    return outputs


def kernel_gradient(
    inputs: Any, upstream: Any, size: Any, strides: Any, pads: Any, dilation: Any
) -> Any:
    """The gradient with respect to a kernel of that `size`, summed in float32."""
    import torch

    batch, height, width, channels = inputs.shape
    out_size = upstream.shape[1:3]
    share = size[0] if _is_small(size) else 1
    patch = choice.PATCH_OF_GRADIENT if max(strides) == 1 else choice.PATCH_WITH_STRIDES
    how = _tile(inputs, (1,), patch) | {"SHARE": share}
    down, across = _tiles(out_size, how)
    tiles, blocks = batch * down * across, triton.cdiv(channels, how["BLOCK"])
    shares = triton.cdiv(size[0], share)
    most = choice.PROGRAMS_PER_PROCESSOR * _processors(inputs.device) // (blocks * shares)
    programs = max(1, min(tiles, most))
    parts = inputs.new_empty((programs, *size, channels), dtype=torch.float32)
    _to_kernel[programs, blocks, shares](
        inputs, upstream, parts, height, width, channels, *out_size, down, across, tiles, programs,
        *_geometry(size, strides, pads, dilation), **how,
    )  # fmt: skip
    return parts.sum(0).to(inputs.dtype)


@functools.cache
def _processors(device: Any) -> int:
    import torch

    if device.type != "cuda":  # Triton's interpreter
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
