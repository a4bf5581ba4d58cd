"""Channels that can only be removed together.

Each output channel of a convolution gets a label. A label array describes a tensor: it has the rank
of the tensor without the batch, and in each axis the size of the tensor or 1, where all positions
have the same labels. Layers pass labels on, and join the labels of channels that they combine
elementwise. In the end, the channels with equal labels must be removed together, and those joined
with the label 0 stay.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Labels = np.ndarray  # of integers
Terms = Sequence[tuple[int, tuple[Labels, ...]]]  # MACs, and what they are proportional to
KEPT = 0


@dataclasses.dataclass
class Part:
    """A layer with weights or arguments that depend on the number of channels.

    Attributes:
        path: Names of the layer and of the models around it.
        layer: The layer.
        cuts: Name of each weight with channels → the labels along its axes.
        arguments: Name of each constructor argument that depends on the number of channels → the
            labels whose remaining number is its value. A tuple has labels or a number for each
            element.
        inputs: Labels of the channels that the layer mixes; empty if it mixes none.
        outputs: Labels of the channels that it creates; empty if it creates none.
        axis: Channel axis of its input.
        terms: MACs, and the label arrays that they are proportional to.
        norm: The batch normalization of its output, if there is one.
    """

    path: str
    layer: Any
    cuts: Mapping[str, Mapping[int, Labels]]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Labels = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    outputs: Labels = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    axis: int = -1
    terms: Terms = ()
    norm: Any = None


class Channels:
    """The labels of all tensors and the parts of a model."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}  # by the id of the layer
        self._parents = [KEPT]

    def new(self, count: int) -> Labels:
        """Creates the labels of new channels."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def join(self, *arrays: Any) -> None:
        """Joins the labels in the same place of arrays that broadcast to the same shape."""
        first, *others = np.broadcast_arrays(*arrays)
        for other in others:
            for one, two in zip(first.flat, other.flat, strict=True):
                roots = self._root(int(one)), self._root(int(two))
                self._parents[max(roots)] = min(roots)

    def keep(self, labels: Labels) -> None:
        """Excludes channels from removal."""
        self.join(labels, KEPT)

    def along(self, labels: Labels, shape: Sequence[int | None], axis: int) -> Labels:
        """The labels along an axis of a tensor of that shape, both without the batch.

        Labels that differ along another axis are kept.
        """
        if labels.size != labels.shape[axis]:
            self.keep(labels)
            return np.full(shape[axis] or 1, KEPT)
        return np.broadcast_to(labels.ravel(), (shape[axis] or 1,))

    def add(self, part: Part) -> None:
        """Adds a call of a layer. Calls of a shared layer have the same channels."""
        known = self.parts.setdefault(id(part.layer), part)
        if known is part:
            return
        known.terms = [*known.terms, *part.terms]
        for weight, axes in part.cuts.items():
            for axis, labels in axes.items():
                self.join(labels, known.cuts[weight][axis])
        for name, value in part.arguments.items():
            for one, other in zip(_arrays(value), _arrays(known.arguments[name]), strict=True):
                self.join(one, other)

    def roots(self) -> Labels:
        """For each label, the smallest one that is joined with it."""
        return np.array([self._root(label) for label in range(len(self._parents))])

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label


def _arrays(value: Any) -> list[Labels]:
    return [item for item in (value if isinstance(value, tuple) else (value,)) if np.ndim(item)]


def placed(labels: Labels, axis: int, rank: int) -> Labels:
    """The label array of a tensor without the batch that has labels along one axis."""
    shape = [1] * rank
    shape[axis] = -1
    return labels.reshape(shape)


def condensed(labels: Labels) -> Labels:
    """The same label array with size 1 in the axes along which nothing differs."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis)
        labels = first if (labels == first).all() else labels
    return labels


def remaining(value: Any, kept: np.ndarray) -> Any:
    """The number of labels that are kept, or those numbers for each element of a tuple."""
    if isinstance(value, tuple):
        return tuple(remaining(item, kept) for item in value)
    return int(kept[value].sum()) if isinstance(value, np.ndarray) else value


def macs_of(terms: Terms, kept: np.ndarray) -> int:
    """The MACs of a layer with only those channels."""
    return sum(
        macs * math.prod(remaining(each, kept) for each in labels) // math.prod(map(len, labels))
        for macs, labels in terms
    )
