"""Rewrites LiteRT files: makes them smaller, and adds the labels of the classes.

The labels are where MediaPipe and other readers look for them. The metadata are a flatbuffer inside
the model's flatbuffer, and the files that they name follow it as a ZIP archive.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sepconv_layers.export.artifact import LABELS_FILE
from sepconv_layers.export.four_bits import pack_four_bits
from sepconv_layers.export.scales import operator_names, unit_scales
from sepconv_layers.export.variables import States, hold_states

CONVERSION_METADATA = b"CONVERSION_METADATA"  # the converter's arguments
BUFFER_ALIGNMENT = 16
# From metadata_schema.fbs in https://github.com/tensorflow/tflite-support, version 1.0.0, the first
# one that has all that is used here.
METADATA_NAME, IDENTIFIER, PARSER_VERSION = "TFLITE_METADATA", b"M001", "1.0.0"
TENSOR_AXIS_LABELS = 2  # the type of file that names the last axis of a tensor
# The schema's tables: the number of fields, and the index of each field that is used.
MODEL = {"fields": 8, "name": 0, "subgraphs": 3, "min_parser_version": 7}
SUBGRAPH = {"fields": 7, "inputs": 2, "outputs": 3}
TENSOR = {"fields": 7, "name": 0, "files": 6}
FILE = {"fields": 4, "name": 0, "description": 1, "type": 2}


def finalize(
    content: bytes,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    labels: Sequence[str],
    is_learned: bool = False,
    states: States | None = None,
) -> bytes:
    """Removes what inference does not need from a converted model, and adds labels.

    Args:
        content: The LiteRT model as the converter returns it.
        name: The name of the model.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        labels: Names of the classes of the first output; empty for no labels.
        is_learned: Whether the scales of an int8 model were learned. Then they stay.
        states: The output that has the next value of an input, by the name of the input, for
            inputs that become variables.

    Returns:
        The content of the file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = parsed(content)
    for subgraph in model.subgraphs:
        ends = {*subgraph.inputs, *subgraph.outputs}
        for index, tensor in enumerate(subgraph.tensors):
            if index not in ends:  # long paths in the graph, several after a fusion
                tensor.name = None
    metadata = model.metadata or []
    for entry in metadata:
        if entry.name == CONVERSION_METADATA:
            model.buffers[entry.buffer].data = None
    model.metadata = [entry for entry in metadata if entry.name != CONVERSION_METADATA]
    if is_learned:
        pack_four_bits(model)
    else:
        unit_scales(model)
    if states:
        hold_states(model, states)
    if labels:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(_metadata(name, inputs, outputs), "uint8")
        entry.name, entry.buffer = METADATA_NAME, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    builder = _sharing_builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    stream = io.BytesIO(builder.Output())
    if labels:
        with zipfile.ZipFile(stream, "a") as archive:  # uncompressed, so that it can be mapped
            archive.writestr(zipfile.ZipInfo(LABELS_FILE), "\n".join(labels) + "\n")
    return stream.getvalue()


def parsed(content: bytes) -> Any:
    """Returns a file as a `ModelT` of the LiteRT schema."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


class Operator(NamedTuple):
    """An operator of a LiteRT file: its kind, such as "CONV_2D", and its first output's name."""

    kind: str
    output: str


def operators(content: bytes) -> list[Operator]:
    """Returns the operators of a LiteRT model in the order of the file.

    Args:
        content: The model. As the converter returns it, the tensors bear the paths of layers.
    """
    model = parsed(content)
    names = operator_names(model)
    return [
        Operator(names[step.opcodeIndex], _output_name(graph, step))
        for graph in model.subgraphs
        for step in (graph.operators if graph.operators is not None else ())
    ]


def _output_name(graph: Any, step: Any) -> str:
    outputs = [] if step.outputs is None else list(step.outputs)  # a variable's writer has none
    return (graph.tensors[outputs[0]].name or b"").decode() if outputs else ""


def _sharing_builder(size: int) -> Any:
    """Returns a builder that writes equal vectors, such as the zero points of kernels, once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: Any) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                if x.dtype == "uint8":  # a buffer of the model, which the schema aligns
                    self.Prep(BUFFER_ALIGNMENT, x.size)
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

    return SharingBuilder(size)


def _metadata(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Returns the metadata of a model whose first output has labels."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)

    def table(kind: dict[str, int], **values: int) -> int:
        builder.StartObject(kind["fields"])
        for field, value in values.items():
            if field == "type":
                builder.PrependInt8Slot(kind[field], value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(kind[field], value, 0)
        return builder.EndObject()

    def vector(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    text: Callable[[str], Any] = builder.CreateString
    description = text("Names of the classes, one per line.")
    files = vector(
        [table(FILE, name=text(LABELS_FILE), description=description, type=TENSOR_AXIS_LABELS)]
    )
    first, *others = outputs
    into = vector([table(TENSOR, name=text(name)) for name in inputs])
    out = vector(
        [
            table(TENSOR, name=text(first), files=files),
            *(table(TENSOR, name=text(name)) for name in others),
        ]
    )
    subgraphs = vector([table(SUBGRAPH, inputs=into, outputs=out)])
    version = text(PARSER_VERSION)
    model = table(MODEL, name=text(name), subgraphs=subgraphs, min_parser_version=version)
    builder.Finish(model, file_identifier=IDENTIFIER)
    return bytes(builder.Output())
