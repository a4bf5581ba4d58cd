"""Recognizes words in recordings with a trained model.

    python -m examples.audio.predict MODEL FILE...
        prints the most probable words of each file
    python -m examples.audio.predict MODEL FILE --stream
        prints the words in a long recording, and when they are said

MODEL is a `*-waveform.keras` of a run, or the folder of the run, which stands for its separable
net.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import keras
import numpy as np

from examples.audio import reading
from examples.audio.data import SILENCE, UNKNOWN
from examples.command_line import user_errors, without_traceback
from examples.prediction import likeliest, net_of_run, prediction_parser, softmax
from examples.sources import existing, expect, printable, read_json
from examples.sources import reading as reading_of

HOP_SECONDS = 0.1
BATCH, LARGEST_BATCH = 256, 2**24  # windows, and samples in them
SMOOTHED = 3  # windows whose probabilities are averaged
ABOUT = ("classes", "sample_rate", "samples")


def make_parser() -> argparse.ArgumentParser:
    model = "a *-waveform.keras of a run, or the folder of the run"
    parser = prediction_parser("examples.audio.predict", __doc__, model, "words")
    parser.add_argument("files", nargs="+", metavar="file", help="WAV, FLAC, OGG, MP3 and others")
    parser.add_argument("--stream", action="store_true", help="find words in a long recording")
    threshold = "smallest probability of a word with --stream; default: 0.7"
    parser.add_argument("--threshold", type=float, default=0.7, help=threshold)
    return parser


@without_traceback
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser):
        model, about = load(arguments.model)
        for file in arguments.files:
            path = existing(file, "A recording must be a file")
            try:
                lines = (
                    _detected_words(model, about, path, arguments.threshold)
                    if arguments.stream
                    else _likeliest_words(model, about, path, arguments.top)
                )
            except ValueError as error:
                raise ValueError(f"{printable(file)}: {error}") from error
            for line in lines:
                print(f"{printable(file)}: {line}")


def _likeliest_words(model: keras.Model, about: dict, path: Path, top: int) -> list[str]:
    """Returns the most probable words, in one line."""
    sound = reading.middle(path, about["sample_rate"], about["samples"])
    reading.expect_scale(sound.peak, about["scale"])
    waveform = reading.fit_length(sound.divided(about["scale"]), about["samples"])
    (row,) = probabilities(model, waveform[None])
    return [likeliest(about["classes"], row, top)]


def _detected_words(model: keras.Model, about: dict, path: Path, threshold: float) -> list[str]:
    """Returns one line for each word that is detected, with its time."""

    def pieces() -> Iterator[np.ndarray]:
        peak = None
        for sound in reading.stream(path, about["sample_rate"]):
            if sound.peak is not None:
                peak = max(peak or 0.0, sound.peak)
            yield sound.divided(about["scale"])
        reading.expect_scale(peak, about["scale"])  # of the whole recording: a piece may be quiet

    return [
        f"{start:7.2f} to {end:7.2f} s  {word} {probability:.2f}"
        for start, end, word, probability in detections(model, about, pieces(), threshold)
    ]


def load(place: str | os.PathLike) -> tuple[keras.Model, dict]:
    """Returns the model, and the description beside it."""
    path = existing(place, "The model must be a *-waveform.keras, or the folder of a run")
    if path.is_dir():
        path = net_of_run(path, "*-waveform.keras")
    about = read_about(path.with_suffix(".json"))
    with reading_of(path):
        model = keras.saving.load_model(path)
        shapes = model.input_shape, model.output_shape
    samples, words = about["samples"], len(about["classes"])
    expect(
        shapes == ((None, samples), (None, words)),
        f"{path} must take {samples:,} samples and distinguish {words} words, as {path.stem}.json "
        "beside it says",
        f"shapes of {shapes[0]} and {shapes[1]}",
        "Use both files of one run.",
    )
    return model, about


def read_about(path: Path) -> dict:
    """Returns the description that a run writes beside its models for waveforms."""
    expected = f"{path} must hold {', '.join(ABOUT)}, as a run writes it"
    try:
        about = {"scale": 1, "front_end": "librosa", **read_json(path)}
        about = {key: about[key] for key in (*ABOUT, "scale", "front_end")}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{expected}. Received: {error!r}") from error
    classes, rate, samples, scale, front_end = about.values()
    right = isinstance(classes, list) and all(isinstance(word, str) for word in classes)
    right &= isinstance(rate, int) and isinstance(samples, int) and samples > 0
    right &= scale in (1, *reading.FULL_SCALES) and front_end in ("librosa", "micro")
    expect(right and rate in range(reading.RATES[0], reading.RATES[1] + 1), expected, about)
    return about


def probabilities(model: keras.Model, waveforms: np.ndarray) -> np.ndarray:
    """Returns the probability of each word in each waveform."""
    return softmax(model.predict(waveforms, verbose=0))


def detections(
    model: keras.Model, about: dict, pieces: Iterable[np.ndarray], threshold: float
) -> list[tuple[float, float, str, float]]:
    """Returns start and end in seconds, word and probability of each detection in a recording.

    The recording comes in pieces of any length, because it may not fit into memory.
    """
    samples = about["samples"]
    hop = min(samples, round(HOP_SECONDS * about["sample_rate"]))
    heard, volumes = [], []
    for windows in _windows(pieces, samples, hop):
        heard.append(probabilities(model, windows))
        volumes.append(np.sqrt(np.mean(windows**2, axis=1)))
    odds, loud = np.concatenate(heard), np.concatenate(volumes)
    smoothed = min(SMOOTHED, len(odds))
    kernel = np.ones(smoothed) / smoothed
    odds = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), 0, odds)
    is_loud = loud > 0.1 * loud.max()
    found: list[list] = []
    for i, row in enumerate(odds):
        word = int(row.argmax())
        name = about["classes"][word]
        if not is_loud[i] or row[word] < threshold or name in (UNKNOWN, SILENCE):
            continue
        center = i * hop / about["sample_rate"]  # the padding is half a window
        if found and found[-1][2] == name and center - found[-1][1] < 2.5 * HOP_SECONDS:
            found[-1][1], found[-1][3] = center, max(found[-1][3], float(row[word]))
        else:
            found.append([center, center, name, float(row[word])])
    return [tuple(item) for item in found]


def _windows(pieces: Iterable[np.ndarray], samples: int, hop: int) -> Iterator[np.ndarray]:
    """Yields overlapping windows in batches.

    The recording is padded, so that the first window is centered at its start.
    """
    batch = max(1, min(BATCH, LARGEST_BATCH // samples))
    left = np.zeros(samples // 2, "float32")
    for piece in chain(pieces, [np.zeros(samples, "float32")]):
        left = np.concatenate([left, piece])
        if len(left) < samples:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(left, samples)[::hop]
        for i in range(0, len(windows), batch):
            yield windows[i : i + batch]
        left = left[len(windows) * hop :]


if __name__ == "__main__":
    main(sys.argv[1:])
