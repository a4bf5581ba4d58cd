"""The kinds of tasks, by what a label is.

`Classes`: one of several classes, for a sample or for each of its pixels or frames. `Tags`: each of
them, a sample has or has not. `Numbers`: regression.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import keras
import numpy as np

from sepconv_layers.comparison.per_class import Figures, confusion_of, figures_of
from sepconv_layers.comparison.task import Task

LARGE = 20.0  # a logit that is as good as certain
SMALLEST = 1e-6  # probability


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes(Task):
    """One class for each sample, or for each of its pixels or frames.

    Attributes:
        is_sparse: Whether the loss takes integers. Otherwise labels are one-hot.
    """

    is_sparse: bool = False

    LABELS: ClassVar[str] = "one class"
    CONSTANT: ClassVar[str] = "the largest class"

    @property
    def TITLE(self) -> str:  # type: ignore[override]
        return "Segmentation" if self.shape else "Classification"

    @property
    def OUTPUTS(self) -> str:  # type: ignore[override]
        what = "logit" if self.is_of_logits else "probability"
        return f"one {what} for each of {len(self.names)} classes"

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.shape, len(self.names))

    @property
    def is_mixable(self) -> bool:
        return not self.is_sparse

    @property
    def target_shape(self) -> tuple[int, ...]:
        return self.shape if self.is_sparse else self.output_shape

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels if self.is_sparse else keras.utils.to_categorical(labels, len(self.names))

    def weights_by_class(self, targets: Any) -> Any:
        weights = keras.ops.convert_to_tensor(self.class_weight, "float32")
        if self.is_sparse:
            return keras.ops.take(weights, keras.ops.cast(targets, "int32"))
        return keras.ops.sum(weights * keras.ops.cast(targets, "float32"), axis=-1)

    def for_metric(self, metric: keras.metrics.Metric, targets: Any, outputs: Any) -> Any:
        """Probabilities, and labels as the metric takes them: as integers or one-hot."""
        config = metric.get_config()
        is_named_sparse = type(metric).__name__.startswith("Sparse")
        takes_integers = config.get("sparse_y_true", is_named_sparse)
        outputs = keras.ops.softmax(outputs, -1) if self.is_of_logits else outputs
        if config.get("sparse_y_pred"):
            outputs = keras.ops.argmax(outputs, axis=-1)
        if takes_integers and not self.is_sparse:
            targets = keras.ops.argmax(targets, axis=-1)
        if self.is_sparse and not takes_integers:
            targets = keras.ops.one_hot(keras.ops.cast(targets, "int32"), len(self.names))
        return targets, outputs

    def constant(self, parts: Iterable[Any]) -> np.ndarray:
        counts = self.counts(parts)
        shares = counts / counts.sum()
        return np.log(np.maximum(shares, SMALLEST)) if self.is_of_logits else shares

    def summary(self, parts: Callable[[], Iterable[Any]]) -> dict[str, Any]:
        """The share of the largest class, and its metric unless that is the accuracy."""
        counts = self.counts(parts())
        share = {"largest_class": round(float(counts.max() / counts.sum()), 6)}
        return share if self.is_default else share | super().summary(parts)

    def counts(self, parts: Iterable[Any]) -> np.ndarray:
        """How often each class is a label, with the weights of the samples."""
        counts = np.zeros(len(self.names))
        for _, labels, *weights in parts:
            weight = self.weights(weights[0]).ravel() if weights else None
            counts += np.bincount(labels.ravel(), weight, len(counts))
        return counts

    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.argmax(-1)

    def tally(self, labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The confusion matrix: a row for each class, a column for each decision."""
        return confusion_of(labels, self.decisions(outputs), weights, len(self.names))

    def figures(self, tally: np.ndarray) -> Figures:
        figures = figures_of(tally, self.names)
        if self.shape:  # of pixels or frames
            for name, row in figures.items():
                f1 = row["f1"]
                figures[name] = {**row, "iou": f1 / (2 - f1)}
        return figures

    def problem(self, outputs: np.ndarray) -> str | None:
        is_probability = outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1, atol=1e-3)
        if self.is_of_logits and is_probability:
            return "must output logits. Received: probabilities. Remove the softmax from its end."
        return None if is_probability else _lacks_probabilities(self.loss, outputs, "softmax")

    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count, size = len(self.names), math.prod(self.shape)
        samples = max(2, math.ceil(2 * count / size))
        labels = np.arange(samples * size).reshape(samples, *self.shape) % count
        best, bad = (
            np.eye(count, dtype="float32")[(labels + shift) % count] for shift in (0, count > 1)
        )
        return labels, *((LARGE * best, LARGE * bad) if self.is_of_logits else (best, bad))


