"""Turns converter errors into messages that name the layer and its operation."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from sepconv_layers.export.origins import Origins
from sepconv_layers.graph_edit import ModelGraph

# How converters and checkers name one or several types of operations.
TYPES_IN_MESSAGE = (
    r"'tf\.(\w+)' op",
    r"ops: (\w+(?:, \w+)*)",
    r"No Op registered for (\w+)",
    r"OpType: (\w+)",
    r"op_type:\s*(\w+)",
)
# Types of nodes that compute nothing.
NO_COMPUTATION = {"Placeholder", "Const", "Identity", "NoOp", "PartitionedCall"}
STATEFUL = re.compile(r"Assign\w*VariableOp|LookupTable\w*")
LOOPS = {"While", "StatelessWhile", "If", "StatelessIf"}
# How TensorFlow Lite Micro names an operator that it cannot run: by kind, or by its number.
LACKING = re.compile(r"Didn't find op for builtin opcode '(\w+)'")
FAILED = re.compile(r"Node (\w+) \(number (\d+)f?\) failed to (?:prepare|invoke)")
LONGEST_REASON = 300  # characters of a converter error that names no operation


def conversion_error(target: str, graph: Any, traced: Any, error: Exception) -> ValueError:
    """Returns the error to raise for a converter's error.

    Args:
        target: The format that lacks the operation.
        graph: The `ExportGraph`.
        traced: Its concrete function.
        error: The converter's error.
    """
    if quantized := [
        f"{layer.path!r} to {layer.quantization_mode}"
        for layer in graph.model._flatten_layers()
        if layer.quantization_mode is not None
    ]:  # for which the converters' own errors say little
        return ValueError(
            f"The `model` argument must be a model of operations that {target} has. Received: "
            f"{graph.model.name!r}, in which Keras has quantized {', '.join(quantized)}. "
            "Export the model from before `model.quantize`, to LiteRT with the `quantize` argument."
        )
    present = set(_operation_types(traced.graph.as_graph_def()))
    found = (types for pattern in TYPES_IN_MESSAGE for types in re.findall(pattern, str(error)))
    named = {name for types in found for name in types.split(", ")}
    missing = (
        (named & present) - NO_COMPUTATION or set(filter(STATEFUL.fullmatch, present)) or named
    )
    layers = [
        f"{_described(layer)} needs {', '.join(sorted(found))}"
        for layer, found in _layers_with(graph.folded, missing)
    ]
    if layers:
        reason = f"whose layer {', and '.join(layers)}, which {target} does not have"
    else:
        reason = f"which cannot be converted: {_first_sentence(str(error))}"
    return ValueError(
        f"The `model` argument must be a model of operations that {target} has. Received: "
        f"{graph.model.name!r}, {reason}. `export.to_hub` takes any TensorFlow operation."
    )


def check_no_loops(graph: Any, traced: Any) -> None:
    """Raises a `ValueError` for loops, on which int8 calibration would crash the process."""
    if LOOPS.isdisjoint(_operation_types(traced.graph.as_graph_def())):
        return
    layers = ", ".join(_described(layer) for layer, _ in _layers_with(graph.folded, LOOPS))
    raise ValueError(
        "The `model` argument must be a model without loops for quantize='int8'. Received: "
        f"{graph.model.name!r}, with a loop in {layers}. Build recurrent layers with "
        "`unroll=True`, or use quantize='dynamic', which allows loops."
    )


def _described(layer: Any) -> str:
    return f"{layer.name!r} ({type(layer).__name__})"


def _operation_types(graph_def: Any) -> Iterator[str]:
    """Yields the types of all operations in a graph, including those in its functions."""
    yield from (node.op for node in graph_def.node)
    for function in graph_def.library.function:
        yield from (node.op for node in function.node_def)


def _layers_with(model: keras.Model, types: set[str]) -> Iterator[tuple[Any, set[str]]]:
    """Yields the layers that use operations of these types, and which: traces each on its own."""
    import tensorflow as tf

    seen = set()
    for node in ModelGraph(model).nodes:
        layer, inputs = node.operation, node.input_tensors
        if id(layer) in seen or not inputs or isinstance(layer, keras.Model):
            continue
        seen.add(id(layer))
        alone = keras.Model(inputs, node.outputs)
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]
        function = tf.function(lambda *tensors: alone(list(tensors), training=False))  # noqa: B023
        graph_def = function.get_concrete_function(*specs).graph.as_graph_def()
        if found := types.intersection(_operation_types(graph_def)):
            yield layer, found


def _first_sentence(text: str) -> str:
    """Returns the first line of an error, without source locations."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = re.sub(r"\S*\.py:\d+:\d+: error: ", "", lines[0]) if lines else "no reason was given"
    return first[:LONGEST_REASON].rstrip(".")


def micro_error(graph: Any, operators: Sequence[Any], printed: str) -> ValueError:
    """Returns the error to raise where TensorFlow Lite Micro cannot run a file.

    Args:
        graph: The `ExportGraph`.
        operators: The file's operators, whose outputs have names.
        printed: The runtime's own messages.
    """
    lacking, failed = LACKING.search(printed), FAILED.search(printed)
    if lacking:
        kind, verb = lacking[1], "does not have"
        outputs = [operator.output for operator in operators if operator.kind == kind]
    elif failed:
        kind, verb = failed[1], "cannot run with these types and shapes"
        outputs = [operators[int(failed[2])].output]
    else:
        lines = printed.strip().splitlines() or ["no reason was given"]
        return ValueError(
            f"TensorFlow Lite Micro cannot run the converted model {graph.model.name!r}: "
            f"{lines[-1]}"
        )
    origins = Origins(graph)
    layers = list(dict.fromkeys(_origin(origins, output) for output in outputs))
    need = "needs" if len(layers) == 1 else "need"
    return ValueError(
        "The `model` argument must be a model of operators that TensorFlow Lite Micro has. "
        f"Received: {graph.model.name!r}, where {', '.join(layers)} {need} {kind}, which it {verb}."
    )


def _origin(origins: Origins, output: str) -> str:
    """Describes the layer that a tensor of a converted file comes from."""
    layer = origins.layer(output)
    return f"the operation {output!r}" if layer is None else f"the layer {_described(layer)}"
