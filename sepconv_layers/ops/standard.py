"""The standard convolution, with the same reach as the depthwise one: what twins are made of."""

import itertools
import math
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.channels_last import torch_conv, with_channels_last
from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.per_channel import add_bias
from sepconv_layers.ops.planes import planes
from sepconv_layers.ops.pointwise import pointwise
from sepconv_layers.ops.polyphase import polyphase
from sepconv_layers.ops.taps import WRITTEN_OUT

FEW_CHANNELS = 4


def standard(inputs: Any, kernel: Any, geometry: Geometry, bias: Any = None) -> Any:
    """Standard convolution by the backend's kernel, whatever that can't do put around it."""
    if inputs.shape[0] == 0:
        # As in `DepthwiseConv`. No number is computed: any kernel element gives shape and gradient.
        inputs, geometry = geometry.pad(inputs)
        return pointwise(inputs, kernel[(0,) * geometry.rank], geometry, bias)
    if keras.backend.backend() == "torch":
        return torch_conv(inputs, kernel, geometry, bias=bias)
    return add_bias(_standard(inputs, kernel, geometry), bias, geometry)


def _standard(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    if geometry.is_open(inputs):
        return _conv(inputs, kernel, geometry)
    in_2d = _is_better_in_2d(kernel, geometry)
    as_product = not in_2d and _is_better_as_product(kernel, geometry)
    # On a CPU TensorFlow's kernels know channels-last only.
    is_limited = keras.backend.backend() == "tensorflow" and context.device() == "cpu"
    is_better_last = in_2d or as_product or is_limited
    if geometry.data_format == "channels_first" and is_better_last:
        return with_channels_last(standard, inputs, kernel, geometry)
    if in_2d:
        return _in_2d(inputs, kernel, geometry)
    if as_product:
        return _as_product(inputs, kernel, geometry)
    if keras.backend.backend() == "tensorflow":
        # TensorFlow refuses strides together with a dilation.
        if max(geometry.strides) > 1 and max(geometry.dilation_rate) > 1:
            return polyphase(standard, inputs, kernel, geometry)
        if _has_slow_gradient(inputs, kernel, geometry):
            return _tensorflow_3d(inputs, kernel, geometry)
    return _conv(inputs, kernel, geometry)


def _is_better_in_2d(kernel: Any, geometry: Geometry) -> bool:
    """Whether a convolution of volumes is faster as one of images.

    On a CPU it is where XLA compiles, and for a few channels where TensorFlow has no oneDNN.
    """
    if geometry.rank < 3 or context.device() != "cpu":
        return False
    if context.compiled():
        return True
    is_first = kernel.shape[-2] <= FEW_CHANNELS and geometry.strides[0] == 1
    return is_first and not context.has_onednn()


def _is_better_as_product(kernel: Any, geometry: Geometry) -> bool:
    """Whether XLA for a CPU multiplies faster than it convolves, as in the first layer of a net.

    That of TensorFlow convolves well from two channels on, that of JAX does not.
    """
    if not context.compiled() or context.device() != "cpu":
        return False
    few = FEW_CHANNELS if keras.backend.backend() == "jax" else 1
    return kernel.shape[-2] <= few and 1 < math.prod(geometry.kernel_size) <= WRITTEN_OUT


def _as_product(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Multiplies what meets the kernel, channels last."""
    alone = Geometry.of(1, geometry.rank, data_format=geometry.data_format)
    matrix = keras.ops.reshape(kernel, (*alone.kernel_size, -1, kernel.shape[-1]))
    return pointwise(_side_by_side(inputs, geometry), matrix, alone)


def _in_2d(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves what meets the kernel's planes as images, channels last."""
    plane = geometry.axes(slice(1, None))
    images = _side_by_side(inputs, geometry.axes(slice(1)))
    batch, size, *image = keras.ops.shape(images)
    images = keras.ops.reshape(images, (batch * size, *image))
    kernel = keras.ops.transpose(kernel, (1, 2, 0, 3, 4))
    kernel = keras.ops.reshape(kernel, (*plane.kernel_size, -1, kernel.shape[-1]))
    outputs = standard(images, kernel, plane)
    return keras.ops.reshape(outputs, (batch, size, *keras.ops.shape(outputs)[1:]))


def _side_by_side(inputs: Any, geometry: Geometry) -> Any:
    """What meets each element of a kernel, as channels of the outputs' positions."""
    inputs, geometry = geometry.pad(inputs)
    every = itertools.product(*map(range, geometry.kernel_size))
    return keras.ops.concatenate([geometry.tap(inputs, index) for index in every], axis=-1)


def _conv(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    return keras.ops.conv(
        inputs,
        kernel,
        strides=geometry.strides,
        padding=geometry.padding,
        data_format=geometry.data_format,
        dilation_rate=geometry.dilation_rate,
    )


def _has_slow_gradient(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether a graph on a CPU is better off with `_tensorflow_3d`.

    That is where TensorFlow runs without oneDNN, and not for a few positions.
    """
    import tensorflow as tf

    if geometry.rank < 3 or context.device() != "cpu" or context.has_onednn():
        return False
    if tf.executing_eagerly() or context.compiled() or None in inputs.shape[1:-1]:
        return False
    positions = math.prod(inputs.shape[1:-1]) / math.prod(geometry.strides)
    return positions > kernel.shape[-2]


def _tensorflow_3d(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves volumes, and has the gradients of a sum of 2D convolutions.

    TensorFlow's own take up to ninety times as long without oneDNN. The sum itself never runs: a
    graph leaves out what nothing needs.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> tuple:
        def gradients(upstream: Any) -> tuple:
            with tf.GradientTape() as tape:
                tape.watch((inputs, kernel))
                outputs = planes(inputs, kernel, geometry, standard)
            return tuple(tape.gradient(outputs, (inputs, kernel), upstream))

        return _conv(inputs, kernel, geometry), gradients

    return convolve(inputs, kernel)
