"""A long recording with words at known times, made of test clips and noise."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from examples.audio.data import SILENCE, Dataset
from examples.audio.detector import NO_WORDS, Spoken

VOLUME = 0.1  # of clips of silence, whose noise is as loud as words: that of Warden, 2018
LEVEL = 0.003  # root mean square of the noise where the clips have none
BLOCK_SECONDS = 10.0
SHORTEST_PAUSE = 0.5  # seconds between two clips


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording that is made while it is read, because it may not fit into memory.

    Attributes:
        samples: Its length.
        sample_rate: Samples per second.
        spoken: The words to find, in the order of time.
        clips: The waveforms of all clips, also of unknown words.
        starts: The sample at which each clip starts, in rising order.
        noise: A stretch of noise that is repeated.
    """

    samples: int
    sample_rate: int
    spoken: list[Spoken]
    clips: np.ndarray
    starts: np.ndarray
    noise: np.ndarray

    @property
    def signal_to_noise(self) -> float:
        """Median of the power of a clip, relative to that of the noise, in dB."""
        power = np.median(np.mean(np.square(self.clips, dtype="float64"), axis=1))
        return float(10 * np.log10(power / np.mean(np.square(self.noise, dtype="float64"))))

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    def pieces(self) -> Iterator[np.ndarray]:
        """Yields the recording, piece by piece."""
        block = round(BLOCK_SECONDS * self.sample_rate)
        length = self.clips.shape[1]
        for first in range(0, self.samples, block):
            at = np.arange(first, min(first + block, self.samples))
            piece = self.noise[at % len(self.noise)]
            begin = np.searchsorted(self.starts, first - length, "right")
            for index in range(begin, np.searchsorted(self.starts, at[-1], "right")):
                start = self.starts[index] - first
                into = slice(max(start, 0), min(start + length, len(piece)))
                piece[into] += self.clips[index][into.start - start : into.stop - start]
            yield piece


def make(dataset: Dataset, hours: float, volume: float = VOLUME, seed: int = 0) -> Recording:
    """Returns a recording of all test clips, once each, at random times.

    Clips of silence become the noise around them, which never stops. Without such clips, it is
    white noise. Unknown words are in the recording, but not among the words to find.

    Args:
        dataset: The data set.
        hours: Length of the recording. There must be room for all clips.
        volume: Factor on clips of silence.
        seed: Seed of times and order.

    Raises:
        ValueError: If the recording is too short.
    """
    rng = np.random.default_rng(seed)
    settings = dataset.settings
    names = [dataset.classes[label] for label in dataset.test[1]]
    waveforms = dataset.waveforms(len(names))
    is_noise = np.array([name == SILENCE for name in names])
    order = rng.permutation(np.flatnonzero(~is_noise))
    clips, words = waveforms[order], [names[index] for index in order]
    samples, count = round(hours * 3600 * settings.sample_rate), len(order)
    spacing = settings.samples + round(SHORTEST_PAUSE * settings.sample_rate)
    free = samples - (count + 1) * spacing
    if free < 0:
        least = (count + 1) * spacing / settings.sample_rate / 3600
        raise ValueError(
            f"`hours` must be {least:.2f} or more, for {count} clips. Received: {hours}"
        )
    starts = np.sort(rng.integers(0, free + 1, count)) + spacing * np.arange(1, count + 1)
    noise = (
        volume * np.concatenate(waveforms[rng.permutation(np.flatnonzero(is_noise))])
        if is_noise.any()
        else rng.normal(0, LEVEL, 60 * settings.sample_rate).astype("float32")
    )
    spoken = [
        Spoken(start / settings.sample_rate, start / settings.sample_rate + settings.seconds, word)
        for start, word in zip(starts, words, strict=True)
        if word not in NO_WORDS
    ]
    return Recording(samples, settings.sample_rate, spoken, clips, starts, noise)
