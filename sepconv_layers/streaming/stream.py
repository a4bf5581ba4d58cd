"""A streaming model, and a stream that feeds it chunks of any length."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import positive_int
from sepconv_layers.streaming.frames import Frames, slice_along

STATE, NEW = "state_", "new_"  # begin the names of inputs that are states, and of their next values


def state_names(model: keras.Model) -> dict[str, str]:
    """Returns the states of the model of a step: the names of each input and of its next value."""
    names = [tensor.name for tensor in model.inputs]
    pairs = {name: f"{NEW}{name}" for name in names if name.startswith(STATE)}
    outputs = {tensor._keras_history.operation.name for tensor in model.outputs}
    return {name: new for name, new in pairs.items() if new in outputs}


@dataclasses.dataclass(frozen=True)
class Streaming:
    """A model that takes one chunk of its input at a time, with explicit states.

    The model is functional, to save and to export like any other. Its inputs are the list
    `[chunk, state_0, state_1, ...]`. Its outputs are the list `[*outputs, new_state_0, new_state_1,
    ...]`: the outputs of the original model for the frames of the chunk, and the states to pass in
    with the next chunk.

    Attributes:
        model: The model of one step.
        stride: Largest stride of the model in time. The length of every chunk except the last must
            be a multiple of it. `stream` takes chunks of any length.
        time_axis: The time axis of the input.
        outputs: For each output, which of its frames are frames of the original model.
    """

    model: keras.Model
    stride: int
    time_axis: int
    outputs: tuple[Frames, ...]

    @property
    def output_axes(self) -> tuple[int | None, ...]:
        """The time axis of each output, or `None` if time is pooled."""
        return tuple(output.axis for output in self.outputs)

    @property
    def output_strides(self) -> tuple[int | Fraction, ...]:
        """The number of input frames per frame of each output."""
        return tuple(output.pace.stride for output in self.outputs)

    def initial_states(self, batch_size: int = 1) -> list[np.ndarray]:
        """Returns the states before the first chunk, which are zeros.

        Args:
            batch_size: Number of sequences in a batch.

        Returns:
            An array for each input of the model except the first.

        Raises:
            ValueError: If `batch_size` is not a positive integer.
        """
        batch_size = positive_int(batch_size, "batch_size")
        return [
            np.zeros((batch_size, *state.shape[1:]), keras.backend.standardize_dtype(state.dtype))
            for state in self.model.inputs[1:]
        ]

    def stream(self, batch_size: int = 1) -> "Stream":
        """Returns a stream that takes chunks of any length.

        Args:
            batch_size: Number of sequences in a batch.

        Returns:
            A `Stream`.

        Raises:
            ValueError: If `batch_size` is not a positive integer, or the model has a fixed chunk
                size.
        """
        return Stream(self, batch_size)


class Stream:
    """Feeds chunks of any length to a streaming model and keeps its states.

    The concatenated outputs of all calls equal the output of the original model for all frames so
    far. With strides in time, frames after the last multiple of the stride are kept and run again
    with the next chunk, so that an output is available as soon as it is due. This form is
    convenient, and runs layer by layer. On a device, loop over the exported model instead.

    Args:
        streaming: The result of `to_streaming` with `chunk_size=None`.
        batch_size: Number of sequences in a batch.

    Raises:
        ValueError: If `batch_size` is not a positive integer, the model has a fixed chunk size, or
            a chunk has the wrong shape.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import SeparableConvBlock1D, streaming
        >>> model = keras.Sequential(
        ...     [keras.Input((None, 3)), SeparableConvBlock1D(4, strides=2, padding="causal")]
        ... )
        >>> stream = streaming.to_streaming(model).stream()
        >>> [stream(np.ones((1, frames, 3))).shape[1] for frames in (1, 1, 5)]
        [1, 0, 3]
    """

    def __init__(self, streaming: Streaming, batch_size: int = 1) -> None:
        frames = streaming.model.inputs[0]
        length = frames.shape[streaming.time_axis]
        if length is not None:
            raise ValueError(
                "A stream needs a model that takes chunks of any length. Received: a model for "
                f"chunks of {length} frames. Use `to_streaming(model, chunk_size=None)`."
            )
        self.streaming = streaming
        self._states = streaming.initial_states(batch_size)
        self._shape = (batch_size, *frames.shape[1:])
        self._dtype = keras.backend.standardize_dtype(frames.dtype)
        self._rest: list[np.ndarray] = []  # frames after the last multiple of the stride
        self._run, self._known = 0, 0  # number of frames up to it, and of all frames

    def __call__(self, chunk: Any) -> Any:
        """Returns the new outputs as a NumPy array, or as a list if there are several.

        An output over time may have no new frames. An output that is pooled over time is the
        result for all frames so far, and NaN before the first frame.
        """
        axis, stride = self.streaming.time_axis, self.streaming.stride
        frames = np.concatenate([*self._rest, self._check(chunk)], axis)
        whole = frames.shape[axis] - frames.shape[axis] % stride
        now, rest = np.split(frames, [whole], axis)
        self._rest = [rest] if rest.shape[axis] else []
        steps = []
        if now.shape[axis]:
            outputs, self._states = self._step(now)
            steps.append(outputs)
        for rest in self._rest:  # without its states, as these frames run again
            outputs, _ = self._step(rest)
            steps.append(outputs)
        before, known = self._known, self._run + frames.shape[axis]
        new = [
            self._new(parts, output, before, known)
            for parts, output in zip(zip(*steps, strict=True), self.streaming.outputs, strict=True)
        ]
        self._known, self._run = known, self._run + whole
        return new[0] if len(new) == 1 else new

    def _new(
        self, parts: Sequence[np.ndarray], output: Frames, before: int, known: int
    ) -> np.ndarray:
        """The frames of an output that are due between two numbers of input frames."""
        axis, pace, skip = output.axis, output.pace, output.skip
        if axis is None:
            is_there = known >= output.first
            return parts[-1] if is_there else np.full_like(parts[-1], np.nan)
        made = pace.after(self._run)
        first, last = max(pace.after(before), skip), max(pace.after(known), skip)
        new = np.concatenate(parts, axis)[slice_along(axis, max(first, made) - made, last - made)]
        if output.lead is None or before:
            return new
        lead = np.repeat(output.lead, len(new), 0)
        return np.concatenate([lead, new], axis)

    def _step(self, frames: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # Keras treats a list of one array as the array.
        inputs = [keras.ops.convert_to_tensor(array) for array in (frames, *self._states)]
        results = keras.tree.flatten(self.streaming.model(inputs, training=False))
        arrays = [keras.ops.convert_to_numpy(result) for result in results]
        outputs = len(self.streaming.outputs)
        return arrays[:outputs], arrays[outputs:]

    def _check(self, chunk: Any) -> np.ndarray:
        chunk = np.asarray(chunk, self._dtype)
        sizes = zip(chunk.shape, self._shape, strict=False)
        fits = chunk.ndim == len(self._shape) and all(b in (None, a) for a, b in sizes)
        if not fits or 0 in chunk.shape:
            raise ValueError(
                f"A chunk must have the shape {self._shape}, with one frame or more along axis "
                f"{self.streaming.time_axis}. Received: chunk.shape={chunk.shape}"
            )
        return chunk
