"""Replaces Keras backend functions with portable ones while a graph for LiteRT or ONNX is traced.

All layers and operations of Keras call a few functions of its backend, which are written for
TensorFlow's kernels. LiteRT and ONNX lack some of TensorFlow's operators, and have others that
TensorFlow lacks.
"""

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras

from sepconv_layers import ops
from sepconv_layers.arguments import standardize_tuple

Function = Callable[..., Any]

_LOCK = threading.RLock()  # otherwise a thread could restore another one's replacements


@contextlib.contextmanager
def portable_keras(for_litert: bool) -> Iterator[None]:
    """Context in which all that this thread traces is portable.

    XLA compiles no grouped or channels-first convolutions there. Seed generators, which even layers
    without an effect in inference call, do not advance.

    Args:
        for_litert: Whether to replace what LiteRT or TensorFlow Lite Micro cannot compute in
            integers: 3D convolutions and pooling by those of images, sums by means, and the
            selection of negative indices by arithmetic.
    """
    from keras.src.backend.tensorflow import nn, numpy

    replacements: list[tuple[Any, str, Function]] = [
        (numpy, "add", _add),
        (nn, "conv", partial(_conv, for_litert)),
        (nn, "conv_transpose", _channels_last),
        (nn, "depthwise_conv", _channels_last),
        (nn, "separable_conv", _channels_last),
        (keras.random.SeedGenerator, "next", _same_seed),
    ]
    if for_litert:
        replacements += [
            (nn, "max_pool", _pool),
            (nn, "average_pool", _pool),
            (numpy, "sum", _sum),
            (numpy, "take", _take),
        ]
    with _LOCK, contextlib.ExitStack() as undo:
        for owner, name, function in replacements:
            original = getattr(owner, name)
            undo.callback(setattr, owner, name, original)
            setattr(owner, name, _in_this_thread(function, original))
        yield


def _in_this_thread(function: Function, original: Function) -> Function:
    thread = threading.get_ident()

    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        return function(original, *args, **kwargs)

    return call


def _same_seed(original: Function, generator: Any, ordered: bool = True) -> Any:
    return generator.state.value * 1


def _add(original: Function, x1: Any, x2: Any) -> Any:
    """Avoids `BiasAdd` for channels-first biases of 1D and 3D inputs.

    Except where the last axis has as many elements as there are channels: there Keras adds the bias
    along the last axis.
    """
    shape: Sequence[int] = getattr(x2, "shape", ())
    is_bias = len(shape) in (3, 5) and shape[1] != 1 == shape[0] == math.prod(shape[2:])
    if is_bias and getattr(x1, "dtype", None) == x2.dtype and x1.shape[-1] != shape[1]:
        return x1 + x2
    return original(x1, x2)


