"""Converts models to the content of LiteRT files, in floats or quantized."""

import functools
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from sepconv_layers.export.errors import check_no_loops, conversion_error
from sepconv_layers.export.graph import ExportGraph
from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.quantizer import (
    CONVERTING,
    INTEGERS,
    Ranges,
    float_steps,
    quantized,
    steps,
)
from sepconv_layers.export.tensors import AllTensors, measured_ranges
from sepconv_layers.quantize.insertion import is_aware

PROBED = 32  # samples that show the noise of a file
MOST_NOISE = 2.0  # times as much as another file may have, for a file of fewer operators


class Conversion:
    """A model as the content of LiteRT files, to be finished by `finalize`.

    Args:
        graph: The model's graph.
        batches: Typical inputs, to measure the ranges of activations; empty if none are needed.

    Attributes:
        inputs: The names of the inputs, in the order of the arrays.
    """

    def __init__(self, graph: ExportGraph, batches: Sequence[Arrays] = ()) -> None:
        self.graph, self.batches = graph, batches
        self.inputs = [spec.name for spec in graph.specs]

    @functools.cached_property
    def function(self):
        """The model as a concrete function of TensorFlow."""
        return self.graph.trace(for_litert=True)

    @functools.cached_property
    def floats(self) -> bytes:
        """The file in float32."""
        return self._by_converter(None)

    @functools.cached_property
    def ranges(self) -> Ranges:
        """The smallest and the largest value of each activation on the calibration."""
        check_no_loops(self.graph, self.function)
        return measured_ranges(self.floats, self.inputs, self.batches)

    def content(self, kind: str | None, quantize_io: bool = False) -> bytes:
        """Returns the file of a kind that `to_litert` has, except "auto"."""
        if kind is None:
            return self.floats
        # LiteRT Quantizer reads no ranges from operators, as an aware model has them. It leaves
        # embeddings in float32 with "dynamic", and their kernel is most of a text net's file.
        if kind not in INTEGERS or is_aware(self.graph.model):
            return self._by_converter(kind, quantize_io)
        return self._in_integers(kind, quantize_io)

    def _in_integers(self, kind: str, quantize_io: bool) -> bytes:
        """By LiteRT Quantizer, or int8 by the converter if that needs fewer floats or roundings.

        LiteRT Quantizer 0.11 does not know REDUCE_MAX, which text nets have, and rounds the inputs
        of a concatenation again, where the converter gives them its scale. For int16 activations
        the converter knows no integer inputs, such as tokens. But it gives both sides of some
        operators one scale, in which a small one vanishes.
        """
        ranges = self.ranges
        try:
            found = quantized(self.floats, ranges, kind, quantize_io)
            AllTensors(found, self.inputs)  # which raises if the runtime does not take the file
        except (NotImplementedError, RuntimeError, ValueError):
            if kind != "int8":
                raise
            return self._by_converter(kind, quantize_io)
        ends = 0 if quantize_io else len(self.graph.specs) + len(self.graph.outputs)
        if kind == "int8" and (overhead := _overhead(found)) > (0, ends):
            other = self._by_converter(kind, quantize_io)
            if _overhead(other) < overhead and not self._is_noisier(other, found):
                return other
        return found

    def _is_noisier(self, content: bytes, other: bytes) -> bool:
        arrays = [array[:PROBED] for array in self.batches[0]]
        expected, *found = (
            AllTensors(each, self.inputs).outputs(arrays) for each in (self.floats, content, other)
        )
        noise, noise_of_other = (
            sum(np.square(a - b).sum() for a, b in zip(each, expected, strict=True))
            for each in found
        )
        return bool(noise > MOST_NOISE * noise_of_other)

    def _by_converter(self, kind: str | None, quantize_io: bool = False) -> bytes:
        import tensorflow as tf

        holder = tf.Module()
        # Held as TensorFlow variables, which the converter recognizes as constants.
        holder.weights = list(self.function.variables)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([self.function], holder)
        if kind is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int8":
            check_no_loops(self.graph, self.function)
            if self.batches:  # otherwise the graph has the ranges
                sets = tf.lite.OpsSet
                target = [sets.TFLITE_BUILTINS_INT8, sets.TFLITE_BUILTINS]
                converter.target_spec.supported_ops = target
                converter.representative_dataset = self._one_by_one
            if quantize_io:
                converter.inference_input_type = converter.inference_output_type = tf.int8
        try:
            with warnings.catch_warnings():
                # TensorFlow's calibrator itself uses the deprecated interpreter.
                warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
                return converter.convert()
        except Exception as error:  # the converter raises several types
            raise conversion_error("LiteRT", self.graph, self.function, error) from error

    def _one_by_one(self) -> Iterator[dict[str, np.ndarray]]:
        for batch in self.batches:
            for index in range(len(batch[0])):
                arrays = [array[index : index + 1] for array in batch]
                yield dict(zip(self.inputs, arrays, strict=True))


def _overhead(content: bytes) -> tuple[int, int]:
    """The number of operators in floats, and of those that only convert or round again."""
    return len(float_steps(content)), sum(step.kind in CONVERTING for step in steps(content))
