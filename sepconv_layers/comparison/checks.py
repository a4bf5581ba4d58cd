"""Checks of the arguments of `compare`."""

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import check_number, is_integer, positive_int, positive_number
from sepconv_layers.comparison.data import Parts
from sepconv_layers.comparison.figure import figure_class
from sepconv_layers.comparison.recipe import INPUTS, LABELS, Training, copy_of
from sepconv_layers.comparison.task import Task
from sepconv_layers.comparison.training import RUNS, outputs_of
from sepconv_layers.files import write
from sepconv_layers.sources import shapes_of, take

OWN_METHODS = "fit", "train_step", "test_step", "compute_loss", "compute_metrics"
CONVS = ("separable", "standard", "standard-narrow")
TAKEN_AND_RETURNED = {
    "augmentation": "the inputs of a batch",
    "mixing": f"a mapping of {INPUTS!r} to the inputs of a batch and {LABELS!r} to one-hot labels",
}


def check_convs(convs: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the nets as a tuple."""
    names = (convs,) if isinstance(convs, str) or not isinstance(convs, Iterable) else tuple(convs)
    is_known = all(isinstance(name, str) and name in CONVS for name in names)
    if not names or not is_known or len(set(names)) < len(names):
        raise ValueError(f"`convs` must be distinct names of {CONVS}. Received: convs={convs!r}.")
    return names


def check_sizes(sizes: Any) -> list[int]:
    """Returns the batch sizes as a sorted list."""
    if not isinstance(sizes, Sequence) or not sizes:
        raise ValueError(
            "`infer_batch_sizes` must be a list of at least one batch size. Received: "
            f"infer_batch_sizes={sizes!r}."
        )
    return sorted({positive_int(size, "infer_batch_sizes") for size in sizes})


def check_jit_compile(jit_compile: Any) -> None:
    """Checks that it is a value that `keras.Model.compile` takes."""
    if not (isinstance(jit_compile, bool) or jit_compile == "auto"):
        raise ValueError(
            "`jit_compile` must be True, False or 'auto' (the faster of the two). Received: "
            f"jit_compile={jit_compile!r}."
        )


def check_seeds(seeds: Any) -> list[int]:
    """Returns the seeds as a list."""
    listed = range(seeds) if is_integer(seeds) else seeds
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(is_integer(seed) and 0 <= seed < 2**32 for seed in listed)
        or len(set(listed)) < len(listed)
    ):
        raise ValueError(
            "`seeds` must be a positive number of seeds, or a list of distinct integers from 0 "
            f"to 2**32 - 1. Received: seeds={seeds!r}."
        )
    return [int(seed) for seed in listed]


def check_settings(
    *,
    epochs: Any,
    batch_size: Any,
    learning_rate: Any,
    weight_decay: Any,
    label_smoothing: Any,
    augmentation: Any,
    mixing: Any,
    ema_momentum: Any,
) -> dict[str, Any]:
    """Returns the settings of the training, as `Training` takes them."""
    positive_number(learning_rate, "learning_rate")
    check_number(weight_decay, "weight_decay", "a number in [0, inf)", lambda x: 0 <= x < math.inf)
    check_number(label_smoothing, "label_smoothing", "a number in [0, 1)", lambda x: 0 <= x < 1)
    for name, layer, advice in (
        ("augmentation", augmentation, "`keras.Sequential` combines several layers."),
        ("mixing", mixing, "`keras.layers.MixUp` and `keras.layers.CutMix` are such layers."),
    ):
        if not isinstance(layer, keras.layers.Layer | None):
            raise ValueError(
                f"`{name}` must be a Keras layer. {advice} Received: {name}={layer!r}."
            )
    if ema_momentum is not None:
        check_number(ema_momentum, "ema_momentum", "a number in [0, 1)", lambda x: 0 <= x < 1)
    return {
        "epochs": positive_int(epochs, "epochs"),
        "batch_size": positive_int(batch_size, "batch_size"),
        "learning_rate": float(learning_rate),
        "weight_decay": float(weight_decay),
        "label_smoothing": float(label_smoothing),
        "augmentation": augmentation,
        "mixing": mixing,
        "ema_momentum": None if ema_momentum is None else float(ema_momentum),
    }


def check_layers(training: Training, parts: Parts) -> None:
    """Tries augmentation and mixing on a few samples."""
    x, y, *weights = take(parts["train"], slice(2))
    labels = training.task.targets(y)
    _check_mixing(training, bool(weights))
    for name, inputs in (("augmentation", x), ("mixing", {INPUTS: x, LABELS: labels})):
        layer = getattr(training, name)
        if layer is None:
            continue
        try:
            outputs = copy_of(layer)(inputs, training=True)
            keras.tree.assert_same_structure(inputs, outputs)
        except Exception as error:  # any type: layers can raise anything
            raise ValueError(
                f"`{name}` must take and return {TAKEN_AND_RETURNED[name]}. Received: "
                f"{name}={layer!r}, which fails: {error}"
            ) from error


def _check_mixing(training: Training, has_weights: bool) -> None:
    if training.mixing is None:
        return
    if has_weights:
        raise ValueError(
            "`mixing` must be missing where samples have weights, because the weight of a mix is "
            f"not defined. Received: mixing={training.mixing!r}."
        )
    if not training.task.is_mixable:
        raise ValueError(
            "`mixing` must be missing where the loss takes integers, which cannot be mixed. "
            f"Received: mixing={training.mixing!r} and loss={training.task.loss!r}. Give "
            "`keras.losses.CategoricalCrossentropy(from_logits=True)`."
        )


def check_output(output: Any, files: Sequence[str]) -> None:
    """Makes the directory, and checks that these files can be written to it."""
    if output is None:
        return
    path = Path(output)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _bad_output(output, f"which cannot be created: {error}") from error
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _bad_output(output, f"which cannot be written to: {error.strerror}") from error
    for name in files:
        if (path / name).is_dir():
            raise _bad_output(output, f"which has a folder in place of the file {name}")
    if (path / RUNS).exists() and not (path / RUNS).is_dir():
        raise _bad_output(output, f"which has a file in place of the folder {RUNS}")
    figure_class()  # an error now, not after the training, if matplotlib is missing


def _bad_output(output: Any, why: str) -> ValueError:
    return ValueError(
        "`output` must be a directory that results can be written to, or a path for a new one. "
        f"Received: output={str(output)!r}, {why}"
    )


def check_callable(build: Any) -> None:
    """Refuses a `build` that is not a function."""
    if not callable(build):
        raise ValueError(
            "`build` must be a function from the name of a net to a new Keras model. Received: "
            f"build={build!r}."
        )


def check_build(
    build: Callable[[str], keras.Model],
    conv: str,
    parts: Parts,
    task: Task,
) -> keras.Model:
    """Builds a model and checks it.

    It must be new each time, savable, and output what the task is about for the inputs of all
    parts, such as one logit per class.
    """
    check_callable(build)
    model = build(conv)
    if not isinstance(model, keras.Model):
        raise ValueError(f"`build({conv!r})` must return a Keras model. Received: {type(model)}.")
    _check_own_methods(model, conv)
    for name, (x, *_) in parts.items():
        try:
            outputs = outputs_of(model, take(x, np.zeros(2, int)))
        except Exception as error:  # any type: each backend has its own
            raise ValueError(
                f"The model of `build({conv!r})` must take the inputs of the {name!r} part, which "
                f"have the shape (batch, *{shapes_of(x)}). Received: {error}"
            ) from error
        _check_outputs(outputs, conv, task)
    if build(conv) is model:
        raise ValueError(
            f"`build({conv!r})` must return a new model each time, as one is trained for each "
            f"seed. Received the same model twice: {model.name!r}."
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        try:
            write(path, model.save)
            keras.models.load_model(path)
        except Exception as error:  # any type: layers can raise anything
            if isinstance(error, OSError) and error.errno is not None:
                raise  # from the system, not from a layer
            raise ValueError(
                f"The model of `build({conv!r})` must be one that can be saved and loaded. "
                f"Received: {error}"
            ) from error
    return model


def _check_own_methods(model: keras.Model, conv: str) -> None:
    """Refuses a model with its own training: it would not be used."""
    for name in OWN_METHODS:
        owner = next(cls for cls in type(model).__mro__ if name in vars(cls))
        if owner.__module__.partition(".")[0] != "keras":
            raise ValueError(
                f"The model of `build({conv!r})` must not have its own `{name}`, because all nets "
                f"are trained in the same way. Received: a {type(model).__name__}, which has one. "
                "Give `loss`, `metrics`, `augmentation` or `mixing` instead."
            )


def _check_outputs(outputs: np.ndarray, conv: str, task: Task) -> None:
    subject, wanted = f"The model of `build({conv!r})`", task.output_shape
    if outputs.shape != (2, *wanted):
        layer = f"keras.layers.Dense({wanted[-1]})"
        is_flat = len(wanted) == 1
        advice = f"Make its last layer `{layer}`." if is_flat else f"Each label is {task.LABELS}."
        raise ValueError(
            f"{subject} must output {task.OUTPUTS}, with the shape (batch, "
            f"{', '.join(map(str, wanted))}). Received: (batch, "
            f"{', '.join(map(str, outputs.shape[1:]))}). {advice} If the labels mean something "
            "else, say so by `loss` or by their type: integers are classes, and floats numbers."
        )
    problem = task.problem(outputs)
    if problem:
        raise ValueError(f"{subject} {problem}")
