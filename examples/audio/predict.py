"""What a trained model hears in recordings.

    python -m examples.audio.predict MODEL FILE...
        the likeliest words of each file
    python -m examples.audio.predict MODEL FILE --stream
        what is said when, in a long recording

MODEL is a `*-waveform.keras` of a run, or the folder of the run, whose separable net is taken.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import keras
import numpy as np

from examples.answers import likeliest, softmax
from examples.audio import reading
from examples.audio.data import SILENCE, UNKNOWN
from examples.command_line import in_sentences, new_parser, positive_number, user_errors
from examples.sources import existing, expect, expect_file, printable, read_json
from examples.sources import reading as reading_of
from sepconv_layers import Comparison  # and Keras knows the layers

HOP_SECONDS = 0.1
BATCH, LARGEST_BATCH = 256, 2**24  # windows, and samples in them
SMOOTHED = 3  # windows that a detection is the average of
ABOUT = ("classes", "sample_rate", "samples")


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.audio.predict", __doc__)
    parser.add_argument("model", help="a *-waveform.keras, or the folder of a run")
    parser.add_argument("files", nargs="+", metavar="file", help="WAV, FLAC, OGG, MP3 and others")
    parser.add_argument(
        "--top", type=positive_number(int), default=3, help="how many words; default: 3"
    )
    parser.add_argument("--stream", action="store_true", help="run over a long recording")
    parser.add_argument("--threshold", type=float, default=0.7, help="of --stream; default: 0.7")
    return parser


@in_sentences
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser):
        model, about = load(arguments.model)
        for file in arguments.files:
            path = existing(file, "A recording must be a file")
            try:
                lines = (
                    _heard_when(model, about, path, arguments.threshold)
                    if arguments.stream
                    else _heard(model, about, path, arguments.top)
                )
            except ValueError as error:
                raise ValueError(f"{printable(file)}: {error}") from error
            for line in lines:
                print(f"{printable(file)}: {line}")


def _heard(model: keras.Model, about: dict, path: Path, top: int) -> list[str]:
    """The likeliest words, in one line."""
    sound = reading.middle(path, about["sample_rate"], about["samples"])
    reading.expect_scale(sound.peak, about["scale"])
    waveform = reading.fit_length(sound.divided(about["scale"]), about["samples"])
    (row,) = probabilities(model, waveform[None])
    return [likeliest(about["classes"], row, top)]


def _heard_when(model: keras.Model, about: dict, path: Path, threshold: float) -> list[str]:
    """What is said from when to when, in a line each."""

    def pieces() -> Iterator[np.ndarray]:
        peak = None
        for sound in reading.stream(path, about["sample_rate"]):
            if sound.peak is not None:
                peak = max(peak or 0.0, sound.peak)
            yield sound.divided(about["scale"])
        reading.expect_scale(peak, about["scale"])  # that of the whole: a part may be quiet

    return [
        f"{start:7.2f} to {end:7.2f} s  {word} {probability:.2f}"
        for start, end, word, probability in detections(model, about, pieces(), threshold)
    ]


def load(place: str | os.PathLike) -> tuple[keras.Model, dict]:
    """The model, and what its numbers mean."""
    path = existing(place, "The model must be a *-waveform.keras, or the folder of a run")
    if path.is_dir():
        path = _model_of_run(path)
    about = _about(path.with_suffix(".json"))
    with reading_of(path):
        model = keras.saving.load_model(path)
        shapes = model.input_shape, model.output_shape
    samples, words = about["samples"], len(about["classes"])
    expect(
        shapes == ((None, samples), (None, words)),
        f"{path} must take {samples:,} samples and tell {words} words apart, as {path.stem}.json "
        "beside it says",
        f"shapes of {shapes[0]} and {shapes[1]}",
        "Take both files from one run.",
    )
    return model, about


def _about(path: Path) -> dict:
    expected = f"{path} must hold {', '.join(ABOUT)}, as a run writes it"
    try:
        about = {"scale": 1, **read_json(path)}
        about = {key: about[key] for key in (*ABOUT, "scale")}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{expected}. Received: {error!r}") from error
    classes, rate, samples, scale = about.values()
    right = isinstance(classes, list) and all(isinstance(word, str) for word in classes)
    right &= isinstance(rate, int) and isinstance(samples, int) and samples > 0
    right &= scale in (1, *reading.FULL_SCALES)
    expect(right and rate in range(reading.RATES[0], reading.RATES[1] + 1), expected, about)
    return about


def _model_of_run(folder: Path) -> Path:
    """That of the first net in the record: models of earlier runs may lie beside it."""
    record, convs = folder / "results.json", []
    if os.path.lexists(record):
        convs = [row.conv for row in Comparison.load(expect_file(record)).rows]
    paths = [folder / f"{conv}-waveform.keras" for conv in convs]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise ValueError(
            f"{folder} must hold a results.json and the *-waveform.keras of a net in it, as a run "
            f"writes them. Received: the nets {convs}. Let the run end, or give the model itself."
        )
    return found[0]


def probabilities(model: keras.Model, waveforms: np.ndarray) -> np.ndarray:
    return softmax(model.predict(waveforms, verbose=0))


def detections(
    model: keras.Model, about: dict, pieces: Iterable[np.ndarray], threshold: float
) -> list[tuple[float, float, str, float]]:
    """Beginning and end in seconds, word and probability of what stands out in a recording.

    The recording comes in pieces of any length, for all of it may not fit into memory.
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
    """Overlapping windows, some at a time: each sample of a recording is in many of them.

    The recording is padded, so that the first window is around its beginning.
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
