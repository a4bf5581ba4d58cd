"""The task of a comparison: chosen by the labels, the loss and the metrics."""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import is_integer, positive_number
from sepconv_layers.comparison.functions import FunctionLoss, FunctionMetric
from sepconv_layers.comparison.kinds import Classes, Numbers, Tags
from sepconv_layers.comparison.labels import Labels, pieces
from sepconv_layers.comparison.task import ACCURACY, LOSS, SIGNS, Task

FIELDS = "best", "seconds", "artifact", "history", "digest", "tally"  # of the result of a run
BALANCED = "balanced"

# Which labels a loss of Keras is for. Others take labels of any kind, as they are.
LOSSES: dict[type[Task], str] = {
    Classes: "CategoricalCrossentropy CategoricalFocalCrossentropy CategoricalHinge KLDivergence "
    "SparseCategoricalCrossentropy",
    Tags: "BinaryCrossentropy BinaryFocalCrossentropy Hinge SquaredHinge",
    Numbers: "MeanSquaredError MeanAbsoluteError MeanAbsolutePercentageError "
    "MeanSquaredLogarithmicError Huber LogCosh Poisson CosineSimilarity",
}


def choose_task(
    labels: Labels,
    parts: Mapping[str, Sequence[Any]],
    classes: int | Sequence[str] | None,
    *,
    loss: Any = None,
    metrics: Any = None,
    monitor: Any = None,
    class_weight: Any = None,
    label_smoothing: float = 0.0,
) -> Task:
    """Returns the task.

    Args:
        labels: What the labels of all parts are.
        parts: The data.
        classes: Names of the classes, tags or numbers; or their number.
        loss: As in `compare`, and so are the arguments below.
        metrics: Metrics.
        monitor: The metric that chooses the epoch.
        class_weight: Weights of the classes.
        label_smoothing: Smoothing of the default loss.
    """
    loss = _checked_loss(loss, label_smoothing)
    kind = _kind(labels, loss)
    is_plain = kind is Classes and not labels.shape
    weighted = any(len(part) > 2 for part in parts.values())
    is_default = is_plain and not weighted and (loss, metrics, monitor, class_weight) == (None,) * 4
    names = _names(kind, labels, classes)
    loss = _default_loss(kind, label_smoothing) if loss is None else loss
    task = _new(kind, labels, names, loss)
    found = _checked_metrics(task, metrics)
    chosen = found[0].name if found else LOSS
    name, mode = _split(monitor if monitor is not None else chosen, [each.name for each in found])
    task = dataclasses.replace(task, metrics=found, monitor=name, is_default=is_default)
    task = dataclasses.replace(task, mode=_checked_mode(task, mode))
    if class_weight is not None:
        weights = _checked_weights(task, class_weight, parts["train"])
        task = dataclasses.replace(task, class_weight=weights)
    return task


def classification(classes: int, label_smoothing: float = 0.0) -> Task:
    """The default task: one integer label."""
    task = Classes(
        shape=(),
        names=list(map(str, range(classes))),
        loss=_default_loss(Classes, label_smoothing),
        monitor=ACCURACY,
        mode="max",
        is_default=True,
    )
    return dataclasses.replace(task, metrics=[_default_metric(task)])


def _kind(labels: Labels, loss: Any) -> type[Task]:
    """The kind of a task, by the loss, or else by the labels."""
    by_loss = [
        kind
        for kind, names in LOSSES.items()
        if any(isinstance(loss, getattr(keras.losses, name)) for name in names.split())
    ]
    is_tags = labels.kind == "Booleans" or (labels.is_binary and len(labels.shape) == 1)
    by_labels = Classes if labels.kind == "integers" else Numbers
    kind = by_loss[0] if by_loss else Tags if is_tags else by_labels
    if labels.is_one_hot and kind is not Numbers and not (by_loss and kind is Tags):
        raise ValueError(
            "Labels must be integers where each sample, pixel or frame has one class. Received: "
            f"one-hot labels, {labels}. Convert them by `y.argmax(-1)`. If they are several labels "
            "that do not exclude each other, give "
            "`loss=keras.losses.BinaryCrossentropy(from_logits=True)`."
        )
    name = type(loss).__name__
    if kind is Classes and labels.kind != "integers":
        raise ValueError(
            f"Labels must be integers, from 0 to the number of classes minus 1, for {name}. "
            f"Received: {labels}."
        )
    if kind is Tags and not labels.is_binary:
        raise ValueError(
            f"Labels must be 0 or 1 for {name}. Received: {labels}, from {labels.low} to "
            f"{labels.high}."
        )
    return kind