def _conv(
    as_images: bool,
    original: Function,
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Any:
    inputs, kernel = map(keras.ops.convert_to_tensor, (inputs, kernel))
    rank = len(inputs.shape) - 2
    strides = standardize_tuple(strides, rank, "strides")
    dilation_rate = standardize_tuple(dilation_rate, rank, "dilation_rate")

    def convolved(inputs: Any) -> Any:
        groups = inputs.shape[-1] // kernel.shape[-2]
        if groups == 1 and rank == 3 and as_images:
            return _conv_of_images(original, inputs, kernel, strides, padding, dilation_rate)
        if groups == 1 and (rank < 3 or max(dilation_rate) == 1):
            return original(inputs, kernel, strides, padding, "channels_last", dilation_rate)
        if groups == inputs.shape[-1] > 1:
            depthwise_kernel = keras.ops.reshape(kernel, (*kernel.shape[:-2], groups, -1))
            return ops.depthwise_conv(
                inputs, depthwise_kernel, strides, padding, "channels_last", dilation_rate
            )
        if rank == 3 and as_images:
            parts = zip(_split(inputs, groups), _split(kernel, groups), strict=True)
            return keras.ops.concatenate(
                [
                    _conv_of_images(original, part, some, strides, padding, dilation_rate)
                    for part, some in parts
                ],
                axis=-1,
            )
        return _in_groups(inputs, kernel, groups, strides, padding.upper(), dilation_rate)

    return _in_channels_last(convolved, inputs, data_format)


def _conv_of_images(
    original: Function,
    inputs: Any,
    kernel: Any,
    strides: tuple,
    padding: str,
    dilation_rate: tuple,
) -> Any:
    """A 3D convolution as one of images: those that a kernel reaches are stacked as channels.

    So all products are summed up in one integer convolution, without rounding in between.
    """
    batch, depth, *image, channels = inputs.shape
    (size, *image_size), filters = kernel.shape[:3], kernel.shape[-1]
    stride, dilation = strides[0], dilation_rate[0]
    reach = (size - 1) * dilation + 1
    # Microcontrollers slice at most four axes.
    rows = keras.ops.reshape(inputs, (batch, depth, math.prod(image), channels))
    if padding == "same":
        missing = max((math.ceil(depth / stride) - 1) * stride + reach - depth, 0)
        before, depth = missing // 2, depth + missing
        if missing:
            rows = keras.ops.pad(rows, [(0, 0), (before, missing - before), (0, 0), (0, 0)])
    count = (depth - reach) // stride + 1
    taps = [
        rows[:, start : start + (count - 1) * stride + 1 : stride]
        for start in range(0, size * dilation, dilation)
    ]
    rows = keras.ops.concatenate(taps, axis=-1) if size > 1 else taps[0]
    images = keras.ops.reshape(rows, (batch * count, *image, size * channels))
    kernel = keras.ops.reshape(
        keras.ops.moveaxis(kernel, 0, 2), (*image_size, size * channels, filters)
    )
    images = original(images, kernel, strides[1:], padding, "channels_last", dilation_rate[1:])
    return keras.ops.reshape(images, (batch, count, *images.shape[1:]))


def _split(tensor: Any, groups: int) -> list[Any]:
    return keras.ops.split(tensor, groups, axis=-1)


def _in_groups(
    inputs: Any, kernel: Any, groups: int, strides: tuple, padding: str, dilation_rate: tuple
) -> Any:
    """Uses operations that may have no TensorFlow kernel: they are only traced here."""
    import tensorflow as tf

    if len(strides) < 3:
        return tf.nn.convolution(inputs, kernel, strides, padding, dilations=dilation_rate)
    parts = zip(tf.split(inputs, groups, -1), tf.split(kernel, groups, -1), strict=True)
    strides, dilation_rate = (1, *strides, 1), (1, *dilation_rate, 1)
    return tf.concat(
        [
            tf.nn.conv3d(part, some, strides, padding, dilations=dilation_rate)
            for part, some in parts
        ],
        -1,
    )


def _channels_last(original: Function, *args: Any, **kwargs: Any) -> Any:
    """Calls a function of Keras's backend with channels-last inputs."""
    given = inspect.signature(original).bind(*args, **kwargs).arguments

    def convolved(inputs: Any) -> Any:
        return original(**{**given, "inputs": inputs, "data_format": "channels_last"})

    return _in_channels_last(convolved, given["inputs"], given.get("data_format"))


def _sum(original: Function, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Multiplies the mean: TensorFlow Lite Micro computes a wrong sum of integers."""
    import tensorflow as tf

    x = keras.ops.convert_to_tensor(x)
    axes = range(x.shape.rank) if axis is None else [axis] if isinstance(axis, int) else axis
    sizes = [x.shape[axis] for axis in axes]
    if not x.dtype.is_floating or None in sizes or 0 in sizes:
        return original(x, axis=axis, keepdims=keepdims)
    return tf.reduce_mean(x, axis, keepdims) * math.prod(sizes)


def _take(original: Function, x: Any, indices: Any, axis: int | None = None) -> Any:
    """Counts negative indices from the end by arithmetic."""
    import tensorflow as tf

    if axis is None or not isinstance(indices, tf.Tensor):
        return original(x, indices, axis)
    size = tf.cast(tf.shape(x)[axis], indices.dtype)
    return tf.gather(x, indices + size * tf.cast(indices < 0, indices.dtype), axis=axis)


def _pool(
    original: Function,
    inputs: Any,
    pool_size: Any,
    strides: Any = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> Any:
    """Pools each image, then along the depth: pooling is separable."""
    rank = len(inputs.shape) - 2
    size = standardize_tuple(pool_size, rank, "pool_size")
    strides = size if strides is None else standardize_tuple(strides, rank, "strides")

    def pooled(inputs: Any) -> Any:
        batch, depth, *image, channels = keras.ops.shape(inputs)
        images = keras.ops.reshape(inputs, (batch * depth, *image, channels))
        images = original(images, size[1:], strides[1:], padding, "channels_last")
        _, height, width, _ = keras.ops.shape(images)
        rows = keras.ops.reshape(images, (batch, depth, height * width, channels))
        rows = original(rows, (size[0], 1), (strides[0], 1), padding, "channels_last")
        return keras.ops.reshape(rows, (batch, -1, height, width, channels))

    if rank < 3:
        return original(inputs, size, strides, padding, data_format)
    return _in_channels_last(pooled, inputs, data_format)


def _in_channels_last(function: Callable[[Any], Any], inputs: Any, data_format: str | None) -> Any:
    """Applies a channels-last function to inputs of either data format."""
    if (data_format or keras.config.image_data_format()) == "channels_last":
        return function(inputs)
    return keras.ops.moveaxis(function(keras.ops.moveaxis(inputs, 1, -1)), -1, 1)
