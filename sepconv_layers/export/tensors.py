"""The values of all tensors of a LiteRT file, not only those of its outputs."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sepconv_layers.export.flatbuffer import parsed
from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.quantizer import activations
from sepconv_layers.export.runtimes import LITERT_THREADS, SIGNATURE, dequantize, quantize

STORED = ("float32", "float16", "int16", "int8", "int4")  # types of constants


class AllTensors:
    """A LiteRT file that keeps the values of all its tensors.

    Args:
        content: The file as the converter or the quantizer returns it, with names of tensors.
        inputs: The names of its inputs, in the order of the arrays.

    Attributes:
        details: The details of each tensor by its name.
    """

    def __init__(self, content: bytes, inputs: Sequence[str]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.interpreter = Interpreter(
            model_content=content,
            num_threads=LITERT_THREADS,
            experimental_preserve_all_tensors=True,
            # A delegate would run several operators as one, without the tensors between them.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self.interpreter.allocate_tensors()
        found = self.interpreter.get_signature_runner(SIGNATURE).get_input_details()
        self.inputs = [found[name] for name in inputs]
        self.details = {
            details["name"]: details for details in self.interpreter.get_tensor_details()
        }

    def runs(self, arrays: Arrays) -> Iterator[None]:
        """Runs samples one by one; yields after each, when `value` returns them."""
        for index in range(len(arrays[0])):
            for details, array in zip(self.inputs, arrays, strict=True):
                sample = quantize(array[index : index + 1], details)
                self.interpreter.set_tensor(details["index"], sample)
            self.interpreter.invoke()
            yield

    def outputs(self, arrays: Arrays) -> list[np.ndarray]:
        """The outputs for samples, integers as the floats that they stand for."""
        details = self.interpreter.get_output_details()
        rows = [
            [dequantize(self.interpreter.get_tensor(each["index"]), each) for each in details]
            for _ in self.runs(arrays)
        ]
        return [np.concatenate(values) for values in zip(*rows, strict=True)]

    def value(self, name: str) -> np.ndarray:
        """The value of a tensor after a run, with integers as the floats that they stand for."""
        details = self.details[name]
        return dequantize(self.interpreter.get_tensor(details["index"]), details)


def measured_ranges(
    content: bytes, inputs: Sequence[str], batches: Sequence[Arrays]
) -> dict[str, tuple[float, float]]:
    """Returns the smallest and the largest value of each float activation of a float file.

    Args:
        content: The file as the converter returns it.
        inputs: The names of its inputs, in the order of the arrays.
        batches: Typical inputs.
    """
    file, names = AllTensors(content, inputs), list(activations(content))
    lows, highs = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for batch in batches:
        for _ in file.runs(batch):
            for name in names:
                value = file.interpreter.get_tensor(file.details[name]["index"])
                lows[name] = min(lows[name], float(value.min()))
                highs[name] = max(highs[name], float(value.max()))
    return {name: (lows[name], highs[name]) for name in names}


def constants(content: bytes) -> dict[str, tuple[np.ndarray, str]]:
    """Returns the value of each constant of a file, integers as floats, and its type, by name."""
    from ai_edge_litert import schema_py_generated as schema

    model = parsed(content)
    types = {getattr(schema.TensorType, name.upper()): name for name in STORED}
    found = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type in types and tensor.name is not None:
            dtype = types[tensor.type]
            shape = () if tensor.shape is None else tuple(tensor.shape)
            array = _unpacked(np.asarray(data, "uint8"), dtype)[: math.prod(shape)].reshape(shape)
            found[tensor.name.decode()] = (_scaled(array, tensor.quantization), dtype)
    return found


def _unpacked(data: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "int4":
        return data.view(dtype)
    pairs = np.stack([data << 4, data], -1)  # the first value is in the lower half
    return pairs.reshape(-1).view("int8") >> 4


def _scaled(array: np.ndarray, quantization: Any) -> np.ndarray:
    """Returns integers as the floats that they stand for, also if each channel has its scale."""
    if quantization is None or quantization.scale is None:
        return array.astype("float64")
    scale, points = (
        np.asarray(values, "float64") for values in (quantization.scale, quantization.zeroPoint)
    )
    if len(scale) > 1:
        axis = quantization.quantizedDimension
        shape = [-1 if index == axis else 1 for index in range(array.ndim)]
        scale, points = scale.reshape(shape), points.reshape(shape) if len(points) > 1 else points
    return (array - points) * scale
