"""Replaces Keras backend functions by portable ones while a graph for LiteRT or ONNX is traced.

All layers and operations of Keras go through a few functions of its backend, which are written
for TensorFlow's kernels. The exported formats have operators that TensorFlow lacks, and lack
others that it has.
"""

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from sepconv_layers import ops
from sepconv_layers.arguments import standardize_tuple

_ONE_AT_A_TIME = threading.RLock()  # or one thread would restore the replacements of another


@contextlib.contextmanager
def portable_keras(volumes_as_images: bool) -> Iterator[None]:
    """Makes whatever this thread traces portable.

    Grouped and channels-first convolutions are not compiled by XLA, and seed generators, which even
    layers without an effect in inference call, do not advance.

    Args:
        volumes_as_images: Whether to assemble 3D pooling from 2D pooling, as LiteRT needs.
    """
    from keras.src.backend.tensorflow import nn, numpy  # which Keras computes with

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (numpy, "add", _add),
        (nn, "conv", _conv),
        (nn, "conv_transpose", _channels_last),
        (nn, "depthwise_conv", _channels_last),
        (nn, "separable_conv", _channels_last),
        (keras.random.SeedGenerator, "next", _same_seed),
    ]
    if volumes_as_images:
        replaced += [(nn, "max_pool", _pool), (nn, "average_pool", _pool)]
    with _ONE_AT_A_TIME, contextlib.ExitStack() as undo:
        for place, name, function in replaced:
            plain = getattr(place, name)
            undo.callback(setattr, place, name, plain)
            setattr(place, name, _in_this_thread(function, plain))
        yield


def _in_this_thread(function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    thread = threading.get_ident()

    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return plain(*args, **kwargs)
        return function(plain, *args, **kwargs)

    return call


def _same_seed(plain: Callable[..., Any], generator: Any, ordered: bool = True) -> Any:
    return generator.state.value * 1


def _add(plain: Callable[..., Any], x1: Any, x2: Any) -> Any:
    """Avoids `BiasAdd` for channels-first biases of 1D and 3D inputs.

    Not where the last axis is as long as the channels: there Keras adds the bias along that axis.
    """
    shape: Sequence[int] = getattr(x2, "shape", ())
    is_bias = len(shape) in (3, 5) and shape[1] != 1 == shape[0] == math.prod(shape[2:])
    if is_bias and getattr(x1, "dtype", None) == x2.dtype and x1.shape[-1] != shape[1]:
        return x1 + x2
    return plain(x1, x2)


def _conv(
    plain: Callable[..., Any],
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
        if groups == 1 and (rank < 3 or max(dilation_rate) == 1):
            return plain(inputs, kernel, strides, padding, "channels_last", dilation_rate)
        if groups == inputs.shape[-1] > 1:
            one_each = keras.ops.reshape(kernel, (*kernel.shape[:-2], groups, -1))
            return ops.depthwise_conv(
                inputs, one_each, strides, padding, "channels_last", dilation_rate
            )
        return _in_groups(inputs, kernel, groups, strides, padding.upper(), dilation_rate)

    return _in_channels_last(convolved, inputs, data_format)


def _in_groups(
    inputs: Any, kernel: Any, groups: int, strides: tuple, padding: str, dilation_rate: tuple
) -> Any:
    """Uses operations that TensorFlow may have no kernel for: they are only traced here."""
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


def _channels_last(plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function of Keras's backend with channels-last inputs, whatever it was given."""
    given = inspect.signature(plain).bind(*args, **kwargs).arguments

    def convolved(inputs: Any) -> Any:
        return plain(**{**given, "inputs": inputs, "data_format": "channels_last"})

    return _in_channels_last(convolved, given["inputs"], given.get("data_format"))


def _pool(
    plain: Callable[..., Any],
    inputs: Any,
    pool_size: Any,
    strides: Any = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> Any:
    """Pools images, then along the depth: a window can be pooled in parts."""
    rank = len(inputs.shape) - 2
    size = standardize_tuple(pool_size, rank, "pool_size")
    strides = size if strides is None else standardize_tuple(strides, rank, "strides")

    def pooled(inputs: Any) -> Any:
        batch, depth, *image, channels = keras.ops.shape(inputs)
        images = keras.ops.reshape(inputs, (batch * depth, *image, channels))
        images = plain(images, size[1:], strides[1:], padding, "channels_last")
        _, height, width, _ = keras.ops.shape(images)
        rows = keras.ops.reshape(images, (batch, depth, height * width, channels))
        rows = plain(rows, (size[0], 1), (strides[0], 1), padding, "channels_last")
        return keras.ops.reshape(rows, (batch, -1, height, width, channels))

    if rank < 3:
        return plain(inputs, size, strides, padding, data_format)
    return _in_channels_last(pooled, inputs, data_format)


def _in_channels_last(function: Callable[[Any], Any], inputs: Any, data_format: str | None) -> Any:
    """Applies a channels-last function to inputs of either data format."""
    if (data_format or keras.config.image_data_format()) == "channels_last":
        return function(inputs)
    return keras.ops.moveaxis(function(keras.ops.moveaxis(inputs, 1, -1)), -1, 1)
