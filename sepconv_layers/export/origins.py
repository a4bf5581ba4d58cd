"""Finds the layers that the tensors of a converted file come from, by their names.

The converter names a tensor by the path of the operation that computes it, such as
"net_1/block_1/conv_1/BiasAdd". If it has fused several, it joins their paths by semicolons, mostly
from the last one to the first.
"""

import re
from typing import Any

import keras

from sepconv_layers.graph_edit import ModelGraph

# How the converter names an output of the model, in the order of the outputs' names.
OUTPUT = re.compile(r"StatefulPartitionedCall:(\d+)")
CALL_NUMBER = re.compile(r"_\d+$")  # TensorFlow numbers the scopes of calls


class Origins:
    """The layers of a model that is exported.

    Args:
        graph: The `ExportGraph`.
    """

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        nodes = ModelGraph(graph.folded).nodes
        self.layers = {node.operation.name: node.operation for node in nodes}
        self.names = {layer.name for layer in graph.folded._flatten_layers()}

    def layer(self, tensor: str) -> Any:
        """Returns the layer of the model that a tensor comes from, or `None` if it has none."""
        words = [word for path in tensor.split(";") for word in reversed(path.split("/"))]
        if end := OUTPUT.fullmatch(tensor):
            words = [self._name_of_output(end)]
        # The scope of a call of the layer "conv" may be "conv_1".
        for word in (*(CALL_NUMBER.sub("", word) for word in words), *words):
            if isinstance(self.layers.get(word), keras.Layer):
                return self.layers[word]
        return None

    def path(self, tensor: str) -> str:
        """Returns the layer as a path, such as "block/conv", which may end inside of a block."""
        if end := OUTPUT.fullmatch(tensor):
            return self._name_of_output(end)
        first, *scopes = tensor.split(";")[-1].split("/")
        found = []
        for scope in scopes:  # of layers, and of operations inside of them
            name = scope if scope in self.names else CALL_NUMBER.sub("", scope)
            found += [name] if name in self.names else []
        return "/".join(found) or (scopes or [first])[-1]

    def _name_of_output(self, end: re.Match) -> str:
        index = self.graph.outputs.index(sorted(self.graph.outputs)[int(end[1])])
        return self.graph.folded.outputs[index]._keras_history.operation.name
