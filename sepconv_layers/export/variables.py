"""Turns the states of a streaming model from inputs and outputs of a LiteRT file into variables.

The file then reads its variables first and writes them last. A second graph, which runs once, sets
them to zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.names import NamedArrays
from sepconv_layers.streaming.stream import state_names

CHOICES = ("explicit", "internal")
DTYPES = ("float32", "int8", "int32")  # of states
LARGEST_OLD_CODE = 127  # older readers look for a small code in another field

States = dict[str, str]  # the names of inputs that are states → the names of their next values


def internal_states(model: keras.Model, states: Any) -> States:
    """Returns the states that become variables: the names of an input and of its next value.

    Args:
        model: The model to export.
        states: The argument of the exports.

    Raises:
        ValueError: If the argument is invalid, or the model has no states.
    """
    if states not in CHOICES:
        raise ValueError(
            f"The `states` argument must be one of {CHOICES}. Received: states={states!r}"
        )
    if states == "explicit":
        return {}
    if not (pairs := state_names(model)):
        raise ValueError(
            "The `states` argument must be 'explicit' for a model without states. Received: "
            f"states={states!r} for {model.name!r}. Pass `streaming.to_streaming(model).model`."
        )
    return pairs


def in_turn(
    run: Callable[[Arrays], NamedArrays], states: States, inputs: Sequence[str]
) -> Callable[[Arrays], NamedArrays]:
    """Returns a function that runs samples one after the other, as chunks of one stream.

    Args:
        run: The function of all inputs, from a list of arrays to a dictionary of arrays.
        states: As `internal_states` returns them.
        inputs: The names of all inputs, in the order of the arrays.

    Returns:
        A function that ignores the given states, and returns the outputs without states.
    """

    def run_in_turn(arrays: Arrays) -> NamedArrays:
        found: list[NamedArrays] = []
        now = {name: array[:1] for name, array in zip(inputs, arrays, strict=True)}
        now.update({name: np.zeros_like(now[name]) for name in states})
        for index in range(len(arrays[0])):
            for name, array in zip(inputs, arrays, strict=True):
                if name not in states:
                    now[name] = array[index : index + 1]
            outputs = run([now[name] for name in inputs])
            now.update({name: outputs.pop(new) for name, new in states.items()})
            found.append(outputs)
        return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}

    return run_in_turn


def hold_states(model: Any, states: States) -> None:
    """Turns inputs and outputs of a model into variables, in place.

    Args:
        model: A `ModelT` of the LiteRT schema, with one graph and one signature.
        states: As `internal_states` returns them.
    """
    from ai_edge_litert import schema_py_generated as schema

    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    into = {entry.name.decode(): entry.tensorIndex for entry in signature.inputs}
    out = {entry.name.decode(): entry.tensorIndex for entry in signature.outputs}
    file = _File(model, schema)
    initial = file.add_graph()
    reads, writes, zeros = [file.call_once(1)], [], []
    for name, new in states.items():
        tensor = graph.tensors[into[name]]
        handle, first = file.add_handle(graph), file.add_handle(initial)
        zero = file.add_zeros(initial, tensor)
        reads += [file.handle(name, handle), file.operator("READ_VARIABLE", [handle], [into[name]])]
        writes += [file.operator("ASSIGN_VARIABLE", [handle, out[new]], [])]
        zeros += [file.handle(name, first), file.operator("ASSIGN_VARIABLE", [first, zero], [])]
    graph.operators = [*reads, *graph.operators, *writes]
    initial.operators = zeros
    removed_in, removed_out = set(states), set(states.values())
    signature.inputs = [e for e in signature.inputs if e.name.decode() not in removed_in]
    signature.outputs = [e for e in signature.outputs if e.name.decode() not in removed_out]
    kept_in, kept_out = (
        {entry.tensorIndex for entry in entries}
        for entries in (signature.inputs, signature.outputs)
    )
    graph.inputs = [index for index in graph.inputs if index in kept_in]
    graph.outputs = [index for index in graph.outputs if index in kept_out]


class _File:
    """Makes parts of a file."""

    def __init__(self, model: Any, schema: Any) -> None:
        self.model, self.schema = model, schema
        self.codes: dict[str, int] = {}

    def add_graph(self) -> Any:
        graph = self.schema.SubGraphT()
        graph.name, graph.tensors, graph.inputs, graph.outputs = b"initial_states", [], [], []
        self.model.subgraphs.append(graph)
        return graph

    def add_handle(self, graph: Any) -> int:
        tensor = self.schema.TensorT()
        tensor.type, tensor.shape = self.schema.TensorType.RESOURCE, []
        tensor.buffer = 0  # the empty one
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def add_zeros(self, graph: Any, like: Any) -> int:
        """Adds a constant with the type, shape and scale of a tensor, of the value zero."""
        types = {getattr(self.schema.TensorType, name.upper()): name for name in DTYPES}
        quantization = like.quantization
        points = getattr(quantization, "zeroPoint", None)  # `None` for floats, too
        zero = np.full(like.shape, 0 if points is None else points[0], types[like.type])
        buffer, tensor = self.schema.BufferT(), self.schema.TensorT()
        buffer.data = np.frombuffer(zero.tobytes(), "uint8")
        self.model.buffers.append(buffer)
        tensor.type, tensor.shape, tensor.quantization = like.type, like.shape, quantization
        tensor.buffer = len(self.model.buffers) - 1
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
        if kind not in self.codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, LARGEST_OLD_CODE)
            code.version = 1
            self.model.operatorCodes.append(code)
            self.codes[kind] = len(self.model.operatorCodes) - 1
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.codes[kind]
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        return operator

    def handle(self, name: str, tensor: int) -> Any:
        operator, options = (
            self.operator("VAR_HANDLE", [], [tensor]),
            self.schema.VarHandleOptionsT(),
        )
        options.container, options.sharedName = "", name
        operator.builtinOptionsType = self.schema.BuiltinOptions.VarHandleOptions
        operator.builtinOptions = options
        return operator

    def call_once(self, graph: int) -> Any:
        operator, options = self.operator("CALL_ONCE", [], []), self.schema.CallOnceOptionsT()
        options.initSubgraphIndex = graph
        operator.builtinOptionsType = self.schema.BuiltinOptions.CallOnceOptions
        operator.builtinOptions = options
        return operator
