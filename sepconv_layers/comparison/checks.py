"""Early errors for what `compare` is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.training import logits_of, take

CONVS = ("separable", "standard", "standard-narrow")
PARTS = ("train", "val", "test")


def check_convs(convs: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the nets as a tuple."""
    names = (convs,) if isinstance(convs, str) else tuple(convs)
    if not names or len(set(names)) < len(names) or not set(names) <= set(CONVS):
        raise ValueError(f"`convs` must be different ones of {CONVS}. Received: convs={convs!r}.")
    return names


def check_seeds(seeds: int | Sequence[int]) -> list[int]:
    """The seeds as a list."""
    listed = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not listed or len(set(listed)) < len(listed) or min(listed) < 0:
        raise ValueError(
            "`seeds` must be a positive number of seeds, or different integers from 0 on. "
            f"Received: seeds={seeds!r}."
        )
    return listed


def check_positive(**counts: Any) -> None:
    """Whether all are positive integers."""
    for name, count in counts.items():
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={count!r}.")


def check_output(output: Any) -> None:
    """Whether it is a directory, or can become one."""
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"`output` must be a directory. Received a file: output={str(output)!r}.")


def check_data(data: Any) -> tuple[dict[str, tuple[Any, np.ndarray]], int]:
    """The parts, with labels as integers, and the number of classes."""
    held = data if isinstance(data, Mapping) else vars(data)
    parts = {name: _check_part(name, held.get(name)) for name in PARTS}
    labels = np.concatenate([y for _, y in parts.values()])
    classes = held.get("classes", int(labels.max()) + 1)
    count = classes if isinstance(classes, int) else len(classes)
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"Labels must be from 0 to {count - 1}, as there are {count} classes. Received: labels "
            f"from {labels.min()} to {labels.max()}."
        )
    return parts, count


def _check_part(name: str, part: Any) -> tuple[Any, np.ndarray]:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise ValueError(
            f"`data` must hold a pair of inputs and labels as {name!r}. Received: {type(part)}."
        )
    x, y = part[0], np.asarray(part[1])
    if y.ndim != 1 or (len(y) and y.dtype.kind not in "iu"):
        raise ValueError(
            f"The labels of the {name!r} part must be integers of shape (samples,). Received: "
            f"dtype={y.dtype}, shape={y.shape}. One-hot labels become that by `y.argmax(-1)`."
        )
    lengths = {len(leaf) if hasattr(leaf, "shape") else None for leaf in keras.tree.flatten(x)}
    if len(y) == 0 or lengths != {len(y)}:
        raise ValueError(
            f"The {name!r} part must have as many inputs, in NumPy arrays, as labels, and at least "
            f"one. Received: {len(y)} labels, and inputs of length "
            f"{', '.join(map(str, lengths))}."
        )
    return x, y.astype("int64")


def check_model(model: Any, conv: str, x: Any, classes: int) -> None:
    """Whether it is a model that outputs one logit per class for such inputs."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`build({conv!r})` must return a Keras model. Received: {type(model)}.")
    logits = logits_of(model, take(x, np.zeros(2, int)))
    if logits.shape != (2, classes):
        raise ValueError(
            f"The model of `build({conv!r})` must output one logit for each of {classes} classes, "
            f"so the shape (batch, {classes}). Received: (batch, "
            f"{', '.join(map(str, logits.shape[1:]))}). Let it end in "
            f"`keras.layers.Dense({classes})`."
        )
    if logits.min() >= 0 and np.allclose(logits.sum(-1), 1, atol=1e-3):
        raise ValueError(
            f"The model of `build({conv!r})` must output logits. Received: probabilities. Remove "
            "the softmax at its end."
        )
