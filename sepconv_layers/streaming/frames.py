"""When the frames of a tensor come: for each chunk of the input, how many and which ones."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Pace:
    """How many frames there are behind so many frames of the input.

    Attributes:
        due: That number behind 0, 1, 2, ... frames of the input, up to a period, after which the
            numbers go on in the same way. A frame is due with the last input that it depends on.
        made: How many frames the model of a step makes of a chunk of that length. Where the chunk
            ends in the middle of a period, those behind the ones that are due wait for later input.
    """

    due: tuple[int, ...] = (0, 1)
    made: tuple[int, ...] = (0, 1)

    @property
    def period(self) -> int:
        return len(self.due) - 1

    @property
    def stride(self) -> int | Fraction:
        """Frames of the input for each frame."""
        stride = Fraction(self.period, self.due[-1])
        return stride.numerator if stride.denominator == 1 else stride

    def after(self, frames: int) -> int:
        """The number of frames that are due behind so many frames of the input."""
        periods, more = divmod(frames, self.period)
        return self.due[-1] * periods + self.due[more]

    def strided(self, stride: int, phase: int) -> "Pace":
        """That of each `stride`-th frame, the first of which is frame `phase`."""
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
        """That of a signal in which each frame comes so many times."""
        return Pace(
            tuple(times * number for number in self.due),
            tuple(times * number for number in self.made),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """Which frames of a tensor of the step are frames of the original model.

    Attributes:
        axis: The axis that is time; `None` where time is pooled, and the tensor is the result for
            all frames so far.
        pace: How many frames there are behind so many frames of the input.
        skip: The number of frames at the beginning of the stream that the original model does not
            have, because its kernels were not yet filled: leave them out. Where it is negative, so
            many frames come before the first one of the step. Where time is pooled, it counts
            results behind one, two, ... frames of the input.
        lead: These frames that come before, for a batch of one, or `None`.
    """

    axis: int | None
    pace: Pace = Pace()
    skip: int = 0
    lead: np.ndarray | None = None

    @property
    def first(self) -> int:
        """The number of frames of the input behind which the first frame is due."""
        frames, pace = 0, self.pace
        if self.skip >= pace.due[-1]:
            frames = self.skip // pace.due[-1] * pace.period
        while pace.after(frames) <= self.skip:
            frames += 1
        return frames


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """A symbolic tensor of the new graph, and when its frames come."""

    tensor: Any
    frames: Frames

    @property
    def axis(self) -> Any:
        return self.frames.axis

    @property
    def lead(self) -> np.ndarray | None:
        return self.frames.lead

    def replace(self, tensor: Any, **changes: Any) -> "Signal":
        """Another tensor, with changes in when its frames come."""
        return Signal(tensor, dataclasses.replace(self.frames, **changes))


def array_of(tensor: Any) -> np.ndarray:
    """The values of a tensor that is not symbolic."""
    return keras.ops.convert_to_numpy(tensor)


def along(axis: int, start: int | None, stop: int | None = None) -> tuple[slice, ...]:
    """The index of a slice along one axis."""
    return (slice(None),) * axis + (slice(start, stop),)
