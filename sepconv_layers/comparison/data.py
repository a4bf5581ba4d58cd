"""The parts of the data of a comparison: inputs that are read by index, and labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import is_integer
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.sources import FORMS, Batches, Samples, sources_of

PARTS = ("train", "val", "test")

Part = tuple[Any, np.ndarray]  # inputs, as sources, and labels
Parts = Mapping[str, Part]


class Epoch(Batches):
    """The batches of a part, with labels in the form that the loss takes.

    Args:
        part: The part.
        training: The settings.
        order: The indices of the samples; by default, all in turn.
        inputs_for: Returns the inputs for inputs and labels, such as `Trainer.inputs_for`.
    """

    def __init__(
        self,
        part: Part,
        training: Training,
        order: np.ndarray | None = None,
        inputs_for: Callable[[Any, Any], Any] = lambda x, labels: x,
    ) -> None:
        super().__init__(part, training.batch_size, order)
        self.training, self.inputs_for = training, inputs_for

    def arranged(self, batch: Any) -> tuple[Any, Any]:
        x, labels = batch[0], self.training.one_hot(batch[1])
        return self.inputs_for(x, labels), labels


class Unlabeled:
    """The inputs of samples that have labels, too. Those must be the labels of the part.

    Args:
        samples: Pairs of inputs and labels.
        labels: The labels of the part.
        name: What messages call the part.
    """

    def __init__(self, samples: Samples, labels: np.ndarray, name: str) -> None:
        self.samples, self.labels, self.name = samples, labels, name
        self.digest = samples.digest

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: slice | np.ndarray) -> Any:
        (inputs, found), expected = self.samples[index], self.labels[index]
        if not np.array_equal(found, expected):
            raise ValueError(
                f"The labels of {self.name} must be those that its data set returns beside the "
                f"inputs. Received: the labels {expected}, and from the data set {found}."
            )
        return inputs


def check_data(data: Any) -> tuple[dict[str, Part], int]:
    """Returns the parts, with sources and integer labels, and the number of classes."""
    held = {
        name: data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
        for name in (*PARTS, "classes")
    }
    parts = {name: _check_part(name, held[name]) for name in PARTS}
    labels = np.concatenate([y for _, y in parts.values()])
    classes = labels.max() + 1 if held["classes"] is None else held["classes"]
    if not is_integer(classes) and not isinstance(classes, Sequence | np.ndarray):
        raise ValueError(
            "`classes` of `data` must be names of classes, their number, or missing. Received: "
            f"'classes'={classes!r}."
        )
    count = int(classes) if is_integer(classes) else len(classes)
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"Labels must be from 0 to {count - 1}, because there are {count} classes. Received: "
            f"labels from {labels.min()} to {labels.max()}."
        )
    return parts, count


def _check_part(name: str, part: Any) -> Part:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise ValueError(
            f"`data` must hold {name!r} as a pair of inputs and labels. Received: {type(part)}. "
            "With a data set of inputs and labels, give `(dataset, labels)`, where `labels` is an "
            "array of all labels, so that they are known without reading the inputs."
        )
    y = np.asarray(part[1])
    if y.ndim != 1 or (len(y) and y.dtype.kind not in "iu"):
        raise ValueError(
            f"The labels of the {name!r} part must be integers of shape (samples,). Received: "
            f"dtype={y.dtype}, shape={y.shape}. Convert one-hot labels by `y.argmax(-1)`."
        )
    y = y.astype("int64")
    x = sources_of(part[0], f"The inputs of the {name!r} part")
    lengths = {len(source) for source in keras.tree.flatten(x)}
    if len(y) == 0 or lengths != {len(y)}:
        raise ValueError(
            f"The {name!r} part must have as many inputs as labels, and at least one of each. "
            f"Inputs are {FORMS}. Received: {len(y)} labels, and inputs of length "
            f"{', '.join(map(str, lengths))}."
        )
    if isinstance(x, Samples) and _has_label(x[:1]):
        return Unlabeled(x, y, f"the {name!r} part"), y
    return keras.tree.map_structure(_as_objects_if_text, x), y


def _has_label(batch: Any) -> bool:
    """Whether a batch of one sample is a pair of inputs and a class."""
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2
    return is_pair and getattr(batch[1], "shape", None) == (1,) and batch[1].dtype.kind in "iu"


def _as_objects_if_text(source: Any) -> Any:
    # TensorFlow converts both types, but not all of Keras takes other than objects.
    is_text = isinstance(source, np.ndarray) and source.dtype.kind == "U"
    return source.astype(object) if is_text else source
