"""Turns converter errors into a sentence that names the layer and its operation."""

import re
from collections.abc import Iterator
from typing import Any

import keras

from sepconv_layers.graph_edit import ModelGraph

# How converters and checkers name the type of an operation, or several types.
KINDS = (
    r"'tf\.(\w+)' op",
    r"ops: (\w+(?:, \w+)*)",
    r"No Op registered for (\w+)",
    r"OpType: (\w+)",
    r"op_type:\s*(\w+)",
)
# Nodes that are not computations.
OUTSIDE = {"Placeholder", "Const", "Identity", "NoOp", "PartitionedCall"}
STATEFUL = re.compile(r"Assign\w*VariableOp|LookupTable\w*")
LOOPS = {"While", "StatelessWhile", "If", "StatelessIf"}
LONGEST = 300  # characters of an error that names no operation


def refusal(kind: str, graph: Any, traced: Any, error: Exception) -> ValueError:
    """Returns the error to raise for a converter's error.

    Args:
        kind: What cannot have the operation.
        graph: The `Graph` that was to be converted.
        traced: Its concrete function.
        error: What the converter said.
    """
    if quantized := [
        f"{layer.path!r} to {layer.quantization_mode}"
        for layer in graph.model._flatten_layers()
        if layer.quantization_mode is not None
    ]:  # of which converters say little
        return ValueError(
            f"The `model` argument must be a model of operations that {kind} has. Received: "
            f"{graph.model.name!r}: Keras has quantized its layers {', '.join(quantized)}. "
            "Export the model as it was before `model.quantize`, to LiteRT with the `quantize` "
            "argument."
        )
    present = set(_kinds(traced.graph.as_graph_def()))
    found = (name for form in KINDS for name in re.findall(form, str(error)))
    named = {name for names in found for name in names.split(", ")}
    kinds = (named & present) - OUTSIDE or set(filter(STATEFUL.fullmatch, present)) or named
    layers = [
        f"{layer.name!r} ({type(layer).__name__}) needs {', '.join(sorted(found))}"
        for layer, found in _having(graph.folded, kinds)
    ]
    if layers:
        reason = f"whose layer {', and '.join(layers)}, which {kind} does not have"
    else:
        reason = f"which cannot be converted: {_sentence(str(error))}"
    return ValueError(
        f"The `model` argument must be a model of operations that {kind} has. Received: "
        f"{graph.model.name!r}, {reason}. `export.to_hub` takes any operation of TensorFlow."
    )


def refuse_loops(graph: Any, traced: Any) -> None:
    """Refuses loops, on which int8 calibration would crash the process."""
    if LOOPS.isdisjoint(_kinds(traced.graph.as_graph_def())):
        return
    layers = [
        f"{layer.name!r} ({type(layer).__name__})" for layer, _ in _having(graph.folded, LOOPS)
    ]
    raise ValueError(
        "The `model` argument must be a model without loops for quantize='int8'. Received: "
        f"{graph.model.name!r}, with a loop in {', '.join(layers)}. Recurrent layers have none "
        "with `unroll=True`; quantize='dynamic' takes them as they are."
    )


def _kinds(graph_def: Any) -> Iterator[str]:
    """Yields the types of all operations in a graph, including those in its functions."""
    yield from (node.op for node in graph_def.node)
    for function in graph_def.library.function:
        yield from (node.op for node in function.node_def)


def _having(model: keras.Model, kinds: set[str]) -> Iterator[tuple[Any, set[str]]]:
    """Yields layers with operations of these types, by tracing each layer on its own."""
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
        found = set(_kinds(function.get_concrete_function(*specs).graph.as_graph_def()))
        if found & kinds:
            yield layer, found & kinds


def _sentence(text: str) -> str:
    """The first line of an error, without source locations."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = re.sub(r"\S*\.py:\d+:\d+: error: ", "", lines[0]) if lines else "no reason was given"
    return first[:LONGEST].rstrip(".")
