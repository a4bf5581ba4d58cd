"""The row of one net in a comparison: cost, accuracy and speed."""

import dataclasses
from typing import Any


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

    def accuracy_text(self, digits: int = 4) -> str:
        """Mean accuracy, and its standard deviation if there are several seeds."""
        mean, std = (f"{self.accuracy[key]:.{digits}f}" for key in ("mean", "std"))
        return f"{mean} ± {std}" if len(self.accuracy["per_seed"]) > 1 else mean
