"""The parts of the data of a comparison: inputs, labels and weights that are read by index."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import is_integer
from sepconv_layers.comparison.labels import (
    KINDS,
    Labels,
    check_weights,
    label_source,
    labels_of,
    same_labels,
)
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.sources import FORMS, Batches, Samples, sources_of, take

PARTS = ("train", "val", "test")

Part = tuple[Any, ...]  # inputs, labels and, if samples have them, weights, all as sources
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

    def arranged(self, batch: Any) -> tuple[Any, ...]:
        x, labels, *weights = batch
        task = self.training.task
        targets = task.targets(labels)
        return self.inputs_for(x, targets), targets, *map(task.weights, weights)


class Unlabeled:
    """The inputs of samples that have labels, too. Those must be the labels of the part.

    Args:
        samples: Pairs of inputs and labels.
        labels: The labels of the part, as a source.
        name: What messages call the part.
    """

    def __init__(self, samples: Samples, labels: Any, name: str) -> None:
        self.samples, self.labels, self.name = samples, labels, name
        self.digest = samples.digest

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: slice | np.ndarray) -> Any:
        (inputs, found), expected = self.samples[index], take(self.labels, index)
        if not np.array_equal(found, expected):
            raise ValueError(
                f"The labels of {self.name} must be those that its data set returns beside the "
                f"inputs. Received: the labels {expected}, and from the data set {found}."
            )
        return inputs


def check_data(data: Any) -> tuple[dict[str, Part], Labels, Any]:
    """Returns the parts, as sources, what their labels are, and the classes, if they are given."""
    held = {
        name: data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
        for name in (*PARTS, "classes")
    }
    parts = {name: _check_part(name, held[name]) for name in PARTS}
    labels = {
        name: labels_of(part[1], f"The labels of the {name!r} part") for name, part in parts.items()
    }
    classes = held["classes"]
    is_listed = isinstance(classes, Sequence | np.ndarray)
    if classes is not None and not is_integer(classes) and not is_listed:
        raise ValueError(
            "`classes` of `data` must be names of classes, their number, or missing. Received: "
            f"'classes'={classes!r}."
        )
    return parts, same_labels(labels), classes


def _check_part(name: str, part: Any) -> Part:
    if not isinstance(part, tuple | list) or len(part) not in (2, 3):
        raise ValueError(
            f"`data` must hold {name!r} as a pair of inputs and labels, or with sample weights as "
            f"a third entry. Received: {type(part)}. "
            "With a data set of inputs and labels, give `(dataset, labels)`, where `labels` is an "
            "array of all labels, so that they are known without reading the inputs."
        )
    y = label_source(part[1], f"The labels of the {name!r} part")
    x = sources_of(part[0], f"The inputs of the {name!r} part")
    lengths = {len(source) for source in keras.tree.flatten(x)}
    if len(y) == 0 or lengths != {len(y)}:
        raise ValueError(
            f"The {name!r} part must have as many inputs as labels, and at least one of each. "
            f"Inputs are {FORMS}. Received: {len(y)} labels, and inputs of length "
            f"{', '.join(map(str, lengths))}."
        )
    weights = [check_weights(weight, y, name) for weight in part[2:]]
    if isinstance(x, Samples) and _has_labels(x[:1], y[:1]):
        return Unlabeled(x, y, f"the {name!r} part"), y, *weights
    return keras.tree.map_structure(_as_objects_if_text, x), y, *weights


def _has_labels(batch: Any, labels: np.ndarray) -> bool:
    """Whether a batch of one sample is a pair of inputs and such labels."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return False
    found = batch[1]
    is_array = isinstance(found, np.ndarray) and found.shape == labels.shape
    return is_array and KINDS.get(found.dtype.kind) == KINDS[labels.dtype.kind]


def _as_objects_if_text(source: Any) -> Any:
    # TensorFlow converts both types, but not all of Keras takes other than objects.
    is_text = isinstance(source, np.ndarray) and source.dtype.kind == "U"
    return source.astype(object) if is_text else source
