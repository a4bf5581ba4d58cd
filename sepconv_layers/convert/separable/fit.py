"""The separable convolutions of a converted model, with the kernels that are closest."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.convert.fitting.calibration import Calibration, Call, run
from sepconv_layers.convert.fitting.moments import Moments, total_error
from sepconv_layers.convert.fitting.patches import Product, standard_kernels
from sepconv_layers.convert.separable.kernels import Factors, closest, fitted

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

    def moments(self) -> Moments:
        """Returns the sums that it is fitted from, still empty."""
        return Moments(Product(self.old))

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
        found = {id(conv): Moments(Product(conv)) for conv in group}

        def add(call: Call, found: dict[int, Moments] = found) -> None:
            found[id(call.layer)].add(call.inputs)

        for batch in calibration:
            run(model, batch, group, add)
        yield from found.values()


def _numbers(conv: Any) -> int:
    return getattr(conv, "groups", 1) * (math.prod(conv.kernel.shape) // conv.filters) ** 2
