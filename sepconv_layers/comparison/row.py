"""The row of one net in a comparison: cost, accuracy and speed."""

import dataclasses
from typing import Any, Self

OPTIONAL = {"optional": True}  # of fields that a record has only if they are not empty
# The costs of a row, with their labels.
COSTS = {
    "macs": "MACs",
    "params": "parameters",
    "infer_ms": "inference, ms",
    "train_step_ms": "training step, ms",
    "train_peak_bytes": "peak training memory, bytes",
    "litert_ms": "LiteRT float32, ms",
    "int8_ms": "LiteRT int8, ms",
    "int8_bytes": "int8 file, bytes",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One net of a `Comparison`.

    Attributes:
        conv: "separable", "standard" or "standard-narrow".
        model: Name of the model.
        params: Number of parameters.
        macs: Multiply-accumulates of one forward pass with one sample.
        accuracy: `mean`, `std` (sample standard deviation) and `per_seed` of the test accuracy,
            with the weights that were best on the validation part. Empty if the nets were chosen by
            another metric.
        infer_ms: Batch size to median milliseconds of `predict_on_batch`.
        infer_mode: Batch size to the mode it ran in: "graph", "xla" or "eager".
        train_step_ms: Median milliseconds of `train_on_batch` with the training batch size.
        train_mode: The mode of that step.
        artifacts: Name of a saved form to its size in `bytes`, and to `max_difference` and
            `agreement` (share of equal labels) between the model and the saved form, loaded again.
            `seed` is the seed of the saved model, the best one on the validation part.
        embedding_params: Number of parameters in embeddings, which no convolution reduces.
        scores: Name of each other metric to the same of it, the monitored one first. Empty for the
            default task, and so are the next two.
        per_class: Name of each class to its `share` of the labels, and the `precision`, `recall`
            and `f1` (and `iou`, of pixels or frames) of the runs of all seeds together. For
            numbers, name of each to its `mean_absolute_error`.
        confusion: The confusion matrix of these runs: a row for each class, a column for each
            decision. For several labels, one matrix for each. Empty for more than 100 classes, and
            for numbers that have no levels.
    """

    conv: str
    model: str
    params: int
    macs: int
    accuracy: dict[str, Any]
    infer_ms: dict[int, float]
    infer_mode: dict[int, str]
    train_step_ms: float
    train_mode: str
    artifacts: dict[str, dict[str, Any]]
    embedding_params: int = 0
    scores: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)
    per_class: dict[str, dict[str, float]] = dataclasses.field(
        default_factory=dict, metadata=OPTIONAL
    )
    confusion: list[Any] = dataclasses.field(default_factory=list, metadata=OPTIONAL)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """A row from its form in JSON, where keys are strings."""
        sizes = {
            key: {int(size): value for size, value in record[key].items()}
            for key in ("infer_ms", "infer_mode")
        }
        return cls(**record | sizes)

    @property
    def score(self) -> dict[str, Any]:
        """`mean`, `std` and `per_seed` of the metric by which the nets were chosen."""
        return self.accuracy or next(iter(self.scores.values()))

    def score_text(self, digits: int = 4) -> str:
        """Mean of that metric, and its standard deviation if there are several seeds."""
        return spread_text(self.score, digits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedRow(Row):
    """One net of a `Frontier`: a `Row` of a net that has a size.

    Attributes:
        size: The size that it was built with.
        val_accuracy: `mean`, `std` and `per_seed` of the best validation accuracy. Empty if the
            nets were chosen by another metric.
        val_score: The same of that metric.
        train_peak_bytes: Peak memory of a training step above that before it, or `None` where it
            cannot be measured.
    """

    size: float
    val_accuracy: dict[str, Any]
    train_peak_bytes: int | None = None
    val_score: dict[str, Any] = dataclasses.field(default_factory=dict, metadata=OPTIONAL)

    @property
    def validated(self) -> dict[str, Any]:
        """`mean`, `std` and `per_seed` of the best value of the metric on the validation part."""
        return self.val_accuracy or self.val_score

    @property
    def name(self) -> str:
        """The family and the size."""
        return net_name(self.conv, self.size)

    @property
    def costs(self) -> dict[str, float]:
        """Each cost that was measured, by name."""
        litert, int8 = self.artifacts.get("litert", {}), self.artifacts.get("int8", {})
        costs = {
            "macs": self.macs,
            "params": self.params,
            "infer_ms": self.infer_ms[max(self.infer_ms)],
            "train_step_ms": self.train_step_ms,
            "train_peak_bytes": self.train_peak_bytes,
            "litert_ms": litert.get("latency_ms"),
            "int8_ms": int8.get("latency_ms"),
            "int8_bytes": int8.get("bytes"),
        }
        return {name: cost for name, cost in costs.items() if cost}


def spread_text(spread: dict[str, Any], digits: int = 4) -> str:
    """A mean, and its standard deviation if there are several seeds."""
    mean, std = (f"{spread[key]:.{digits}f}" for key in ("mean", "std"))
    return f"{mean} ± {std}" if len(spread["per_seed"]) > 1 else mean


def plain(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass, without those that are optional and empty."""
    optional = {
        field.name for field in dataclasses.fields(instance) if field.metadata.get("optional")
    }
    found = dataclasses.asdict(instance)
    return {
        name: value
        for name, value in found.items()
        if name not in optional or value not in (None, {}, [])
    }


def net_name(conv: str, size: float) -> str:
    """The name of a net of a family in a size."""
    return f"{conv}-{size:g}"
