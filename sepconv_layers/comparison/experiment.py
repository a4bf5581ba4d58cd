"""`compare`: trains and measures twins under one budget."""

import dataclasses
import inspect
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.comparison import checks, speed
from sepconv_layers.comparison.comparison_record import Comparison
from sepconv_layers.comparison.data import Parts
from sepconv_layers.comparison.resume import TALLY
from sepconv_layers.comparison.row import Row
from sepconv_layers.comparison.setup import Setup, prepare
from sepconv_layers.comparison.task import ACCURACY, Task
from sepconv_layers.comparison.tradeoff import spread
from sepconv_layers.comparison.training import (
    model_path,
    run,
    runs_folder,
)
from sepconv_layers.cost import Profile, profile
from sepconv_layers.files import write
from sepconv_layers.sources import digest_of, shapes_of


def compare(
    build: Callable[[str], keras.Model],
    data: Any,
    *,
    convs: str | Sequence[str] = ("separable", "standard"),
    loss: keras.losses.Loss | Callable[..., Any] | str | None = None,
    metrics: Any = None,
    monitor: str | tuple[str, str] | None = None,
    class_weight: Mapping[Any, float] | str | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    seeds: int | Sequence[int] = 3,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    augmentation: keras.layers.Layer | None = None,
    mixing: keras.layers.Layer | None = None,
    ema_momentum: float | None = None,
    optimizer: Callable[..., keras.optimizers.Optimizer] | None = None,
    callbacks: Callable[[str, int], Sequence[keras.callbacks.Callback]] | None = None,
    initial_weights: Mapping[str, str | os.PathLike] | None = None,
    infer_batch_sizes: Sequence[int] | None = None,
    jit_compile: bool | str = "auto",
    distribution: Any = None,
    output: str | os.PathLike | None = None,
    task: str | None = None,
    dataset: str = "",
    command: str = "",
    progress: bool = True,
) -> Comparison:
    """Trains and measures twins under one budget.

    All nets are trained by AdamW with a short warm-up and cosine decay, the same regularization
    and the same seeds, in the precision that `keras.config.set_dtype_policy` sets. Test accuracy is
    measured with the weights of the epoch that was best on the validation part.

    With `output`, an interrupted comparison resumes after its last complete epoch when it is called
    again, and a comparison with more seeds trains only the new ones. Each combination of net, data
    and settings has its own folder in `output/runs`, so nothing stale is used and nothing trained
    is lost. A damaged file there is renamed, with a message, and its contents are trained again.

    Args:
        build: `build(conv)` returns a new model that outputs logits. It is called for every seed,
            after `keras.utils.set_random_seed(seed)`, and for throw-away models to check and time.
        data: Object or mapping with `train`, `val` and `test`, each a pair of inputs (an array, or
            a structure of arrays) and labels. Arrays may be mapped files, HDF5 or zarr
            arrays, map-style data sets of PyTorch or Grain, or whatever else has `len` and
            `[indices]`: they are read batch by batch. If it has a method `digest`, what that
            returns stands for the contents, which are hashed otherwise. A third entry of a part
            holds weights, one for each sample or for each of its pixels or frames, in the loss and
            the metrics of that part. `data` may also have `classes`: their names or their number,
            by default the largest label plus 1.
        convs: The nets: "separable", "standard", "standard-narrow".
        loss: Loss of Keras, its name, or a function of labels and outputs. By default, it follows
            from the labels: cross-entropy of logits for integers, for each sample or each pixel or
            frame; binary cross-entropy of logits for several labels, of shape (samples, labels) and
            0 or 1; and the mean squared error for floats. Integers with a loss for numbers, such as
            `keras.losses.Huber()`, are grades: the net outputs one number.
        metrics: One or several metrics of Keras, their names, or functions. Each net gets its own.
            They get probabilities where the loss takes logits, and labels as integers or one-hot
            as they take them. By default: accuracy for one label, the mean of intersection over
            union for pixels or frames, the area under the ROC curve for several labels, and the
            mean absolute error for numbers.
        monitor: Name of the metric that chooses the epoch to keep, the seed whose model is saved,
            and the best net, or "loss"; by default, the first metric. Whether higher values are
            better is found by trying it on good and on bad outputs; a pair such as
            `("count", "max")` says so.
        class_weight: Index or name of a class to the weight of its samples in the loss of the
            training, or "balanced": all classes get the same weight together.
        epochs: Number of passes over the training part.
        batch_size: Number of training samples per step.
        seeds: Number of seeds, or a list of seeds.
        learning_rate: Largest learning rate, after the warm-up; a number, not a schedule.
        weight_decay: Weight decay of AdamW, for all weights except biases and normalization.
        label_smoothing: Share of each label that is spread over all classes, in `[0, 1)`.
        augmentation: Layer applied to the training inputs. It is not part of the saved model, and
            its random state comes from the seed of the run.
        mixing: Layer that mixes training samples with others, after the augmentation, such as
            `keras.layers.MixUp` or `keras.layers.CutMix`. As these do, it takes and returns a
            mapping of "images", the inputs of whatever kind, and "labels", which are one-hot.
        ema_momentum: If given, nets are validated, tested and saved with an exponential moving
            average of their weights, and this is how much of it stays in each step, in `[0, 1)`. It
            spans about `1 / (1 - ema_momentum)` steps and starts at the weights of the first one,
            so this must be much less than all steps: 0.99 to 0.999 in long trainings.
        optimizer: Returns a new optimizer for `learning_rate`, a schedule, and `weight_decay`, and
            with `ema_momentum` also for `use_ema` and `ema_momentum`: a class of
            `keras.optimizers`, or one with further arguments by `functools.partial`. By default,
            AdamW.
        callbacks: `callbacks(conv, seed)` returns new callbacks for a training, such as
            `keras.callbacks.TensorBoard`, whose folder may depend on both. Those that end a
            training early, such as `keras.callbacks.EarlyStopping`, end each by itself, and `notes`
            say when. After an interruption they see the logs of all epochs again.
        initial_weights: Name of a net to a file of weights to start from, `.keras` or
            `.weights.h5`, for every seed.
        infer_batch_sizes: Batch sizes for timing inference; by default 1 and `batch_size`.
        jit_compile: How to time the nets where the backend offers a choice: compiled by XLA
            (`True`), which can take a minute for a large net, or not (`False`). By default both are
            timed, and the faster one counts for each net. TensorFlow also trains in that mode if
            there are enough steps to make up for the compilation.
        distribution: The devices to train on: "auto" for all there are, a distribution of Keras on
            JAX, or a strategy of TensorFlow with one process. By default, the one that the call
            stands in, or one device. `batch_size` counts the samples of all devices together. All
            else is done by one device, times included. Several processes on JAX
            (`keras.distribution.initialize`) make the same call with the same data. The first one
            reads and writes `output`, and all return the result.
        output: Directory for the results and for what resuming needs.
        task: The task in words, for the record; by default, "Classification", "Segmentation",
            "Several labels" or "Regression".
        dataset: Name of the data, for the record.
        command: The command that reproduces the comparison, for the record.
        progress: Whether to print progress.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If an argument, the data or a model is not as described.
        FloatingPointError: If a loss is not finite.
        OSError: If a file cannot be written, such as on a full disk. Everything trained so far is
            kept, and the same call resumes from there.
        ImportError: If `output` is given and matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ConvBlock1D, SeparableConvBlock1D
        >>> def build(conv):
        ...     block = {"separable": SeparableConvBlock1D, "standard": ConvBlock1D}[conv]
        ...     head = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
        ...     return keras.Sequential([keras.Input((16, 4)), block(8), *head])
        >>> part = np.random.rand(32, 16, 4), np.arange(32) % 2
        >>> data = {"train": part, "val": part, "test": part}
        >>> result = compare(build, data, epochs=1, seeds=1, progress=False)
        >>> [row.macs for row in result.rows]
        [720, 1552]
    """
    started = time.perf_counter()
    convs = checks.check_convs(convs)
    setup = prepare(
        data,
        [*Comparison.NAMES, *(f"{conv}.keras" for conv in convs)],
        loss=loss,
        metrics=metrics,
        monitor=monitor,
        class_weight=class_weight,
        epochs=epochs,
        batch_size=batch_size,
        seeds=seeds,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        augmentation=augmentation,
        mixing=mixing,
        ema_momentum=ema_momentum,
        optimizer=optimizer,
        callbacks=callbacks,
        initial_weights=initial_weights,
        infer_batch_sizes=infer_batch_sizes,
        jit_compile=jit_compile,
        distribution=distribution,
        output=output,
        task=task,
        dataset=dataset,
        command=command,
        progress=progress,
    )
    with setup.directory() as directory:
        models = untrained_models(build, convs, setup)
        profiles = profiles_of(models, setup.parts)
        times = times_of(build, convs, setup)
        trained = train_all(build, models, setup, times, directory)
        rows = {
            conv: Row(conv=conv, **row_fields(profiles[conv], net, times[conv]))
            for conv, net in trained.items()
        }
        seconds = time.perf_counter() - started + sum(net.earlier for net in trained.values())
        result = Comparison(
            **setup.circumstances(seconds, convs[0]),
            **_gains(rows),
            rows=list(rows.values()),
            models={conv: net.model for conv, net in trained.items()},
            notes=early_ends(trained, setup.training.epochs),
        )
        if setup.output is not None:
            _save(result, trained, directory)
    return result


