"""LiteRT files written again: smaller, and with the labels of the classes inside.

What reads the labels of such files, as MediaPipe does, finds them here: the metadata of the model
are a flatbuffer inside that of the model, and the files that they name follow it as a ZIP archive.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sepconv_layers.export.scales import unit_scales

LABELS = "labels.txt"
CONVERSION = b"CONVERSION_METADATA"  # how the converter was called
ALIGNMENT = 16
# The name of the entry, and the identifier and parser version of the schema:
# https://github.com/tensorflow/tflite-support, metadata_schema.fbs. Its first version is enough.
ENTRY, IDENTIFIER, PARSER_VERSION = "TFLITE_METADATA", b"M001", "1.0.0"
TENSOR_AXIS_LABELS = 2  # a kind of file: names along the last axis of a tensor
# Fields of the tables of the schema, by their number, and how many there are.
MODEL = {"fields": 8, "name": 0, "subgraphs": 3, "min_parser_version": 7}
SUBGRAPH = {"fields": 7, "inputs": 2, "outputs": 3}
TENSOR = {"fields": 7, "name": 0, "files": 6}
FILE = {"fields": 4, "name": 0, "description": 1, "type": 2}


def finished(
    content: bytes, name: str, inputs: Sequence[str], outputs: Sequence[str], labels: Sequence[str]
) -> bytes:
    """A LiteRT model as it is to be written.

    Args:
        content: The model, as the converter gives it.
        name: Its name.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        labels: Names of the classes of the first output; empty for none.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
    for subgraph in model.subgraphs:
        ends = {*subgraph.inputs, *subgraph.outputs}
        for index, tensor in enumerate(subgraph.tensors):
            if index not in ends:  # a path in the graph, or several that were fused into one
                tensor.name = None
    metadata = model.metadata or []
    for entry in metadata:
        if entry.name == CONVERSION:
            model.buffers[entry.buffer].data = None
    model.metadata = [entry for entry in metadata if entry.name != CONVERSION]
    unit_scales(model)
    if labels:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(_metadata(name, inputs, outputs), "uint8")
        entry.name, entry.buffer = ENTRY, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    builder = _sharing_builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    stream = io.BytesIO(builder.Output())
    if labels:
        with zipfile.ZipFile(stream, "a") as archive:  # not compressed, so that it can be mapped
            archive.writestr(zipfile.ZipInfo(LABELS), "\n".join(labels) + "\n")
    return stream.getvalue()


def _sharing_builder(size: int) -> Any:
    """A builder that writes equal vectors once: each channel of each kernel has a zero point."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: Any) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                if x.dtype == "uint8":  # a buffer of the model, which the schema wants aligned
                    self.Prep(ALIGNMENT, x.size)
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

    return SharingBuilder(size)


def _metadata(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The metadata of a model whose first output has labels."""
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
    description = text("Names of the classes, one in a line.")
    files = vector(
        [table(FILE, name=text(LABELS), description=description, type=TENSOR_AXIS_LABELS)]
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
