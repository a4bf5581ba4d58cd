"""Finds words in the probabilities that a net computes step by step, and how well it does.

Probabilities are averaged over a short window, a word is reported when its average reaches a
threshold, and for some time after it nothing is reported: Chen, Parada and Heigold,
"Small-footprint keyword spotting using deep neural networks", ICASSP 2014.

A detector is judged by two figures, false accepts per hour and the share of false rejects, and by
the curve of both for all thresholds: Martin et al., "The DET curve in assessment of detection task
performance", Eurospeech 1997.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from examples.audio.data import SILENCE, UNKNOWN

NO_WORDS = (UNKNOWN, SILENCE)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a detector.

    Attributes:
        threshold: Smallest averaged probability of a word that is reported.
        smoothing: Seconds that probabilities are averaged over.
        suppression: Seconds after a word in which nothing is reported.
    """

    threshold: float = 0.9
    smoothing: float = 0.2
    suppression: float = 1.5

    def __post_init__(self) -> None:
        for name, least in (("threshold", 0), ("smoothing", 0), ("suppression", 0)):
            value = getattr(self, name)
            if not least <= value < np.inf:
                raise ValueError(f"`{name}` must be {least} or more. Received: {value}")


@dataclasses.dataclass(frozen=True)
class Detection:
    """A word that was found, at the end of a step."""

    seconds: float
    word: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A word that is said in a recording, from a time to a time in seconds."""

    start: float
    end: float
    word: str


class Detector:
    """Takes the probabilities of one step after the other, as they come.

    Args:
        classes: The names of the classes.
        step_seconds: Seconds from one step to the next.
        settings: Smoothing, threshold and suppression.
    """

    def __init__(
        self, classes: Sequence[str], step_seconds: float, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.classes, self.step_seconds = classes, step_seconds
        self.window, self.pause = _steps(self.settings, step_seconds)
        self.words = _words(classes)
        self._last: collections.deque = collections.deque(maxlen=self.window)
        self._until = 0  # the step that suppression ends with

    def __call__(self, step: int, probabilities: np.ndarray) -> Detection | None:
        """Returns the word that is reported at this step, or None."""
        self._last.append(probabilities)
        mean = self.smoothed
        word = self.words[mean[self.words].argmax()]
        if step < self._until or mean[word] < self.settings.threshold:
            return None
        self._until = step + self.pause
        seconds = (step + 1) * self.step_seconds
        return Detection(seconds, self.classes[word], float(mean[word]))

    @property
    def smoothed(self) -> np.ndarray:
        """The averaged probabilities."""
        return np.sum(self._last, axis=0) / self.window


def _steps(settings: Settings, step_seconds: float) -> tuple[int, int]:
    """Returns the steps of the smoothing window, and of the suppression."""
    window = max(1, round(settings.smoothing / step_seconds))
    return window, max(1, round(settings.suppression / step_seconds))


def _words(classes: Sequence[str]) -> np.ndarray:
    return np.array([i for i, name in enumerate(classes) if name not in NO_WORDS])


def smooth(probabilities: np.ndarray, window: int) -> np.ndarray:
    """Returns moving averages of the last rows. Before the first row there are zeros."""
    sums = np.cumsum(np.pad(probabilities, ((window, 0), (0, 0))), axis=0, dtype="float64")
    return (sums[window:] - sums[:-window]) / window


def detections(
    probabilities: np.ndarray,
    classes: Sequence[str],
    step_seconds: float,
    settings: Settings | None = None,
) -> list[Detection]:
    """Returns what a `Detector` finds in the probabilities `(steps, classes)` of a recording."""
    settings = settings or Settings()
    window, pause = _steps(settings, step_seconds)
    words = _words(classes)
    smoothed = smooth(probabilities, window)[:, words]
    best, highest = smoothed.argmax(1), smoothed.max(1)
    above = np.flatnonzero(highest >= settings.threshold)
    found, index = [], 0
    while index < len(above):
        step = int(above[index])
        word = classes[words[best[step]]]
        found.append(Detection((step + 1) * step_seconds, word, float(highest[step])))
        index = int(np.searchsorted(above, step + pause))
    return found


@dataclasses.dataclass(frozen=True)
class Errors:
    """How well words were found.

    Attributes:
        threshold: The threshold of the detector.
        false_accepts: Reported words that were not said then.
        false_rejects: Words that were said and not reported.
        said: Words that were said.
        hours: Length of the recording.
    """

    threshold: float
    false_accepts: int
    false_rejects: int
    said: int
    hours: float

    @property
    def false_accepts_per_hour(self) -> float:
        return self.false_accepts / self.hours

    @property
    def false_reject_rate(self) -> float:
        return self.false_rejects / max(1, self.said)

    def __str__(self) -> str:
        return (
            f"threshold {self.threshold:.3f}: {self.false_accepts_per_hour:.2f} false accepts per "
            f"hour ({self.false_accepts} in {self.hours:.2f} h), {self.false_reject_rate:.1%} "
            f"false rejects ({self.false_rejects} of {self.said})"
        )


def errors(
    found: Sequence[Detection],
    said: Sequence[Spoken],
    seconds: float,
    threshold: float,
    tolerance: float = 0.5,
) -> Errors:
    """Compares what was found with what was said.

    A word counts as found if it is reported from its beginning until `tolerance` seconds after its
    end. All other reports are false accepts: another word, a second time, or at another time.

    Args:
        found: The detections, in the order of time.
        said: The words to find, in the order of time.
        seconds: Length of the recording.
        threshold: The threshold of the detector, for the record.
        tolerance: Seconds after the end of a word.
    """
    is_found = [False] * len(said)
    starts = np.array([spoken.start for spoken in said])
    false = 0
    for one in found:
        after = int(np.searchsorted(starts, one.seconds, "right"))
        for index in range(after - 1, -1, -1):
            spoken = said[index]
            if spoken.end + tolerance < one.seconds:
                false += 1
                break
            if spoken.word == one.word and not is_found[index]:
                is_found[index] = True
                break
        else:
            false += 1
    return Errors(threshold, false, is_found.count(False), len(said), seconds / 3600)


def det_curve(
    probabilities: np.ndarray,
    said: Sequence[Spoken],
    classes: Sequence[str],
    step_seconds: float,
    seconds: float,
    thresholds: Sequence[float],
    settings: Settings | None = None,
) -> list[Errors]:
    """Returns the errors of a detector at each threshold, in a recording of so many seconds."""
    settings = settings or Settings()
    curve = []
    for threshold in thresholds:
        changed = dataclasses.replace(settings, threshold=threshold)
        found = detections(probabilities, classes, step_seconds, changed)
        curve.append(errors(found, said, seconds, threshold))
    return curve


def operating_point(curve: Sequence[Errors], per_hour: float = 1.0) -> Errors:
    """Returns the fewest false rejects at no more than `per_hour` false accepts per hour.

    Without such a point, it is the one with the fewest false accepts.
    """
    allowed = [one for one in curve if one.false_accepts_per_hour <= per_hour]
    if not allowed:
        return min(curve, key=lambda one: (one.false_accepts, one.false_rejects))
    return min(allowed, key=lambda one: (one.false_rejects, one.false_accepts))
