"""What the converter to ONNX lacks: operators, names and silence."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Handler = Callable[[Any, Any, str, Any], None]


def handlers() -> dict[str, tuple[Handler, list]]:
    """What makes ONNX operators of TensorFlow's, for those that tf2onnx does not know or not right.

    Each takes a graph, the node, its name and nothing else.
    """
    found: dict[str, Handler] = {"Erfc": _erfc, "Expm1": _expm1}
    found.update({f"Resize{way}": _resize for way in ("Bilinear", "NearestNeighbor", "Bicubic")})
    return {name: (handler, []) for name, handler in found.items()}


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    _in_place(graph, node, "Sub", _one(graph, node), graph.make_node("Erf", node.input).output[0])


def _expm1(graph: Any, node: Any, name: str, _: Any) -> None:
    _in_place(graph, node, "Sub", graph.make_node("Exp", node.input).output[0], _one(graph, node))


def _resize(graph: Any, node: Any, name: str, _: Any) -> None:
    """By the new sizes where the converter would take a scale, and that, rounded, cuts a pixel."""
    from tf2onnx.onnx_opset.nn import Resize

    sizes, target = graph.get_shape(node.input[0])[1:3], node.inputs[1]
    if target.is_const() and min(sizes) > 0:
        wanted = target.get_tensor_value(as_list=False)
        if (np.floor((wanted / sizes).astype("float32").astype("float64") * sizes) < wanted).any():
            unknown = graph.make_node("Identity", [node.input[1]])
            graph.replace_input(node, node.input[1], unknown.output[0], 1)
    Resize.version_11(graph, node)


def _one(graph: Any, node: Any) -> str:
    from tf2onnx import utils

    dtype = utils.map_onnx_to_numpy_type(graph.get_dtype(node.output[0]))
    return graph.make_const(utils.make_name("one"), np.ones((), dtype)).output[0]


def _in_place(graph: Any, node: Any, kind: str, *inputs: str) -> None:
    """Another operator that gives the outputs of a node."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node(
        kind, list(inputs), name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes
    )


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Renames tensors of an ONNX graph in place, also where the graphs of its loops read them."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
        for attribute in node.attribute:
            for part in (attribute.g, *attribute.graphs):
                rename(part, names)


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """Keeps back what tf2onnx logs, such as the traceback of an optimization that it leaves out.

    If the conversion fails, it is said after all.
    """
    records: list[logging.LogRecord] = []
    logger, keeping = logging.getLogger("tf2onnx"), logging.Handler()
    keeping.emit = records.append  # type: ignore[method-assign]
    handlers, propagate = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [keeping], False
    failed = True
    try:
        yield
        failed = False
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        if failed:
            for record in records:
                logger.handle(record)
