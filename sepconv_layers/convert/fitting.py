"""Fits the separable convolutions of a converted model to calibration data, one after another."""

import collections
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.convert.calibration import Calibration, calls_in, measure
from sepconv_layers.convert.folding import NORMALIZATIONS
from sepconv_layers.convert.kernels import Factors, closest, fitted
from sepconv_layers.convert.patches import Moments, standard_kernel

MOST_NUMBERS = 2**27  # in moments that are held at a time: 1 GB


class Fit:
    """A separable convolution in place of a standard one, with the closest kernels at first.

    Args:
        old: The standard convolution.
        new: The separable one.
        is_centered: Whether the means of the outputs do not count, because a bias or a
            normalization sets them.

    Attributes:
        error: Relative error of the kernel.
        output_error: Relative error of the outputs on data; `None` before `to_data`.
    """

    def __init__(self, old: Any, new: Any, is_centered: bool) -> None:
        self.old, self.new, self.is_centered = old, new, is_centered
        self.kernel = standard_kernel(old)
        self.output_error: float | None = None
        self._set(closest(self.kernel, new.depth_multiplier), 0.0)

    def to_data(self, moments: Moments) -> None:
        """Sets the kernels whose outputs are closest to those of the standard convolution."""
        metric = moments.metric(self.is_centered)
        factors = fitted(self.kernel, self.new.depth_multiplier, metric)
        kernel = factors.product()
        self._set(factors, moments.shift(kernel))
        self.output_error = math.sqrt(metric.error(kernel))

    def _set(self, factors: Factors, shift: Any) -> None:
        bias = [keras.ops.convert_to_numpy(self.old.bias) + shift] if self.old.use_bias else []
        size = self.old.kernel_size
        channels, _, rank = factors.depthwise.shape
        depthwise = factors.depthwise.swapaxes(0, 1).reshape(*size, channels, rank)
        pointwise = factors.pointwise.reshape(*(1,) * len(size), channels * rank, -1)
        self.new.set_weights([depthwise, pointwise, *bias])
        norm = np.linalg.norm(self.kernel)
        lost = np.linalg.norm(self.kernel - factors.product())
        self.error = float(lost / norm) if norm else 0.0


def adapt(
    model: keras.Model, converted: keras.Model, fits: Sequence[Fit], calibration: Calibration
) -> None:
    """Fits each layer to the inputs that it gets, and measures each batch normalization after it.

    What stands before a layer is final by then. Each step runs the model up to its layer.

    Args:
        model: The original model.
        converted: The converted model, which is changed.
        fits: Its separable convolutions.
        calibration: The data.
    """
    by_layer = {id(fit.new): fit for fit in fits}
    norms = [layer for layer in converted._flatten_layers() if isinstance(layer, NORMALIZATIONS)]
    batch = next(iter(calibration))
    calls = [call.layer for call in calls_in(converted, batch, [*norms, *(f.new for f in fits)])]
    number = collections.Counter(map(id, calls))
    steps = {id(layer): layer for layer in calls}
    for key, layer in itertools.dropwhile(lambda step: step[0] not in by_layer, steps.items()):
        if key not in by_layer:
            measure(converted, layer, calibration, number[key])
            continue
        fit = by_layer[key]
        moments = Moments(fit.old)
        for batch in calibration:
            mine = calls_in(converted, batch, [layer], number[key])
            theirs = calls_in(model, batch, [fit.old], number[key])
            for one, other in zip(mine, theirs, strict=True):
                moments.add(one.inputs, other.inputs)
        fit.to_data(moments)


def moments_of(
    model: keras.Model, convs: Sequence[Any], calibration: Calibration
) -> Iterator[Moments]:
    """Yields the moments of standard convolutions on their own inputs, in order."""
    waiting = list(convs)
    while waiting:
        group = [waiting.pop(0)]
        numbers = _numbers(group[0])
        while waiting and numbers + _numbers(waiting[0]) <= MOST_NUMBERS:
            numbers += _numbers(waiting[0])
            group.append(waiting.pop(0))
        found = {id(conv): Moments(conv) for conv in group}
        for batch in calibration:
            for call in calls_in(model, batch, group):
                found[id(call.layer)].add(call.inputs, call.inputs)
        yield from found.values()


def _numbers(conv: Any) -> int:
    return (math.prod(conv.kernel.shape) // conv.filters) ** 2
