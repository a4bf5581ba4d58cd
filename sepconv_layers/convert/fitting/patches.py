"""The products of kernels and patches of inputs by which layers mix channels."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.transposed import output_window
from sepconv_layers.twins import TRANSPOSED


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


class Product:
    """The product of a kernel and of what a layer takes from its inputs at each output position.

    Args:
        layer: A dense layer, or a convolution, separable or not, transposed or not. Of a separable
            one, it is the product with the pointwise kernel.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    @property
    def kernels(self) -> np.ndarray:
        """The kernel of each group, `(groups, elements, filters)`: one group for most layers."""
        if hasattr(self.layer, "pointwise_kernel"):
            kernel = keras.ops.convert_to_numpy(self.layer.pointwise_kernel).astype("float64")
            return kernel.reshape(1, -1, kernel.shape[-1])
        if not hasattr(self.layer, "kernel_size"):
            return keras.ops.convert_to_numpy(self.layer.kernel).astype("float64")[None]
        groups, channels, positions, filters = (kernels := standard_kernels(self.layer)).shape
        return kernels.reshape(groups, channels * positions, filters)

    def assign(self, kernels: np.ndarray) -> None:
        """Sets the kernel of each group."""
        if hasattr(self.layer, "pointwise_kernel"):
            weight = self.layer.pointwise_kernel
            weight.assign(kernels.reshape(weight.shape))
        elif not hasattr(self.layer, "kernel_size"):
            self.layer.kernel.assign(kernels[0])
        else:
            size = self.layer.kernel_size
            groups, _, filters = kernels.shape
            kernel = kernels.reshape(groups, -1, math.prod(size), filters).transpose(2, 1, 0, 3)
            kernel = kernel.reshape(*size, -1, groups * filters)
            is_transposed = isinstance(self.layer, TRANSPOSED)
            self.layer.kernel.assign(kernel.swapaxes(-1, -2) if is_transposed else kernel)

    def number(self, inputs: np.ndarray) -> int:
        """The number of output positions, counted through all samples."""
        if not hasattr(self.layer, "kernel_size"):
            return math.prod(inputs.shape[:-1])
        return len(inputs) * self._patches(inputs).positions

    def rows(self, inputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """What the kernel of each group is multiplied with, `(groups, number, elements)`.

        Args:
            inputs: Inputs of the layer.
            positions: Indices of output positions, counted through all samples.
        """
        if not hasattr(self.layer, "kernel_size"):
            return inputs.reshape(-1, inputs.shape[-1])[positions].astype("float32")[None]
        found = self._patches(inputs).at(inputs, positions).astype("float32")
        if hasattr(self.layer, "pointwise_kernel"):
            depthwise = keras.ops.convert_to_numpy(self.layer.depthwise_kernel)
            depthwise = depthwise.reshape(-1, *depthwise.shape[-2:])
            taps, channels, _ = depthwise.shape
            found = found.reshape(-1, channels, taps)
            found = np.einsum("nct,tcm->ncm", found, depthwise, optimize=True)
        groups = getattr(self.layer, "groups", 1)
        return found.reshape(len(positions), groups, -1).swapaxes(0, 1)

    def _patches(self, inputs: np.ndarray) -> Patches:
        is_first = self.layer.data_format == "channels_first"
        return Patches(self.layer, inputs.shape[2:] if is_first else inputs.shape[1:-1])
