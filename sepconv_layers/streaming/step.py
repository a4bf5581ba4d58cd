"""Builds the model of one step: its graph and its states."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import keras
import numpy as np

from sepconv_layers.graph_edit import clone_layer, is_graph
from sepconv_layers.quantize.layers import FakeQuantize, FakeQuantizeKernel
from sepconv_layers.quantize.rules import Kind, kind_of
from sepconv_layers.streaming.frames import Frames, Signal, to_numpy
from sepconv_layers.streaming.stream import STATE

# The streaming form of a layer call: a function of the step, the layer and its arguments, with
# signals in place of tensors, that returns a signal.
Rule = Callable[..., Any]


class Step:
    """The graph of one step, under construction.

    Args:
        chunk: The symbolic tensor of a chunk.
        time_axis: Its time axis.
        rule_of: Returns the rule for a layer with at least one input over time.
        pool_window: Number of input frames that global pooling is over, or `None` for all so far.
    """

    def __init__(
        self,
        chunk: Any,
        time_axis: int,
        rule_of: Callable[..., Rule],
        pool_window: int | None = None,
    ) -> None:
        self.pool_window = pool_window
        self.chunk = Signal(chunk, Frames(time_axis))
        self.stride = 1
        self.states: list[Any] = []
        self.new_states: list[Any] = []
        self._waiting: list[int] = []  # states without a next value so far
        self._rule_of = rule_of
        self._seen: Any = None
        self._seen_at = 0
        self._count_until = 1
        self._path: list[str] = []
        self._names: set[str] = set()
        self._copies: dict[tuple, Any] = {}
        self._weight_bits: dict[int, int] = {}  # by the ids of layers with rounded kernels

    def run(self, model: keras.Model, signals: Sequence[Signal]) -> Any:
        """Walks a model."""
        if isinstance(model, keras.Sequential):
            return self.run_chain(model.layers, *signals)
        return model._run_through_graph(signals, operation_fn=lambda layer: partial(self, layer))

    def run_chain(self, chain: Sequence[keras.layers.Layer], signal: Signal) -> Any:
        """Walks a chain of layers."""
        for layer in chain:
            signal = self(layer, signal)
        return signal

    def __call__(self, layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Adds the streaming form of a call of the layer."""
        self._path.append(layer.name)
        signals = [leaf for leaf in keras.tree.flatten((args, kwargs)) if is_signal(leaf)]
        if is_graph(layer):
            result = self.run(layer, signals)
        elif all(signal.axis is None for signal in signals):
            skip = max((signal.frames.skip for signal in signals), default=0)
            made = self.call(layer, tensors(args), tensors(kwargs))
            result = keras.tree.map_structure(
                lambda tensor: Signal(tensor, Frames(None, skip=skip)), made
            )
        else:
            result = self._rule_of(self, layer, signals, kwargs)(self, layer, *args)
            self.stride = math.lcm(self.stride, result.frames.pace.period)
            if not (isinstance(layer, FakeQuantize) or kind_of(layer) is Kind.PASSING):
                result = result.rounded(None)
        self._path.pop()
        return result

    def call(self, layer: Any, args: Sequence[Any], kwargs: Any = None, **changes: Any) -> Any:
        """Calls a copy of the layer with `changes`. A shared layer has one copy."""
        key = (id(layer), *changes.items())
        is_new = key not in self._copies
        if is_new:
            # Keras generates no name with this prefix, so the names are unique.
            name = wanted = "_".join(["stream", *self._path])
            while name in self._names:
                name = f"{wanted}_{len(self._names)}"
            self._names.add(name)
            new = clone_layer(layer, name=name, **changes)
            bits = self._weight_bits.get(id(layer))
            self._copies[key] = FakeQuantizeKernel(new, bits) if bits else new
        copy = self._copies[key]
        outputs = copy(*args, **(kwargs or {}))
        if is_new and isinstance(layer, keras.layers.Layer):
            copy.set_weights(layer.get_weights())  # the call has built it
            if isinstance(layer, keras.layers.Normalization):
                copy.finalize_state()  # it computes with values derived from its weights
            if not any(map(keras.backend.is_keras_tensor, keras.tree.flatten(outputs))):
                return copy(*args, **(kwargs or {}))
        return outputs

    def map_frames(self, function: Callable[[Any], Any], signal: Signal, **changes: Any) -> Signal:
        """Applies a function to each frame, including those before the first one."""
        made = function(signal.tensor)
        lead = None if signal.lead is None else to_numpy(function(signal.lead))
        return signal.replace(made, **{"lead": lead, **changes})

    # Fake quantization.

    def with_rounded_kernel(self, layer: FakeQuantizeKernel) -> Any:
        """The layer inside, whose copies will have rounded kernels too."""
        self._weight_bits[id(layer.layer)] = layer.bits
        return layer.layer

    def rounded(self, signal: Signal, tensor: Any) -> Any:
        """Rounds a tensor of the values of a signal as the signal is.

        The values do not change, but an int8 file needs to know the scale of all its tensors.
        """
        return tensor if signal.rounding is None else self.call(signal.rounding, [tensor])

    # States.

    def add_state(
        self, layer: Any, shape: Sequence[int | None], dtype: str, first: np.ndarray | None = None
    ) -> Any:
        """Adds a state. Its next value must be set with `set_next_states`.

        Args:
            layer: The layer that needs the state.
            shape: Shape of the state.
            dtype: Dtype of the state.
            first: Value to use in the first step, in place of the initial zeros.
        """
        if None in shape[1:]:
            self.refuse(
                layer,
                f"its state has the shape {tuple(shape)}, with unknown sizes. Specify all sizes of "
                "the model input except batch and time.",
            )
        name = f"{STATE}{len(self.states)}"
        state = keras.Input(batch_shape=shape, dtype=dtype, name=name)
        self._waiting.append(len(self.states))
        self.states.append(state)
        self.new_states.append(None)
        if first is None or not np.any(first):
            return state
        seen = keras.ops.reshape(self.seen(), (-1, *(1,) * (len(shape) - 1)))
        return keras.ops.where(seen > 0, state, keras.ops.convert_to_tensor(first, dtype))

    def set_next_states(self, *values: Any) -> None:
        """Sets the next values of the states, in the order in which they were added."""
        for value in values:
            self.new_states[self._waiting.pop(0)] = value

    def seen(self) -> Any:
        """The number of input frames before this chunk, for each sequence.

        It is a state like any other, and saturates at the largest number that matters.
        """
        if self._seen is None:
            self._seen_at = len(self.states)
            self._seen = self.add_state(None, (self.chunk.tensor.shape[0], 1), "int32")
            self._waiting.remove(self._seen_at)  # `finish` sets its next value
        return self._seen

    def finish(self) -> None:
        """Completes the states. Nothing can be added afterwards."""
        if self._seen is None:
            return
        known = positions(self.chunk.tensor, self.chunk.axis)[:, -1:]
        most = -(-self._count_until // self.stride) * self.stride
        self.new_states[self._seen_at] = keras.ops.minimum(self._seen + known, most)

    # Frames that the original model does not have.

    def is_frame(self, signal: Signal, in_chunk: bool = False) -> Any:
        """Mask of the frames that the original model has, or `None` if it has all of them.

        Args:
            signal: The signal.
            in_chunk: Whether to exclude frames that need input after the chunk.
        """
        pace, skip = signal.frames.pace, signal.frames.skip
        waits = in_chunk and self.chunk.tensor.shape[self.chunk.axis] is None
        waits = waits and pace.due != pace.made
        if skip <= 0 and not waits:
            return None
        number = positions(signal.tensor, signal.axis)  # 1, 2, ... for each sequence
        tests = []
        if skip > 0:
            self._count_until = max(self._count_until, -(-skip // pace.due[-1]) * pace.period)
            tests.append(self.seen() * pace.due[-1] + number * pace.period > skip * pace.period)
        if waits:
            length = positions(self.chunk.tensor, self.chunk.axis)[:, -1:]
            periods = length // pace.period
            due = keras.ops.take(np.array(pace.due, "int32"), length - periods * pace.period)
            tests.append(number <= due + periods * pace.due[-1])
        found = tests[0] if len(tests) == 1 else keras.ops.logical_and(*tests)
        for axis in range(1, len(signal.tensor.shape)):
            found = found if axis == signal.axis else keras.ops.expand_dims(found, axis)
        return found

    def mask_frames(self, signal: Signal, fill: float = 0, in_chunk: bool = False) -> Any:
        """The tensor of a signal, with `fill` in frames that the original model does not have."""
        found = self.is_frame(signal, in_chunk)
        if found is None:
            return signal.tensor
        masked = keras.ops.where(found, signal.tensor, keras.ops.cast(fill, signal.tensor.dtype))
        return self.rounded(signal, masked)

    def refuse(self, layer: keras.Operation, why: str) -> NoReturn:
        raise ValueError(
            "To run in chunks, a layer must not need later frames. Received: the layer "
            f"{'/'.join(self._path)!r} ({type(layer).__name__}): {why}"
        )


def positions(tensor: Any, axis: int) -> Any:
    """Frame numbers from one on, of shape `(batch, frames)`, or `(1, frames)` if it is known."""
    frames = tensor.shape[axis]
    if frames is not None:
        return keras.ops.expand_dims(keras.ops.arange(1, frames + 1, dtype="int32"), 0)
    at = tuple(slice(None) if n in (0, axis) else 0 for n in range(len(tensor.shape)))
    return keras.ops.cumsum(keras.ops.ones_like(tensor[at], dtype="int32"), axis=1)


def is_signal(leaf: Any) -> bool:
    """Whether a leaf is a signal, as opposed to an array or a number."""
    return isinstance(leaf, Signal)


def tensors(structure: Any) -> Any:
    """Replaces the signals of a structure with their tensors."""
    return keras.tree.map_structure(
        lambda leaf: leaf.tensor if is_signal(leaf) else leaf, structure
    )
