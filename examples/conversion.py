"""Accuracy against MACs of a trained standard net that is converted, and of nets made otherwise.

The other examples train separable nets from scratch. Here the standard net is there already, and is
made smaller in several ways, to the same MACs:

- converted: its kernels become separable, fitted to data, without any training;
- adapted: then it is trained to match the original net, for a share of the original epochs;
- pruned: it loses channels instead, stays standard, and is adapted likewise;
- separable: a separable net is trained from scratch, for as many epochs as both trainings together;
- standard-narrow: so is a narrow standard net.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from examples import command_line
from examples.nets import NARROW, Experiment, widest_within
from examples.prediction import outputs_of
from sepconv_layers import compare, convert, export, files, profile, tables, timing

ORIGINAL, CONVERTED, ADAPTED, PRUNED = "original", "converted", "adapted", "pruned"
SEPARABLE = "separable"
COLORS = {
    ORIGINAL: "black",
    CONVERTED: "tab:red",
    ADAPTED: "tab:green",
    PRUNED: "tab:purple",
    SEPARABLE: "tab:blue",
    NARROW: "tab:gray",
}
MACS = (0.5, 0.25, 0.125)  # shares of those of the original net
CALIBRATED = 2048  # training samples that separable kernels are fitted to
CHOOSING = 1024  # training samples that choose channels, and that those left are fitted to
SEPARABLE_SHARE = 1 / 3  # of the MACs that separable kernels leave; fewer channels save the rest
WIDEST = 4  # times the width of the original net, of separable nets with the same MACs
EPOCHS_SHARE = 1 / 3  # of the original epochs, to adapt a converted net
# Of the distillation; chosen on the validation part of Fashion-MNIST at an eighth of the MACs.
RECIPE = {"learning_rate": 2e-2, "temperature": 2.0, "label_weight": 0.1}


@dataclasses.dataclass(frozen=True)
class Point:
    """A net of a kind and a cost, trained with each seed.

    Attributes:
        kind: One of `COLORS`.
        share: Its MACs as a share of those of the original net: the limit that it was made for.
        macs: Its MACs.
        params: Its parameters.
        epochs: Epochs of all trainings that it needed.
        per_seed: Its test accuracies.
        infer_ms: The median time of a batch, beside all other nets in one process, each in its
            fastest mode.
        litert_ms: The same of one sample in LiteRT; `None` where there is none.
    """

    kind: str
    share: float
    macs: int
    params: int
    epochs: int
    per_seed: list[float]
    infer_ms: float = math.nan  # until all nets are there
    litert_ms: float | None = None

    @property
    def accuracy(self) -> str:
        """Mean, and standard deviation of several seeds."""
        mean, spread = np.mean(self.per_seed), np.std(self.per_seed)
        return f"{mean:.3f} ± {spread:.3f}" if len(self.per_seed) > 1 else f"{mean:.3f}"


@dataclasses.dataclass(frozen=True)
class Command:
    """The command `python -m examples.EXAMPLE.convert`.

    Attributes:
        example: The folder of the example.
        description: The docstring of the module.
        options: `datasets`, `default`, `own_data`, `epochs` and perhaps `batch_size` of
            `command_line.training_parser`.
        add_options: Adds the options of this example alone to a parser.
        prepare: Returns the data and the nets that a parser and its parsed options name.
    """

    example: str
    description: str | None
    options: Mapping[str, Any]
    add_options: Callable[[argparse.ArgumentParser], None]
    prepare: Callable[[argparse.ArgumentParser, argparse.Namespace], Experiment]

    @command_line.without_traceback
    def main(self, argv: Sequence[str] | None = None) -> list[Point]:
        """Makes and measures all nets."""
        argv = sys.argv[1:] if argv is None else argv
        parser = self.make_parser()
        arguments = parser.parse_args(argv)
        return run(self.prepare(parser, arguments), arguments, argv, self.example)

    def make_parser(self) -> argparse.ArgumentParser:
        """Returns the parser of the command."""
        parser = _make_parser(self.example, self.description, **self.options)
        self.add_options(parser)
        return parser


def _make_parser(
    example: str, description: str | None, *, epochs: str, batch_size: int | str = 64, **data: Any
) -> argparse.ArgumentParser:
    parser = command_line.new_parser(f"examples.{example}.convert", description)
    command_line.add_source(parser, **data)
    parser.add_argument(
        "--macs",
        type=_shares,
        default=MACS,
        metavar="SHARE,...",
        help=f"shares of the MACs of the original net; default: {','.join(map(str, MACS))}",
    )
    parser.add_argument(
        "--adapt-epochs",
        type=command_line.positive_number(int),
        help="epochs to adapt a converted net; default: a third of --epochs",
    )
    command_line.add_budget(parser, epochs, batch_size, seeds=1)
    command_line.add_output(parser, default=f"runs/{example}/DATASET-conversion")
    return parser


def _shares(text: str) -> list[float]:
    shares = sorted({command_line.positive_number(float)(share) for share in text.split(",")})
    if shares[-1] >= 1:
        raise argparse.ArgumentTypeError(f"must be less than 1, received {text}")
    return shares[::-1]


def run(
    experiment: Experiment, arguments: argparse.Namespace, argv: Sequence[str], example: str
) -> list[Point]:
    """Makes and measures all nets, and writes conversion.json, .md and .png.

    Args:
        experiment: The data and the nets.
        arguments: The parsed options.
        argv: The options as they were given, for the record.
        example: The folder of the example.
    """
    default = command_line.default_output(example, f"{experiment.name}-conversion")
    trials = Trials(experiment, arguments, arguments.output or default)
    points = trials.points()
    record = {
        "task": experiment.training["task"],
        "dataset": experiment.name,
        "command": command_line.command(f"examples.{example}.convert", argv),
        "device": timing.device(),
        "backend": keras.backend.backend(),
        "versions": timing.versions(),
        "budget": {
            "epochs": trials.epochs,
            "adapt_epochs": trials.adapt_epochs,
            "batch_size": trials.batch_size,
            "seeds": arguments.seeds,
            "training_samples": len(trials.part("train")[1]),
        },
        "recipe": RECIPE,
        "points": [dataclasses.asdict(point) for point in points],
    }
    output = trials.folder
    files.write_text(output / "conversion.json", json.dumps(record, indent=1) + "\n")
    files.write_text(output / "conversion.md", f"{markdown(record)}\n")
    files.write(output / "conversion.png", partial(_picture(points).savefig, dpi=150))
    print(f"\n{tables.text(cells(points, trials.batch_size))}\n")
    print(f"Saved in {output}: conversion.md, conversion.png, conversion.json, models")
    return points


class Trials:
    """The trainings of a run, each of which resumes in a folder of its own."""

    def __init__(self, experiment: Experiment, arguments: argparse.Namespace, folder: Path) -> None:
        self.experiment, self.arguments, self.folder = experiment, arguments, folder
        self.epochs = arguments.epochs or experiment.epochs
        share = max(1, round(EPOCHS_SHARE * self.epochs))
        self.adapt_epochs = arguments.adapt_epochs or share
        self.batch_size = arguments.batch_size or experiment.batch_size
        self.width = arguments.width
        self.nets: list[keras.Model] = []  # one for each point, which all have their time

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels of a part."""
        data = self.experiment.data
        return data[name] if isinstance(data, dict) else getattr(data, name)

    def points(self) -> list[Point]:
        """All nets, the original one first."""
        found = [self._originals()]
        for share in self.arguments.macs:
            print(f"\n{share:.3g} of the MACs", flush=True)
            found += [*self._converted(share), self._pruned(share)]
            most = share * found[0].macs
            for kind, conv, widest in (
                (SEPARABLE, "separable", WIDEST * self.width),
                (NARROW, "standard", self.width),
            ):
                build = partial(self.experiment.build, conv)
                width = widest_within(build, most, widest)
                found.append(self._from_scratch(kind, share, conv, width))
        print("\nTiming all nets", flush=True)
        batch = self.part("test")[0][: self.batch_size]
        in_keras = infer_ms(self.nets, batch, self.arguments.jit_compile)
        in_litert = litert_ms(self.nets, batch[:1])
        return [
            dataclasses.replace(point, infer_ms=ms, litert_ms=ms_of_file)
            for point, ms, ms_of_file in zip(found, in_keras, in_litert, strict=True)
        ]

    def _originals(self) -> Point:
        self.originals = [
            self._trained(ORIGINAL, "standard", self.width, self.epochs, seed)
            for seed in self._seeds()
        ]
        return self._point(ORIGINAL, 1.0, self.originals, self.epochs)

    def _converted(self, share: float) -> list[Point]:
        converted = [smaller(model, share, self._samples()) for model in self.originals]
        before = self._point(CONVERTED, share, converted, self.epochs)
        return [before, self._adapted(ADAPTED, share, converted)]

    def _pruned(self, share: float) -> Point:
        data = self._samples()[:CHOOSING]
        pruned = [convert.prune_channels(net, macs=share, data=data)[0] for net in self.originals]
        return self._adapted(PRUNED, share, pruned)

    def _adapted(self, kind: str, share: float, students: Sequence[keras.Model]) -> Point:
        for seed, student in zip(self._seeds(), students, strict=True):
            self._adapt(kind, student, share, seed)
        return self._point(kind, share, students, self.epochs + self.adapt_epochs)

    def _adapt(self, kind: str, student: keras.Model, share: float, seed: int) -> None:
        print(f"Adapting the smaller net, seed {seed}", flush=True)
        keras.utils.set_random_seed(seed)
        augmentation = self.experiment.training.get("augmentation")
        if augmentation is not None:  # of its own random state
            augmentation = type(augmentation).from_config(augmentation.get_config())
        history = convert.distill(
            student,
            self.originals[seed],
            self.part("train"),
            epochs=self.adapt_epochs,
            batch_size=self.batch_size,
            augmentation=augmentation,
            validation_data=self.part("val"),
            jit_compile=self._jit_compile(),
            seed=seed,
            folder=self.folder / kind / f"{share:g}-seed-{seed}",
            verbose=0,
            **RECIPE,
        )
        for epoch, agreement in enumerate(history["val_agreement"], 1):
            print(f"  epoch {epoch} of {self.adapt_epochs}: agreement {agreement:.4f}")
        files.write(self.folder / f"{kind}-{share:g}-seed-{seed}.keras", student.save)

    def _from_scratch(self, kind: str, share: float, conv: str, width: float) -> Point:
        epochs = self.epochs + self.adapt_epochs
        name = f"{kind}-{share:g}"
        models = [self._trained(name, conv, width, epochs, seed) for seed in self._seeds()]
        return self._point(kind, share, models, epochs)

    def _trained(self, name: str, conv: str, width: float, epochs: int, seed: int) -> keras.Model:
        """A net trained with one seed, or the one of an earlier run."""
        found = compare(
            partial(self.experiment.build, width=width),
            self.experiment.data,
            convs=conv,
            epochs=epochs,
            batch_size=self.batch_size,
            seeds=[seed],
            jit_compile=self.arguments.jit_compile,
            output=self.folder / "trained" / f"{name}-seed-{seed}",
            dataset=self.experiment.name,
            **self.experiment.training,
        )
        return found.models[conv]

    def _point(self, kind: str, share: float, models: Sequence[keras.Model], epochs: int) -> Point:
        x, y = self.part("test")
        accuracies = [
            float(np.mean(outputs_of(model, x, batch_size=256).argmax(-1) == y)) for model in models
        ]
        cost = profile(models[0], x.shape[1:])
        point = Point(kind, share, int(cost.macs), int(cost.params), epochs, accuracies)
        self.nets.append(models[0])
        print(f"{kind}: {point.macs:,} MACs, accuracy {point.accuracy}", flush=True)
        return point

    def _samples(self) -> np.ndarray:
        return self.part("train")[0][:CALIBRATED]

    def _seeds(self) -> range:
        return range(self.arguments.seeds)

    def _jit_compile(self) -> bool | str:
        """XLA compiles on TensorFlow for longer than most of these trainings take."""
        given = self.arguments.jit_compile
        is_open = given == "auto" and keras.backend.backend() == "tensorflow"
        return False if is_open else given


