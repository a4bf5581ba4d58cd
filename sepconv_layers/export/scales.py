"""Rescales an int8 LiteRT model so that kernels and their biases share their scales.

An int8 tensor stands for `scale * (integer - zero_point)`. Each channel of a kernel has a scale,
and its bias has the scale of the kernel times the scale of the input. In a small separable net, the
biases' scales are a fifteenth of the file. But the activations between two convolutions have no
unit: if one kernel is divided by a factor and the next one multiplied by it, the outputs are the
same. So every such activation gets the scale 1. Then a kernel and its bias have equal scales, which
the file holds once. The integers do not change, nor do their multipliers.
"""

import collections
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

# Operators that read an activation, a kernel and an optional bias.
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Operators without weights whose outputs double if the inputs double.
HOMOGENEOUS = (
    "ADD", "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "CONCATENATION", "EXPAND_DIMS", "MAX_POOL_2D",
    "MEAN", "PACK", "PAD", "REDUCE_MAX", "RELU", "RESHAPE", "SLICE", "SPACE_TO_BATCH_ND", "SQUEEZE",
    "STRIDED_SLICE", "SUM", "TRANSPOSE",
)  # fmt: skip
LARGEST_INT8 = 127


def operator_names(model: Any) -> list[str]:
    """Returns the name of the operator that each `opcodeIndex` stands for.

    Args:
        model: A `ModelT` of the LiteRT schema.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [names[code] for code in codes]


class Step(NamedTuple):
    """An operator of a graph, with the indices of the tensors that it reads and writes."""

    kind: str
    reads: list[int]
    writes: list[int]
    options: Any

    @property
    def activations(self) -> list[int]:
        """The tensors that it reads and writes, without kernel and bias."""
        return [*(self.reads[:1] if self.kind in WEIGHTED else self.reads), *self.writes]


def unit_scales(model: Any) -> None:
    """Changes the scales of a model in place.

    Args:
        model: A `ModelT` of the LiteRT schema.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = operator_names(model)
    for graph in model.subgraphs:
        steps = [
            Step(
                names[operator.opcodeIndex],
                [index for index in _list(operator.inputs) if index >= 0],  # -1: absent
                _list(operator.outputs),
                operator.builtinOptions,
            )
            for operator in _list(graph.operators)
        ]
        _GraphScales(graph, steps, model.buffers, schema).normalize()


class _GraphScales:
    """The scales of one graph."""

    def __init__(self, graph: Any, steps: list[Step], buffers: Any, schema: Any) -> None:
        self.tensors, self.steps, self.buffers = graph.tensors, steps, buffers
        self.int8, self.functions = schema.TensorType.INT8, schema.ActivationFunctionType
        self.weighted = [step for step in steps if step.kind in WEIGHTED]
        self.users = collections.Counter(index for step in steps for index in step.reads)
        # Tensors that must be rescaled together form a group. Each points to another one of its
        # group, and the group's representative to itself.
        self.parents = list(range(len(graph.tensors)))
        for step in steps:
            if step.kind in HOMOGENEOUS:
                self._merge(filter(self._is_int8, step.activations))
        fixed = {*_list(graph.inputs), *_list(graph.outputs)}
        fixed.update(i for i, tensor in enumerate(graph.tensors) if tensor.isVariable)
        fixed.update(i for step in self.weighted for i in step.reads[1:])
        fixed.update(i for step in steps if not self._may_change(step) for i in step.activations)
        self.fixed = {self._group_of(index) for index in fixed}

    def normalize(self) -> None:
        """Changes the scales."""
        factors = self._factors()
        for step in self.steps:  # at another scale, a bound of 6 would be another integer
            if self._group_of(step.writes[0]) in factors and self._function(step):
                step.options.fusedActivationFunction = self._unbounded(step)
        for index in range(len(self.tensors)):
            factor = factors.get(self._group_of(index))
            if factor is not None and self._is_int8(index):
                self._set(index, self._scale(index) * factor)
        for step in self.weighted:
            of_input, of_output = (
                factors.get(self._group_of(index), 1.0) for index in step.activations
            )
            if of_input != 1 or of_output != 1:
                source, kernel, *bias = step.reads
                self._set(kernel, self._scale(kernel) * of_output / of_input)
                for index in bias:
                    self._set(index, self._scale(source) * self._scale(kernel))

    def _factors(self) -> dict[int, float]:
        """Returns a factor for the scales of each group except the fixed ones.

        It makes the scale 1 where the operator with the most channels reads the group.
        """
        widest: dict[int, tuple[int, int]] = {}
        for step in self.weighted:
            source, group = step.reads[0], self._group_of(step.reads[0])
            if group not in self.fixed:
                channels = len(self._scale(step.reads[1]))
                widest[group] = max(widest.get(group, (0, 0)), (channels, source))
        return {group: 1 / self._scale(source)[0] for group, (_, source) in widest.items()}

    def _may_change(self, step: Step) -> bool:
        """Whether an operator computes the same integers if its activations are rescaled."""
        if step.kind not in (*WEIGHTED, *HOMOGENEOUS):
            return False
        if step.kind in WEIGHTED:
            # Neither shared with another step nor computed by one.
            is_own = all(
                self.users[index] == 1 and self._is_constant(index) for index in step.reads[1:]
            )
            if not is_own or not all(map(self._is_int8, step.activations)):
                return False
        return self._unbounded(step) is not None

    def _function(self, step: Step) -> int:
        return getattr(step.options, "fusedActivationFunction", self.functions.NONE)

    def _unbounded(self, step: Step) -> int | None:
        """Returns the activation function without its bound of 6, or `None` if it needs it.

        ReLU6 does not need its bound if int8 ends there or below.
        """
        function, index = self._function(step), step.writes[0]
        if function == self.functions.RELU6 and self._is_int8(index):
            end = 6 / self._scale(index)[0] + self.tensors[index].quantization.zeroPoint[0]
            return self.functions.RELU if np.round(end) >= LARGEST_INT8 else None
        return function if function in (self.functions.NONE, self.functions.RELU) else None

    def _group_of(self, index: int) -> int:
        while self.parents[index] != index:
            index = self.parents[index]
        return index

    def _merge(self, indices: Iterable[int]) -> None:
        groups = sorted({self._group_of(index) for index in indices})
        for group in groups:
            self.parents[group] = groups[0]

    def _is_constant(self, index: int) -> bool:
        data = self.buffers[self.tensors[index].buffer].data
        return data is not None and len(data) > 0

    def _is_int8(self, index: int) -> bool:
        tensor = self.tensors[index]
        has_scale = tensor.quantization is not None and tensor.quantization.scale is not None
        return tensor.type == self.int8 and has_scale

    def _scale(self, index: int) -> np.ndarray:
        return np.asarray(self.tensors[index].quantization.scale, "float64")

    def _set(self, index: int, scale: np.ndarray) -> None:
        quantization = self.tensors[index].quantization
        quantization.scale = scale.astype("float32")
        quantization.min = quantization.max = None


def _list(values: Any) -> list:
    """Returns a vector of the schema, which is `None` if empty, as a list."""
    return [] if values is None else list(values)
