"""The graph that LiteRT and ONNX files are made from: folded, portable, in float32."""

import importlib
import re
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers import ops
from sepconv_layers.convert import fold_batch_norm

HALF = ("float16", "bfloat16")


class Graph:
    """A model as a TensorFlow function of a flat list of tensors.

    Attributes:
        specs: A `tf.TensorSpec` for each input, with a name.
        function: From such tensors to a dictionary of the outputs.
        outputs: The names of the outputs, in the order of the model.
    """

    def __init__(self, model: keras.Model, shapes: Sequence[Sequence[int | None]]) -> None:
        import tensorflow as tf

        self.model = model
        self.folded = fold_batch_norm(model, dtype="float32")
        self.specs = [
            tf.TensorSpec(shape, tensor.dtype, name)
            for shape, tensor, name in zip(shapes, model.inputs, input_names(model), strict=True)
        ]
        self.outputs = output_names(model)
        self.function = tf.function(self._named_outputs, input_signature=self.specs)

    def trace(self) -> Any:
        """The function as a graph, of what LiteRT and ONNX have as built-in operators."""
        with ops.lowering("portable"):
            return self.function.get_concrete_function()

    def _named_outputs(self, *tensors: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(self._run(self.folded, tensors))
        return dict(zip(self.outputs, outputs, strict=True))

    def reference(self, *arrays: Any) -> Any:
        """What the artefact has to give: that of the model, in float32 if it is half-precise."""
        layers = self.model._flatten_layers()
        is_half = any(layer.compute_dtype in HALF for layer in layers)
        return self._run(self.folded if is_half else self.model, arrays)

    def _run(self, model: keras.Model, tensors: Sequence[Any]) -> Any:
        inputs = keras.tree.pack_sequence_as(self.folded.input, list(tensors))
        return model(inputs, training=False)


def why_not(model: keras.Model, error: Exception) -> str:
    """Why a model cannot be converted: a converter says little of what Keras has quantized."""
    quantized = [
        f"{layer.path!r} to {layer.quantization_mode}"
        for layer in model._flatten_layers()
        if layer.quantization_mode is not None
    ]
    if not quantized:
        return str(error)
    return (
        f"Keras has quantized its layers {', '.join(quantized)}. Export the model as it was before "
        "`model.quantize`, to LiteRT with the `quantize` argument."
    )


def require(module: str, function: str) -> Any:
    """Imports what an export is made or tried with, or says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"`{function}` needs the package {module.partition('.')[0]!r}. Get it by `pip install "
            "sepconv-layers[export]`."
        ) from error


def input_names(model: keras.Model) -> list[str]:
    """The names that the user gave, or `inputs`."""
    return _unique(
        [
            name if tensor.name.startswith("keras_tensor") else _identifier(tensor.name)
            for tensor, name in zip(model.inputs, default_names(len(model.inputs)), strict=True)
        ]
    )


def default_names(count: int) -> list[str]:
    """Names of so many inputs that have none."""
    return ["inputs"] if count == 1 else [f"inputs_{i}" for i in range(count)]


def output_names(model: keras.Model) -> list[str]:
    """The keys of a dictionary of outputs, or the names of the layers that they come from."""
    layers = [tensor._keras_history.operation.name for tensor in model.outputs]
    structure = layers if isinstance(model, keras.Sequential) else model.output
    is_flat = isinstance(structure, dict) and len(structure) == len(layers)
    return _unique([_identifier(name) for name in (sorted(structure) if is_flat else layers)])


def _identifier(name: str) -> str:
    """A name that TensorFlow leaves as it is."""
    return re.sub(r"^(?=\d)|\W", "_", name)


def _unique(names: Sequence[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
        for i, name in enumerate(names)
    ]
