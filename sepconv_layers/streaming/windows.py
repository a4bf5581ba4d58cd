"""Rules for layers that move along time: kernels, pools, padding, cropping and upsampling."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.streaming.frames import Signal, along, array_of
from sepconv_layers.streaming.step import Step


def window(step: Step, layer: Any, signal: Signal) -> Signal:
    """For kernels and pools that move along time: the state is the past frames they need."""
    size = getattr(layer, "kernel_size", None) or layer.pool_size
    dilation_rate = getattr(layer, "dilation_rate", (1,) * len(size))
    index = spatial_index(step, layer, signal, len(size))
    extent, stride = (size[index] - 1) * dilation_rate[index], layer.strides[index]
    if extent == 0:
        return moved(step, layer, signal, 0, stride, lambda x: step.call(layer, [x]))
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
        widths[index] = (0, 0)  # the state is what stands there
        if any(map(any, widths)):
            first = signal.axis - index
            pad_width: list[tuple[int, int]] = [(0, 0)] * len(frames.shape)
            pad_width[first : first + len(size)] = widths
            frames = keras.ops.pad(frames, pad_width)
        return step.call(layer, [frames], padding="valid")

    if layer.padding == "causal":
        signal = behind_zeros(step, layer, signal, extent)
    return moved(step, layer, signal, extent, stride, unpadded)


def moved(
    step: Step,
    layer: Any,
    signal: Signal,
    extent: int,
    stride: int,
    function: Callable[[Any], Any],
) -> Signal:
    """Applies a function of windows of `extent + 1` frames, without padding.

    The first window of the original model begins with its first frame, and this says which frames
    of a chunk the windows end with: one, and each `stride`-th one behind it.
    """
    frames, axis = signal.frames, signal.axis
    skip, phase = divmod(frames.skip + extent, stride)
    needed = max(extent - phase, 0)
    x = _with_past(step, layer, signal, needed) if needed else signal.tensor
    if phase and signal.tensor.shape[axis] is None:
        # A chunk may end before its last window does: what that gives is not due, but is there.
        rank = len(x.shape)
        x = keras.ops.pad(x, [(0, phase if n == axis else 0) for n in range(rank)])
    if phase > extent:
        x = x[along(axis, phase - extent)]
    lead = frames.lead if skip < 0 else None
    return signal.replace(
        function(x),
        pace=frames.pace.strided(stride, phase),
        skip=skip,
        lead=lead if lead is None else array_of(function(lead)),
    )


def _with_past(step: Step, layer: Any, signal: Signal, length: int) -> Any:
    """The frames of a chunk, preceded by `length` past frames."""
    frames, axis, lead = signal.tensor, signal.axis, signal.lead
    shape = [length if n == axis else size for n, size in enumerate(frames.shape)]
    if lead is not None:
        lead = lead[along(axis, -length)]
        missing = length - lead.shape[axis]
        lead = np.pad(lead, [(missing if n == axis else 0, 0) for n in range(lead.ndim)])
    state = step.add_state(layer, shape, frames.dtype, lead)
    frames = keras.ops.concatenate([state, frames], axis)
    step.hand_on(frames[along(axis, -length)])
    return frames


def behind_zeros(step: Step, layer: Any, signal: Signal, number: int) -> Signal:
    """Puts `number` zeros before the first frame."""
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
                f"what it puts before the first frame has the shape {tuple(shape)}, with sizes "
                "that are not known. Give the input of the model all sizes but those of batch and "
                "time.",
            )
        lead = array_of(keras.ops.zeros(shape, signal.tensor.dtype))
        if signal.lead is not None:
            lead = np.concatenate([lead, signal.lead], signal.axis)
    return signal.replace(step.only_frames(signal), skip=skip, lead=lead)


def zero_padding(step: Step, layer: Any, signal: Signal) -> Signal:
    """For zeros before the first frame, and anywhere along other axes."""
    (before, after), signal = _widths(step, layer, signal, "padding")
    if after:
        step.refuse(
            layer,
            f"it puts {after} zeros behind the last frame, and none is known to be the last. Pad "
            f"before the first frame only: it has padding={layer.padding}.",
        )
    return behind_zeros(step, layer, signal, before)


def cropping(step: Step, layer: Any, signal: Signal) -> Signal:
    """Frames at the beginning are skipped; each one waits until it is none of the last."""
    (before, after), signal = _widths(step, layer, signal, "cropping")
    axis, skip = signal.axis, signal.frames.skip + before
    lead = signal.lead[along(axis, before)] if signal.lead is not None and skip < 0 else None
    signal = signal.replace(signal.tensor, skip=skip, lead=lead)
    if after == 0:
        return signal
    return moved(step, layer, signal, after, 1, lambda x: x[along(axis, None, -after)])


def _widths(step: Step, layer: Any, signal: Signal, name: str) -> tuple[tuple[int, int], Signal]:
    """A layer's widths along time, and the signal with the layer applied along other axes."""
    value = getattr(layer, name)
    widths = [value] if isinstance(value[0], int) else list(value)
    index = spatial_index(step, layer, signal, len(widths))
    along_time, widths[index] = widths[index], (0, 0)
    if any(map(any, widths)):  # so there are several
        change = {name: tuple(widths)}
        signal = step.each(lambda x: step.call(layer, [x], **change), signal)
    return along_time, signal


def up_sampling(step: Step, layer: Any, signal: Signal) -> Signal:
    """For repeated frames."""
    size = (layer.size,) if isinstance(layer.size, int) else layer.size
    times = size[spatial_index(step, layer, signal, len(size))]
    if times > 1 and getattr(layer, "interpolation", "nearest") != "nearest":
        step.refuse(layer, "it needs later frames. It must have interpolation='nearest'.")
    frames = signal.frames
    return step.each(
        lambda x: step.call(layer, [x]),
        signal,
        pace=frames.pace.repeated(times),
        skip=frames.skip * times,
    )


def spatial_index(step: Step, layer: Any, signal: Signal, rank: int) -> int:
    """Which of the spatial axes of a layer is time."""
    data_format = getattr(layer, "data_format", "channels_last")  # some have none in 1D
    first = 2 if data_format == "channels_first" else 1
    if signal.axis not in range(first, first + rank):
        step.refuse(
            layer,
            f"time, axis {signal.axis} of its input, is no spatial axis with data_format="
            f"{data_format!r}. Check the `time_axis` argument.",
        )
    return signal.axis - first
