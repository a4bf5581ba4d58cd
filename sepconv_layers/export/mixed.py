"""Finds the smallest LiteRT file of layers in different types that loses no more than allowed.

All layers start in int8. A file in which only one layer is quantized shows the noise that this
layer adds to the outputs, and the bytes that it saves, in int8 and in int16 activations. Then layer
after layer moves to 16 bits or to floats, the one first that removes most noise for a byte. That
makes a path of files from the smallest to the float file. The first one on it that passes wins.
"""

import collections
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sepconv_layers.export.conversion import Conversion
from sepconv_layers.export.flatbuffer import finalize
from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.names import NamedArrays
from sepconv_layers.export.origins import Origins
from sepconv_layers.export.quantizer import quantized, steps
from sepconv_layers.export.runtimes import checked_runner
from sepconv_layers.export.scales import WEIGHTED

# The kinds of a layer, from the smallest file to the most exact one; `None` is float32.
KINDS = ("int8", "int16x8", None)
# Operators that begin a new layer.
BEGINNING = (*WEIGHTED, "BATCH_MATMUL", "CONV_3D", "EMBEDDING_LOOKUP", "GATHER", "TRANSPOSE_CONV")
PROBED = 32  # samples to measure the noise of single layers with
LEAST = 20  # samples that an expectation needs
NEAREST = 0.05  # share of samples, those with the smallest margins, that it is made from
WINDOW = 4  # it is made from all margins up to so many times the mean error


class Loss(NamedTuple):
    """What a file loses on held-out samples, in points.

    Attributes:
        counted: On these samples.
        expected: On others like them, plus a standard error.
    """

    counted: float
    expected: float

    @property
    def points(self) -> float:
        """The larger one."""
        return max(self.counted, self.expected)


def loss_of(reference: np.ndarray, outputs: np.ndarray, labels: np.ndarray | None) -> Loss:
    """Returns what outputs lose against those of the float model.

    Without labels, a loss is a changed class; with them, a right class that is now a wrong one. Of
    a hundred samples, each is a point, but few are close to a change. So the expectation is from
    margins, by which the largest output exceeds the next one: a sample changes if its error is
    larger than its margin. Small margins are about equally frequent, as often as the smallest 5 %
    of them are, and half of the errors go that way.

    Args:
        reference: The float model's outputs, with the classes on the last axis.
        outputs: The file's outputs.
        labels: The index of the class for each position; `None` without labels.
    """
    classes = reference.shape[-1]
    reference, outputs = reference.reshape(-1, classes), outputs.reshape(-1, classes)
    rows, order = np.arange(len(reference)), np.argsort(reference, -1, kind="stable")
    best, second = order[:, -1], order[:, -2]
    margins, margins_now = (
        array[rows, best].astype("float64") - array[rows, second] for array in (reference, outputs)
    )
    errors = margins_now - margins
    found = outputs.argmax(-1)
    if labels is None:
        matters, counted = np.ones(len(rows), bool), float((found != reference.argmax(-1)).mean())
    else:
        matters = best == labels.reshape(-1)
        counted = float(matters.mean() - (found == labels.reshape(-1)).mean())
    close = int((margins < WINDOW * np.abs(errors).mean()).sum())
    count = min(len(rows), max(LEAST, round(NEAREST * len(rows)), close))
    nearest = np.argsort(margins, kind="stable")[:count]
    size, largest = float(np.abs(errors[nearest]).mean()), float(margins[nearest].max())
    share = count / len(rows) * min(1.0, size / (2 * largest) if largest else float(size > 0))
    expected = share * float(matters[nearest].mean()) * (1 + count**-0.5)
    return Loss(100 * max(counted, 0.0), 100 * expected)


class Judge:
    """Runs files on held-out samples.

    Args:
        conversion: The model.
        batches: The held-out inputs.
        labels: Their labels, if there are any.
    """

    def __init__(
        self, conversion: Conversion, batches: Sequence[Arrays], labels: np.ndarray | None
    ) -> None:
        self.conversion, self.batches, self.labels = conversion, batches, labels
        self.name = conversion.graph.outputs[0]
        self.probe = [array[:PROBED] for array in batches[0]]
        self.reference = self._first_outputs(conversion.graph.reference, batches)
        self.sizes = self.reference.shape
        if len(self.sizes) < 2 or self.sizes[-1] < 2:
            raise ValueError(
                "The `model` argument must be a model with two classes or more on the last axis of "
                f"its first output for quantize='auto'. Received: {conversion.graph.model.name!r} "
                f"with the output shape {(None, *self.sizes[1:])}."
            )
        if labels is not None and labels.shape != self.sizes[:-1]:
            raise ValueError(
                "The labels of the `validation_data` argument must be an index of a class for "
                f"each output, of the shape {self.sizes[:-1]}. Received: the shape {labels.shape}."
            )

    def file(self, content: bytes) -> bytes:
        """Returns the file of what the quantizer returns, with states as inputs and outputs."""
        graph = self.conversion.graph
        return finalize(content, graph.model.name, self.conversion.inputs, graph.outputs, [])

    def loss(self, content: bytes) -> Loss:
        """What a file loses."""
        return loss_of(self.reference, self._outputs(content, self.batches), self.labels)

    def noise(self, content: bytes) -> float:
        """The mean square of the difference from the float model's outputs, on a few samples."""
        outputs = self._outputs(content, [self.probe])
        return float(np.square(outputs - self.reference[: len(outputs)], dtype="float64").mean())

    def _outputs(self, content: bytes, batches: Sequence[Arrays]) -> np.ndarray:
        model, inputs = self.conversion.graph.model.name, self.conversion.inputs
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.tflite"
            path.write_bytes(self.file(content))
            run = checked_runner("litert", path, model, inputs)
            return self._first_outputs(run, batches)

    def _first_outputs(
        self, run: Callable[[Arrays], NamedArrays], batches: Sequence[Arrays]
    ) -> np.ndarray:
        return np.concatenate([run(batch)[self.name] for batch in batches])


