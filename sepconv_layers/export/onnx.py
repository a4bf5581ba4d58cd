"""Exports models to ONNX files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.export.artifact import TOLERANCE, Artifact, Runner, export_checked
from sepconv_layers.export.checks import check_arguments
from sepconv_layers.export.errors import conversion_error
from sepconv_layers.export.graph import ExportGraph
from sepconv_layers.export.inputs import Arrays, sample_for
from sepconv_layers.export.names import NamedArrays, unique
from sepconv_layers.export.runtimes import checked_runner
from sepconv_layers.export.tf2onnx_extensions import freeze, handlers, quiet_converter, rename
from sepconv_layers.extras import require

OPSET, OLDEST_OPSET = 18, 13
LABELS_KEY = "labels"


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    opset: int = OPSET,
    tolerance: float | None = TOLERANCE,
) -> Artifact:
    """Exports a model to an ONNX file, usually named `.onnx`.

    Batch normalization is folded into the convolutions. The file has operators of the ONNX standard
    only, also for sequences and volumes. The batch size and all open sizes of the model are open in
    the file. Inputs and outputs have the names of the model's.

    Args:
        model: The model. The file computes in float32, whatever the model was trained in.
        path: The file to write. An older one is replaced only if the new one passes the check.
        sample: A batch of inputs to run the artifact with. By default random numbers, which only a
            model without open sizes can take.
        labels: Names of the classes, in the order of the outputs. They become the entry `labels` of
            the file's metadata, one per line.
        opset: Version of the operator set.
        tolerance: Largest difference to allow between the model and the artifact, relative to the
            largest absolute output (or to 1, if that is less); `None` for any. By default 0.001.

    Returns:
        An `Artifact`.

    Raises:
        ImportError: If the package `onnx`, `onnxruntime` or `tf2onnx` is missing.
        ValueError: If an argument is invalid, the backend is not TensorFlow, an operation of the
            model has no ONNX operator, or the artifact differs by more than the tolerance. An older
            file at `path` then stays.

    Example:
        >>> import os, tempfile
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifact = export.to_onnx(model, os.path.join(folder, "net.onnx"))
        >>> artifact.max_difference < 1e-5
        True

    Reference:
        [Open Neural Network Exchange](https://onnx.ai).
    """
    names = check_arguments("export.to_onnx", model, labels)
    onnx, _, converter = (
        require(module, "export", "export.to_onnx") for module in ("onnx", "onnxruntime", "tf2onnx")
    )
    newest = max(converter.constants.OPSET_TO_IR_VERSION)
    if opset not in range(OLDEST_OPSET, newest + 1):
        raise ValueError(
            f"The `opset` argument must be an integer from {OLDEST_OPSET} to {newest}. Received: "
            f"opset={opset!r}"
        )
    sample = sample_for(model, sample)
    graph = ExportGraph(model, [tensor.shape for tensor in model.inputs])
    inputs = [spec.name for spec in graph.specs]
    outputs = names_in_file(inputs, graph.outputs)
    model_names = dict(zip(outputs, graph.outputs, strict=True))

    def write(beside: Path) -> None:
        proto = _converted(graph, outputs, opset)
        if names:
            onnx.helper.set_model_props(proto, {LABELS_KEY: "\n".join(names)})
        beside.write_bytes(proto.SerializeToString())

    def load(beside: Path) -> Runner:
        run = checked_runner("onnx", beside, model.name, inputs)

        def run_with_model_names(arrays: Arrays) -> NamedArrays:
            return {model_names[name]: array for name, array in run(arrays).items()}

        return run_with_model_names

    return export_checked("onnx", path, graph.reference, sample, write, load, tolerance)


def names_in_file(inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """Returns the names that the outputs have in the file, where inputs share the namespace."""
    return unique([f"{name}_output" if name in inputs else name for name in outputs])


def _converted(graph: ExportGraph, outputs: Sequence[str], opset: int) -> Any:
    """Returns the ONNX model, with names for its open sizes."""
    import onnx
    import tensorflow as tf
    import tf2onnx

    traced = graph.trace(for_litert=False)
    # Placeholder names: the converter changes the spelling of some, and all must be distinct.
    inner = [f"input_{i}" for i in range(len(graph.specs))]
    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name)
        for spec, name in zip(graph.specs, inner, strict=True)
    ]
    order = sorted(range(len(outputs)), key=lambda i: graph.outputs[i])

    with quiet_converter():
        try:
            # The converter mistakes tensors that a layer holds, such as the mean of a
            # `Normalization`, for inputs of the model. Freezing makes them constants.
            constant = freeze(traced)

            @tf.function(input_signature=specs)
            def function(*tensors: Any) -> dict[str, Any]:
                # A concrete function returns its dictionary sorted by name.
                found = zip(order, constant(*tensors), strict=True)
                return {f"output_{i}": output for i, output in found}

            proto, _ = tf2onnx.convert.from_function(
                function, input_signature=specs, opset=opset, custom_op_handlers=handlers()
            )
            onnx.checker.check_model(proto, full_check=True)
        except Exception as error:  # converter and checker raise several types
            raise conversion_error("ONNX", graph, traced, error) from error
    names = dict(zip(inner, (spec.name for spec in graph.specs), strict=True))
    names.update((f"output_{i}", name) for i, name in enumerate(outputs))
    rename(proto.graph, names)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param:
                size.dim_param = f"{value.name}_{axis}" if axis else "batch"
    return proto
