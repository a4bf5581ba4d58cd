"""Exports models to LiteRT files for phones and microcontrollers, quantized or not."""

import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from sepconv_layers import sources
from sepconv_layers.export.artifact import TOLERANCE, Artifact, Runner, export_checked, latency_ms
from sepconv_layers.export.checks import check_arguments
from sepconv_layers.export.errors import check_no_loops, conversion_error
from sepconv_layers.export.flatbuffer import finalize
from sepconv_layers.export.graph import ExportGraph
from sepconv_layers.export.inputs import Arrays, sample_for
from sepconv_layers.export.runtimes import checked_runner
from sepconv_layers.export.variables import in_turn, internal_states
from sepconv_layers.extras import require
from sepconv_layers.quantize.insertion import is_aware

# The default tolerance of each kind; `None` where only the user can judge the difference.
QUANTIZE: dict[str | None, float | None] = {
    None: TOLERANCE,
    "float16": 1e-2,
    "dynamic": None,
    "int8": None,
}
SLOWER = 3.0  # "dynamic" warns from this multiple of the float32 latency
LARGEST_SAMPLE = 100  # samples of the calibration to run the artifact with, if no others are given


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantize: str | None = None,
    calibration: Any = None,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    quantize_io: bool = False,
    tolerance: float | Literal["auto"] | None = "auto",
    states: str = "explicit",
) -> Artifact:
    """Exports a model to a LiteRT (formerly TensorFlow Lite) file, usually named `.tflite`.

    Batch normalization is folded into the convolutions. The file has built-in operators only, also
    for sequences and volumes, so it runs on the plain interpreter. It takes one sample at a time
    and all its sizes are fixed, as the fast kernels require. Its signature `serving_default` has
    the names of the model's inputs and outputs.

    Args:
        model: The model. The file computes in float32, whatever the model was trained in.
        path: The file to write. An older one is replaced only if the new one passes the check.
        quantize: `None` for float32; `"float16"` for weights of half the size; `"dynamic"` for int8
            weights in kernels of 1,024 values or more, with a warning if they make the model
            several times slower than float32; `"int8"` for int8 weights, with one scale per
            channel, and int8 activations. Operators without an int8 kernel stay in float32.
        calibration: For `"int8"`, about a hundred typical inputs, which set the range of each
            activation: a batch, or an iterable of batches. A batch is an array, or a list or
            dictionary of arrays for several inputs. Arrays on disk and data sets with `len` and
            `[indices]` are read piece by piece. A model of `quantize.aware` has learned its
            ranges: it needs `"int8"` and takes no calibration.
        sample: A batch of inputs to run the artifact with, one by one. Where the model has open
            sizes, the file gets the sample's. By default samples of the calibration, or random
            numbers.
        labels: Names of the classes, in the order of the outputs. They become `labels.txt` in the
            file's metadata, where MediaPipe looks for them and any ZIP reader finds them.
        quantize_io: For `"int8"`, whether inputs and outputs are int8 too, as microcontrollers
            need. Their scales and zero points are in the tensor details.
        tolerance: Largest difference to allow between the model and the artifact, relative to the
            largest absolute output (or to 1, if that is less); `None` for any. By default 0.001 for
            float32, 0.01 for `"float16"`, and any for `"dynamic"` and `"int8"`, where `agreement`
            says more.
        states: For the `model` of `streaming.to_streaming`. `"explicit"` keeps its states as inputs
            and outputs of the file. With `"internal"`, the file keeps them as variables, and runs
            from chunk to chunk: it starts anew when it is loaded anew.

    Returns:
        An `Artifact`.

    Raises:
        ImportError: If the package `ai-edge-litert` is missing.
        ValueError: If an argument is invalid, the backend is not TensorFlow, an operation of the
            model has no built-in operator, or the artifact differs by more than the tolerance. An
            older file at `path` then stays.

    Example:
        >>> import os, tempfile
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifact = export.to_litert(model, os.path.join(folder, "net.tflite"))
        >>> artifact.max_difference < 1e-5
        True

    Reference:
        [Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017](https://arxiv.org/abs/1712.05877).
    """
    names = check_arguments("export.to_litert", model, labels)
    pairs = internal_states(model, states)
    require("ai_edge_litert.interpreter", "export", "export.to_litert")
    _check_quantize(quantize, quantize_io)
    allowed = QUANTIZE[quantize] if tolerance == "auto" else tolerance
    check_calibration(model, quantize, calibration)
    batches = [] if calibration is None else calibration_batches(model, calibration)
    if sample is None and batches:
        sample = [array[:LARGEST_SAMPLE] for array in batches[0]]
    sample = sample_for(model, sample)
    graph = ExportGraph(model, fixed_shapes(sample, batches))
    inputs = [spec.name for spec in graph.specs]
    is_learned = is_aware(model)

    def write(beside: Path, kind: str | None = quantize) -> None:
        content = converted(graph, kind, batches, quantize_io)
        content = finalize(content, model.name, inputs, graph.outputs, names, is_learned, pairs)
        beside.write_bytes(content)

    def load(beside: Path) -> Runner:
        return checked_runner("litert", beside, model.name, inputs)

    reference = in_turn(graph.reference, pairs, inputs) if pairs else graph.reference
    artifact = export_checked("litert", path, reference, sample, write, load, allowed)
    if quantize == "dynamic":
        with tempfile.TemporaryDirectory() as folder:
            beside = Path(folder) / "float.tflite"
            write(beside, None)
            _warn_if_slower(artifact, latency_ms(load(beside), sample))
    return artifact


