"""Multiply-accumulates (MACs) of the layers of a model before and after their conversion."""

import collections
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.cost import separable_ratio
from sepconv_layers.cost.rules import count_macs
from sepconv_layers.cost.trace import traced_calls
from sepconv_layers.twins import separable_like


class Costs:
    """The MACs of a model and of its convolutions, with one sample.

    Args:
        model: The model.
        convs: Its standard convolutions.
        input_shapes: Shapes of the inputs without the batch, for a model with open sizes. Without
            them, the MACs of such a model are unknown, and costs are relative to the standard form.

    Attributes:
        total: MACs of the model; `None` if they are unknown.
        fixed: MACs of everything but the convolutions.
        uncounted: Layers whose MACs are missing from the total, as `"name (Kind)"`.
    """

    def __init__(
        self, model: keras.Model, convs: Sequence[Any], input_shapes: Sequence[tuple] | None
    ) -> None:
        is_open = any(None in tensor.shape[1:] for tensor in model.inputs)
        self.total: int | None = None
        self.fixed = 0
        self.uncounted: list[str] = []
        self._standard: dict[int, int] = {}
        self._first_rank: dict[int, int] = {}
        if is_open and input_shapes is None:
            return
        calls = traced_calls(model, input_shapes if is_open else None)
        self.total = sum(call.macs or 0 for call in calls)
        names = [f"{c.path} ({type(c.operation).__name__})" for c in calls if c.macs is None]
        self.uncounted = list(dict.fromkeys(names))
        by_layer = collections.defaultdict(list)
        for call in calls:
            by_layer[id(call.operation)].append(call)
        for conv in convs:
            own = by_layer[id(conv)]
            separable = separable_like(conv, depth_multiplier=1)
            separable.build(own[0].inputs[0])
            self._standard[id(conv)] = sum(call.macs or 0 for call in own)
            self._first_rank[id(conv)] = sum(_macs(separable, call) for call in own)
        self.fixed = self.total - sum(self._standard.values())

    def standard(self, conv: Any) -> float:
        """MACs of all calls of a standard convolution, or 1 if they are unknown."""
        return 1.0 if self.total is None else self._standard[id(conv)]

    def separable(self, conv: Any, rank: int) -> float:
        """The same for the separable convolution of that rank in its place."""
        if self.total is None:
            groups = getattr(conv, "groups", 1)
            return separable_ratio(conv.filters // groups, conv.kernel_size, rank)
        return rank * self._first_rank[id(conv)]


def _macs(separable: Any, call: Any) -> int:
    if not isinstance(separable, keras.Model):
        return count_macs(separable, call.outputs, call.inputs)
    depthwise, pointwise = separable.layers
    between = [depthwise.compute_output_shape(call.inputs[0])]
    return count_macs(depthwise, between, call.inputs) + count_macs(
        pointwise, call.outputs, between
    )