@dataclasses.dataclass
class Layer:
    """A layer of a file: the operators from one with weights to the next.

    Attributes:
        path: The layer of the model, as a path.
        scopes: The scopes of its operators.
        noise: The noise that it alone adds to the outputs, for each of `KINDS`.
        bytes: The size of the file in which it alone has the kind, for each of `KINDS`.
    """

    path: str
    scopes: list[str]
    noise: list[float] = dataclasses.field(default_factory=list)
    bytes: list[int] = dataclasses.field(default_factory=list)


class Mix(NamedTuple):
    """A file, what it loses on so many held-out samples, and the kind of each layer."""

    content: bytes
    loss: Loss
    samples: int
    kinds: dict[str, str]

    @property
    def notes(self) -> tuple[str, str]:
        """The findings as sentences."""
        counts = collections.Counter(self.kinds.values())
        listed = ", ".join(f"{count} in {kind}" for kind, count in sorted(counts.items()))
        return (
            f"Layers: {listed}.",
            f"Loss on {self.samples} held-out samples: {self.loss.counted:.2f} points, and "
            f"{self.loss.expected:.2f} expected on others.",
        )


def smallest(conversion: Conversion, judge: Judge, max_loss: float) -> Mix:
    """Returns the smallest file that loses at most so many points.

    Args:
        conversion: The model, with its calibration.
        judge: Held-out samples.
        max_loss: The largest loss to allow, in points.
    """
    layers = _layers(conversion.floats, Origins(conversion.graph))

    def mix(choice: Sequence[int]) -> Mix:
        content = _content(conversion, layers, choice)
        kinds = {layer.path: KINDS[k] or "float32" for layer, k in zip(layers, choice, strict=True)}
        return Mix(content, judge.loss(content), len(judge.reference), kinds)

    first = mix([0] * len(layers))
    if first.loss.points <= max_loss:
        return first
    wide = mix([1] * len(layers))
    path = list(_path(conversion, judge, layers))
    low, high, found = 0, len(path) - 1, (floats := mix(path[-1]))
    while low < high:  # the loss falls along the path
        middle = (low + high) // 2
        one = mix(path[middle])
        if one.loss.points <= max_loss:
            high, found = middle, one
        else:
            low = middle + 1
    passing = [one for one in (found, wide) if one.loss.points <= max_loss]
    return min([*passing, floats], key=lambda one: len(judge.file(one.content)))


def _layers(content: bytes, origins: Origins) -> list[Layer]:
    """Returns the layers of a float file. Operators before the first layer belong to it."""
    found: dict[str, Layer] = {}
    first = now = Layer("", [])
    for step in steps(content):
        if step.kind in BEGINNING:
            path = origins.path(step.outputs[0])
            if not found:
                first.path = path
            now = found.setdefault(path, Layer(path, []) if found else first)
        now.scopes.append(step.scope)
    return list(found.values()) or [first]


def _content(conversion: Conversion, layers: Sequence[Layer], choice: Sequence[int]) -> bytes:
    """Returns a file in which each layer has the chosen one of `KINDS`."""
    if all(KINDS[kind] is None for kind in choice):
        return conversion.floats
    chosen = {KINDS[kind] for kind in choice} - {None}
    base = "int8" if "int8" in chosen else "int16x8"
    others: dict[str | None, list[str]] = {}
    for layer, kind in zip(layers, choice, strict=True):
        if KINDS[kind] != base:
            others.setdefault(KINDS[kind], []).extend(layer.scopes)
    return quantized(conversion.floats, conversion.ranges, base, others=others)


def _path(conversion: Conversion, judge: Judge, layers: Sequence[Layer]) -> Iterator[list[int]]:
    """Yields choices from all layers in int8, without it, to all of them in float32."""
    exact = len(KINDS) - 1
    noise, size = judge.noise(conversion.floats), len(judge.file(conversion.floats))
    for layer in layers:
        for kind in range(exact):
            choice = [kind if one is layer else exact for one in layers]
            content = _content(conversion, layers, choice)
            layer.noise.append(judge.noise(content))
            layer.bytes.append(len(judge.file(content)))
        layer.noise.append(noise)
        layer.bytes.append(size)
    choice = [0] * len(layers)
    while any(kind < exact for kind in choice):
        index, kind = max(
            (
                (index, kind)
                for index, now in enumerate(choice)
                for kind in range(now + 1, exact + 1)
            ),
            key=lambda move: _gain(layers[move[0]], choice[move[0]], move[1]),
        )
        choice[index] = kind
        yield list(choice)


def _gain(layer: Layer, old: int, new: int) -> tuple[float, int]:
    """The noise that a move removes for each byte; of equal ones, the smaller move is first."""
    removed, added = layer.noise[old] - layer.noise[new], layer.bytes[new] - layer.bytes[old]
    return removed / max(added, 1), -new