def _check_quantize(quantize: str | None, quantize_io: bool) -> None:
    if quantize not in tuple(QUANTIZE):
        raise ValueError(
            f"The `quantize` argument must be one of {tuple(QUANTIZE)}. Received: "
            f"quantize={quantize!r}"
        )
    if quantize_io and quantize != "int8":
        raise ValueError(
            "The `quantize_io` argument is for quantize='int8' only. Received: quantize_io="
            f"{quantize_io!r} with quantize={quantize!r}"
        )


def fixed_shapes(sample: Arrays, batches: Sequence[Arrays]) -> list[tuple[int, ...]]:
    """Returns the shapes of one sample, which all batches of the calibration must have."""
    shapes = [(1, *array.shape[1:]) for array in sample]
    for batch in batches:
        found = [(1, *array.shape[1:]) for array in batch]
        if found != shapes:
            raise ValueError(
                f"The `calibration` argument must have inputs of the sample's sizes, {shapes}. "
                f"Received: inputs of the sizes {found}."
            )
    return shapes


def _warn_if_slower(artifact: Artifact, float_ms: float) -> None:
    """Warns if int8 weights cost time, because kernels convert them to floats in each call."""
    if artifact.latency_ms > SLOWER * float_ms:
        warnings.warn(
            f"{artifact.path} takes {artifact.latency_ms:.3f} ms per sample, and the same model "
            f"with float32 weights {float_ms:.3f} ms: quantize='dynamic' saves size here but not "
            "time. quantize=None or 'int8' is faster.",
            stacklevel=3,
        )


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
    if (calibration is None) == (quantize == "int8"):
        raise ValueError(
            "The `calibration` argument must be inputs to measure the ranges of activations for "
            f"quantize='int8', and None otherwise. Received: {received}"
        )


def calibration_batches(model: keras.Model, calibration: Any) -> Sequence[Arrays]:
    """Returns the batches of the calibration, each as a list of arrays."""
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
        data = sources.sources_of(calibration, "The `calibration` argument")
        lengths = {len(source) for source in keras.tree.flatten(data)}
        if len(lengths) == 1 and 0 not in lengths:
            return _Pieces(model, data)
    if is_batch:
        calibration = [calibration]
    elif not isinstance(calibration, Iterable):
        raise ValueError(
            "The `calibration` argument must be a batch of inputs or an iterable of batches. "
            f"Received: calibration={calibration!r}"
        )
    batches = [sample_for(model, batch, "calibration") for batch in calibration]
    if not batches:
        raise ValueError("The `calibration` argument must hold inputs. Received: no batch.")
    return batches


class _Pieces(Sequence[Arrays]):
    """Batches of data that are read by index, when they are needed."""

    def __init__(self, model: keras.Model, data: Any) -> None:
        self.model, self.data = model, data
        self[0]  # an early error if the data do not fit the model

    def __len__(self) -> int:
        return math.ceil(sources.count_of(self.data) / LARGEST_SAMPLE)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError
        part = slice(index * LARGEST_SAMPLE, (index + 1) * LARGEST_SAMPLE)
        inputs = sources.inputs_at(self.data, part, len(self.model.inputs))
        return sample_for(self.model, inputs, "calibration")


def converted(
    graph: ExportGraph, quantize: str | None, batches: Sequence[Arrays], quantize_io: bool
) -> bytes:
    """Returns a model as the converter writes it, to be finished by `finalize`."""
    import tensorflow as tf

    function, holder = graph.trace(for_litert=True), tf.Module()
    # Held as TensorFlow variables, which the converter recognizes as constants.
    holder.weights = list(function.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        check_no_loops(graph, function)
        if batches:  # otherwise the graph has the ranges
            sets = tf.lite.OpsSet
            converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8, sets.TFLITE_BUILTINS]
            converter.representative_dataset = lambda: _one_by_one(graph, batches)
        if quantize_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        with warnings.catch_warnings():
            # TensorFlow's calibrator itself uses the deprecated interpreter.
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
            return converter.convert()
    except Exception as error:  # the converter raises several types
        raise conversion_error("LiteRT", graph, function, error) from error


def _one_by_one(graph: ExportGraph, batches: Sequence[Arrays]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches:
        for index in range(len(batch[0])):
            yield {
                spec.name: array[index : index + 1]
                for spec, array in zip(graph.specs, batch, strict=True)
            }
