"""Stores kernels that have only 15 values per channel in 4 bits.

The converter writes them as 8 bits, in steps of 127 / 7 integers. Nothing is rounded here.
"""

from typing import Any

import numpy as np

from sepconv_layers.export.scales import LARGEST_INT8, WEIGHTED, operator_names

LARGEST_INT4 = 7
FOUR_BITS = np.round(np.arange(-LARGEST_INT4, LARGEST_INT4 + 1) * LARGEST_INT8 / LARGEST_INT4)


def pack_four_bits(model: Any) -> None:
    """Changes kernels of a model in place.

    Args:
        model: A `ModelT` of the LiteRT schema.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = operator_names(model)
    for graph in model.subgraphs:
        for operator in graph.operators:
            if names[operator.opcodeIndex] in WEIGHTED:
                _pack(graph.tensors, model.buffers, operator.inputs, schema)


def _pack(tensors: Any, buffers: Any, inputs: Any, schema: Any) -> None:
    kernel = tensors[inputs[1]]
    data = buffers[kernel.buffer].data
    if kernel.type != schema.TensorType.INT8 or data is None:
        return
    values = np.asarray(data, "uint8").view("int8")
    if not np.isin(values, FOUR_BITS).all():
        return
    steps = np.round(values * (LARGEST_INT4 / LARGEST_INT8)).astype("int8")
    steps = np.append(steps, np.zeros(len(steps) % 2, "int8"))
    low, high = steps[::2] & 15, steps[1::2] & 15
    buffers[kernel.buffer].data = (low | high << 4).view("uint8")
    kernel.type = schema.TensorType.INT4
    ratio = LARGEST_INT8 / LARGEST_INT4
    _rescale(kernel, ratio)
    if len(inputs) > 2 and inputs[2] >= 0:
        bias = tensors[inputs[2]]
        integers = np.asarray(buffers[bias.buffer].data, "uint8").view("int32")
        buffers[bias.buffer].data = np.round(integers / ratio).astype("int32").view("uint8")
        _rescale(bias, ratio)


def _rescale(tensor: Any, ratio: float) -> None:
    scale = np.asarray(tensor.quantization.scale, "float64")
    tensor.quantization.scale = (scale * ratio).astype("float32")
    tensor.quantization.min = tensor.quantization.max = None
