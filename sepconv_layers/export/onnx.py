"""Models as ONNX files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.export.artifact import (
    Arrays,
    Artifact,
    Named,
    Runner,
    check_labels,
    check_model,
    export_checked,
    require_tensorflow,
    sample_for,
)
from sepconv_layers.export.graph import Graph
from sepconv_layers.export.loading import onnx_runner
from sepconv_layers.export.names import unique
from sepconv_layers.export.operators import frozen, handlers, quiet_converter, rename
from sepconv_layers.export.refusal import refusal
from sepconv_layers.extras import require

OPSET, OLDEST_OPSET = 18, 13
LABELS = "labels"


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    opset: int = OPSET,
    tolerance: float | None = 1e-3,
) -> Artifact:
    """Writes a model as an ONNX file, usually named `.onnx`.

    Batch normalization is folded into the convolutions, and the file has operators of the ONNX
    standard only, for sequences and volumes too. The batch and all sizes that the model leaves open
    are open in the file. Inputs and outputs bear the names of the model's.

    Args:
        model: The model. In the file it computes in float32, whatever it was trained in.
        path: The file to write. An older one is replaced, once the new one is found to be good.
        sample: A batch of inputs to try the artifact with; by default random numbers, which only a
            model without open sizes can take.
        labels: Names of the classes, in the order of the outputs. They become the entry `labels` of
            the file's metadata, one in each line.
        opset: Version of the operators.
        tolerance: Largest difference to allow between the model and the artifact, over the largest
            absolute output (or over 1, if that is less); `None` for any.

    Returns:
        An `Artifact`.

    Raises:
        ImportError: If one of the packages `onnx`, `onnxruntime` and `tf2onnx` is missing.
        ValueError: If an argument is not of the kind described, the backend is not TensorFlow, an
            operation of the model has no ONNX operator, or the artifact differs by more than the
            tolerance; what was at `path` is left there.

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
    require_tensorflow("export.to_onnx")
    onnx, runtime, converter = (
        require(module, "export", "export.to_onnx") for module in ("onnx", "onnxruntime", "tf2onnx")
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

    # Inputs and outputs have their names from the same list here.
    taken = [spec.name for spec in graph.specs]
    outputs = unique([f"{name}_output" if name in taken else name for name in graph.outputs])

    def write(beside: Path) -> None:
        proto = _converted(graph, outputs, opset)
        if names:
            onnx.helper.set_model_props(proto, {LABELS: "\n".join(names)})
        beside.write_bytes(proto.SerializeToString())

    def load(beside: Path) -> Runner:
        def run(arrays: Arrays) -> Named:
            try:
                return dict(zip(graph.outputs, call(arrays), strict=True))
            except Exception as error:
                raise _cannot_run(model, error) from error

        try:
            session = runtime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        except Exception as error:  # of any kind: the runtime has one for each of its codes
            raise _cannot_run(model, error) from error
        call = onnx_runner(session, [spec.name for spec in graph.specs], outputs)
        return run

    return export_checked("onnx", path, graph.reference, sample, write, load, tolerance)


def _cannot_run(model: keras.Model, error: Exception) -> ValueError:
    return ValueError(f"ONNX Runtime cannot run what {model.name!r} was converted into: {error}")


def _converted(graph: Graph, outputs: Sequence[str], opset: int) -> Any:
    """The ONNX model, whose open sizes have names."""
    import onnx
    import tensorflow as tf
    import tf2onnx

    traced = graph.trace(volumes_as_images=False)
    # Names for the converter, which spells some of its own way, and must not find one twice.
    inner = [f"input_{i}" for i in range(len(graph.specs))]
    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name)
        for spec, name in zip(graph.specs, inner, strict=True)
    ]
    order = sorted(range(len(outputs)), key=lambda i: graph.outputs[i])

    with quiet_converter():
        try:
            # The converter takes tensors that a layer holds, such as those of a normalization of
            # inputs, for inputs of the model: here they become constants, as the weights do.
            constant = frozen(traced)

            @tf.function(input_signature=specs)
            def function(*tensors: Any) -> dict[str, Any]:
                # In the order of their names, as of any dictionary.
                found = zip(order, constant(*tensors), strict=True)
                return {f"output_{i}": output for i, output in found}

            proto, _ = tf2onnx.convert.from_function(
                function, input_signature=specs, opset=opset, custom_op_handlers=handlers()
            )
            onnx.checker.check_model(proto, full_check=True)
        except Exception as error:  # of any kind: converter and checker have several
            raise refusal("ONNX", graph, traced, error) from error
    names = dict(zip(inner, (spec.name for spec in graph.specs), strict=True))
    names.update((f"output_{i}", name) for i, name in enumerate(outputs))
    rename(proto.graph, names)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param:
                size.dim_param = f"{value.name}_{axis}" if axis else "batch"
    return proto
