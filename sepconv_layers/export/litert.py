"""Models as LiteRT files, for phones and smaller devices, with or without quantization."""

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from sepconv_layers.export.artifact import (
    Arrays,
    Artifact,
    Runner,
    check_labels,
    check_model,
    export_checked,
    latency_ms,
    require_tensorflow,
    sample_for,
)
from sepconv_layers.export.flatbuffer import finished
from sepconv_layers.export.graph import Graph
from sepconv_layers.export.loading import SIGNATURE, THREADS, litert_runner
from sepconv_layers.export.refusal import refusal, refuse_loops
from sepconv_layers.extras import require

# The default tolerance of each kind; how far integers may be off is for the user to judge.
QUANTIZE: dict[str | None, float | None] = {
    None: 1e-3,
    "float16": 1e-2,
    "dynamic": None,
    "int8": None,
}
SLOWER = 3.0  # how many times the latency of floats is worth a warning
TRIED = 100  # samples of the calibration that the artifact is tried with, where no others are given


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantize: str | None = None,
    calibration: Any = None,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    quantize_io: bool = False,
    tolerance: float | Literal["auto"] | None = "auto",
) -> Artifact:
    """Writes a model as a LiteRT (formerly TensorFlow Lite) file, usually named `.tflite`.

    Batch normalization is folded into the convolutions, and the file has built-in operators only,
    for sequences and volumes too: whoever loads it needs the interpreter alone. It takes one sample
    at a time, and all sizes are fixed, which is what the fast kernels ask for. Its signature
    `serving_default` has the names of the model's inputs and outputs.

    Args:
        model: The model. In the file it computes in float32, whatever it was trained in.
        path: The file to write. An older one is replaced, once the new one is found to be good.
        quantize: `None` for float32; `"float16"` for weights of half the size; `"dynamic"` for
            int8 weights, with a warning where they make it several times slower than floats are;
            `"int8"` for int8 weights and activations, with a scale for each channel
            of a kernel. What has no int8 kernel stays in float32. Activations between convolutions
            have the scale 1, so that kernel and bias share their scales, and the file is smaller.
        calibration: For `"int8"`, inputs as they will come, some hundred of them: a batch, or an
            iterable of batches, all of which are run. A batch is an array, or a list or dictionary
            of arrays for several inputs.
        sample: A batch of inputs to try the artifact with, one by one; where the model leaves sizes
            open, those of the file are the sample's. By default samples of the calibration, or
            random numbers.
        labels: Names of the classes, in the order of the outputs. They become `labels.txt` in the
            file's metadata, where MediaPipe looks for them and any ZIP reader finds them.
        quantize_io: For `"int8"`, whether inputs and outputs are int8 too: microcontrollers need
            it. The tensors' details say by which scale and zero point.
        tolerance: Largest difference to allow between the model and the artifact, over the largest
            absolute output (or over 1, if that is less); `None` for any. By default 0.001, for
            `"float16"` 0.01, and any for integers, whose `agreement` says more.

    Returns:
        An `Artifact`.

    Raises:
        ImportError: If the package `ai-edge-litert` is missing.
        ValueError: If an argument is not of the kind described, the backend is not TensorFlow, an
            operation of the model has no built-in operator, or the artifact differs by more than
            the tolerance; what was at `path` is left there.

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
    require_tensorflow("export.to_litert")
    interpreter = require("ai_edge_litert.interpreter", "export", "export.to_litert")
    check_model(model)
    names = check_labels(labels, model)
    if quantize not in tuple(QUANTIZE):
        raise ValueError(
            f"The `quantize` argument must be one of {tuple(QUANTIZE)}. Received: "
            f"quantize={quantize!r}"
        )
    allowed = QUANTIZE[quantize] if tolerance == "auto" else tolerance
    batches = _calibration(model, quantize, calibration)
    if quantize_io and quantize != "int8":
        raise ValueError(
            "The `quantize_io` argument is for quantize='int8' only. Received: quantize_io="
            f"{quantize_io!r} with quantize={quantize!r}"
        )
    if sample is None and batches:
        sample = [array[:TRIED] for array in batches[0]]
    sample = sample_for(model, sample)
    shapes = [(1, *array.shape[1:]) for array in sample]
    for batch in batches:
        found = [(1, *array.shape[1:]) for array in batch]
        if found != shapes:
            raise ValueError(
                "The `calibration` argument must be of inputs of the sizes of the sample, "
                f"{shapes}. Received: inputs of the sizes {found}."
            )
    graph = Graph(model, shapes)
    inputs = [spec.name for spec in graph.specs]

    def write(beside: Path, kind: str | None = quantize) -> None:
        content = _converted(graph, kind, batches, quantize_io)
        beside.write_bytes(finished(content, model.name, inputs, graph.outputs, names))

    def load(beside: Path) -> Runner:
        return _runner(interpreter.Interpreter(str(beside), num_threads=THREADS), graph)

    artifact = export_checked("litert", path, graph.reference, sample, write, load, allowed)
    if quantize == "dynamic":
        with tempfile.TemporaryDirectory() as folder:
            beside = Path(folder) / "float.tflite"
            write(beside, None)
            _warn_if_slower(artifact, latency_ms(load(beside), sample))
    return artifact


def _warn_if_slower(artifact: Artifact, float_ms: float) -> None:
    """Says when int8 weights, which some kernels turn into floats in each call, cost time."""
    if artifact.latency_ms > SLOWER * float_ms:
        warnings.warn(
            f"{artifact.path} takes {artifact.latency_ms:.3f} ms for a sample, and the same model "
            f"with float32 weights {float_ms:.3f} ms: quantize='dynamic' saves size here, and no "
            "time. quantize=None or 'int8' is faster.",
            stacklevel=3,
        )


def _calibration(model: keras.Model, quantize: str | None, calibration: Any) -> list[Arrays]:
    """The batches of the calibration, each as a list of arrays."""
    if (calibration is None) == (quantize == "int8"):
        raise ValueError(
            "The `calibration` argument must be inputs to measure the range of activations with "
            "for quantize='int8', and None for others. Received: calibration="
            f"{'None' if calibration is None else type(calibration).__name__} with "
            f"quantize={quantize!r}"
        )
    if calibration is None:
        return []
    is_several = isinstance(calibration, list | tuple) and len(model.inputs) > 1
    if (
        hasattr(calibration, "shape")
        or isinstance(calibration, dict)
        or (is_several and all(hasattr(array, "shape") for array in calibration))
    ):
        calibration = [calibration]
    elif not isinstance(calibration, Iterable):
        raise ValueError(
            "The `calibration` argument must be a batch of inputs or an iterable of batches. "
            f"Received: calibration={calibration!r}"
        )
    batches = [sample_for(model, batch, "calibration") for batch in calibration]
    if not batches:
        raise ValueError("The `calibration` argument must hold inputs. Received: none.")
    return batches


def _converted(
    graph: Graph, quantize: str | None, batches: Sequence[Arrays], quantize_io: bool
) -> bytes:
    import tensorflow as tf

    function, holder = graph.trace(volumes_as_images=True), tf.Module()
    # TensorFlow's own variables, or the converter would not see that they are constants.
    holder.weights = list(function.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        refuse_loops(graph, function)
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8, sets.TFLITE_BUILTINS]
        converter.representative_dataset = lambda: _one_by_one(graph, batches)
        if quantize_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        with warnings.catch_warnings():
            # The calibration has no other interpreter than the one that is to be removed.
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
            return converter.convert()
    except Exception as error:  # of any kind: the converter has several
        raise refusal("LiteRT", graph, function, error) from error


def _one_by_one(graph: Graph, batches: Sequence[Arrays]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches:
        for index in range(len(batch[0])):
            yield {
                spec.name: array[index : index + 1]
                for spec, array in zip(graph.specs, batch, strict=True)
            }


def _runner(interpreter: Any, graph: Graph) -> Runner:
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        raise ValueError(
            f"The interpreter cannot run what {graph.model.name!r} was converted into: {error}"
        ) from error
    signature = interpreter.get_signature_runner(SIGNATURE)
    into, out = signature.get_input_details(), signature.get_output_details()
    run = litert_runner(
        interpreter,
        [into[spec.name] for spec in graph.specs],
        [out[name] for name in graph.outputs],
    )
    return lambda arrays: dict(zip(graph.outputs, run(arrays), strict=True))
