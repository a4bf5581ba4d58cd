"""Fits the kernels of a pruned model to the channels that are left."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from sepconv_layers.convert.fitting.adaptation import adapt
from sepconv_layers.convert.fitting.calibration import Calibration
from sepconv_layers.convert.fitting.moments import Metric, Moments, total_error
from sepconv_layers.convert.fitting.patches import Product
from sepconv_layers.convert.pruning.channels import Part

# Weight of keeping each kernel element, relative to the mean second moment.
RIDGE = 1e-3


class Refit:
    """A layer of a pruned model that mixes channels.

    Args:
        part: The layer of the original model.
        new: The one of the pruned model, with the remaining weights.
        filters: For each output channel, whether it is left.

    Attributes:
        output_error: Relative root-mean-square error of the outputs on the data.
    """

    def __init__(self, part: Part, new: Any, filters: np.ndarray) -> None:
        self.old, self.new, self.filters = part.layer, new, filters
        self.is_centered = self.old.use_bias or part.norm is not None
        self.output_error = 0.0

    def moments(self) -> Moments:
        """Returns the sums that it is fitted from, still empty."""
        return Moments(Product(self.old), Product(self.new), self.filters)

    def to_data(self, moments: Moments) -> None:
        """Sets the kernel and bias whose outputs are closest to those of the original layer."""
        if moments.is_unchanged:
            return
        metrics = moments.metrics(self.is_centered)
        # Also of what does not vary, so that rounding errors do not decide.
        traces = np.trace(moments.second, axis1=1, axis2=2)
        ridges = RIDGE * traces / (moments.count * moments.second.shape[-1])
        kernels = moments.product.kernels
        kernels += [_correction(*each) for each in zip(kernels, metrics, ridges, strict=True)]
        moments.product.assign(kernels)
        if self.new.use_bias:
            self.new.bias.assign_add(moments.shift(kernels))
        self.output_error = math.sqrt(total_error(kernels, metrics))


def _correction(kernel: np.ndarray, metric: Metric, ridge: float) -> np.ndarray:
    """What to add to a kernel for the outputs to reproduce, the less the larger the ridge."""
    if not ridge:
        return np.zeros_like(kernel)
    second = metric.second + ridge * np.eye(len(kernel))
    return np.linalg.solve(second, metric.cross - metric.second @ kernel)


def refit(
    model: keras.Model,
    pruned: keras.Model,
    pairs: Iterable[tuple[Any, Any]],
    parts: Mapping[int, Part],
    kept: np.ndarray,
    calibration: Calibration,
) -> dict[int, float]:
    """Fits the layers that mix channels, and corrects batch normalizations, one after another.

    Args:
        model: The original model, without blocks.
        pruned: The pruned model, which is changed.
        pairs: Layers of the original model and of the pruned one.
        parts: The layers that depend on the number of channels, by their ids.
        kept: For each label, whether its channels are left.
        calibration: Inputs of the model.

    Returns:
        The relative error of the outputs of each fitted layer, by the id of the original one.
    """
    fits, others, channels = [], [], {}
    for old, new in pairs:
        part = parts.get(id(old))
        if part is not None and part.inputs.size:
            fits.append(Refit(part, new, kept[part.outputs]))
            continue
        others.append((old, new))
        if part is not None and "moving_mean" in part.cuts:
            channels[id(old)] = kept[part.cuts["moving_mean"][0]]
    adapt(model, pruned, fits, others, calibration, channels)
    return {id(fit.old): fit.output_error for fit in fits}