class Vectors(Task):
    """Labels that are the outputs of the net, one for one."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape or (1,)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels.reshape(len(labels), *self.output_shape).astype(keras.config.floatx())

    def mean(self, parts: Iterable[Any]) -> np.ndarray:
        """The mean of each label over all samples, with their weights."""
        total, samples = np.zeros(self.output_shape), np.zeros((*self.weight_shape, 1))
        for _, labels, *weights in parts:
            weight = np.ones((len(labels), *self.weight_shape))
            weight = (self.weights(weights[0]) if weights else weight)[..., None]
            total += (weight * self.targets(labels)).sum(0)
            samples += weight.sum(0)
        return total / np.maximum(samples, SMALLEST)


class Tags(Vectors):
    """Tags, each of which a sample has (1) or has not (0)."""

    TITLE: ClassVar[str] = "Several labels"
    LABELS: ClassVar[str] = "0 or 1"
    CONSTANT: ClassVar[str] = "the more frequent value of each label"

    @property
    def OUTPUTS(self) -> str:  # type: ignore[override]
        return f"one {'logit' if self.is_of_logits else 'probability'} for each label"

    def for_metric(self, metric: keras.metrics.Metric, targets: Any, outputs: Any) -> Any:
        """Targets and probabilities."""
        return targets, keras.ops.sigmoid(outputs) if self.is_of_logits else outputs

    def constant(self, parts: Iterable[Any]) -> np.ndarray:
        shares = np.clip(self.mean(parts), SMALLEST, 1 - SMALLEST)
        return np.log(shares / (1 - shares)) if self.is_of_logits else shares

    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        decided = outputs > (0 if self.is_of_logits else 0.5)
        return decided.astype("uint8").reshape(len(outputs), *self.shape)

    def tally(self, labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """A confusion matrix for each tag."""
        decided, labels = (
            array.reshape(-1, len(self.names)) for array in (self.decisions(outputs), labels)
        )
        return np.stack(
            [
                confusion_of(labels[:, tag].astype(int), decided[:, tag], weights, 2)
                for tag in range(len(self.names))
            ]
        )

    def figures(self, tally: np.ndarray) -> Figures:
        return {
            name: figures_of(matrix, ("0", name))[name]
            for name, matrix in zip(self.names, tally, strict=True)
        }

    def problem(self, outputs: np.ndarray) -> str | None:
        is_probability = outputs.min() >= 0 and outputs.max() <= 1
        return None if is_probability else _lacks_probabilities(self.loss, outputs, "sigmoid")

    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.indices((4, *self.shape)).sum(0) % 2
        best = self.targets(labels)
        bad = 1 - best
        if self.is_of_logits:
            best, bad = (LARGE * (2 * array - 1) for array in (best, bad))
        return labels, best, bad


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(Vectors):
    """Numbers: regression. Integers in an order, such as grades, are numbers with levels.

    Attributes:
        levels: The number of levels, if labels are one integer from 0 on, or 0.
    """

    levels: int = 0

    TITLE: ClassVar[str] = "Regression"
    LABELS: ClassVar[str] = "a number"
    OUTPUTS: ClassVar[str] = "one number for each label"
    CONSTANT: ClassVar[str] = "the mean"

    def constant(self, parts: Iterable[Any]) -> np.ndarray:
        return self.mean(parts)

    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        """The nearest level, or the numbers themselves."""
        outputs = outputs.reshape(len(outputs), *self.shape)
        if self.levels:
            return np.clip(np.rint(outputs), 0, self.levels - 1).astype(int)
        return outputs.astype("float32")

    def agreement(self, outputs: np.ndarray, others: np.ndarray) -> dict[str, float]:
        return super().agreement(outputs, others) if self.levels else {}

    def tally(self, labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The confusion matrix of levels, or the sums of errors and weights of each number."""
        if self.levels:
            return confusion_of(labels, self.decisions(outputs), weights, self.levels)
        errors = np.abs(self.targets(labels) - outputs).reshape(len(weights), -1)
        return np.stack([weights @ errors, np.full(errors.shape[1], weights.sum())])

    def confusion(self, tally: np.ndarray) -> np.ndarray:
        return tally if self.levels else np.zeros(0)

    def figures(self, tally: np.ndarray) -> Figures:
        if self.levels:
            return figures_of(tally, list(map(str, range(self.levels))))
        errors = tally[0] / np.maximum(tally[1], SMALLEST)
        return {
            name: {"mean_absolute_error": float(error)}
            for name, error in zip(self.names, errors, strict=True)
        }

    def problem(self, outputs: np.ndarray) -> str | None:
        return None

    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.linspace(1, 2, 4 * math.prod(self.output_shape)).reshape(4, *self.shape)
        best = self.targets(labels)
        return labels, best, 3 - best


def task_from_config(config: dict[str, Any]) -> Task:
    """The task of a configuration, without the names of its classes."""
    found = keras.saving.deserialize_keras_object
    kind = {kind.__name__: kind for kind in (Classes, Tags, Numbers)}[config["kind"]]
    changes = {
        "shape": tuple(config["shape"]),
        "names": list(map(str, range(config["names"]))),
        "loss": found(config["loss"]),
        "metrics": list(map(found, config["metrics"])),
        "class_weight": config["class_weight"] and tuple(config["class_weight"]),
    }
    fields = {name: value for name, value in config.items() if name != "kind"}
    return kind(**fields | changes)


def _lacks_probabilities(loss: Any, outputs: np.ndarray, end: str) -> str | None:
    """What is wrong with outputs that are no probabilities, unless the loss takes such ones."""
    if getattr(loss, "from_logits", True):
        return None
    return (
        "must output probabilities, because `loss` has from_logits=False. Received: outputs from "
        f"{outputs.min():.4g} to {outputs.max():.4g}. Give the loss `from_logits=True`, or end the "
        f"net with a {end}."
    )
