"""The timing of signals: which frames of a tensor are available after each chunk of the input."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Pace:
    """The number of frames of a signal for each number of input frames.

    Attributes:
        due: Number of frames due after 0, 1, 2, ... input frames, for one period; then it repeats.
            A frame is due with the last input frame that it depends on.
        made: Number of frames that a step computes from a chunk of 0, 1, 2, ... input frames. If a
            chunk ends within a period, the frames that are not due yet need later input.
    """

    due: tuple[int, ...] = (0, 1)
    made: tuple[int, ...] = (0, 1)

    @property
    def period(self) -> int:
        return len(self.due) - 1

    @property
    def stride(self) -> int | Fraction:
        """Input frames per frame."""
        stride = Fraction(self.period, self.due[-1])
        return stride.numerator if stride.denominator == 1 else stride

    def after(self, frames: int) -> int:
        """The number of frames that are due after `frames` input frames."""
        periods, more = divmod(frames, self.period)
        return self.due[-1] * periods + self.due[more]

    def strided(self, stride: int, phase: int) -> "Pace":
        """The pace of every `stride`-th frame, starting with frame `phase`."""
        periods = stride // math.gcd(stride, self.due[-1])
        due = [self.after(frames) for frames in range(self.period * periods + 1)]
        made = [
            self.made[-1] * (frames // self.period) + self.made[frames % self.period]
            for frames in range(len(due))
        ]
        return Pace(
            tuple(max(-(-(number - phase) // stride), 0) for number in due),
            tuple(-(-number // stride) for number in made),
        )

    def repeated(self, times: int) -> "Pace":
        """The pace of a signal that repeats each frame `times` times."""
        return Pace(
            tuple(times * number for number in self.due),
            tuple(times * number for number in self.made),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """Says which frames of a tensor are frames of the original model.

    Attributes:
        axis: The time axis, or `None` if time is pooled and the tensor is the result for all frames
            so far.
        pace: Number of frames for each number of input frames.
        skip: Number of frames to drop at the beginning of the stream: the original model does not
            have them, because its kernels are not yet filled. A negative number says that the
            original model has that many frames before the first one of the stream. If time is
            pooled, it counts results after one, two, ... input frames.
        lead: The frames before the first one, for a batch of one, or `None`.
    """

    axis: int | None
    pace: Pace = Pace()
    skip: int = 0
    lead: np.ndarray | None = None

    @property
    def first(self) -> int:
        """The number of input frames after which the first frame is due."""
        frames, pace = 0, self.pace
        if self.skip >= pace.due[-1]:
            frames = self.skip // pace.due[-1] * pace.period
        while pace.after(frames) <= self.skip:
            frames += 1
        return frames


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """A symbolic tensor of the new graph, with the timing of its frames.

    Attributes:
        tensor: The tensor.
        frames: The timing.
        rounding: The layer of fake quantization whose values the tensor has, or `None`.
    """

    tensor: Any
    frames: Frames
    rounding: Any = None

    @property
    def axis(self) -> Any:
        return self.frames.axis

    @property
    def lead(self) -> np.ndarray | None:
        return self.frames.lead

    def replace(self, tensor: Any, **changes: Any) -> "Signal":
        """Returns another tensor with this timing, and changes to it."""
        return Signal(tensor, dataclasses.replace(self.frames, **changes), self.rounding)

    def rounded(self, rounding: Any) -> "Signal":
        """Returns this signal as one of the values of a layer of fake quantization."""
        return dataclasses.replace(self, rounding=rounding)


def to_numpy(tensor: Any) -> np.ndarray:
    """The values of a concrete tensor."""
    return keras.ops.convert_to_numpy(tensor)


def slice_along(axis: int, start: int | None, stop: int | None = None) -> tuple[slice, ...]:
    """The index of a slice along one axis."""
    return (slice(None),) * axis + (slice(start, stop),)