def _names(kind: type[Task], labels: Labels, classes: Any) -> list[str]:
    """The names of classes, tags or numbers; by default, their indices."""
    count = int(labels.high) + 1 if kind is Classes else labels.shape[-1] if labels.shape else 1
    given: Any = count if classes is None else classes
    names = list(map(str, range(given) if is_integer(given) else given))
    if kind is Classes and (labels.low < 0 or labels.high >= len(names)):
        raise ValueError(
            f"Labels must be from 0 to {len(names) - 1}, because there are {len(names)} classes. "
            f"Received: labels from {labels.low} to {labels.high}."
        )
    if kind is not Classes and len(names) != count:
        raise ValueError(
            f"`classes` of `data` must be {count} names, as many as the last axis of the labels "
            f"has entries, or missing. Received: {len(names)} classes, with labels that are "
            f"{labels}. If the labels are the classes of pixels or frames, give "
            "`loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
        )
    return names


def _new(kind: type[Task], labels: Labels, names: list[str], loss: keras.losses.Loss) -> Task:
    shared = {"shape": labels.shape, "names": names, "loss": loss}
    if kind is Classes:
        if labels.shape == (1,):
            raise ValueError(
                "Labels must have no axis of length 1 where each sample has one class. Received: "
                f"{labels}. Give `y[:, 0]`."
            )
        if getattr(loss, "ignore_class", None) is not None:
            raise ValueError(
                "`loss` must count all classes. Received: a loss with "
                f"ignore_class={loss.ignore_class}. Give these pixels or frames a weight of 0 and "
                "a class from 0 on: each part of `data` may have sample weights as a third entry."
            )
        is_sparse = type(loss).__name__.startswith("Sparse") or not _is_of_keras(loss)
        return Classes(**shared, is_sparse=is_sparse)
    if kind is Numbers:
        has_levels = labels.kind == "integers" and not labels.shape and labels.low >= 0
        return Numbers(**shared, levels=int(labels.high) + 1 if has_levels else 0)
    return kind(**shared)


def _is_of_keras(loss: Any) -> bool:
    return type(loss).__module__.partition(".")[0] == "keras"


def _checked_loss(loss: Any, label_smoothing: float) -> keras.losses.Loss | None:
    """A loss as an object."""
    if loss is None:
        return None
    found = loss() if inspect.isclass(loss) else loss
    if isinstance(loss, str):
        try:
            found = keras.losses.get(loss)
        except ValueError as error:
            raise _bad("loss", loss, "a loss of Keras, its name or a function") from error
    if not isinstance(found, keras.losses.Loss):
        if not callable(found):
            raise _bad("loss", loss, "a loss of Keras, its name or a function")
        found = _as_object(found)
    if label_smoothing:
        raise ValueError(
            "`label_smoothing` is of the default loss. Received: "
            f"label_smoothing={label_smoothing} and loss={loss!r}. Give it to the loss instead."
        )
    return found


def _as_object(function: Any) -> keras.losses.Loss:
    """The loss of Keras that a function belongs to, or one that calls it."""
    name = getattr(function, "__name__", "").replace("_", "")
    classes = {key.lower(): value for key, value in vars(keras.losses).items()}
    found = classes.get(name)
    if inspect.isclass(found) and getattr(keras.losses, function.__name__, None) is function:
        return found()
    return FunctionLoss(function)


def _default_loss(kind: type[Task], label_smoothing: float) -> keras.losses.Loss:
    if kind is Numbers:
        if label_smoothing:
            raise ValueError(
                "`label_smoothing` must be 0 where labels are numbers. Received: "
                f"label_smoothing={label_smoothing}."
            )
        return keras.losses.MeanSquaredError()
    losses = {
        Classes: keras.losses.CategoricalCrossentropy,
        Tags: keras.losses.BinaryCrossentropy,
    }
    return losses[kind](from_logits=True, label_smoothing=label_smoothing)


def _checked_metrics(task: Task, metrics: Any) -> list[keras.metrics.Metric]:
    """The metrics with names that are the same in all processes."""
    if metrics is None:
        return [_default_metric(task)]
    listed = metrics if isinstance(metrics, list | tuple) else [metrics]
    found = [_named(_checked_metric(task, metric)) for metric in listed]
    names = [metric.name for metric in found]
    taken = [name for name in names if name in (*FIELDS, LOSS) or names.count(name) > 1]
    if not names or taken:
        raise _bad("metrics", metrics, f"one or several metrics with names other than {taken}")
    return found


def _default_metric(task: Task) -> keras.metrics.Metric:
    if isinstance(task, Numbers):
        return keras.metrics.MeanAbsoluteError(name="mean_absolute_error")
    if isinstance(task, Tags):
        return (
            keras.metrics.AUC(multi_label=True, num_labels=len(task.names), name="auc")
            if len(task.shape) == 1
            else keras.metrics.BinaryAccuracy(name=ACCURACY)
        )
    if task.shape:
        # Integers would be its default, which cut off weights.
        return keras.metrics.OneHotMeanIoU(len(task.names), name="mean_iou", dtype="float32")
    return keras.metrics.CategoricalAccuracy(name=ACCURACY)


