"""Decodes recordings: only as much as is needed, and in little memory, however long they are.

Headers are not trusted: they may claim more samples than there are, and not every format can seek.
"""

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.sources import expect, expect_file, require

# The formats that libsndfile reads, named as in `soundfile.available_formats()`. Missing are MAT4,
# MAT5 and MPC2K, whose endings belong to other kinds of files, and SD2 and RAW, for which the file
# alone is not enough.
ENDINGS = {
    "WAV": (".wav", ".wave", ".bwf"),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3", ".mp2"),
    "AIFF": (".aiff", ".aif", ".aifc"),
    "AU": (".au", ".snd"),
    "CAF": (".caf",),
    "W64": (".w64",),
    "RF64": (".rf64",),
    "WAVEX": (".wavex",),
    "NIST": (".sph", ".nist"),
    "VOC": (".voc",),
    "AVR": (".avr",),
    "HTK": (".htk",),
    "IRCAM": (".sf", ".ircam"),
    "PAF": (".paf",),
    "PVF": (".pvf",),
    "SDS": (".sds",),
    "SVX": (".svx", ".8svx", ".iff"),
    "WVE": (".wve",),
    "XI": (".xi",),
}
SUFFIXES = tuple(suffix for suffixes in ENDINGS.values() for suffix in suffixes)
RATES = (100, 10_000_000)  # samples per second, from the slowest sensor to the fastest
BLOCK = 2**18  # numbers that are decoded at once
MARGIN = 0.25  # seconds on both sides, more than the filter of the resampler needs

FLOATS = ("FLOAT", "DOUBLE")  # subtypes whose values may exceed the range from -1 to 1
FULL_SCALES = (2**7, 2**15, 2**23, 2**31)  # of integers of 8, 16, 24 and 32 bits
LARGEST = 32  # peak of floats on the usual scale, even if normalized to unit variance
QUIET = 1e-3  # a lower peak does not reveal the scale: it may be resampled silence

