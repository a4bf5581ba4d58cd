"""How well a net finds words in a long recording: false accepts per hour, and false rejects.

    python -m examples.audio.detection MODEL --dataset speech_commands --hours 2
        the curve of both for all thresholds (DET), and the threshold for one false accept per hour

The recording is made of all test clips, once each, in noise. MODEL is that of `listen`. Options of
the clips are those of the training. The curve is written beside the net, as `*-det.json` and
`*-det.png`.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from examples import command_line
from examples.audio import data, recording
from examples.audio.detector import Errors, Settings, det_curve, operating_point
from examples.audio.listen import add_detector, detector_settings
from examples.audio.listening import Listener
from examples.sources import printable
from sepconv_layers import files

THRESHOLDS = np.round(np.concatenate([np.arange(0.3, 0.95, 0.025), np.arange(0.95, 1, 0.005)]), 3)


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.new_parser("examples.audio.detection", __doc__)
    parser.add_argument("model", help="the folder of a run, or a file in it")
    own = ("FOLDER", "a folder of recordings")
    command_line.add_source(parser, data.SOURCES, data.DEFAULT, own, data.CACHE)
    speaker = "the speaker of fsdd that a fold of --speaker-independent is tested on"
    parser.add_argument("--held-out", metavar="SPEAKER", help=speaker)
    positive = command_line.positive_number(float)
    parser.add_argument("--hours", type=positive, default=1.0, help="default: 1")
    volume = f"factor on the noise of clips of silence; default: {recording.VOLUME}"
    parser.add_argument("--volume", type=positive, default=recording.VOLUME, help=volume)
    parser.add_argument("--seed", type=int, default=0, help="of times and order; default: 0")
    parser.add_argument("--wav", type=Path, help="also write the recording to this file")
    add_detector(parser)
    return parser


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> list[Errors]:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with command_line.user_errors(parser, folder="--data"):
        settings = detector_settings(arguments)
        listener = Listener(arguments.model)
        clip = listener.settings
        dataset = data.load(
            arguments.dataset or data.DEFAULT,
            folder=arguments.data,
            held_out=arguments.held_out,
            seconds=clip.seconds,
            front_end=clip.front_end,
            cache=arguments.cache,
        )
        if list(dataset.classes) != listener.classes or dataset.settings != clip:
            parser.error(
                f"the net must be trained on these clips. It knows {', '.join(listener.classes)}, "
                f"and the clips are {', '.join(dataset.classes)}"
            )
        made = recording.make(dataset, arguments.hours, arguments.volume, arguments.seed)
    if arguments.wav:
        write_wav(made, arguments.wav)
    print(
        f"{len(made.spoken)} words in {made.seconds / 3600:.2f} hours, in noise of "
        f"{made.signal_to_noise:.0f} dB less"
    )
    curve = det_curve(
        heard(listener, made),
        made.spoken,
        listener.classes,
        listener.step_seconds,
        made.seconds,
        THRESHOLDS,
        settings,
    )
    best = operating_point(curve)
    stem = listener.path.with_suffix("")
    save(curve, best, settings, made, Path(f"{stem}-det.json"))
    draw(curve, best, Path(f"{stem}-det.png"))
    for one in curve[:: max(1, len(curve) // 8)]:
        print(one)
    print(f"\nAt most one false accept per hour, at {best}")
    print(f"Saved as {printable(f'{stem}-det.json')} and .png")
    return curve


def heard(listener: Listener, made: recording.Recording) -> np.ndarray:
    """Returns the probabilities of each step of a recording; at the beginning they are zero."""
    listener.restart()
    rows = [row for piece in made.pieces() for _, row in listener(piece)]
    return np.concatenate([np.zeros((listener.first, len(listener.classes))), np.array(rows)])


def write_wav(made: recording.Recording, path: Path) -> None:
    """Writes a recording as 16-bit PCM, and its words beside it."""
    import soundfile

    with soundfile.SoundFile(path, "w", made.sample_rate, 1, "PCM_16", format="WAV") as file:
        for piece in made.pieces():
            file.write(np.clip(piece, -1, 1))
    rows = [f"{one.start:.3f}\t{one.end:.3f}\t{one.word}\n" for one in made.spoken]
    files.write_text(path.with_suffix(".tsv"), "".join(rows))


def save(
    curve: Sequence[Errors],
    best: Errors,
    settings: Settings,
    made: recording.Recording,
    path: Path,
) -> None:
    """Writes the curve as data."""
    about = {
        "hours": made.seconds / 3600,
        "signal_to_noise": made.signal_to_noise,
        "words": len(made.spoken),
        "smoothing": settings.smoothing,
        "suppression": settings.suppression,
        "best": dataclasses.asdict(best),
        "curve": [dataclasses.asdict(one) for one in curve],
    }
    files.write_text(path, json.dumps(about, indent=1) + "\n")


def draw(curve: Sequence[Errors], best: Errors, path: Path) -> None:
    """Draws the curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    points = [(one.false_accepts_per_hour, 100 * one.false_reject_rate) for one in curve]
    axes.plot(*zip(*points, strict=True), ".-")
    axes.plot(best.false_accepts_per_hour, 100 * best.false_reject_rate, "o", mfc="none", ms=10)
    axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="false accepts per hour", ylabel="false rejects, %", xlim=(0, None))
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    files.write(path, partial(figure.savefig, dpi=110))


if __name__ == "__main__":
    main()