def smaller(model: keras.Model, share: float, samples: np.ndarray) -> keras.Model:
    """Returns a model with a share of the MACs: fewer channels first, then separable kernels.

    Separable kernels save up to a factor of three, for which they need two or three kernels for
    each channel: with more, passes over memory take the time that MACs save.
    """
    most = share * profile(model, samples.shape[1:]).macs
    if share < SEPARABLE_SHARE:
        data = samples[:CHOOSING]
        model, _ = convert.prune_channels(model, macs=share / SEPARABLE_SHARE, data=data)
    least, _ = convert.to_separable(model, rank=1)
    if profile(least, samples.shape[1:]).macs <= most:
        return convert.to_separable(model, macs=most, data=samples)[0]
    separable, _ = convert.to_separable(model, rank=1, data=samples)
    return convert.prune_channels(separable, macs=most, data=samples[:CHOOSING])[0]


def infer_ms(
    models: Sequence[keras.Model], batch: np.ndarray, jit_compile: bool | str = "auto"
) -> list[float]:
    """Returns the median time of a batch for each model. They take turns in one process.

    Args:
        models: The models.
        batch: The inputs.
        jit_compile: A mode of the backend; by default each model counts in its fastest mode.
    """
    modes = timing.MODES[keras.backend.backend()]
    wanted = {mode: compiles for mode, compiles in modes.items() if compiles is jit_compile}
    calls = {}
    for number, model in enumerate(models):
        for mode, compiles in (wanted or modes).items():
            copy = keras.models.clone_model(model)  # whose compiled function is its own
            copy.jit_compile = compiles
            calls[number, mode] = partial(copy.predict_on_batch, batch)
    running, _ = timing.runnable(calls)  # XLA cannot compile some nets
    times = timing.medians(running)
    return [
        min(ms for (of, _), ms in times.items() if of == number) for number in range(len(models))
    ]