Source = Path | bytes


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording that has not been decoded yet: a file, or the content of one."""

    name: str
    word: str
    part: str
    source: Source = dataclasses.field(repr=False)
    offset: float = 0.0  # seconds


@dataclasses.dataclass(frozen=True)
class Sound:
    """A decoded excerpt of a recording: one channel, resampled.

    Attributes:
        waveform: Numbers from -1 to 1, unless the recording holds floats on another scale.
        peak: Peak of floats in the file, 0 if it does not reveal their scale. None for integers.
    """

    waveform: np.ndarray
    peak: float | None

    def divided(self, scale: float) -> np.ndarray:
        """Returns the waveform, with floats divided by the scale that `scale_of` found."""
        return self.waveform if self.peak is None else self.waveform / np.float32(scale)


def middle(source: Source, sample_rate: int, samples: int) -> Sound:
    """Returns up to `samples` samples from the middle of a recording.

    Raises:
        ValueError: If it cannot be decoded, or is empty.
    """
    with _opened(source) as file:
        rate, total, subtype = file.samplerate, file.frames, file.subtype
    step = rate // math.gcd(rate, sample_rate)  # frames in which there are whole samples
    margin = math.ceil(MARGIN * rate / step) * step
    longest = math.ceil(samples * rate / sample_rate) + 2 * margin + step
    for count in (lambda: total, lambda: _count(source)):  # a header may claim too many
        frames = count()
        first = max(0, (-(-frames * sample_rate // rate) - samples) // 2)
        start = max(0, first * rate // sample_rate - margin) // step * step
        stop = min(frames, start + longest)
        waveform = _span(source, start, stop)
        if len(waveform) == stop - start:
            break
    before = first - start * sample_rate // rate
    return Sound(
        _resampled(waveform, rate, sample_rate)[before:][:samples], _peak(waveform, subtype)
    )


def excerpt(source: Source, sample_rate: int, offset: float, seconds: float) -> Sound:
    """Returns some seconds of a recording.

    Raises:
        ValueError: If it cannot be decoded, or ends before.
    """
    with _opened(source) as file:
        rate, subtype = file.samplerate, file.subtype
    start = round(offset * rate)
    waveform = _span(source, start, start + round(seconds * rate))
    return Sound(_resampled(waveform, rate, sample_rate), _peak(waveform, subtype))


def stream(source: Source, sample_rate: int) -> Iterator[Sound]:
    """Yields a whole recording in pieces.

    Raises:
        ValueError: If it cannot be decoded, or is empty.
    """
    with _opened(source) as file:
        rate, subtype, total = file.samplerate, file.subtype, 0
        resampler = require("soxr").ResampleStream(rate, sample_rate, 1, dtype="float32")
        for waveform in _decoded(file):
            total += len(waveform)
            resampled = resampler.resample_chunk(waveform) if rate != sample_rate else waveform
            yield Sound(resampled, _peak(waveform, subtype))
        expect(total > 0, "a recording must not be empty", "no samples")
        if rate != sample_rate:
            rest = resampler.resample_chunk(np.zeros(0, "float32"), last=True)
            yield Sound(rest, _peak(rest[:0], subtype))


def header(source: Source) -> tuple[int, int]:
    """Returns the sample rate and the number of samples that a recording claims to have.

    Raises:
        ValueError: If it cannot be decoded.
    """
    with _opened(source) as file:
        return file.samplerate, file.frames


def is_float(source: Source) -> bool:
    """Returns whether a recording holds floats, whose scale is not known.

    Raises:
        ValueError: If it cannot be decoded.
    """
    with _opened(source) as file:
        return file.subtype in FLOATS


def fit_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Pads a waveform on both sides with zeros, or crops it to its middle."""
    missing = samples - len(waveform)
    if missing < 0:
        return waveform[-missing // 2 :][:samples]
    return np.pad(waveform, (missing // 2, missing - missing // 2))


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """Opens the decoder of a recording, whose errors become a `ValueError`."""
    if isinstance(source, bytes):
        place: Any = _Content(source)
    else:
        path = expect_file(source)
        # As bytes, names need not be UTF-8. On Windows libsndfile takes text only.
        place = os.fspath(path) if os.name == "nt" else os.fsencode(path)
    try:
        with _forward()(place) as file:
            lowest, highest = RATES
            expected = f"a recording must have {lowest:,} to {highest:,} samples per second"
            expect(lowest <= file.samplerate <= highest, expected, f"{file.samplerate:,}")
            yield file
    except (RuntimeError, OSError, TypeError) as error:
        reason = getattr(error, "error_string", error)  # not the address of a BytesIO
        raise ValueError(f"it cannot be decoded ({reason})") from error


class _Content(io.BytesIO):
    """A file in memory that tolerates seeking before its start, as damaged headers make happen."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with contextlib.suppress(ValueError):
            super().seek(offset, whence)
        return self.tell()


@functools.cache
def _forward() -> type:
    """Returns a `SoundFile` that does not seek at each read, which not all formats can."""

    class Forward(require("soundfile").SoundFile):
        def seekable(self) -> bool:
            return False

    return Forward


def _decoded(file: Any, frames: float = math.inf) -> Iterator[np.ndarray]:
    """Yields the next frames in blocks, as the mean of the channels. `file.frames` may be wrong."""
    size = max(1, BLOCK // file.channels)
    while frames > 0:
        block = file.read(int(min(size, frames)), dtype="float32", always_2d=True)
        if not len(block):
            return
        expect(bool(np.isfinite(block).all()), "samples must be finite", "inf or nan")
        yield block.mean(axis=1)
        frames -= len(block)


def _span(source: Source, start: int, stop: int) -> np.ndarray:
    """Returns the frames from `start` to `stop`, or fewer if the recording ends before."""
    if start:
        with contextlib.suppress(ValueError), _opened(source) as file:
            file.seek(start)
            return _joined(_decoded(file, stop - start))
    at, kept = 0, []
    with _opened(source) as file:  # from the start, if it cannot seek
        for block in _decoded(file, stop):
            kept.append(block[max(0, start - at) :])
            at += len(block)
    return _joined(kept)


def _joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, "float32"), *blocks])


def _count(source: Source) -> int:
    """Returns the number of frames, by decoding all of them."""
    with _opened(source) as file:
        return sum(map(len, _decoded(file)))


def _resampled(waveform: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    expect(len(waveform) > 0, "a recording must not be empty", "no samples")
    return require("librosa").resample(waveform, orig_sr=rate, target_sr=sample_rate)


# The scale of floats


def _peak(waveform: np.ndarray, subtype: str) -> float | None:
    if subtype not in FLOATS:
        return None
    peak = float(np.abs(waveform).max(initial=0))
    # Quiet noise on an integer scale may have a peak as low as speech from -1 to 1.
    is_mute = peak <= LARGEST and bool((waveform == np.rint(waveform)).all())
    return 0.0 if is_mute or peak <= QUIET else peak


def scale_of(peaks: Mapping[str, float]) -> int:
    """Returns the divisor that scales the floats of a data set to numbers from -1 to 1.

    Args:
        peaks: The peak of each recording of floats, by name.

    Raises:
        ValueError: If recordings have different scales, or an unknown one.
    """
    loudest = max(peaks, key=peaks.__getitem__, default=None)
    if loudest is None or peaks[loudest] <= LARGEST:
        return 1
    small = [name for name, peak in peaks.items() if 0 < peak <= 1]
    expect(
        not small and peaks[loudest] <= FULL_SCALES[-1],
        "Recordings of floats must all hold numbers from -1 to 1, or all hold integers of 8, 16, "
        "24 or 32 bits",
        f"{loudest} with numbers up to {peaks[loudest]:,.5g}"
        + (f", and {len(small)} up to 1, such as {small[0]}" if small else ""),
        "Divide the larger ones by their full scale, such as 32,768 for 16 bits.",
    )
    return next(scale for scale in FULL_SCALES if peaks[loudest] <= scale)


def expect_scale(peak: float | None, scale: float) -> None:
    """Refuses a recording of floats with another scale than the training recordings."""
    if peak:
        expect(
            peak <= LARGEST if scale == 1 else 1 < peak <= scale,
            f"floats must have the scale of the training recordings, up to {scale:,}",
            f"up to {peak:,.5g}",
        )
