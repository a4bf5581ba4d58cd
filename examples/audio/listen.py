"""Listens for words, in a recording or at the microphone.

    python -m examples.audio.train --dataset speech_commands --causal --export litert,int8
    python -m examples.audio.listen MODEL FILE
        prints each word with its time
    python -m examples.audio.listen MODEL --microphone
        shows live what the net hears, until Ctrl-C; `pip install 'sepconv-layers[listen]'`

MODEL is the folder of a run, which stands for its separable net, or a file in it. The int8 file of
a causal net is preferred, in which a microcontroller hears the same.
"""

import argparse
import queue
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from examples.audio import reading
from examples.audio.detector import Detection, Detector, Settings
from examples.audio.listening import Listener
from examples.command_line import new_parser, user_errors, without_traceback
from examples.sources import existing, printable, require

BLOCK_SECONDS = 0.1  # of the microphone
FULL_SCALE = 2**15  # of 16-bit samples


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.audio.listen", __doc__)
    parser.add_argument("model", help="the folder of a run, or a file in it")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", help="a recording: WAV, FLAC, OGG, MP3 and others")
    source.add_argument("--microphone", action="store_true", help="listen live, until Ctrl-C")
    add_detector(parser)
    return parser


def add_detector(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a detector."""
    words = {
        "threshold": "smallest averaged probability of a word that is reported",
        "smoothing": "seconds that probabilities are averaged over",
        "suppression": "seconds after a word in which nothing is reported",
    }
    for name, text in words.items():
        value = getattr(Settings, name)
        parser.add_argument(
            f"--{name}", type=float, default=value, help=f"{text}; default: {value}"
        )


def detector_settings(arguments: argparse.Namespace) -> Settings:
    return Settings(arguments.threshold, arguments.smoothing, arguments.suppression)


@without_traceback
def main(argv: Sequence[str] | None = None) -> list[Detection]:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser):
        settings = detector_settings(arguments)
        if arguments.microphone:  # before a model is loaded
            require("sounddevice", "listen")
        listener = Listener(arguments.model)
        if not arguments.microphone:
            path = existing(arguments.file, "A recording must be a file")
            pieces = _pieces_of(path, listener)
            return _show_words(listener, pieces, settings)
    print(f"{printable(str(listener.path))} listens. Ctrl-C ends it.", flush=True)
    try:
        pieces = microphone(listener.settings.sample_rate)
        return _show_words(listener, pieces, settings, is_live=True)
    except KeyboardInterrupt:
        print()
        return []


def _pieces_of(path: Any, listener: Listener) -> Iterator[np.ndarray]:
    peak = None
    for sound in reading.stream(path, listener.settings.sample_rate):
        if sound.peak is not None:
            peak = max(peak or 0.0, sound.peak)
        yield sound.divided(listener.scale)
    reading.expect_scale(peak, listener.scale)


def microphone(sample_rate: int) -> Iterator[np.ndarray]:
    """Yields what the default microphone records, as numbers from -1 to 1.

    Raises:
        ImportError: If the package `sounddevice` is missing.
        ValueError: If there is no microphone.
    """
    sounddevice = require("sounddevice", "listen")
    blocks: queue.Queue = queue.Queue()

    def put(samples: Any, frames: int, time: Any, status: Any) -> None:
        blocks.put(samples[:, 0].copy())

    try:
        stream = sounddevice.InputStream(
            sample_rate,
            round(BLOCK_SECONDS * sample_rate),
            channels=1,
            dtype="int16",
            callback=put,
        )
    except sounddevice.PortAudioError as error:
        raise ValueError(f"--microphone needs a microphone. Received: {error}") from error
    with stream:
        while True:
            yield blocks.get().astype("float32") / FULL_SCALE


def _show_words(
    listener: Listener, pieces: Iterator[np.ndarray], settings: Settings, is_live: bool = False
) -> list[Detection]:
    """Prints a line for each word; live also a last line that changes with the probabilities."""
    detector = Detector(listener.classes, listener.step_seconds, settings)
    found = []
    for piece in pieces:
        line = None
        for step, probabilities in listener(piece):
            if one := detector(step, probabilities):
                text = f"{one.seconds:9.2f} s  {one.word} {one.probability:.2f}"
                print("\r" + text.ljust(_columns()) if is_live else text, flush=True)
                found.append(one)
            if is_live:
                line = live_line(listener.classes, detector.smoothed, piece, _columns())
        if line is not None:
            print(f"\r{line}", end="", flush=True)
    return found


def _columns() -> int:
    return shutil.get_terminal_size().columns - 1


def live_line(
    classes: Sequence[str], probabilities: np.ndarray, piece: np.ndarray, columns: int
) -> str:
    """Returns the loudness, and a bar for each of the most probable classes, in one line."""
    power = 10 * np.log10(np.mean(np.square(piece, dtype="float64")) + 1e-10)
    parts = [f"{power:4.0f} dB "]
    for index in np.argsort(probabilities)[::-1][:4]:
        bar = "#" * round(10 * float(probabilities[index]))
        parts.append(f" {classes[index]} {bar:<10}")
    return "".join(parts)[:columns].ljust(columns)


if __name__ == "__main__":
    main()