def litert_ms(models: Sequence[keras.Model], sample: np.ndarray) -> Sequence[float | None]:
    """Returns the median time of a sample for each model's LiteRT file, in turns.

    Args:
        models: The models.
        sample: A batch of one.
    """
    needed = importlib.util.find_spec("ai_edge_litert")
    if keras.backend.backend() != "tensorflow" or needed is None:
        return [None] * len(models)
    calls = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number, model in enumerate(models):
            path = Path(folder) / f"{number}.tflite"
            export.to_litert(model, path, sample=sample)
            calls[number] = partial(export.load(path), sample)
        return list(timing.medians(calls).values())


def markdown(record: Mapping[str, Any]) -> str:
    """Returns the table of a record, conversion.json."""
    points = [Point(**point) for point in record["points"]]
    return tables.markdown(cells(points, record["budget"]["batch_size"]))


def cells(points: Sequence[Point], batch_size: int) -> list[list[str]]:
    """Returns the header and a row for each net."""
    header = ["net", "MACs ÷", "MACs", "parameters", "epochs", "accuracy"]
    header += [f"inference ms, batch {batch_size}", "times as fast"]
    header += ["LiteRT ms, one sample", "times as fast"]
    original = points[0]
    rows = [
        [
            point.kind,
            f"{original.macs / point.macs:.1f}",
            f"{point.macs:,}",
            f"{point.params:,}",
            str(point.epochs),
            point.accuracy,
            *_times(original.infer_ms, point.infer_ms),
            *_times(original.litert_ms, point.litert_ms),
        ]
        for point in points
    ]
    return [header, *rows]


def _times(original: float | None, ms: float | None) -> list[str]:
    """A time, and how many times as fast as the original net's it is."""
    if original is None or ms is None:
        return ["–", "–"]
    return [f"{ms:.3g}", f"{original / ms:.1f}"]


def _picture(points: Sequence[Point]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, color in COLORS.items():
        line = sorted((point.macs / 1e6, point.per_seed) for point in points if point.kind == kind)
        macs, accuracies = zip(*line, strict=True)
        means, spreads = np.mean(accuracies, axis=1), np.std(accuracies, axis=1)
        axes.errorbar(macs, means, spreads, fmt="o-", color=color, capsize=3, label=kind)
    if not math.isclose(min(point.macs for point in points), points[0].macs):
        axes.set_xscale("log")
    axes.set(title="Accuracy vs. cost", xlabel="MACs per sample (millions)",
             ylabel="test accuracy")  # fmt: skip
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    return figure
