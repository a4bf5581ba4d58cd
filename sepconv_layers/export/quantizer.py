"""Quantizes float LiteRT files with LiteRT Quantizer, in the ranges that calibration measured."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sepconv_layers.export.flatbuffer import parsed
from sepconv_layers.export.scales import operator_names
from sepconv_layers.extras import require

PACKAGE = "litert_quantizer"


class Bits(NamedTuple):
    """The sizes of integers."""

    activations: int
    weights: int


INTEGERS = {"int8": Bits(8, 8), "int16x8": Bits(16, 8), "int4": Bits(8, 4)}
# The operators for which the quantizer has weights of 4 bits. Others get 8 bits with "int4".
FOUR_BITS = ("CONV_2D", "FULLY_CONNECTED")
CONVERTING = ("QUANTIZE", "DEQUANTIZE")  # operators between integers and floats

Ranges = Mapping[str, tuple[float, float]]


def quantized(
    content: bytes,
    ranges: Ranges,
    kind: str,
    quantize_io: bool = False,
    others: Mapping[str | None, Iterable[str]] | None = None,
) -> bytes:
    """Returns a float file with weights and activations in integers.

    Args:
        content: The float file, as the converter returns it.
        ranges: The smallest and the largest value of each float activation.
        kind: A key of `INTEGERS`.
        quantize_io: Whether the inputs and outputs are integers too.
        others: For each other kind, or `None` for float32, the scopes of the operators that have
            it, as `scope` returns them. Where it lacks an operator, that one has `kind`.
    """
    quantizer = require(PACKAGE, "export", "export.to_litert").Quantizer(content)
    names = require(f"{PACKAGE}.qtyping", "export", "export.to_litert").TFLOperationName
    _add(quantizer, names, kind, ".*")
    for other, scopes in (others or {}).items():
        if pattern := "|".join(map(re.escape, scopes)):
            _add(quantizer, names, other, f"^(?:{pattern})$")
    if not quantize_io:
        for end in (names.INPUT, names.OUTPUT):
            quantizer.update_quantization_recipe(".*", end, algorithm_key="no_quantize")
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        # One of its progress bars has no switch, and it looks at all tensors on purpose.
        warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all_tensors`")
        result = quantizer.quantize(
            _statistics(content, ranges), enable_progress_bar=False, enable_progress_report=False
        )
    return _repaired(bytes(result.quantized_model))


def _add(quantizer: Any, names: Any, kind: str | None, pattern: str) -> None:
    """Makes the operators whose scopes match a pattern those of a kind."""
    if kind is None:
        quantizer.update_quantization_recipe(
            pattern, names.ALL_SUPPORTED, algorithm_key="no_quantize"
        )
        return
    bits = INTEGERS[kind]
    quantizer.add_static_config(pattern, names.ALL_SUPPORTED, bits.activations, 8)
    if bits.weights == 4:
        for name in FOUR_BITS:
            quantizer.add_static_config(pattern, names(name), bits.activations, 4)


def _statistics(content: bytes, ranges: Ranges) -> dict[str, dict[str, np.ndarray]]:
    """Returns the ranges of all activations in the form of the quantizer's own calibration.

    That one averages the ranges of samples, and so cuts off the largest values.
    """
    found = {}
    for name, rank in activations(content).items():
        low, high = (np.full((1,) * rank, end, "float32") for end in ranges[name])
        found[name] = {"min": low, "max": high}
    return found


def activations(content: bytes) -> dict[str, int]:
    """Returns the names and ranks of the float tensors of a file that are not constant."""
    from ai_edge_litert import schema_py_generated as schema

    model = parsed(content)
    return {
        tensor.name.decode(): 0 if tensor.shape is None else len(tensor.shape)
        for tensor in model.subgraphs[0].tensors
        if tensor.type == schema.TensorType.FLOAT32 and model.buffers[tensor.buffer].data is None
    }


def _repaired(content: bytes) -> bytes:
    """Returns a file of the quantizer in the form that other parts of this package read.

    Weights move from behind the flatbuffer, where the quantizer puts them if they are large, into
    it. Outputs that no operator reads, such as planes of a volume that only padding would reach,
    get the type of the other outputs of their operator; the quantizer leaves them in float32, and
    then no runtime takes the file.
    """
    import flatbuffers

    model = parsed(content)
    for buffer in model.buffers:
        if buffer.offset > 1:
            data = content[buffer.offset : buffer.offset + buffer.size]
            buffer.data, buffer.offset, buffer.size = np.frombuffer(data, "uint8"), 0, 0
    for graph in model.subgraphs:
        ends = set(graph.outputs)
        read = {index for operator in graph.operators for index in _indices(operator.inputs)}
        for operator in graph.operators:
            outputs = [(index, graph.tensors[index]) for index in _indices(operator.outputs)]
            like = next((tensor for _, tensor in outputs if tensor.quantization is not None), None)
            for index, tensor in outputs:
                if like is not None and index not in read | ends:
                    tensor.type, tensor.quantization = like.type, like.quantization
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class Step(NamedTuple):
    """An operator of a file: its kind, its scope for a recipe, and the names of its tensors."""

    kind: str
    scope: str
    inputs: list[str]
    outputs: list[str]


def steps(content: bytes) -> list[Step]:
    """Returns the operators of the main graph of a file, in the order in which they run."""
    model = parsed(content)
    kinds, (graph, *_) = operator_names(model), model.subgraphs
    found = []
    for operator in graph.operators:
        inputs, outputs = (
            [graph.tensors[index].name.decode() for index in _indices(part)]
            for part in (operator.inputs, operator.outputs)
        )
        scope = "".join(f"{name};" for name in outputs or inputs)
        found.append(Step(kinds[operator.opcodeIndex], scope, inputs, outputs))
    return found


def float_steps(content: bytes) -> list[Step]:
    """Returns the operators of a quantized file that still compute in float32."""
    from ai_edge_litert import schema_py_generated as schema

    floats = {
        tensor.name.decode()
        for tensor in parsed(content).subgraphs[0].tensors
        if tensor.type == schema.TensorType.FLOAT32
    }
    return [
        step
        for step in steps(content)
        if step.kind not in CONVERTING and not floats.isdisjoint(step.outputs)
    ]


def _indices(values: Any) -> list[int]:
    """Returns the tensors in a vector of the schema, which has -1 for those left out."""
    return [] if values is None else [index for index in values if index >= 0]