def _checked_metric(task: Task, metric: Any) -> keras.metrics.Metric:
    if metric in ("accuracy", "acc"):
        of_kind = {
            Classes: keras.metrics.CategoricalAccuracy,
            Tags: keras.metrics.BinaryAccuracy,
            Numbers: keras.metrics.Accuracy,
        }
        return of_kind[type(task)](name=ACCURACY)
    wanted = "one or several metrics of Keras, their names or functions"
    try:
        found = keras.metrics.get(metric)
    except ValueError as error:
        raise _bad("metrics", metric, wanted) from error
    if not isinstance(found, keras.metrics.Metric):
        if not callable(found):
            raise _bad("metrics", metric, wanted)
        found = FunctionMetric(found)
    return found


def _named(metric: keras.metrics.Metric) -> keras.metrics.Metric:
    """A copy without the number that Keras adds to names in the order of their use."""
    config = metric.get_config()
    automatic = re.sub(r"(?<=[a-z])([A-Z][a-z])|(?<=[a-z])([A-Z])", r"_\1\2", type(metric).__name__)
    if re.fullmatch(rf"{automatic.lower()}_\d+", metric.name):
        config["name"] = metric.name.rpartition("_")[0]
    try:
        return type(metric).from_config(config)
    except Exception as error:  # any type: metrics can raise anything
        raise ValueError(
            "`metrics` must be made again from their `get_config()`, because each net gets its "
            f"own. Received: {metric!r}, which fails: {error}"
        ) from error


def _split(monitor: Any, names: Sequence[str]) -> tuple[str, str | None]:
    """The name of the monitored metric, and the direction if it is given."""
    is_pair = isinstance(monitor, tuple) and len(monitor) == 2
    name, mode = monitor if is_pair else (monitor, None)
    known = [*names, LOSS]
    is_known = isinstance(name, str) and name.removeprefix("val_") in known
    if is_known and mode in (None, *SIGNS):
        return name.removeprefix("val_"), mode
    raise _bad(
        "monitor", monitor,
        f"one of {', '.join(map(repr, known))}, or a pair of that and 'min' or 'max'",
    )  # fmt: skip


def _checked_mode(task: Task, mode: str | None) -> str:
    """Tries loss and metrics on a few samples; returns the direction of the monitored one."""
    labels, best, bad = task.examples()
    try:
        good, poor = (task.measure(lambda x: x, [(outputs, labels)]) for outputs in (best, bad))
    except Exception as error:  # any type: losses and metrics can raise anything
        raise ValueError(
            f"`loss` and `metrics` must take labels that are {task.LABELS} and {task.OUTPUTS}, of "
            f"the shape (batch, {', '.join(map(str, task.output_shape))}), and return one number. "
            f"Received: loss={task.loss!r} and metrics={list(task.metrics)}, which fail: {error}"
        ) from error
    gain = good[task.monitor] - poor[task.monitor]
    if mode is None and not abs(gain) > 0:
        raise ValueError(
            f"`monitor` must be a metric that tells good outputs from bad ones. Received: "
            f"{task.monitor!r}, which is {good[task.monitor]} for both. Give its direction, too: "
            f"monitor=({task.monitor!r}, 'max')."
        )
    return mode or ("max" if gain > 0 else "min")


def _checked_weights(task: Task, weights: Any, train: Sequence[Any]) -> tuple[float, ...]:
    """The weight of each class; those that are not given are 1."""
    if not isinstance(task, Classes):
        raise ValueError(
            "`class_weight` must be missing unless each label is one class. Received: "
            f"class_weight={weights!r}, with labels that are {task.LABELS}. Give each sample a "
            "weight as the third entry of a part of `data`."
        )
    count = len(task.names)
    if isinstance(weights, str) and weights == BALANCED:
        counts = task.counts(pieces(train))
        missing = [name for name, found in zip(task.names, counts, strict=True) if not found]
        if missing:
            raise ValueError(
                "`class_weight` must be a mapping where a class has no training sample. Received: "
                f"class_weight={weights!r}, without samples of {', '.join(missing)}."
            )
        return tuple(np.round(counts.sum() / (count * counts), 6).tolist())
    known = dict(enumerate(task.names))
    if not isinstance(weights, Mapping) or not set(weights) <= {*known, *known.values()}:
        raise _bad("class_weight", weights, f"{BALANCED!r}, or map classes to weights")
    for key, weight in weights.items():
        positive_number(weight, f"class_weight[{key!r}]")
    by_class = [weights.get(name, weights.get(index, 1.0)) for index, name in known.items()]
    return tuple(map(float, by_class))


def _bad(argument: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"`{argument}` must be {wanted}. Received: {argument}={value!r}.")
