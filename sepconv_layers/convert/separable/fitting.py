"""Fits the separable convolutions of a converted model to calibration data, one after another."""

import collections
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.convert.folding import NORMALIZATIONS
from sepconv_layers.convert.separable.calibration import (
    Calibration,
    Call,
    Statistics,
    inputs_of,
    run,
)
from sepconv_layers.convert.separable.kernels import Factors, closest, fitted, total_error
from sepconv_layers.convert.separable.patches import Moments, standard_kernels

MOST_NUMBERS = 2**27  # in moments that are held at a time: 1 GB


class Fit:
    """A separable convolution in place of a standard one, with the closest kernels at first.

    Args:
        old: The standard convolution.
        new: The separable one, with the weights of its depthwise and its pointwise step.
        rank: Number of depthwise outputs per input channel.
        is_centered: Whether the means of the outputs do not count, because a bias or a
            normalization sets them.

    Attributes:
        error: Relative error of the kernel.
        output_error: Relative error of the outputs on data; `None` before `to_data`.
    """

    def __init__(self, old: Any, new: Any, rank: int, is_centered: bool) -> None:
        self.old, self.new, self.rank, self.is_centered = old, new, rank, is_centered
        self.kernels = standard_kernels(old)
        self.output_error: float | None = None
        self._set([closest(kernel, rank) for kernel in self.kernels], 0.0)

    def to_data(self, moments: Moments) -> None:
        """Sets the kernels whose outputs are closest to those of the standard convolution."""
        metrics = moments.metrics(self.is_centered)
        factors = [
            fitted(kernel, self.rank, metric)
            for kernel, metric in zip(self.kernels, metrics, strict=True)
        ]
        kernels = np.stack([one.product() for one in factors])
        self._set(factors, moments.shift(kernels))
        self.output_error = math.sqrt(total_error(kernels, metrics))

    def _set(self, factors: Sequence[Factors], shift: Any) -> None:
        bias = [keras.ops.convert_to_numpy(self.old.bias) + shift] if self.old.use_bias else []
        size = self.old.kernel_size
        depthwise = np.concatenate([one.depthwise for one in factors]).swapaxes(0, 1)
        pointwise = [one.pointwise.reshape(-1, one.pointwise.shape[-1]) for one in factors]
        self.new.set_weights(
            [
                depthwise.reshape(*size, -1, self.rank),
                np.concatenate(pointwise, axis=-1)[(None,) * len(size)],
                *bias,
            ]
        )
        norm = np.linalg.norm(self.kernels)
        lost = np.linalg.norm(self.kernels - np.stack([one.product() for one in factors]))
        self.error = float(lost / norm) if norm else 0.0


def adapt(
    model: keras.Model,
    converted: keras.Model,
    fits: Sequence[Fit],
    pairs: Iterable[tuple[Any, Any]],
    calibration: Calibration,
) -> None:
    """Fits each layer to the inputs that it gets, and corrects each batch normalization after it.

    What stands before a layer is final by then. Each step runs the model up to its layer.

    Args:
        model: The original model.
        converted: The converted model, which is changed.
        fits: Its separable convolutions.
        pairs: Its other layers with those of the original model that they are copies of.
        calibration: The data.
    """
    by_layer = {id(fit.new): fit for fit in fits}
    norms = _norms(pairs)
    layers = [*(fit.new for fit in fits), *(new for _, new in norms.values())]
    before = Statistics()
    for batch in calibration:
        run(model, batch, [old for old, _ in norms.values()], before.add)
    steps: list[Any] = []  # layers in the order of their calls
    layers = [*(fit.new for fit in fits), *(new for _, new in norms.values())]
    run(converted, next(iter(calibration)), layers, lambda call: steps.append(call.layer))
    calls = collections.Counter(map(id, steps))
    once = {id(layer): layer for layer in steps}
    for key, layer in itertools.dropwhile(lambda step: step[0] not in by_layer, once.items()):
        if key in norms:
            now = Statistics()
            for batch in calibration:
                run(converted, batch, [layer], now.add, calls[key])
            _correct(layer, before.of(norms[key][0]), now.of(layer))
            continue
        fit = by_layer[key]
        moments = Moments(fit.old)
        for batch in calibration:
            mine = inputs_of(converted, batch, layer, calls[key])
            theirs = inputs_of(model, batch, fit.old, calls[key])
            for one, other in zip(mine, theirs, strict=True):
                moments.add(one, other)
        fit.to_data(moments)


def _norms(pairs: Iterable[tuple[Any, Any]]) -> dict[int, tuple[Any, Any]]:
    """Each batch normalization, also inside other layers, with its copy, by the id of the copy."""
    return {
        id(copy): (norm, copy)
        for old, new in pairs
        for norm, copy in zip(old._flatten_layers(), new._flatten_layers(), strict=True)
        if isinstance(norm, NORMALIZATIONS)
    }


def _correct(norm: Any, before: Any, now: Any) -> None:
    """Changes the statistics of a normalization as those of its inputs on the data have changed.

    So they stay as they are where the conversion is exact, even if those in training were others.
    """
    (old_mean, old_variance), (mean, variance) = before, now
    scale = (variance + norm.epsilon) / (old_variance + norm.epsilon)
    moving_mean, moving_variance = map(
        keras.ops.convert_to_numpy, (norm.moving_mean, norm.moving_variance)
    )
    corrected = (moving_variance + norm.epsilon) * scale - norm.epsilon
    norm.moving_variance.assign(np.maximum(corrected, 0.0))
    norm.moving_mean.assign(mean + (moving_mean - old_mean) * np.sqrt(scale))


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

        def add(call: Call, found: dict[int, Moments] = found) -> None:
            found[id(call.layer)].add(call.inputs)

        for batch in calibration:
            run(model, batch, group, add)
        yield from found.values()


def _numbers(conv: Any) -> int:
    return getattr(conv, "groups", 1) * (math.prod(conv.kernel.shape) // conv.filters) ** 2
