"""Patches of the inputs of a convolution, and their moments, which decide on its outputs."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.convert.separable.kernels import Metric
from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.transposed import output_window
from sepconv_layers.twins import TRANSPOSED

# Numbers in the patches of a batch: with more, they are taken at random output positions.
LARGEST_BATCH = 2**22


def standard_kernels(conv: Any) -> np.ndarray:
    """The kernel of each group of a convolution, transposed or not.

    Returns:
        An array `(groups, channels, positions, filters)`, with one group for most convolutions.
    """
    kernel = keras.ops.convert_to_numpy(conv.kernel)  # including what LoRA adds
    if isinstance(conv, TRANSPOSED):
        kernel = np.swapaxes(kernel, -1, -2)  # to (*kernel_size, channels, filters)
    *_, channels, filters = kernel.shape
    groups = getattr(conv, "groups", 1)
    kernels = kernel.reshape(-1, channels, groups, filters // groups)
    return kernels.transpose(2, 1, 0, 3).astype("float64")


class Patches:
    """The patches of inputs that the kernel of a layer is multiplied with.

    Args:
        conv: A convolution, transposed or not.
        sizes: Spatial sizes of its input.
    """

    def __init__(self, conv: Any, sizes: Sequence[int]) -> None:
        self.is_first = conv.data_format == "channels_first"
        geometry = Geometry.of(
            conv.kernel_size,
            len(conv.kernel_size),
            conv.strides,
            conv.padding,
            "channels_last",
            conv.dilation_rate,
        )
        # For each axis, the input of each output and kernel element; the size where there is none.
        self.sources = [
            _transposed_sources(geometry, axis, size, conv.output_padding)
            if isinstance(conv, TRANSPOSED)
            else _sources(geometry, axis, sizes)
            for axis, size in enumerate(sizes)
        ]

    @property
    def positions(self) -> int:
        """Number of positions of the output."""
        return math.prod(len(sources) for sources in self.sources)

    def at(self, inputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns patches `(number, channels * kernel positions)`.

        Args:
            inputs: Inputs of the layer.
            positions: Indices of output positions, counted through all samples.
        """
        if self.is_first:
            inputs = np.moveaxis(inputs, 1, -1)
        sizes = [len(sources) for sources in self.sources]
        sample, *outputs = np.unravel_index(positions, (len(inputs), *sizes))
        inputs = np.pad(inputs, [(0, 0), *[(0, 1)] * len(sizes), (0, 0)])
        axes = [sources[at] for sources, at in zip(self.sources, outputs, strict=True)]
        rank = len(axes)
        index = [
            axis.reshape(len(positions), *(1,) * i, -1, *(1,) * (rank - i - 1))
            for i, axis in enumerate(axes)
        ]
        found = inputs[(sample.reshape(-1, *(1,) * rank), *index)]
        found = found.reshape(len(positions), -1, inputs.shape[-1])
        return found.swapaxes(1, 2).reshape(len(positions), -1)


def _sources(geometry: Geometry, axis: int, sizes: Sequence[int]) -> np.ndarray:
    shape = (1, *sizes, 1)
    outputs = geometry.output_shape(shape, 1)[1 + axis]
    before, _ = geometry.pad_widths(shape)[axis]
    starts = np.arange(outputs)[:, None] * geometry.strides[axis] - before
    sources = starts + np.arange(geometry.kernel_size[axis]) * geometry.dilation_rate[axis]
    return np.where((sources >= 0) & (sources < sizes[axis]), sources, sizes[axis])


def _transposed_sources(geometry: Geometry, axis: int, size: int, output_padding: Any) -> Any:
    stride = geometry.strides[axis]
    start, length = output_window(size, geometry, axis, output_padding)
    taps = np.arange(geometry.kernel_size[axis]) * geometry.dilation_rate[axis]
    full = np.arange(start, start + length)[:, None] - taps
    is_input = (full % stride == 0) & (full >= 0) & (full < size * stride)
    return np.where(is_input, full // stride, size)


class Moments:
    """Sums over patches from which a layer is fitted; their size does not depend on the data.

    Each has one row for each group of the convolution.

    Args:
        conv: The standard convolution whose outputs are to be reproduced.
    """

    def __init__(self, conv: Any) -> None:
        self.conv, self.kernels = conv, standard_kernels(conv)
        groups, *_, filters = self.kernels.shape
        self.weights = self.kernels.reshape(groups, -1, filters)
        elements = self.weights.shape[1]
        self.second = np.zeros((groups, elements, elements))
        self.cross = np.zeros((groups, elements, filters))
        self.inputs, self.outputs = np.zeros((groups, elements)), np.zeros((groups, filters))
        self.energy, self.count = np.zeros(groups), 0
        self.random = np.random.default_rng(0)

    def add(self, inputs: np.ndarray, original: np.ndarray | None = None) -> None:
        """Adds a batch.

        Args:
            inputs: Inputs that the layer to fit gets.
            original: Inputs that the standard convolution gets for the same samples; by default
                the same.
        """
        rank = len(self.conv.kernel_size)
        is_first = self.conv.data_format == "channels_first"
        sizes = inputs.shape[2:] if is_first else inputs.shape[1:-1]
        patches = Patches(self.conv, sizes[:rank])
        positions = np.arange(len(inputs) * patches.positions)
        groups, elements, _ = self.weights.shape
        most = max(LARGEST_BATCH // (groups * elements), 1)
        if len(positions) > most:
            positions = self.random.choice(positions, most, replace=False)

        def of_groups(inputs: np.ndarray) -> np.ndarray:
            found = patches.at(inputs, positions).astype("float32")
            return found.reshape(len(positions), groups, elements).swapaxes(0, 1)

        mine = of_groups(inputs)
        theirs = mine if original is None else of_groups(original)
        wanted = theirs @ self.weights.astype("float32")
        self.second += mine.swapaxes(1, 2) @ mine
        self.cross += mine.swapaxes(1, 2) @ wanted
        self.inputs += mine.sum(1, dtype="float64")
        self.outputs += wanted.sum(1, dtype="float64")
        self.energy += np.sum(np.square(wanted), axis=(1, 2), dtype="float64")
        self.count += len(positions)

    def metrics(self, centered: bool) -> list[Metric]:
        """The metric of each group, `centered` if the mean of each filter does not count."""
        second, cross = self.second / self.count, self.cross / self.count
        energy = self.energy / self.count
        if centered:
            inputs, outputs = self.inputs / self.count, self.outputs / self.count
            second = second - inputs[:, :, None] * inputs[:, None]
            cross = cross - inputs[:, :, None] * outputs[:, None]
            energy = np.maximum(energy - np.sum(outputs**2, axis=1), 0.0)
        return list(map(Metric, second, cross, map(float, energy)))

    def shift(self, kernels: np.ndarray) -> np.ndarray:
        """What the kernels of the groups miss in the mean of each filter."""
        reached = self.inputs[:, None] @ kernels.reshape(self.weights.shape)
        return (self.outputs - reached[:, 0]).ravel() / self.count
