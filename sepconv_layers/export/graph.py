"""The TensorFlow graph of a LiteRT or ONNX file: batch norm folded, portable, in float32."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers import ops
from sepconv_layers.convert.folding import fold
from sepconv_layers.export.names import (
    NamedArrays,
    input_names,
    named_arrays,
    output_names,
    output_structure,
)
from sepconv_layers.export.portable import portable_keras
from sepconv_layers.graph_edit import clone_layer, shallow_copy

HALF_PRECISION = ("float16", "bfloat16")


class ExportGraph:
    """A model as a TensorFlow function of a flat list of tensors.

    Args:
        model: The model.
        shapes: The shape of each input, with the batch.

    Attributes:
        model: The model.
        folded: The same model in float32, with batch normalization folded.
        specs: A named `tf.TensorSpec` for each input.
        outputs: The names of the outputs, in the model's order.
        function: The function from tensors to a dictionary of outputs.
    """

    def __init__(self, model: keras.Model, shapes: Sequence[Sequence[int | None]]) -> None:
        import tensorflow as tf

        self.model = model
        self.folded = fold(model, "float32", _cloned)
        self.specs = [
            tf.TensorSpec(shape, tensor.dtype, name)
            for shape, tensor, name in zip(shapes, model.inputs, input_names(model), strict=True)
        ]
        self.outputs = output_names(model)
        self.function = tf.function(self._named_outputs, input_signature=self.specs)

    def trace(self, for_litert: bool) -> Any:
        """Traces the function with operations that LiteRT and ONNX have as built-in operators."""
        with ops.lowering("portable"), portable_keras(for_litert):
            return self.function.get_concrete_function()

    def _named_outputs(self, *tensors: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(self._run(self.folded, tensors))
        return dict(zip(self.outputs, outputs, strict=True))

    def reference(self, arrays: Sequence[np.ndarray]) -> NamedArrays:
        """Returns the outputs to expect of the artifact: a half-precision model in float32."""
        model = self.folded if uses_half_precision(self.model) else self.model
        return named_arrays(self.outputs, output_structure(model), self._run(model, arrays))

    def _run(self, model: keras.Model, tensors: Sequence[Any]) -> Any:
        inputs = keras.tree.pack_sequence_as(self.folded.input, list(tensors))
        return model(inputs, training=False)


def uses_half_precision(model: keras.Model) -> bool:
    """Whether any layer computes in half precision."""
    return any(layer.compute_dtype in HALF_PRECISION for layer in model._flatten_layers())


def _cloned(layer: Any, **changes: Any) -> Any:
    """A new layer, or a copy if it is a loaded SavedModel, whose folder may have changed since."""
    if not isinstance(layer, keras.layers.TFSMLayer):
        return clone_layer(layer, **changes)
    policy = keras.dtype_policies.get(changes.get("dtype", layer.dtype_policy))
    return shallow_copy(layer, _dtype_policy=policy)
