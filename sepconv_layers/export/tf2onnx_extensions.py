"""Additions to tf2onnx: operators, tensor names, and silence."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

XLA_MARK = "_XlaMustCompile"

Handler = Callable[[Any, Any, str, Any], None]


def handlers() -> dict[str, tuple[Handler, list]]:
    """Returns handlers for TensorFlow operators that tf2onnx lacks or converts wrongly.

    Each takes a graph, the node, its name and an unused list.
    """
    methods = ("Bilinear", "NearestNeighbor", "Bicubic")
    found: dict[str, Handler] = {"Erfc": _erfc, "Expm1": _expm1}
    found.update({f"Resize{method}": _resize for method in methods})
    return {name: (handler, []) for name, handler in found.items()}


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    _replace(graph, node, "Sub", _one(graph, node), graph.make_node("Erf", node.input).output[0])


def _expm1(graph: Any, node: Any, name: str, _: Any) -> None:
    _replace(graph, node, "Sub", graph.make_node("Exp", node.input).output[0], _one(graph, node))


def _resize(graph: Any, node: Any, name: str, _: Any) -> None:
    """Keeps every pixel: the converter rounds the scales to float32, which may be too small."""
    from tf2onnx.onnx_opset.nn import Resize

    kind, sizes, target = node.type, graph.get_shape(node.input[0])[1:3], node.inputs[1]
    if min(sizes) < 0 or not target.is_const():
        Resize.version_11(graph, node)  # which passes the new sizes, not scales
        return
    new = target.get_tensor_value(as_list=False)
    is_small = np.floor((new / sizes).astype("float32").astype("float64") * sizes) < new
    if is_small.any() and kind == "ResizeNearestNeighbor":
        # A slightly larger scale could select another pixel, so pass the sizes, as for open ones.
        unknown = graph.make_node("Identity", [node.input[1]])
        graph.replace_input(node, node.input[1], unknown.output[0], 1)
    Resize.version_11(graph, node)
    if is_small.any() and kind != "ResizeNearestNeighbor":
        scales = graph.get_node_by_name(name).inputs[0].inputs[2]
        values = scales.get_tensor_value(as_list=False).copy()
        larger = np.nextafter(values[2:], np.float32(np.inf))
        values[2:] = np.where(is_small, larger, values[2:])
        scales.set_tensor_value(values)


def _one(graph: Any, node: Any) -> str:
    from tf2onnx import utils

    dtype = utils.map_onnx_to_numpy_type(graph.get_dtype(node.output[0]))
    return graph.make_const(utils.make_name("one"), np.ones((), dtype)).output[0]


def _replace(graph: Any, node: Any, kind: str, *inputs: str) -> None:
    """Replaces a node by another operator with the same outputs."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node(
        kind, list(inputs), name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes
    )


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Renames tensors of an ONNX graph and its subgraphs in place."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
        for attribute in node.attribute:
            for part in (attribute.g, *attribute.graphs):
                rename(part, names)


def freeze(function: Any) -> Any:
    """Returns the concrete function with constants for variables and all calls inlined.

    Functions marked for XLA, such as those of a loaded SavedModel, are inlined only after the mark
    is removed.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    constant = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph_def = constant.graph.as_graph_def()
    functions = graph_def.library.function
    nodes = (*graph_def.node, *(node for function in functions for node in function.node_def))
    compiled = [part for part in (*nodes, *functions) if XLA_MARK in part.attr]
    if not compiled:
        return constant
    for part in compiled:
        del part.attr[XLA_MARK]
    callers = (attr for node in nodes for attr in node.attr.values())
    called = (part for attr in callers for part in (attr.func, *attr.list.func) if part.name)
    for name in (*called, *(function.signature for function in functions)):
        name.name += "_uncompiled"  # function names are unique in a process
    names = [tensor.name for tensor in constant.inputs], [out.name for out in constant.outputs]

    @tf.function(input_signature=[tf.TensorSpec(t.shape, t.dtype) for t in constant.inputs])
    def imported(*tensors: Any) -> Any:
        inputs = dict(zip(names[0], tensors, strict=True))
        return tf.graph_util.import_graph_def(graph_def, inputs, names[1], name="")

    return convert_variables_to_constants_v2(
        imported.get_concrete_function(), lower_control_flow=False
    )


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """Holds back the log of tf2onnx, such as tracebacks of skipped optimizations.

    If the conversion fails, the records are logged after all.
    """
    logger, keeping = logging.getLogger("tf2onnx"), _RecordKeeper()
    handlers, propagate = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [keeping], False
    failed = True
    try:
        yield
        failed = False
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        if failed:
            for record in keeping.records:
                logger.handle(record)


class _RecordKeeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
