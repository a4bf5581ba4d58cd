"""Models as ONNX files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.export.artefact import (
    Artefact,
    Runner,
    check_labels,
    check_model,
    export_checked,
    require_tensorflow,
    sample_for,
)
from sepconv_layers.export.graph import Graph, require, why_not
from sepconv_layers.export.loading import onnx_runner

OPSET, OLDEST_OPSET = 18, 13
LABELS = "labels"


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    opset: int = OPSET,
    tolerance: float | None = 1e-3,
) -> Artefact:
    """Writes a model as an ONNX file, usually named `.onnx`.

    Batch normalisation is folded into the convolutions, and the file has operators of the ONNX
    standard only, for sequences and volumes too. The batch and all sizes that the model leaves open
    are open in the file. Inputs and outputs bear the names of the model's.

    Args:
        model: The model. In the file it computes in float32, whatever it was trained in.
        path: The file to write. An older one is replaced, once the new one is found to be good.
        sample: A batch of inputs to try the artefact with; by default random numbers, which only a
            model without open sizes can take.
        labels: Names of the classes, in the order of the outputs. They become the entry `labels` of
            the file's metadata, one in each line.
        opset: Version of the operators.
        tolerance: Largest difference to allow between the model and the artefact, over the largest
            absolute output (or over 1, if that is less); `None` for any.

    Returns:
        An `Artefact`.

    Raises:
        ImportError: If one of the packages `onnx`, `onnxruntime` and `tf2onnx` is missing.
        ValueError: If an argument is not of the kind described, the backend is not TensorFlow, an
            operation of the model has no ONNX operator, or the artefact differs by more than the
            tolerance; what was at `path` is left there.

    Example:
        >>> import os, tempfile
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artefact = export.to_onnx(model, os.path.join(folder, "net.onnx"))
        >>> artefact.max_difference < 1e-5
        True

    Reference:
        [Open Neural Network Exchange](https://onnx.ai).
    """
    require_tensorflow("export.to_onnx")
    onnx, runtime, converter = (
        require(module, "export.to_onnx") for module in ("onnx", "onnxruntime", "tf2onnx")
    )
    check_model(model)
    names = check_labels(labels, model)
    newest = max(converter.constants.OPSET_TO_IR_VERSION)
    if opset not in range(OLDEST_OPSET, newest + 1):
        raise ValueError(
            f"The `opset` argument must be an integer from {OLDEST_OPSET} to {newest}. Received: "
            f"opset={opset!r}"
        )
    sample = sample_for(model, sample)
    graph = Graph(model, [tensor.shape for tensor in model.inputs])

    def write(beside: Path) -> None:
        proto = _converted(graph, opset)
        if names:
            onnx.helper.set_model_props(proto, {LABELS: "\n".join(names)})
        beside.write_bytes(proto.SerializeToString())

    def load(beside: Path) -> Runner:
        session = runtime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        return onnx_runner(session, [spec.name for spec in graph.specs], graph.outputs)

    return export_checked("onnx", path, graph.reference, sample, write, load, tolerance)


def _converted(graph: Graph, opset: int) -> Any:
    """The ONNX model, whose open sizes have names."""
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # The converter takes tensors that a layer holds, such as those of a normalisation of inputs,
    # for inputs of the model: here they become constants, as the weights do.
    frozen = convert_variables_to_constants_v2(graph.trace(), lower_control_flow=False)

    @tf.function(input_signature=graph.specs)
    def function(*tensors: Any) -> dict[str, Any]:
        # In the order of their names, as of any dictionary.
        return dict(zip(sorted(graph.outputs), frozen(*tensors), strict=True))

    try:
        proto, _ = tf2onnx.convert.from_function(function, input_signature=graph.specs, opset=opset)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # of any kind: converter and checker have several
        raise ValueError(
            "The `model` argument must be a model of operations that ONNX has. Received: "
            f"{graph.model.name!r}, which cannot be converted: {why_not(graph.model, error)}"
        ) from error
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param:
                size.dim_param = f"{value.name}_{axis}" if axis else "batch"
    return proto
