"""Layers that update their weights in `call`, and do so once within a `keras.RematScope`."""

from collections.abc import Callable
from typing import Any

import keras


class Stateful(keras.layers.Layer):
    """A layer that may update weights in `call`: moving statistics, or the state of a seed.

    Within a `keras.RematScope`, layers run once more in the backward pass. Keras would then update
    the weights twice, or on JAX fail, because values may leave what runs twice only as its outputs.
    Here, that is a function of the weights, which returns the updates. It takes no arguments by
    name either, which TensorFlow does not support in a graph.
    """

    def rematerialized_call(self, layer_call: Callable, *args: Any, **kwargs: Any) -> Callable:
        mode = self._remat_mode
        if mode is None or mode.mode == "activations":
            return super().rematerialized_call(layer_call, *args, **kwargs)
        weights, structure = self.variables, (args, kwargs)
        leaves = keras.tree.flatten(structure)
        at = [i for i, leaf in enumerate(leaves) if keras.ops.is_tensor(leaf)]

        def function(*tensors: Any) -> tuple[Any, dict[str, Any]]:
            known, inputs = tensors[: len(weights)], tensors[len(weights) :]
            of_call = [*leaves]
            for i, tensor in zip(at, inputs, strict=True):
                of_call[i] = tensor
            args, kwargs = keras.tree.pack_sequence_as(structure, of_call)
            with keras.StatelessScope(list(zip(weights, known, strict=True))) as scope:
                before = [scope.get_current_value(weight) for weight in weights]
                outputs = layer_call(*args, **kwargs)
                after = [scope.get_current_value(weight) for weight in weights]
            pairs = enumerate(zip(before, after, strict=True))
            return outputs, {str(i): new for i, (old, new) in pairs if new is not old}

        rematerialized = super().rematerialized_call(function, *args)
        if rematerialized is function:  # in a mode that leaves this layer as it is
            return layer_call

        def call(*_: Any, **__: Any) -> Any:
            # Copies, because the updates below would reach the second run. On TensorFlow, variables
            # would get their gradients twice: by themselves and as arguments.
            known = [keras.ops.copy(weight) for weight in weights]
            outputs, updates = rematerialized(*known, *(leaves[i] for i in at))
            for i, value in updates.items():
                weights[int(i)].assign(value)
            return outputs

        return call
