"""Shared by the `predict` commands: their options, the net of a run, and its predictions."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from examples.command_line import new_parser, positive_number
from examples.sources import existing, expect, expect_file, reading
from sepconv_layers import Comparison

BATCHES = 16  # that are read at a time


def prediction_parser(
    module: str, description: str | None, model: str, classes: str
) -> argparse.ArgumentParser:
    """Returns the parser of `python -m module`, with the options that all `predict` commands share.

    Args:
        module: The module of the command.
        description: Its docstring.
        model: What to pass as the model.
        classes: What the model distinguishes, in the plural.
    """
    parser = new_parser(module, description)
    parser.add_argument("model", help=model)
    top = f"number of {classes} to print; default: 3"
    parser.add_argument("--top", type=positive_number(int), default=3, help=top)
    return parser


def outputs_of(model: keras.Model, samples: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Returns the outputs of a model for samples, of which some are in memory at a time.

    Args:
        model: The model.
        samples: An array, or what is read by index.
        batch_size: The number of samples in a batch.
    """
    piece = BATCHES * batch_size
    pieces = (samples[start : start + piece] for start in range(0, len(samples), piece))
    outputs = [model.predict(some, batch_size=batch_size, verbose=0) for some in pieces]
    return np.concatenate(outputs)


def net_of_run(folder: Path, pattern: str, artifact: str | None = None) -> Path:
    """Returns the path of the separable net of a run, or of another one if it has none.

    Nets of earlier runs may be in the same folder. The record lists those of the last run.

    Args:
        folder: The folder of the run.
        pattern: The names of its nets, with `*` in place of `separable`, `standard` and so on.
        artifact: The kind of artifact that the record must list, if the net is an exported one.

    Raises:
        ValueError: If there is no record, or no net that it lists.
    """
    expected = f"The model must be a {pattern}, or the folder of a run with its results.json"
    record = expect_file(existing(folder / "results.json", expected))
    with reading(record):
        rows = Comparison.load(record).rows
    convs = [row.conv for row in rows if artifact is None or artifact in row.artifacts]
    convs.sort(key=lambda conv: conv != "separable")
    found = [path for conv in convs if (path := folder / pattern.replace("*", conv)).exists()]
    fix = f"Run it again with `--export {artifact}`" if artifact else "Let the run finish"
    expect(
        bool(found),
        f"{folder} must hold a {pattern} that its results.json lists",
        f"the nets {convs}",
        f"{fix}, or pass the path of a model.",
    )
    return found[0]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities along the last axis."""
    odds = np.exp(logits - np.max(logits, -1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def likeliest(classes: Sequence[str], probabilities: np.ndarray, top: int) -> str:
    """Returns one line with the most probable classes of a sample, best first."""
    best = np.argsort(probabilities)[::-1][:top]
    return "  ".join(f"{classes[i]} {probabilities[i]:.3f}" for i in best)
