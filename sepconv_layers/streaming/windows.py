"""Rules for layers that act along time: kernels, pooling, padding, cropping and upsampling."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.streaming.frames import Signal, slice_along, to_numpy
from sepconv_layers.streaming.step import Step


def window(step: Step, layer: Any, signal: Signal) -> Signal:
    """For convolutions and pooling: the state holds the past frames that they need."""
    size = getattr(layer, "kernel_size", None) or layer.pool_size
    dilation_rate = getattr(layer, "dilation_rate", (1,) * len(size))
    index = spatial_index(step, layer, signal, len(size))
    extent, stride = (size[index] - 1) * dilation_rate[index], layer.strides[index]
    if extent == 0:
        return moving_window(step, layer, signal, 0, stride, lambda x: step.call(layer, [x]))
    if layer.padding == "same" or (layer.padding == "causal" and index > 0):
        step.refuse(
            layer,
            "it needs later frames. It must have padding='causal', with time as the first spatial "
            "axis, or padding='valid', or a size of 1 in time. It has padding="
            f"{layer.padding!r} and the size {size}, with time as axis {index} of it.",
        )

    def unpadded(frames: Any) -> Any:
        how = (layer.strides, layer.padding, layer.data_format, dilation_rate)
        widths = Geometry.of(size, len(size), *how).pad_widths(frames.shape)
        widths[index] = (0, 0)  # the state takes the place of the padding
        if any(map(any, widths)):
            first = signal.axis - index
            pad_width: list[tuple[int, int]] = [(0, 0)] * len(frames.shape)
            pad_width[first : first + len(size)] = widths
            frames = keras.ops.pad(frames, pad_width)
        return step.call(layer, [frames], padding="valid")

    if layer.padding == "causal":
        signal = prepend_zeros(step, layer, signal, extent)
    return moving_window(step, layer, signal, extent, stride, unpadded)


def moving_window(
    step: Step,
    layer: Any,
    signal: Signal,
    extent: int,
    stride: int,
    function: Callable[[Any], Any],
) -> Signal:
    """Applies a function of unpadded windows of `extent + 1` frames.

    The first window of the original model begins with its first frame. That determines the frames
    of a chunk at which windows end: one frame, and every `stride`-th frame after it.
    """
    frames, axis = signal.frames, signal.axis
    skip, phase = divmod(frames.skip + extent, stride)
    needed = max(extent - phase, 0)
    x = with_past(step, layer, signal, needed) if needed else signal.tensor
    if phase and signal.tensor.shape[axis] is None:
        # A chunk may end within a window, whose result is then computed but not due.
        rank = len(x.shape)
        x = keras.ops.pad(x, [(0, phase if n == axis else 0) for n in range(rank)])
    if phase > extent:
        x = x[slice_along(axis, phase - extent)]
    lead = frames.lead if skip < 0 else None
    return signal.replace(
        function(x),
        pace=frames.pace.strided(stride, phase),
        skip=skip,
        lead=lead if lead is None else to_numpy(function(lead)),
    )


def with_past(step: Step, layer: Any, signal: Signal, length: int) -> Any:
    """The frames of a chunk, preceded by `length` past frames."""
    frames, axis, lead = signal.tensor, signal.axis, signal.lead
    shape = [length if n == axis else size for n, size in enumerate(frames.shape)]
    if lead is not None:
        lead = lead[slice_along(axis, -length)]
        missing = length - lead.shape[axis]
        lead = np.pad(lead, [(missing if n == axis else 0, 0) for n in range(lead.ndim)])
    # In an int8 file, the state has the scale of the frames, so that it keeps their integers.
    state = step.rounded(signal, step.add_state(layer, shape, frames.dtype, lead))
    frames = step.rounded(signal, keras.ops.concatenate([state, frames], axis))
    step.set_next_states(step.rounded(signal, frames[slice_along(axis, -length)]))
    return frames


def prepend_zeros(step: Step, layer: Any, signal: Signal, number: int) -> Signal:
    """Adds `number` frames of zeros before the first frame."""
    if number == 0:
        return signal
    skip = signal.frames.skip - number
    lead = None
    if skip < 0:
        sizes = signal.tensor.shape
        length = min(number, -skip)
        shape = [1, *(length if n == signal.axis else sizes[n] for n in range(1, len(sizes)))]
        if None in shape:
            step.refuse(
                layer,
                f"its padding before the first frame has the shape {tuple(shape)}, with unknown "
                "sizes. Specify all sizes of the model input except batch and time.",
            )
        lead = to_numpy(keras.ops.zeros(shape, signal.tensor.dtype))
        if signal.lead is not None:
            lead = np.concatenate([lead, signal.lead], signal.axis)
    return signal.replace(step.mask_frames(signal), skip=skip, lead=lead)


def zero_padding(step: Step, layer: Any, signal: Signal) -> Signal:
    """For zeros before the first frame, and anywhere along other axes."""
    (before, after), signal = _widths(step, layer, signal, "padding")
    if after:
        step.refuse(
            layer,
            f"it adds {after} zeros after the last frame, but a stream has no known last frame. "
            f"Pad only before the first frame. It has padding={layer.padding}.",
        )
    return prepend_zeros(step, layer, signal, before)


def cropping(step: Step, layer: Any, signal: Signal) -> Signal:
    """Skips frames at the beginning, and delays each frame until it is not among the last."""
    (before, after), signal = _widths(step, layer, signal, "cropping")
    axis, skip = signal.axis, signal.frames.skip + before
    lead = signal.lead[slice_along(axis, before)] if signal.lead is not None and skip < 0 else None
    signal = signal.replace(signal.tensor, skip=skip, lead=lead)
    if after == 0:
        return signal
    return moving_window(
        step, layer, signal, after, 1, lambda x: x[slice_along(axis, None, -after)]
    )


def _widths(step: Step, layer: Any, signal: Signal, name: str) -> tuple[tuple[int, int], Signal]:
    """The widths of a layer along time, and the signal after the layer acted on other axes."""
    value = getattr(layer, name)
    widths = [value] if isinstance(value[0], int) else list(value)
    index = spatial_index(step, layer, signal, len(widths))
    along_time, widths[index] = widths[index], (0, 0)
    if any(map(any, widths)):  # there are other axes
        change = {name: tuple(widths)}
        signal = step.map_frames(lambda x: step.call(layer, [x], **change), signal)
    return along_time, signal


def slicing(step: Step, layer: Any, signal: Signal, key: Any) -> Signal:
    """For slices of a tensor, `x[:, 2::3]`: frames may be left out at both ends and in between."""
    parts = key if isinstance(key, tuple) else (key,)
    along_time = parts[signal.axis] if signal.axis < len(parts) else slice(None)
    if not all(isinstance(part, slice) for part in parts):
        step.refuse(layer, f"its index must be slices. It is {key}.")
    start, stop, stride = along_time.start or 0, along_time.stop or 0, along_time.step or 1
    if start < 0 or stop > 0 or stride < 0 or along_time.stop == 0:
        step.refuse(layer, f"its slice along time must count from both ends. It is {along_time}.")
    return moving_window(step, layer, signal, start - stop, stride, lambda x: x[key])


def up_sampling(step: Step, layer: Any, signal: Signal) -> Signal:
    """For repeated frames."""
    size = (layer.size,) if isinstance(layer.size, int) else layer.size
    times = size[spatial_index(step, layer, signal, len(size))]
    if times > 1 and getattr(layer, "interpolation", "nearest") != "nearest":
        step.refuse(layer, "it needs later frames. It must have interpolation='nearest'.")
    frames = signal.frames
    return step.map_frames(
        lambda x: step.call(layer, [x]),
        signal,
        pace=frames.pace.repeated(times),
        skip=frames.skip * times,
    )


def spatial_index(step: Step, layer: Any, signal: Signal, rank: int) -> int:
    """The index of the time axis among the spatial axes of a layer."""
    data_format = getattr(layer, "data_format", "channels_last")  # some have none in 1D
    first = 2 if data_format == "channels_first" else 1
    if signal.axis not in range(first, first + rank):
        step.refuse(
            layer,
            f"time, axis {signal.axis} of its input, is not a spatial axis with data_format="
            f"{data_format!r}. Check the `time_axis` argument.",
        )
    return signal.axis - first
