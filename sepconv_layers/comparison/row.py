"""One net of a comparison: what it costs, how accurate it is and how fast."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One net of a `Comparison`.

    Attributes:
        conv: "separable", "standard" or "standard-narrow".
        model: Name of the model.
        params: Numbers in all weights.
        macs: Multiply-accumulates of one forward pass with one sample.
        accuracy: `mean`, `std` (of a sample) and `per_seed`, on the test part, by the weights that
            were best on the validation part.
        infer_ms: Batch size to median milliseconds of `predict_on_batch`.
        infer_mode: Batch size to how it ran: "graph", "xla" or "eager".
        train_step_ms: Median milliseconds of `train_on_batch` with the training batch size.
        train_mode: How that ran.
        artifacts: Name of a saved form to its `bytes`, and `max_difference` and `agreement` (share
            of equal labels) between the model and what was loaded again. `seed` is whose it is:
            the seed that was best on the validation part.
        embedding_params: How many of `params` are those of embeddings, which no convolution saves.
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
        """Mean accuracy and, if there are several seeds, its spread."""
        mean, std = (f"{self.accuracy[key]:.{digits}f}" for key in ("mean", "std"))
        return f"{mean} ± {std}" if len(self.accuracy["per_seed"]) > 1 else mean
