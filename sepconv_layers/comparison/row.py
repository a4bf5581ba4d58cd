"""The row of one net in a comparison: cost, accuracy and speed."""

import dataclasses
from typing import Any, Self

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
            with the weights that were best on the validation part.
        infer_ms: Batch size to median milliseconds of `predict_on_batch`.
        infer_mode: Batch size to the mode it ran in: "graph", "xla" or "eager".
        train_step_ms: Median milliseconds of `train_on_batch` with the training batch size.
        train_mode: The mode of that step.
        artifacts: Name of a saved form to its size in `bytes`, and to `max_difference` and
            `agreement` (share of equal labels) between the model and the saved form, loaded again.
            `seed` is the seed of the saved model, the best one on the validation part.
        embedding_params: Number of parameters in embeddings, which no convolution reduces.
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

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """A row from its form in JSON, where keys are strings."""
        sizes = {
            key: {int(size): value for size, value in record[key].items()}
            for key in ("infer_ms", "infer_mode")
        }
        return cls(**record | sizes)

    def accuracy_text(self, digits: int = 4) -> str:
        """Mean accuracy, and its standard deviation if there are several seeds."""
        mean, std = (f"{self.accuracy[key]:.{digits}f}" for key in ("mean", "std"))
        return f"{mean} ± {std}" if len(self.accuracy["per_seed"]) > 1 else mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedRow(Row):
    """One net of a `Frontier`: a `Row` of a net that has a size.

    Attributes:
        size: The size that it was built with.
        val_accuracy: `mean`, `std` and `per_seed` of the best validation accuracy.
        train_peak_bytes: Peak memory of a training step above that before it, or `None` where it
            cannot be measured.
    """

    size: float
    val_accuracy: dict[str, Any]
    train_peak_bytes: int | None = None

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


def net_name(conv: str, size: float) -> str:
    """The name of a net of a family in a size."""
    return f"{conv}-{size:g}"
