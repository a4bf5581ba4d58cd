"""A streaming model, and the stream that feeds it chunks of any length."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import positive_int
from sepconv_layers.streaming.frames import Frames, along


@dataclasses.dataclass(frozen=True)
class Streaming:
    """A model that takes one chunk of its input at a time, and the states between chunks.

    The model is a functional one, to save and to export like any other. Its inputs are the list
    `[chunk, state_0, state_1, ...]`, its outputs the list `[*outputs, new_state_0, new_state_1,
    ...]`: those of the original model for the frames of the chunk, and what to pass as the states
    together with the next chunk.

    Attributes:
        model: The model of one step.
        stride: Input frames for each frame where time is coarsest. The length of each chunk but
            the last must be a multiple of it; `stream` takes any.
        time_axis: The axis of the input that is time.
        outputs: For each output, which of its frames are frames of the original model.
    """

    model: keras.Model
    stride: int
    time_axis: int
    outputs: tuple[Frames, ...]

    @property
    def output_axes(self) -> tuple[int | None, ...]:
        """For each output the axis that is time, or `None` where time is pooled."""
        return tuple(output.axis for output in self.outputs)

    @property
    def output_strides(self) -> tuple[int | Fraction, ...]:
        """For each output the number of input frames for each of its frames."""
        return tuple(output.pace.stride for output in self.outputs)

    def initial_states(self, batch_size: int = 1) -> list[np.ndarray]:
        """The states before the first chunk: all of them zeros.

        Args:
            batch_size: Number of inputs that run side by side.

        Returns:
            An array for each input of the model but the first.

        Raises:
            ValueError: If `batch_size` is not a positive integer.
        """
        batch_size = positive_int(batch_size, "batch_size")
        return [
            np.zeros((batch_size, *state.shape[1:]), keras.backend.standardize_dtype(state.dtype))
            for state in self.model.inputs[1:]
        ]

    def stream(self, batch_size: int = 1) -> "Stream":
        """Begins a stream that takes chunks of any length.

        Args:
            batch_size: Number of inputs that run side by side.

        Returns:
            A `Stream`.

        Raises:
            ValueError: If `batch_size` is not a positive integer, or the model takes chunks of one
                length only.
        """
        return Stream(self, batch_size)


class Stream:
    """Feeds chunks of any length to a streaming model and keeps its states.

    After each call, the outputs of all calls together are what the original model gives for all
    frames so far. Where time has strides, an output is due with the first of its frames; the frames
    after the last multiple of the stride are kept, and run again with the next chunk. This is the
    convenient form, and runs layer by layer: a device loops over the exported model instead.

    Args:
        streaming: What `to_streaming` returns for `chunk_size=None`.
        batch_size: Number of inputs that run side by side.

    Raises:
        ValueError: If `batch_size` is not a positive integer, the model takes chunks of one length
            only, or a chunk does not fit.

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
                "A stream of chunks of any length needs a model that takes them. Received: a model "
                f"for chunks of {length} frames. Use `to_streaming(model, chunk_size=None)`."
            )
        self.streaming = streaming
        self._states = streaming.initial_states(batch_size)
        self._shape = (batch_size, *frames.shape[1:])
        self._dtype = keras.backend.standardize_dtype(frames.dtype)
        self._rest: list[np.ndarray] = []  # what came after the last multiple of the stride
        self._run, self._known = 0, 0  # frames up to it, and all of them

    def __call__(self, chunk: Any) -> Any:
        """Returns the outputs that are new, as a NumPy array, or as a list of several.

        Along time an output may be empty. An output that is pooled over time is the one for all
        frames so far, and not a number while there is none.
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
        for rest in self._rest:  # without its states, as it will come again
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
        """What the frames between two numbers of known ones add to an output."""
        axis, pace, skip = output.axis, output.pace, output.skip
        if axis is None:
            is_there = known >= output.first
            return parts[-1] if is_there else np.full_like(parts[-1], np.nan)
        made = pace.after(self._run)
        first, last = max(pace.after(before), skip), max(pace.after(known), skip)
        new = np.concatenate(parts, axis)[along(axis, max(first, made) - made, last - made)]
        if output.lead is None or before:
            return new
        lead = np.repeat(output.lead, len(new), 0)
        return np.concatenate([lead, new], axis)

    def _step(self, frames: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # Keras takes a list of one array for the array.
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
