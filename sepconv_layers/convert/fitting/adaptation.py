"""Adapts the layers of a converted model to data, one after another."""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import keras
import numpy as np

from sepconv_layers.convert.fitting.calibration import Calibration, Statistics, inputs_of, run
from sepconv_layers.convert.fitting.moments import Moments
from sepconv_layers.convert.folding import NORMALIZATIONS

NONE: Mapping[int, np.ndarray] = MappingProxyType({})


class Fitted(Protocol):
    """A layer of a converted model that can be fitted to data.

    Attributes:
        old: The layer of the original model whose outputs it reproduces.
        new: The layer.
    """

    old: Any
    new: Any

    def moments(self) -> Moments:
        """Returns the sums that it is fitted from, still empty."""
        ...

    def to_data(self, moments: Moments) -> None:
        """Sets the weights by which the outputs are closest to those of the original layer."""
        ...


def adapt(
    model: keras.Model,
    converted: keras.Model,
    fits: Sequence[Fitted],
    pairs: Iterable[tuple[Any, Any]],
    calibration: Calibration,
    kept: Mapping[int, np.ndarray] = NONE,
) -> None:
    """Fits each layer to the inputs that it gets, and corrects each batch normalization after it.

    What stands before a layer is final by then. Each step runs the model up to its layer.

    Args:
        model: The original model.
        converted: The converted model, which is changed.
        fits: Its layers that are fitted.
        pairs: Its other layers with those of the original model that they are copies of.
        calibration: The data.
        kept: By the id of a normalization of the original model, whether the converted one has each
            of its channels. By default, it has all.
    """
    by_layer = {id(fit.new): fit for fit in fits}
    norms = _norms(pairs)
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
            of_old = before.of(old := norms[key][0])
            if id(old) in kept:
                of_old = tuple(values[kept[id(old)]] for values in of_old)
            _correct(layer, of_old, now.of(layer))
            continue
        fit = by_layer[key]
        moments = fit.moments()
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