def arguments_of_compare(function: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `compare` that other functions share with it, except `convs`.

    Args:
        function: The name of the other function.
        given: Those that were given. The others have their defaults.

    Raises:
        TypeError: If there is no such argument.
    """
    parameters = inspect.signature(compare).parameters.values()
    arguments = {
        each.name: each.default
        for each in parameters
        if each.kind is each.KEYWORD_ONLY and each.name != "convs"
    }
    for name in given:
        if name not in arguments:
            raise TypeError(
                f"`{function}` got an unexpected argument {name!r}. Beside its own, it takes these "
                f"arguments of `compare`: {', '.join(arguments)}."
            )
    return arguments | dict(given)


@dataclasses.dataclass(frozen=True)
class TrainedNet:
    """One net after training with every seed.

    Attributes:
        runs: Seed to the result of its run.
        seed: The seed that was best on the validation part.
        model: The model that was trained with it.
        folder: The folder of the runs.
        earlier: Seconds that an interrupted comparison spent on the runs before this call.
        task: What it learned.
    """

    runs: dict[int, dict[str, Any]]
    seed: int
    model: keras.Model
    folder: Path
    earlier: float
    task: Task

    def spread_of(self, name: str) -> dict[str, Any]:
        """Mean and spread of a metric on the test part."""
        return spread([result[name] for result in self.runs.values()])

    def path_of(self, seed: int) -> Path:
        """Where the model of a seed is saved."""
        return model_path(self.folder, seed)


def untrained_models(
    build: Callable[[str], keras.Model], convs: Sequence[str], setup: Setup
) -> dict[str, keras.Model]:
    """A checked, untrained model of each net."""
    setup.training.own.check_nets(convs)
    models = {}
    for conv in convs:
        keras.utils.set_random_seed(0)  # a net may hold a seed that it drew
        models[conv] = checks.check_build(build, conv, setup.parts, setup.training.task)
        setup.training.own.start(models[conv], conv)
    return models


def profiles_of(models: Mapping[str, keras.Model], parts: Parts) -> dict[str, Profile]:
    """The cost of each net for one sample of the training part."""
    x = parts["train"][0]
    shapes = shapes_of(x)
    return {conv: profile(model, shapes) for conv, model in models.items()}


def times_of(
    build: Callable[[str], keras.Model], convs: Iterable[str], setup: Setup
) -> dict[str, dict[str, Any]]:
    """The times of each net and the modes that it ran in."""
    names, part = list(convs), setup.parts["train"]
    setup.training.say(f"Timing {', '.join(names)}")
    return speed.measure(build, names, part, setup.training, setup.batch_sizes, setup.jit_compile)


def train_all(
    build: Callable[[str], keras.Model],
    models: Mapping[str, keras.Model],
    setup: Setup,
    times: Mapping[str, Mapping[str, Any]],
    directory: Path,
) -> dict[str, TrainedNet]:
    """Trains each net with every seed."""
    parts, training, seeds = setup.parts, setup.training, setup.seeds
    digest = digest_of(parts)
    numbers, total = itertools.count(1), len(models) * len(seeds)
    trained = {}
    for conv, model in models.items():
        folder = runs_folder(directory, conv, model, training, digest)
        jit_compile = training.jit_compile(times[conv]["train_mode"], parts["train"][0])
        runs, earlier = {}, 0.0
        for seed in seeds:
            training.say(f"[{next(numbers)}/{total}] {conv}, seed {seed}")
            runs[seed], seconds = run(build, conv, seed, parts, training, folder, jit_compile)
            earlier += seconds
        best = max(seeds, key=lambda seed: training.task.score(runs[seed]["best"]))
        model = keras.models.load_model(model_path(folder, best))
        trained[conv] = TrainedNet(runs, best, model, folder, earlier, training.task)
    return trained


def early_ends(trained: Mapping[str, TrainedNet], epochs: int) -> list[str]:
    """A sentence on each net whose trainings callbacks have ended early."""
    notes = []
    for conv, net in trained.items():
        done = [len(run["history"]) for run in net.runs.values()]
        if min(done) < epochs:
            listed = ", ".join(map(str, done))
            notes.append(
                f"Callbacks ended the trainings of {conv} after {listed} of {epochs} epochs."
            )
    return notes


def row_fields(costs: Profile, net: TrainedNet, times: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Row` that are measured."""
    task = net.task
    scores = {name: net.spread_of(name) for name in task.measured}
    embeddings = [layer.params for layer in costs.rows if layer.kind == "Embedding"]
    return {
        "model": costs.name,
        "params": costs.params,
        "macs": costs.macs,
        "accuracy": scores.pop(ACCURACY) if task.monitor == ACCURACY else {},
        "artifacts": {"keras": {"seed": net.seed, **net.runs[net.seed]["artifact"]}},
        "embedding_params": sum(embeddings),
        **times,
        "scores": scores,
        **task.details([result[TALLY] for result in net.runs.values() if TALLY in result]),
    }


def _save(result: Comparison, trained: Mapping[str, TrainedNet], directory: Path) -> None:
    """Writes the best model of each net, the record, the report and the picture."""
    for conv, net in trained.items():
        write(directory / f"{conv}.keras", partial(shutil.copyfile, net.path_of(net.seed)))
    result.save(directory)


def _gains(rows: dict[str, Row]) -> dict[str, Any]:
    if not {"separable", "standard"} <= set(rows):
        return {"mac_ratio": None, "speedup": {}, "realized_fraction": {}}
    ours, theirs = rows["separable"], rows["standard"]
    largest = max(ours.infer_ms)
    ratio = theirs.macs / ours.macs if theirs.macs and ours.macs else None
    speedup = {
        "infer": theirs.infer_ms[largest] / ours.infer_ms[largest],
        "train": theirs.train_step_ms / ours.train_step_ms,
    }
    realized = {key: value / ratio for key, value in speedup.items()} if ratio else {}
    return {
        "mac_ratio": ratio and round(ratio, 4),
        "speedup": {key: round(value, 4) for key, value in speedup.items()},
        "realized_fraction": {key: round(value, 4) for key, value in realized.items()},
    }
