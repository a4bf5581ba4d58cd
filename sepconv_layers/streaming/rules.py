"""The streaming form of each kind of layer."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.blocks.base import Block, Chain, Walker
from sepconv_layers.class_table import by_class
from sepconv_layers.quantize.layers import FakeQuantize, FakeQuantizeKernel
from sepconv_layers.streaming.frames import Frames, Signal, slice_along, to_numpy
from sepconv_layers.streaming.step import Rule, Step, is_signal, tensors
from sepconv_layers.streaming.windows import (
    cropping,
    moving_window,
    slicing,
    spatial_index,
    up_sampling,
    window,
    with_past,
    zero_padding,
)


def _refusal(why: str) -> Rule:
    return lambda step, layer, *args: step.refuse(layer, why)


def _identity(step: Step, layer: Any, signal: Signal) -> Signal:
    return signal


def _each_frame(step: Step, layer: Any, *args: Any) -> Signal:
    """For layers that treat each frame independently, with one or several synchronized signals."""
    leaves = keras.tree.flatten(args)
    signals = [leaf for leaf in leaves if is_signal(leaf)]
    kinds = [_kind(signal) for signal in signals]
    if kinds.count(kinds[0]) != len(kinds):
        step.refuse(
            layer,
            "its inputs must have the same rank, time in the same axis and the same stride in "
            f"time, and begin with the same frame. Their timing is {kinds}, where None means that "
            "time is pooled.",
        )
    if any(not is_signal(leaf) and np.ndim(leaf) > 0 for leaf in leaves):
        step.refuse(
            layer, "an array among its inputs may have different values for different frames."
        )
    first, rank = signals[0], len(signals[0].tensor.shape)
    if first.axis in _axes(layer, rank):
        step.refuse(layer, f"it runs along axis {first.axis}, which is time.")
    outputs = step.call(layer, tensors(args))
    if first.lead is None:
        return first.replace(outputs)
    before = keras.tree.map_structure(lambda leaf: leaf.lead if is_signal(leaf) else leaf, args)
    return first.replace(outputs, lead=to_numpy(step.call(layer, before)))


def _kind(signal: Signal) -> tuple:
    """Equal for synchronized signals."""
    frames = signal.frames
    return len(signal.tensor.shape), frames.axis, frames.pace.stride, frames.skip, frames.pace.due


def _axes(layer: Any, rank: int) -> set[int]:
    """The axes along which a layer is not uniform."""
    axes: Any = -1 if isinstance(layer, keras.layers.Dense) else getattr(layer, "axis", None)
    if isinstance(layer, keras.layers.PReLU):
        axes = set(range(1, rank)).difference(layer.shared_axes or ())
    return {axis % rank for axis in ([axes] if isinstance(axes, int) else axes or ())}


def _embedding(step: Step, layer: Any, signal: Signal) -> Signal:
    if layer.mask_zero:
        step.refuse(layer, "it computes a mask, which is not passed on. Use mask_zero=False.")
    return _each_frame(step, layer, signal)


def _time_distributed(step: Step, layer: Any, signal: Signal) -> Signal:
    if signal.axis != 1:
        step.refuse(layer, f"it runs over axis 1, and time is axis {signal.axis}.")
    return _each_frame(step, layer, signal)


class _StreamWalker(Walker):
    """Adds the streaming form of a block to a step."""

    def __init__(self, step: Step, block: Block) -> None:
        self.step, self.block = step, block

    def run(self, chain: Chain, x: Signal) -> Signal:
        outputs = self.step.run_chain(chain, x)
        if outputs.tensor.dtype == self.block.compute_dtype:
            return outputs
        return self.step.map_frames(lambda x: keras.ops.cast(x, self.block.compute_dtype), outputs)

    def merge(self, function: Callable[..., Any], *values: Signal) -> Signal:
        first = values[0]
        if any(_kind(value) != _kind(first) for value in values):
            self.step.refuse(self.block, "its branches do not keep step.")
        lead = None
        if first.lead is not None:
            lead = to_numpy(function(*(value.lead for value in values)))
        return first.replace(function(*(value.tensor for value in values)), lead=lead)

    def window(
        self,
        function: Callable[[Any], Any],
        x: Signal,
        reach: Sequence[int],
        strides: Sequence[int],
    ) -> Signal:
        index = spatial_index(self.step, self.block, x, self.block.rank)
        return moving_window(self.step, self.block, x, reach[index], strides[index], function)


def _block(step: Step, block: Block, signal: Signal) -> Signal:
    return block.walk(signal, block.chains(), _StreamWalker(step, block))


def _recurrent(step: Step, layer: Any, signal: Signal) -> Signal:
    """For recurrent layers: their states become states of the step."""
    if signal.axis != 1 or layer.go_backwards or layer.stateful:
        step.refuse(
            layer, "it must run forwards over axis 1, as time, with go_backwards=stateful=False."
        )
    changes = {"return_state": True, "unroll": signal.tensor.shape[1] is not None}
    # The last output must not depend on frames that are not due.
    is_frame = step.is_frame(signal, in_chunk=not layer.return_sequences)
    lead: np.ndarray | None = None
    first: Sequence[np.ndarray | None] = [None, None]
    if signal.lead is not None:
        made = list(map(to_numpy, step.call(layer, [signal.lead], **changes)))
        lead, first = made[0], made[1:]
    shapes = [state.shape for state in keras.tree.flatten(layer.get_initial_state(1))]
    states = [
        step.add_state(layer, (signal.tensor.shape[0], *shape[1:]), layer.compute_dtype, before)
        for shape, before in zip(shapes, first, strict=False)
    ]
    how = {"initial_state": states} | ({} if is_frame is None else {"mask": is_frame[..., 0]})
    outputs, *new = step.call(layer, [signal.tensor], how, **changes)
    if is_frame is not None:
        outputs = keras.ops.copy(outputs)  # without the mask that Keras attached for later layers
    step.set_next_states(*new)
    if layer.return_sequences:
        return signal.replace(outputs, lead=lead)
    return Signal(new[0], _results_so_far(signal))


def _results_so_far(signal: Signal) -> Frames:
    """The timing of results that are pooled over time, one after each input frame."""
    return Frames(None, skip=max(signal.frames.first - 1, 0))


def _pooled(
    step: Step, layer: Any, signal: Signal, pool: Rule, join: Rule, neutral: float
) -> Signal:
    """For global pooling: the states are the result so far and the number of positions."""
    rank = len(signal.tensor.shape) - 2
    spatial_index(step, layer, signal, rank)
    if step.pool_window is not None:
        return _pooled_window(step, layer, signal, step.pool_window)
    first, channels = (2, 1) if layer.data_format == "channels_first" else (1, -1)
    over = {"axis": tuple(range(first, first + rank)), "keepdims": layer.keepdims}
    # Half precision cannot count to 2049.
    dtype = keras.backend.result_type(signal.tensor.dtype, "float32")

    def result_and_number(x: Any, is_frame: Any = None) -> tuple[Any, Any]:
        x = keras.ops.cast(x, dtype)
        ones = keras.ops.ones_like(keras.ops.max(x, channels, True))
        if is_frame is not None:
            x = keras.ops.where(is_frame, x, neutral)
            ones = keras.ops.where(is_frame, ones, 0.0)
        return pool(x, **over), keras.ops.sum(ones, **over)

    is_frame = step.is_frame(signal, in_chunk=True)
    now, now_number = result_and_number(signal.tensor, is_frame)
    earlier: tuple = None, None
    if signal.lead is not None:
        result, number = map(to_numpy, result_and_number(signal.lead))
        earlier = result / number if join is _running_average else result, number
    before = step.add_state(layer, now.shape, dtype, earlier[0])
    number = step.add_state(layer, now_number.shape, dtype, earlier[1])
    result, total = join(before, number, now, now_number), number + now_number
    if is_frame is not None:
        result = keras.ops.where(total > 0, result, 0.0)
    step.set_next_states(result, total)
    if signal.rounding is not None and join is _running_average:
        # The output is rounded, and the state must not be. So they are two tensors.
        result = (before * number + now) / keras.ops.maximum(total, 1.0)
    return Signal(keras.ops.cast(result, layer.compute_dtype), _results_so_far(signal))


def _pooled_window(step: Step, layer: Any, signal: Signal, pool_window: int) -> Signal:
    """For global pooling of the frames that come from the last `pool_window` input frames."""
    axis, now = signal.axis, signal.tensor.shape[signal.axis]
    length = signal.frames.pace.after(pool_window) - signal.frames.skip
    if length < 1:
        step.refuse(
            layer,
            f"it has no frame after pool_window={pool_window} input frames. Use a larger one.",
        )
    x = with_past(step, layer, signal, length - now) if length > now else signal.tensor
    pooled = step.call(layer, [x[slice_along(axis, now - length)] if length < now else x])
    return Signal(pooled, Frames(None, skip=pool_window - 1))


def _running_average(before: Any, number: Any, now: Any, more: Any) -> Any:
    # A running average stays exact where a sum would exceed the range of its dtype.
    return before + (now - before * more) / (number + more)


def _running_maximum(before: Any, number: Any, now: Any, more: Any) -> Any:
    return keras.ops.where(number > 0, keras.ops.maximum(before, now), now)


def _fake_quantized(step: Step, layer: FakeQuantize, signal: Signal) -> Signal:
    return _each_frame(step, layer, signal).rounded(layer)


def _fake_quantized_kernel(step: Step, layer: FakeQuantizeKernel, signal: Signal) -> Signal:
    inner = step.with_rounded_kernel(layer)
    return rule_of(step, inner, [signal], {})(step, inner, signal)


def _permute(step: Step, layer: Any, signal: Signal) -> Signal:
    axis = 1 + layer.dims.index(signal.axis)
    return step.map_frames(_calling(step, layer), signal, axis=axis)


def _reshape(step: Step, layer: Any, signal: Signal) -> Signal:
    """For a reshape that keeps time as an axis of its own, between the same sizes."""
    source, target = signal.tensor.shape[1:], layer.target_shape
    before, after = source[: signal.axis - 1], source[signal.axis :]
    for index in range(len(target)):
        parts = (target[:index], before), (target[index + 1 :], after)
        if all(_are_as_many(new, old) for new, old in parts):
            shape = (*target[:index], -1, *target[index + 1 :])
            return step.map_frames(
                _calling(step, layer, target_shape=shape), signal, axis=1 + index
            )
    step.refuse(
        layer,
        "it mixes time with other axes, or another size than the number of frames is unknown. It "
        f"reshapes {tuple(source)} to {tuple(target)}, where axis {signal.axis - 1} is time.",
    )


def _calling(step: Step, layer: Any, **changes: Any) -> Callable[[Any], Any]:
    return lambda x: step.call(layer, [x], **changes)


def _are_as_many(new: Sequence[int], old: Sequence[Any]) -> bool:
    return -1 not in new and None not in old and math.prod(new) == math.prod(old)


RULES: dict[str, Rule] = {
    "Conv?D DepthwiseConv?D SeparableConv?D": window,
    "AveragePooling?D MaxPooling?D": window,
    "GlobalAveragePooling?D": functools.partial(
        _pooled, pool=keras.ops.sum, join=_running_average, neutral=0.0
    ),
    "GlobalMaxPooling?D": functools.partial(
        _pooled, pool=keras.ops.max, join=_running_maximum, neutral=-math.inf
    ),
    "Activation ELU LeakyReLU PReLU ReLU Softmax": _each_frame,
    "BatchNormalization LayerNormalization RMSNormalization UnitNormalization": _each_frame,
    "Add Average Concatenate Maximum Minimum Multiply Subtract": _each_frame,
    "Dense Normalization Rescaling": _each_frame,
    "Embedding": _embedding,
    "TimeDistributed": _time_distributed,
    "ZeroPadding?D": zero_padding,
    "Cropping?D": cropping,
    "UpSampling?D": up_sampling,
    "GRU LSTM SimpleRNN": _recurrent,
    "Permute": _permute,
    "Reshape": _reshape,
    "ActivityRegularization *Dropout SpatialDropout?D DropPath GaussianNoise Identity": _identity,
    "SqueezeExcite?D": _refusal(
        "its gates come from an average over all time. Use se_ratio=0, or leave it out."
    ),
    "GroupNormalization": _refusal(
        "it normalizes over all time. Use normalization='batch' or 'layer'."
    ),
    "Flatten": _refusal("it mixes time with the channels. Use a global pooling."),
    "*Conv?DTranspose": _refusal("it adds up the outputs of several frames."),
    "Bidirectional ConvLSTM?D RNN": _refusal(
        "it is recurrent, with states of its own. Use LSTM, GRU or causal convolutions."
    ),
    "*Attention": _refusal("it attends to all frames at once. Use causal convolutions."),
}
"""Rules by names, or patterns of names, of the layers of Keras and of this package.

