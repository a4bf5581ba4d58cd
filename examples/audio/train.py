"""Keyword spotting: a depthwise-separable net against its standard-convolution twin.

    python -m examples.audio.train
        eight words from a speech synthesizer, no download
    python -m examples.audio.train --dataset fsdd --causal
        accuracy 0.999 (separable), 1.000 (standard); 8 minutes with --conv all
    python -m examples.audio.train --dataset fsdd --speaker-independent
        accuracy 0.850 (separable), 0.817 (standard); 6 minutes with --conv all
    python -m examples.audio.train --dataset speech_commands
        accuracy 0.950 (separable), 0.961 (standard); 10 minutes with --conv all, on a subset
    python -m examples.audio.train --data FOLDER
        your own recordings, in one folder for each word

Minutes are on two CPU cores. Both nets get the same data, budget and seeds. The comparison is
printed and written to `--output`, beside the trained models. The files that end in
`-waveform.keras` are models that take recordings. With `--causal` the nets do not look ahead, and
`--export litert,int8` also writes models that run frame by frame, for `examples.audio.listen`. Run
the same command again to continue an interrupted run.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from examples import command_line
from examples.artifacts import CHECKED, export_all
from examples.audio import augment, data, features, folds, steps
from examples.audio.spectrograms import moments_of
from examples.nets import Experiment, compare_nets
from examples.prediction import outputs_of
from examples.sources import printable
from sepconv_layers import Comparison, Frontier, Search, files, models

NETS = ("ds_cnn", "keyword_resnet", "matchboxnet", "bc_resnet")
CAUSAL = NETS[:3]
# Kernels of keyword_resnet, over time and frequency. In a standard net, the MACs of longer ones are
# better spent on channels.
KERNEL_SIZES = {"separable": (5, 3), "standard": (3, 3)}
SPACE = {"width": (0.25, 2.0), "mfcc": [True, False]}  # of --search
OPTIONS: dict[str, Any] = {  # of `train` and `convert`
    "datasets": data.SOURCES,
    "default": data.DEFAULT,
    "own_data": ("FOLDER", "a folder of recordings"),
    "cache": data.CACHE,
    "epochs": "5 for mini, 60 with --speaker-independent, else 20",
}
SPEAKERS = "fsdd_speakers"  # the name of results with whole speakers held out
# A net that has few speakers to learn from needs variations of them, and time to learn these.
EPOCHS = {"mini": 5, SPEAKERS: 60}
DEFAULT_EPOCHS = 20
LEARNING_RATE = 1e-2
CONFUSION = "confusion.json"


def build(
    conv: str,
    net: str,
    spectrograms: np.ndarray,
    classes: int,
    width: float = 1.0,
    mfcc: bool | None = None,
    causal: bool = False,
    moments: tuple[np.ndarray, np.ndarray] | None = None,
) -> keras.Model:
    """Returns a net from log-mel spectrograms like these, which it normalizes, to logits.

    Their `moments_of` need to be computed only once if they are passed.
    """
    _, frames, bands = spectrograms.shape
    if mfcc is None:
        mfcc = net == "ds_cnn"
    mean, variance = moments or moments_of(spectrograms)
    inputs = keras.Input((frames, bands), name="log_mel")
    x = keras.layers.Normalization(mean=mean, variance=variance + 1e-3)(inputs)
    if mfcc:
        bands = features.COEFFICIENTS
        x = features.fixed_product(features.cosine_transform(x.shape[-1]), "mfcc")(x)
    make: dict[str, Any] = {"classes": classes, "conv": conv, "width": width}
    if net in CAUSAL:
        make["padding"] = "causal" if causal else "same"
    if net == "keyword_resnet":
        make["kernel_size"] = KERNEL_SIZES[conv]
    if net in ("keyword_resnet", "ds_cnn"):
        x = keras.layers.Reshape((frames, bands, 1))(x)
        x = getattr(models, net)((frames, bands, 1), dropout=0.2, **make)(x)
    elif net == "matchboxnet":
        x = models.matchboxnet((frames, bands), **make)(x)
    else:
        x = keras.layers.Permute((2, 1))(x)
        x = keras.layers.Reshape((bands, frames, 1))(x)
        x = models.bc_resnet((bands, frames, 1), **make)(x)
    return keras.Model(inputs, x, name=net)


def prepare(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, held_out: str | None = None
) -> Experiment:
    """Loads the clips that the options name, and returns nets for them and their recipe.

    Args:
        parser: The parser of the options, for its messages.
        arguments: The parsed options.
        held_out: The speaker of the test part, of `fsdd`.
    """
    if arguments.causal and arguments.net not in CAUSAL:
        parser.error(f"--causal is for {', '.join(CAUSAL)}, not for {arguments.net}")
    if arguments.mfcc and arguments.net == "bc_resnet":
        parser.error("--mfcc is not for bc_resnet, which takes bands")
    with command_line.user_errors(parser, folder="--data"):
        dataset = data.load(
            arguments.dataset or data.DEFAULT,
            folder=arguments.data,
            held_out=held_out,
            limit=arguments.limit,
            seconds=arguments.seconds,
            front_end=arguments.front_end,
            cache=arguments.cache,
        )
    name = SPEAKERS if held_out else dataset.name
    spectrograms, classes, settings = dataset.train[0], dataset.classes, dataset.settings
    details = f" of {settings.seconds:g} s at {settings.sample_rate:,} Hz"
    print(dataset.summary("clips", f"{details}, words: {', '.join(classes)}"))
    net = partial(
        build,
        net=arguments.net,
        spectrograms=spectrograms,
        moments=moments_of(spectrograms),
        classes=len(classes),
        mfcc=arguments.mfcc,
        causal=arguments.causal,
    )
    varied = arguments.vary_speakers
    if varied is None:
        varied = held_out is not None
    training = {
        "learning_rate": LEARNING_RATE,
        "label_smoothing": 0.1,
        "augmentation": augment.augmentation(spectrograms, varied),
        "task": "Keyword spotting",
    }
    return Experiment(name, dataset, net, EPOCHS.get(name, DEFAULT_EPOCHS), training)


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> Comparison | Frontier | Search:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if not arguments.speaker_independent:
        words = prepare(parser, arguments)
        return train_nets(words, arguments, argv)
    if arguments.dataset != "fsdd":
        parser.error("--speaker-independent is a split of --dataset fsdd")
    if arguments.search:
        parser.error("--search needs one split of the data, not --speaker-independent")
    with command_line.user_errors(parser):
        speakers = data.fsdd_speakers()
    output = command_line.output_folder(arguments, "audio", SPEAKERS)
    folders = {speaker: output / f"fold-{speaker}" for speaker in speakers}

    def train_fold(speaker: str, folder: Path) -> Any:
        return train_nets(prepare(parser, arguments, speaker), arguments, argv, folder)

    found = folds.cross_validate(folders, train_fold, output)
    if isinstance(found, Comparison):
        confusion, classes = confusion_of_folds(folders.values())
        save_confusion(confusion, classes, output)
    print(f"\n{found}\n\nSaved in {printable(str(output))}, and each fold in a folder of it.")
    return found


def train_nets(
    words: Experiment,
    arguments: argparse.Namespace,
    argv: Sequence[str],
    output: Path | None = None,
) -> Comparison | Frontier | Search:
    """Trains the nets on one split of the data.

    Args:
        words: The clips, nets for them and their recipe.
        arguments: The parsed options.
        argv: The options as they were given, for the record.
        output: The folder of the results, if it is not that of the options.
    """
    dataset = words.data
    options = command_line.compare_options(
        arguments, argv, example="audio", dataset=words.name, epochs=words.epochs
    )
    options["output"] = output = output or options["output"]
    found = compare_nets(words.build, dataset, arguments, {**options, **words.training}, SPACE)
    if not isinstance(found, Comparison):
        return found
    spectrograms, classes, settings = dataset.train[0], dataset.classes, dataset.settings
    # The integers of the other front end cannot be computed by Keras.
    front = features.front_end(settings) if settings.front_end == "librosa" else None
    for conv, model in found.models.items():
        save_for_waveforms(front, model, dataset, output / f"{conv}-waveform.keras")
    if arguments.export:
        export_all(
            found,
            arguments.export,
            output,
            classes,
            spectrograms,
            dataset.test,
            **({"raw": dataset.waveforms(CHECKED), "preprocessor": front} if front else {}),
        )
        if arguments.causal:
            steps.export_steps(found, arguments.export, dataset, output)
    if dataset.scaling:
        found.notes.append(dataset.scaling)
    if dataset.scaling or arguments.export:
        found.save(output)
    confusion = {conv: confusion_of(model, dataset) for conv, model in found.models.items()}
    save_confusion(confusion, classes, output)
    place = printable(str(output))
    print(f"\n{found}\n\nSaved in {place}: report.md, comparison.png, confusion.png, results.json,")
    print(f"models, and models for waveforms. Try: python -m examples.audio.predict {place} FILE")
    return found


def save_for_waveforms(
    front: keras.Model | None, model: keras.Model, dataset: data.Dataset, path: Path
) -> None:
    """Writes front end and net as one model, and a description of its inputs and outputs.

    Without a front end, only the description.
    """
    if front is not None:
        whole = keras.Model(front.input, model(front.output), name=f"{model.name}_waveform")
        files.write(path, whole.save)
    settings = dataset.settings
    about = {
        "classes": dataset.classes,
        "sample_rate": settings.sample_rate,
        "samples": settings.samples,
        "scale": dataset.scale,
        "front_end": settings.front_end,
    }
    files.write_text(path.with_suffix(".json"), json.dumps(about) + "\n")


def confusion_of(model: keras.Model, dataset: data.Dataset) -> list[list[int]]:
    """Returns the confusion matrix of the test part, `(word, predicted word)`."""
    x, y = dataset.test
    counts = np.zeros((len(dataset.classes),) * 2, int)
    np.add.at(counts, (y, outputs_of(model, x).argmax(-1)), 1)
    return counts.tolist()


def confusion_of_folds(folders: Iterable[Path]) -> tuple[dict[str, list[list[int]]], list[str]]:
    """Returns the sums of the confusion matrices in these folders, and the words."""
    saved = [json.loads((folder / CONFUSION).read_text("utf-8")) for folder in folders]
    return {
        conv: np.sum([fold["confusion"][conv] for fold in saved], axis=0).tolist()
        for conv in saved[0]["confusion"]
    }, saved[0]["classes"]


def save_confusion(confusion: dict, classes: Sequence[str], output: Path) -> None:
    """Writes the confusion matrices as data and as a picture."""
    from matplotlib.figure import Figure

    text = json.dumps({"classes": classes, "confusion": confusion}, indent=1)
    files.write_text(output / CONFUSION, text + "\n")
    figure = Figure(figsize=(4.5 * len(confusion), 4.5), layout="constrained")
    panels = figure.subplots(1, len(confusion), squeeze=False)[0]
    for axes, (conv, counts) in zip(panels, confusion.items(), strict=True):
        axes.imshow(counts, cmap="Blues")
        for row, column in np.ndindex(len(classes), len(classes)):
            if counts[row][column]:
                dark = counts[row][column] > 0.5 * np.max(counts)
                axes.text(column, row, counts[row][column], ha="center", va="center",
                          fontsize="small", color="white" if dark else "black")  # fmt: skip
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        axes.set(title=conv, xlabel="predicted", ylabel="word")
    files.write(output / "confusion.png", partial(figure.savefig, dpi=110))


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.training_parser("audio", __doc__, **OPTIONS, searched=SPACE)
    add_options(parser)
    speakers = "the mean over the speakers of fsdd, each of which is held out once"
    parser.add_argument("--speaker-independent", action="store_true", help=speakers)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of clips and of nets for them."""
    parser.add_argument("--net", choices=NETS, default=NETS[0], help=f"default: {NETS[0]}")
    parser.add_argument(
        "--mfcc",
        action=argparse.BooleanOptionalAction,
        help="10 coefficients in place of log-mel bands; default: for ds_cnn",
    )
    parser.add_argument(
        "--vary-speakers",
        action=argparse.BooleanOptionalAction,
        help="vary rate, vocal tract, level and microphone in training, which takes more epochs; "
        "default: with --speaker-independent",
    )
    front = "micro: log-mel bands in integers, as microcontrollers compute them; default: librosa"
    parser.add_argument("--front-end", choices=("librosa", "micro"), default="librosa", help=front)
    parser.add_argument("--causal", action="store_true", help="convolutions do not look ahead")
    seconds = "length of a clip; default: 1"
    positive = command_line.positive_number(float)
    parser.add_argument("--seconds", type=positive, default=1.0, help=seconds)


if __name__ == "__main__":
    main()
