"""What the nets of a comparison learn: a loss, metrics, and what follows from them."""

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from sepconv_layers.comparison.per_class import Figures
from sepconv_layers.comparison.quiet import quiet_tensorflow

ACCURACY = "accuracy"
LOSS = "loss"  # what Keras calls it among the metrics
SIGNS = {"max": 1, "min": -1}
CONFUSED = 100  # the most classes that a record has a confusion matrix of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What nets learn from labels of one kind.

    Attributes:
        shape: The shape of the labels of one sample.
        names: The names of classes, tags or numbers.
        loss: The loss.
        metrics: Metrics, of which each training gets copies.
        monitor: The name of the metric that chooses the epoch to keep, or "loss".
        mode: "max" if higher values of it are better, or "min".
        class_weight: The weight of each class in the loss of the training, or `None`.
        is_default: Whether it is what `compare` does with one integer label unless told otherwise.
    """

    shape: tuple[int, ...]
    names: Sequence[str]
    loss: keras.losses.Loss
    metrics: Sequence[keras.metrics.Metric] = ()
    monitor: str = LOSS
    mode: str = "min"
    class_weight: tuple[float, ...] | None = None
    is_default: bool = False

    TITLE: ClassVar[str]  # of a report
    LABELS: ClassVar[str]  # what each label is, in a message
    OUTPUTS: ClassVar[str]  # what a net must output, in a message
    CONSTANT: ClassVar[str]  # what the best net that ignores its inputs predicts

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the outputs for one sample."""

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of what the loss gets for one sample."""
        return self.output_shape

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weights of one sample: that of its loss."""
        return self.output_shape[:-1]

    @property
    def is_mixable(self) -> bool:
        """Whether targets can be mixed, as one-hot labels and numbers can."""
        return True

    @property
    def measured(self) -> list[str]:
        """The names of the metrics that are reported, the monitored one first."""
        others = [each.name for each in self.metrics if each.name != self.monitor]
        return [self.monitor, *others]

    @property
    def is_of_logits(self) -> bool:
        """Whether the outputs are logits."""
        return bool(getattr(self.loss, "from_logits", False))

    @abstractmethod
    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Labels in the form that the loss takes."""

    def weights(self, weights: np.ndarray) -> np.ndarray:
        """Weights of samples in the form that the loss takes: one for each of its values."""
        missing = (1,) * (1 + len(self.weight_shape) - weights.ndim)
        full = np.broadcast_to(
            weights.reshape(weights.shape + missing), (len(weights), *self.weight_shape)
        )
        return np.array(full, "float32")

    def weights_by_class(self, targets: Any) -> Any:
        """The weight of each target by its class."""
        raise NotImplementedError

    def for_metric(self, metric: keras.metrics.Metric, targets: Any, outputs: Any) -> Any:
        """Targets and outputs in the form that a metric takes."""
        return targets, outputs

    def new_metrics(self) -> list[keras.metrics.Metric]:
        """Copies of the metrics, for one training."""
        copies = [copy_of_metric(metric) for metric in self.metrics]
        return copies if self.is_default else [Converted(copy, self) for copy in copies]

    def score(self, epoch: Mapping[str, float]) -> tuple[float, float]:
        """Ranks the logs of epochs: by the monitored metric, then by the loss."""
        return SIGNS[self.mode] * epoch[f"val_{self.monitor}"], -epoch[f"val_{LOSS}"]

    def measure(
        self, outputs_of: Callable[[Any], np.ndarray], batches: Iterable[Any]
    ) -> dict[str, float]:
        """The loss and the metrics of any function.

        Args:
            outputs_of: Returns the outputs for inputs.
            batches: Tuples of inputs, labels and, if samples have them, weights.
        """
        metrics, losses, counts = self.new_metrics(), [], []
        with quiet_tensorflow():
            for x, labels, *weights in batches:
                targets, outputs = self.targets(labels), outputs_of(x)
                weight = self.weights(weights[0]) if weights else None
                losses.append(float(self.loss(targets, outputs, sample_weight=weight)))
                counts.append(len(labels))
                for metric in metrics:
                    metric.update_state(targets, outputs, sample_weight=weight)
            found = {metric.name: float(metric.result()) for metric in metrics}
        return {LOSS: float(np.average(losses, weights=counts)), **found}

    def baseline(self, parts: Callable[[], Iterable[Any]]) -> float:
        """The monitored metric of the best constant outputs.

        Args:
            parts: Returns tuples of inputs, labels and, if samples have them, weights.
        """
        best = self.constant(parts()).astype("float32")

        def outputs_of(count: int) -> np.ndarray:
            return np.broadcast_to(best, (count, *self.output_shape))

        batches = ((len(labels), labels, *weights) for _, labels, *weights in parts())
        return self.measure(outputs_of, batches)[self.monitor]

    def summary(self, parts: Callable[[], Iterable[Any]]) -> dict[str, Any]:
        """What `baseline` is and whose, for a record."""
        return {"constant": self.CONSTANT, self.monitor: round(self.baseline(parts), 6)}

    @abstractmethod
    def constant(self, parts: Iterable[Any]) -> np.ndarray:
        """The best outputs of a net that ignores its inputs."""

    @abstractmethod
    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        """The labels that outputs stand for."""

    def agreement(self, outputs: np.ndarray, others: np.ndarray) -> dict[str, float]:
        """The share of decisions that are the same."""
        same = self.decisions(outputs) == self.decisions(others)
        return {"agreement": float(np.mean(same))}

    @abstractmethod
    def tally(self, labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """What is added up over all samples to know the figures of each class."""

    @abstractmethod
    def figures(self, tally: np.ndarray) -> Figures:
        """The figures of each class."""

    def details(self, tallies: Sequence[Any]) -> dict[str, Any]:
        """The figures of each class, and the confusion matrix, from the tallies of some runs."""
        if not tallies:
            return {}
        total = np.sum([np.asarray(tally, float) for tally in tallies], axis=0)
        matrix = self.confusion(total)
        is_small = len(matrix) <= CONFUSED
        rounded = np.round(matrix, 3).tolist() if is_small else []
        return {"per_class": self.figures(total), "confusion": rounded}

    def confusion(self, tally: np.ndarray) -> np.ndarray:
        """The confusion matrix, if there is one."""
        return tally

    @abstractmethod
    def problem(self, outputs: np.ndarray) -> str | None:
        """What is wrong with outputs of the right shape, and how to mend it."""

    @abstractmethod
    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels of a few samples, the best outputs for them, and bad ones."""

    def config(self) -> dict[str, Any]:
        """All that a training depends on, for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas, which only this package reads again
            loss = keras.saving.serialize_keras_object(self.loss)
            metrics = [keras.saving.serialize_keras_object(metric) for metric in self.metrics]
        loss["config"].pop("name", None)  # numbered by Keras
        changes = {"names": len(self.names), "loss": loss, "metrics": metrics}
        return {"kind": type(self).__name__, **fields, **changes}


class Converted(keras.metrics.Metric):
    """A metric that gets targets and outputs in the form that it takes."""

    def __init__(self, metric: keras.metrics.Metric, task: Task) -> None:
        super().__init__(name=metric.name)
        self.metric, self.task = metric, task

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        targets, outputs = self.task.for_metric(self.metric, y_true, y_pred)
        self.metric.update_state(targets, outputs, sample_weight=sample_weight)

    def result(self) -> Any:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()


def words(name: str) -> str:
    """The name of a metric in words."""
    return name.replace("_", " ")


def copy_of_metric(metric: keras.metrics.Metric) -> keras.metrics.Metric:
    """A new metric with the same configuration, of probabilities and not of logits."""
    config = metric.get_config()
    if config.get("from_logits"):
        config["from_logits"] = False  # the same figure, as it gets probabilities
    return type(metric).from_config(config)