A subclass has the rule of its nearest base class, unless it overrides `call`. After a global
pooling, which removes time, any layer is supported.
"""

_RULES_BY_CLASS: dict[type, Rule] = {
    Block: _block,
    FakeQuantize: _fake_quantized,
    FakeQuantizeKernel: _fake_quantized_kernel,
    **by_class(RULES),
}

# The operations that `keras.ops` and Python operators add to a functional model: classes without
# a public name. These treat all positions alike, or have an `axis`.
_OPERATIONS = set(
    "Abs Absolute Add Cast Concatenate Divide Elu Exp Gelu HardSigmoid HardSilu LeakyRelu Log1p "
    "Maximum Minimum Multiply Negative Relu Relu6 Sigmoid Silu Softplus Sqrt Square Subtract Tanh "
    "TrueDivide".split()
)
_ALONG_THE_LAST_AXIS = (
    keras.activations.glu,
    keras.activations.log_softmax,
    keras.activations.softmax,
    keras.activations.sparsemax,
)


def rule_of(step: Step, layer: Any, signals: Sequence[Signal], kwargs: dict) -> Rule:
    """Returns the rule for a layer with at least one input over time."""
    given = [name for name, value in kwargs.items() if value is not None and value is not False]
    if given:
        step.refuse(layer, f"it is called with the arguments {given}.")
    is_last = any(signal.axis == len(signal.tensor.shape) - 1 for signal in signals)
    if is_last and getattr(layer, "activation", None) in _ALONG_THE_LAST_AXIS:
        step.refuse(layer, "its activation runs along the last axis, which is time.")
    cls: Any = type(layer)
    if cls.__module__.startswith("keras.src.ops."):
        if cls.__name__ in _OPERATIONS:
            return _each_frame
        if cls.__name__ == "GetItem":
            return slicing
    for base in cls.__mro__:
        if base in _RULES_BY_CLASS and cls.call is base.call:
            return _RULES_BY_CLASS[base]
    return _refusal(
        "there is no rule for it. Use layers in `streaming.RULES`, or put it after a global "
        "pooling."
    )
