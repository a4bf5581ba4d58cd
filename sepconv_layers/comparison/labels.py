"""Labels of any kind, read piece by piece: what they are, and whether they fit each other."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sepconv_layers.sources import PIECE_BYTES, is_indexed, sources_of, take

KINDS = {"b": "Booleans", "i": "integers", "u": "integers", "f": "floats"}


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the labels of a part are.

    Attributes:
        shape: The shape of the labels of one sample.
        kind: "Booleans", "integers" or "floats".
        dtype: Their type.
        low: The smallest one.
        high: The largest one.
        is_binary: Whether all are 0 or 1.
        is_one_hot: Whether a single 1 is among them along the last axis, everywhere.
    """

    shape: tuple[int, ...]
    kind: str
    dtype: str
    low: float
    high: float
    is_binary: bool
    is_one_hot: bool

    def __str__(self) -> str:
        shape = ", ".join(map(str, ("samples", *self.shape)))
        return f"{self.kind} ({self.dtype}) of shape ({shape}{',' * (not self.shape)})"


def label_source(labels: Any, name: str) -> Any:
    """Labels as a source. One integer for each sample is 64 bits wide.

    Raises:
        ValueError: If they are no numbers.
    """
    source = _array_or_source(labels, name)
    first = source if _is_scalar(source) else source[:1]
    if not isinstance(first, np.ndarray) or not first.ndim or first.dtype.kind not in KINDS:
        is_array = isinstance(first, np.ndarray)
        received = f"dtype={first.dtype}, shape={first.shape}" if is_array else type(first)
        raise ValueError(
            f"{name} must be integers of shape (samples,), or other numbers with an axis of "
            f"samples. Received: {received}."
        )
    is_class = first.ndim == 1 and first.dtype.kind in "iu"
    return np.asarray(source[:]).astype("int64") if is_class else source


def labels_of(source: Any, name: str) -> Labels:
    """Reads all labels of a part.

    Raises:
        ValueError: If one is not finite.
    """
    lows, highs, is_binary, is_one_hot = [], [], True, True
    for _, piece in pieces(("", source)):
        low, high = piece.min(), piece.max()
        lows.append(low)
        highs.append(high)
        is_binary = is_binary and bool(np.isin(piece, (0, 1)).all())
        is_vector = is_binary and piece.ndim > 1 and piece.shape[-1] > 1
        is_one_hot = is_one_hot and is_vector and bool((piece.sum(-1) == 1).all())
    low, high = min(lows), max(highs)
    if not math.isfinite(low + high):
        raise ValueError(f"{name} must be finite. Received: values from {low} to {high}.")
    kind = KINDS[piece.dtype.kind]
    return Labels(piece.shape[1:], kind, piece.dtype.name, low, high, is_binary, is_one_hot)


def check_weights(weights: Any, labels: Any, part: str) -> np.ndarray:
    """Returns the weights of the samples of a part, or of their pixels or frames."""
    name = f"The sample weights of the {part!r} part"
    source = _array_or_source(weights, name)
    wanted = (len(labels), *labels[:1].shape[1:])
    shape = () if _is_scalar(source) else (len(source), *source[:1].shape[1:])
    if not shape or shape != wanted[: len(shape)]:
        raise ValueError(
            f"{name} must be one for each sample, of shape ({len(labels)},), or for each of its "
            f"labels. Received: shape={shape}, with labels of shape {wanted}."
        )
    total = 0.0
    for _, piece in pieces(("", source)):
        is_number = piece.dtype.kind in "biuf"
        if not is_number or not np.isfinite(piece).all() or piece.min() < 0:
            raise ValueError(f"{name} must be finite numbers of at least 0. Received: {piece!r}.")
        total += float(piece.sum())
    if not total:
        raise ValueError(f"{name} must not all be 0.")
    return source


def pieces(part: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yields inputs, which are left out, labels and weights of a part, piece by piece."""
    _, *sources = part
    first = sources[0][:1]
    size = max(1, PIECE_BYTES // max(1, first.nbytes))
    for start in range(0, len(sources[0]), size):
        yield (None, *take(sources, slice(start, start + size)))


def same_labels(found: Mapping[str, Labels]) -> Labels:
    """What all parts have in common.

    Raises:
        ValueError: If their labels are not of one kind.
    """
    first = found["train"]
    for name, labels in found.items():
        if (labels.kind, labels.shape) != (first.kind, first.shape):
            advice = " Convert one-hot labels by `y.argmax(-1)`." if labels.is_one_hot else ""
            raise ValueError(
                f"The labels of the {name!r} part must be {first}, as those of the 'train' part "
                f"are. Received: {labels}.{advice}"
            )
    every = found.values()
    return dataclasses.replace(
        first,
        low=min(labels.low for labels in every),
        high=max(labels.high for labels in every),
        is_binary=all(labels.is_binary for labels in every),
        is_one_hot=all(labels.is_one_hot for labels in every),
    )


def _is_scalar(source: Any) -> bool:
    return isinstance(source, np.ndarray) and not source.ndim


def _array_or_source(data: Any, name: str) -> Any:
    is_listed = isinstance(data, list | tuple)  # which would be a structure of sources
    return np.asarray(data) if is_listed or not is_indexed(data) else sources_of(data, name)
