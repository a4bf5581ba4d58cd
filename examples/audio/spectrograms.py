"""The spectrograms of clips, which are computed once, in parallel, and then come from a cache."""

import contextlib
import functools
import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from examples import cache
from examples.audio import micro_features, reading
from examples.audio.features import FLOOR, Settings, log_mel
from examples.audio.reading import Clip, fit_length
from examples.audio.splits import NAMED
from examples.sources import expect

FORM = 4  # version of the files in the cache
QUANTILE = 0.1  # what is quieter is the background
FITTED = 2**16  # clips that statistics are computed from
PIECE = 2**10  # clips that are read at a time
BANDS_BYTES = 2**25  # of the bands whose quantiles are computed at a time


def cache_folder() -> Path:
    """Returns the cache for all runs of this user."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "sepconv_layers" / "audio"


def of_clips(
    clips: Sequence[Clip], settings: Settings, folder: Path | None
) -> tuple[cache.Stored, list[Clip], np.ndarray, int]:
    """Returns spectrograms, the readable clips, the place of each one's, and their scale.

    A clip may be listed several times, but it is computed, cached and reported once.

    Args:
        clips: The clips.
        settings: How spectrograms are computed.
        folder: The cache. By default that of this user, or none if it cannot be written.
    """
    every, clips = clips, list(dict.fromkeys(clips))
    found = _stored(clips, settings, folder)
    others = found.others
    if skipped := others["skipped"].tolist():
        more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        named = "; ".join(skipped[:NAMED])
        recordings = "recordings" if len(skipped) > 1 else "recording"
        warnings.warn(f"Skipped {len(skipped)} {recordings}: {named}{more}.", stacklevel=3)
    place = {clip: i for i, clip in enumerate(clips) if others["is_kept"][i]}
    kept = [clip for clip in every if clip in place]
    return found, kept, np.array([place[clip] for clip in kept]), int(others["scale"])


def sound_of(clip: Clip, settings: Settings) -> reading.Sound:
    """Decodes a clip: the middle of a recording, or what starts at an offset."""
    if clip.offset:
        return reading.excerpt(clip.source, settings.sample_rate, clip.offset, settings.seconds)
    return reading.middle(clip.source, settings.sample_rate, settings.samples)


def moments_of(spectrograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the variance of each band.

    They are those of NumPy for the whole array, to the last bit, but computed piece by piece.

    Args:
        spectrograms: An array, or what is read by index. Of more than 65,536 clips, which are
            shuffled, the first ones count.
    """
    frames = np.float32(min(FITTED, len(spectrograms)) * spectrograms.shape[1])
    mean = _sum(_pieces(spectrograms)) / frames
    variance = _sum((piece - mean) ** 2 for piece in _pieces(spectrograms)) / frames
    return mean, variance


def background_of(spectrograms: np.ndarray) -> np.ndarray:
    """Returns the level of each band that a tenth of the frames is below, as `moments_of` does."""
    clips, frames, bands = spectrograms.shape
    step = max(1, BANDS_BYTES // (4 * frames * min(FITTED, clips)))
    starts = range(0, bands, step)
    some = (
        np.concatenate([piece[:, band : band + step] for piece in _pieces(spectrograms)])
        for band in starts
    )
    return np.concatenate([np.quantile(levels, QUANTILE, axis=0) for levels in some])


def _pieces(spectrograms: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the frames `(frames, bands)` of some clips at a time."""
    count, bands = min(FITTED, len(spectrograms)), spectrograms.shape[-1]
    for start in range(0, count, PIECE):
        yield spectrograms[start : min(start + PIECE, count)].reshape(-1, bands)


def _sum(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """The sum over frames, added one after the other, as NumPy does within an array."""
    return functools.reduce(
        lambda total, piece: np.concatenate([total, piece]).sum(0, keepdims=True), pieces
    ).sum(0)


def _stored(clips: list[Clip], settings: Settings, folder: Path | None) -> cache.Stored:
    shape = (len(clips), settings.frames, settings.bands)

    def check(arrays: Mapping[str, np.ndarray]) -> bool:
        found, is_kept = arrays[cache.SAMPLES], arrays["is_kept"]
        right = is_kept.shape == (len(clips),) and is_kept.dtype == bool
        right &= arrays["scale"].ndim == 0 and arrays["skipped"].dtype.kind == "U"
        return right and found.shape == shape and found.dtype == "float32"

    def stored(place: Path | None) -> cache.Stored:
        others = ("is_kept", "skipped", "scale")
        return cache.stored(place, key, make, check, others, "spectrograms")

    def make(add: cache.Add) -> None:
        _compute(clips, settings, add)

    key = cache.key_of(FORM, settings, FLOOR, [(_state_of(clip), clip.offset) for clip in clips])
    if folder is not None:  # an error there is one to be told
        return stored(folder)
    usual = cache_folder()
    try:
        usual.mkdir(parents=True, exist_ok=True)
        return stored(usual)
    except OSError as error:  # without a cache, the next run is only slower
        warnings.warn(f"The spectrograms are not cached for the next run: {error}.", stacklevel=4)
        return stored(None)


def _state_of(clip: Clip) -> object:
    """What changes when a recording does: its content in memory, or path, size and time."""
    source = clip.source
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    return os.path.abspath(source), cache.state_of(source)


def _compute(clips: list[Clip], settings: Settings, add: cache.Add) -> None:
    """Computes spectrograms, their clips, the errors and the scale, and adds them to a file."""
    scale = _scale_of(clips, settings)
    shape = (settings.frames, settings.bands)
    is_kept = np.zeros(len(clips), bool)
    skipped: list[str] = []

    def spectrogram(clip: Clip) -> np.ndarray | ValueError:
        try:
            sound = sound_of(clip, settings)
        except ValueError as error:
            return error
        waveform = fit_length(sound.divided(scale), settings.samples)
        is_micro = settings.front_end == "micro"
        return micro_features.log_mel(waveform) if is_micro else log_mel(waveform, settings)

    def computed() -> Iterator[np.ndarray]:
        progress = keras.utils.Progbar(len(clips), unit_name="clip", verbose=sys.stdout.isatty())
        for i, found in enumerate(cache.in_parallel(spectrogram, clips)):
            if isinstance(found, ValueError):
                skipped.append(f"{clips[i].name}: {found}")
            else:
                is_kept[i] = True
            yield found if is_kept[i] else np.zeros(shape, "float32")
            progress.update(i + 1)

    if settings.front_end != "micro":
        log_mel(np.zeros(settings.samples, "float32"), settings)  # what all threads share
    add(cache.SAMPLES, (len(clips), *shape), "float32", computed())
    expect(bool(is_kept.any()), "There must be recordings that can be decoded", "none")
    for name, values in (("is_kept", is_kept), ("skipped", np.array(skipped, "U")),
                         ("scale", np.array(scale))):  # fmt: skip
        add(name, values.shape, values.dtype, [values])


def _scale_of(clips: list[Clip], settings: Settings) -> int:
    """The whole data set has one scale, because a quiet recording does not reveal its own."""

    def peak(clip: Clip) -> float | None:
        with contextlib.suppress(ValueError):  # reported when its spectrogram is computed
            return sound_of(clip, settings).peak if reading.is_float(clip.source) else None
        return None

    peaks = zip(clips, cache.in_parallel(peak, clips), strict=True)
    return reading.scale_of({clip.name: found for clip, found in peaks if found is not None})
