"""What a trained model hears in recordings.

    python -m examples.audio.predict MODEL FILE...
        the likeliest words of each file
    python -m examples.audio.predict MODEL FILE --stream
        what is said when, in a long recording

MODEL is a `*-waveform.keras` of a run, or the folder of the run, whose separable net is taken.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from examples.audio import data
from examples.command_line import in_sentences, new_parser, positive_number
from sepconv_layers import Comparison  # and Keras knows the layers

HOP_SECONDS = 0.1
BATCH = 256
SMOOTHED = 3  # windows that a detection is the average of
ABOUT = ("classes", "sample_rate", "samples")


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.audio.predict", __doc__)
    parser.add_argument("model", help="a *-waveform.keras, or the folder of a run")
    parser.add_argument("files", nargs="+", metavar="file", help="WAV, FLAC, OGG or MP3")
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
    try:
        model, about = load(Path(arguments.model))
        for file in arguments.files:
            if not Path(file).is_file():
                raise ValueError(f"{file} is no file")
            try:
                waveform = data.read(file, about["sample_rate"])
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            if arguments.stream:
                for start, end, word, probability in detections(
                    model, about, waveform, arguments.threshold
                ):
                    print(f"{file}: {start:7.2f} to {end:7.2f} s  {word} {probability:.2f}")
                continue
            (row,) = probabilities(model, data.fit_length(waveform, about["samples"])[None])
            best = np.argsort(row)[::-1][: arguments.top]
            words = "  ".join(f"{about['classes'][i]} {row[i]:.3f}" for i in best)
            print(f"{file}: {words}")
    except (ImportError, ValueError) as error:
        parser.error(str(error))


def load(path: Path) -> tuple[keras.Model, dict]:
    """The model, and what its numbers mean."""
    if path.is_dir():
        path = _model_of_run(path)
    beside = path.with_suffix(".json")
    if not path.is_file() or not beside.is_file():
        raise ValueError(f"{path} and {beside.name} beside it must exist, as a run writes them")
    try:
        about = json.loads(beside.read_text("utf-8"))
        about = {key: about[key] for key in ABOUT}
    except (LookupError, TypeError, ValueError) as error:
        expected = f"{beside} must hold {', '.join(ABOUT)}, as a run writes it"
        raise ValueError(f"{expected}. Received: {error!r}") from error
    return keras.saving.load_model(path), about


def _model_of_run(folder: Path) -> Path:
    """That of the first net in the record: models of earlier runs may lie beside it."""
    try:
        convs = [row.conv for row in Comparison.load(folder).rows]
    except FileNotFoundError:
        convs = []
    paths = [folder / f"{conv}-waveform.keras" for conv in convs]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise ValueError(
            f"{folder} must hold a results.json and the *-waveform.keras of a net in it, as a run "
            f"writes them. Received: the nets {convs}. Let the run end, or give the model itself."
        )
    return found[0]


def probabilities(model: keras.Model, waveforms: np.ndarray) -> np.ndarray:
    logits = model.predict(waveforms, verbose=0)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def detections(
    model: keras.Model, about: dict, waveform: np.ndarray, threshold: float
) -> list[tuple[float, float, str, float]]:
    """Beginning and end in seconds, word and probability of what stands out in a recording."""
    samples, hop = about["samples"], round(HOP_SECONDS * about["sample_rate"])
    waveform = np.pad(waveform, (samples // 2, samples))
    windows = np.lib.stride_tricks.sliding_window_view(waveform, samples)[::hop]
    # Some at a time: each sample of a recording is in many windows.
    batches = [windows[i : i + BATCH] for i in range(0, len(windows), BATCH)]
    odds = np.concatenate([probabilities(model, batch) for batch in batches])
    smoothed = min(SMOOTHED, len(odds))
    kernel = np.ones(smoothed) / smoothed
    odds = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), 0, odds)
    loud = np.array([np.sqrt(np.mean(window**2)) for window in windows])
    is_loud = loud > 0.1 * loud.max()
    found: list[list] = []
    for i, row in enumerate(odds):
        word = int(row.argmax())
        name = about["classes"][word]
        if not is_loud[i] or row[word] < threshold or name in (data.UNKNOWN, data.SILENCE):
            continue
        centre = i * hop / about["sample_rate"]  # the padding is half a window
        if found and found[-1][2] == name and centre - found[-1][1] < 2.5 * HOP_SECONDS:
            found[-1][1], found[-1][3] = centre, max(found[-1][3], float(row[word]))
        else:
            found.append([centre, centre, name, float(row[word])])
    return [tuple(item) for item in found]


if __name__ == "__main__":
    main(sys.argv[1:])
