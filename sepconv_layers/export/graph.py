"""The graph that LiteRT and ONNX files are made from: folded, portable, in float32."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers import ops
from sepconv_layers.convert.folding import fold
from sepconv_layers.export.names import (
    input_names,
    named_arrays,
    output_names,
    output_structure,
)
from sepconv_layers.export.portable import portable_keras
from sepconv_layers.graph_edit import clone_layer, shallow_copy

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
        self.folded = fold(model, "float32", _remade)
        self.specs = [
            tf.TensorSpec(shape, tensor.dtype, name)
            for shape, tensor, name in zip(shapes, model.inputs, input_names(model), strict=True)
        ]
        self.outputs = output_names(model)
        self.function = tf.function(self._named_outputs, input_signature=self.specs)

    def trace(self, volumes_as_images: bool) -> Any:
        """The function as a graph, of what LiteRT and ONNX have as built-in operators."""
        with ops.lowering("portable"), portable_keras(volumes_as_images):
            return self.function.get_concrete_function()

    def _named_outputs(self, *tensors: Any) -> dict[str, Any]:
        outputs = keras.tree.flatten(self._run(self.folded, tensors))
        return dict(zip(self.outputs, outputs, strict=True))

    def reference(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What the artifact has to give: that of the model, in float32 if it is half-precise."""
        model = self.folded if is_half(self.model) else self.model
        return named_arrays(self.outputs, output_structure(model), self._run(model, arrays))

    def _run(self, model: keras.Model, tensors: Sequence[Any]) -> Any:
        inputs = keras.tree.pack_sequence_as(self.folded.input, list(tensors))
        return model(inputs, training=False)


def is_half(model: keras.Model) -> bool:
    """Whether a layer computes in half precision."""
    return any(layer.compute_dtype in HALF for layer in model._flatten_layers())


def _remade(layer: Any, **changes: Any) -> Any:
    """A new layer, but of a SavedModel that was loaded: its folder may have changed since."""
    if not isinstance(layer, keras.layers.TFSMLayer):
        return clone_layer(layer, **changes)
    policy = keras.dtype_policies.get(changes.get("dtype", layer.dtype_policy))
    return shallow_copy(layer, _dtype_policy=policy)
