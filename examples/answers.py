"""Shared by the `predict` commands: the net of a run, and its likeliest classes in a line."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np

from examples.sources import existing, expect_file, reading
from sepconv_layers import Comparison


def record_of(folder: Path) -> Comparison:
    """The record of a run."""
    expected = "The model must be one of a run, or the folder of a run with its results.json"
    path = expect_file(existing(folder / "results.json", expected))
    with reading(path):
        return Comparison.load(path)


def preferred(convs: Iterable[str]) -> str:
    """The separable net, or else the first of the others."""
    return min(convs, key=lambda conv: conv != "separable")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities from logits, along the last axis."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def likeliest(labels: Sequence[str], probabilities: np.ndarray, top: int) -> str:
    """The most probable labels of one sample with their probabilities, best first."""
    best = np.argsort(probabilities)[::-1][:top]
    return "  ".join(f"{labels[i]} {probabilities[i]:.3f}" for i in best)
