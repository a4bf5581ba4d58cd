"""Calibration and validation data: typical inputs, read piece by piece, and held-out ones."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers import sources
from sepconv_layers.export.inputs import Arrays, sample_for
from sepconv_layers.export.quantizer import INTEGERS
from sepconv_layers.quantize.insertion import is_aware

AUTO = "auto"  # the kind that needs held-out samples, too
LARGEST_SAMPLE = 100  # samples in a piece, and to run the artifact with if no others are given


def fixed_shapes(
    sample: Arrays, batches: Sequence[Arrays], argument: str = "calibration"
) -> list[tuple[int, ...]]:
    """Returns the shapes of one sample, which all batches of an argument must have."""
    shapes = [(1, *array.shape[1:]) for array in sample]
    for batch in batches:
        found = [(1, *array.shape[1:]) for array in batch]
        if found != shapes:
            raise ValueError(
                f"The `{argument}` argument must have inputs of the sample's sizes, {shapes}. "
                f"Received: inputs of the sizes {found}."
            )
    return shapes


def check_calibration(model: keras.Model, quantize: str | None, calibration: Any) -> None:
    """Raises a `ValueError` unless there are inputs to measure ranges just where they are needed.

    Args:
        model: The model.
        quantize: The argument of `to_litert`.
        calibration: The argument of `to_litert`.
    """
    kind = None if calibration is None else type(calibration).__name__
    received = f"calibration={kind} with quantize={quantize!r}"
    if is_aware(model):
        if quantize != "int8" or calibration is not None:
            raise ValueError(
                "A model of `quantize.aware` has learned its ranges, and needs quantize='int8' and "
                f"calibration=None. Received: {received}"
            )
        return
    kinds = (*INTEGERS, AUTO)
    if (calibration is None) == (quantize in kinds):
        raise ValueError(
            "The `calibration` argument must be inputs to measure the ranges of activations for "
            f"`quantize` in {kinds}, and None otherwise. Received: {received}"
        )


def calibration_batches(
    model: keras.Model, calibration: Any, argument: str = "calibration"
) -> Sequence[Arrays]:
    """Returns the batches of the calibration, each as a list of arrays.

    Args:
        model: The model.
        calibration: A batch of inputs, or an iterable of batches.
        argument: The name of the argument that holds them, for messages.
    """
    is_list = isinstance(calibration, list | tuple)
    is_batch = (
        hasattr(calibration, "shape")
        or isinstance(calibration, dict)
        or (
            is_list
            and len(model.inputs) > 1
            and all(hasattr(each, "shape") for each in calibration)
        )
    )
    if (is_batch or not is_list) and sources.is_by_sample(calibration):
        data = sources.sources_of(calibration, f"The `{argument}` argument")
        lengths = {len(source) for source in keras.tree.flatten(data)}
        if len(lengths) == 1 and 0 not in lengths:
            return _Pieces(model, data, argument)
    if is_batch:
        calibration = [calibration]
    elif not isinstance(calibration, Iterable):
        raise ValueError(
            f"The `{argument}` argument must be a batch of inputs or an iterable of batches. "
            f"Received: {argument}={calibration!r}"
        )
    batches = [sample_for(model, batch, argument) for batch in calibration]
    if not batches:
        raise ValueError(f"The `{argument}` argument must hold inputs. Received: no batch.")
    return batches


class _Pieces(Sequence[Arrays]):
    """Batches of data that are read by index, when they are needed."""

    def __init__(self, model: keras.Model, data: Any, argument: str) -> None:
        self.model, self.data, self.argument = model, data, argument
        self[0]  # an early error if the data do not fit the model

    def __len__(self) -> int:
        return math.ceil(sources.count_of(self.data) / LARGEST_SAMPLE)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError
        part = slice(index * LARGEST_SAMPLE, (index + 1) * LARGEST_SAMPLE)
        inputs = sources.inputs_at(self.data, part, len(self.model.inputs))
        return sample_for(self.model, inputs, self.argument)


def validation_of(
    model: keras.Model, validation_data: Any
) -> tuple[Sequence[Arrays], np.ndarray | None]:
    """Returns the batches of inputs and the labels of `validation_data`, which is not `None`."""
    inputs, labels = validation_data, None
    if isinstance(validation_data, tuple):
        if len(validation_data) != 2:
            raise ValueError(
                "The `validation_data` argument must be inputs, or a tuple of inputs and labels. "
                f"Received: a tuple of {len(validation_data)}."
            )
        inputs, labels = validation_data[0], np.asarray(validation_data[1])
    batches = calibration_batches(model, inputs, "validation_data")
    count = sum(len(batch[0]) for batch in batches)
    if labels is not None and (labels.dtype.kind not in "iu" or len(labels) != count):
        raise ValueError(
            "The labels of the `validation_data` argument must be integers, one for each sample. "
            f"Received: {labels.dtype} of the shape {labels.shape} for {count} samples."
        )
    return batches, labels


def halves(batches: Sequence[Arrays]) -> tuple[Sequence[Arrays], Sequence[Arrays]]:
    """Returns every other sample of a calibration, and the samples between them.

    Raises:
        ValueError: If there are fewer than two.
    """
    lengths = [len(batch[0]) for batch in batches]
    if sum(lengths) < 2:
        raise ValueError(
            "The `calibration` argument must hold two samples or more for quantize='auto', which "
            f"measures ranges on one half and the loss on the other. Received: {sum(lengths)}."
        )
    return _Half(batches, lengths, 0), _Half(batches, lengths, 1)


class _Half(Sequence[Arrays]):
    """The samples of batches with an even or with an odd number."""

    def __init__(self, batches: Sequence[Arrays], lengths: Sequence[int], parity: int) -> None:
        self.batches = batches
        starts = np.cumsum([0, *lengths[:-1]])
        self.parts = [
            (number, slice(first, None, 2))
            for number, start in enumerate(starts)
            if (first := int(parity + start) % 2) < lengths[number]
        ]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: Any) -> Any:
        number, part = self.parts[index]
        return [array[part] for array in self.batches[number]]
