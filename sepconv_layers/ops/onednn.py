"""Depthwise convolution on a CPU by the kernels of oneDNN, around what they do slowly.

For more than one kernel for each channel, TensorFlow and PyTorch run others, which take several
times as long. And the gradient towards a kernel of more than three columns takes TensorFlow two to
twenty times as long as its share of the work: those towards pieces of such a kernel do not.
"""

import math
from typing import Any

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.geometry import Geometry

MULTIPLIERS, CHANNELS = (2, 4), 16  # how many kernels for how many channels are worth a copy
COLUMNS = 3  # of a kernel, up to which TensorFlow's gradient towards it is fast
STRIDE = {1: 1, 2: 2}  # by rank, up to which pieces are faster


def with_single_kernels(inputs: Any, kernel: Any, geometry: Geometry) -> tuple[Any, Any]:
    """Repeats channels so that each has one kernel, where that is faster."""
    *kernel_size, channels, multiplier = kernel.shape
    if multiplier not in MULTIPLIERS or channels < CHANNELS or not _runs(inputs, geometry):
        return inputs, kernel
    twice = _twice_in_torch if keras.backend.backend() == "torch" else _twice
    for _ in range(int(math.log2(multiplier))):
        inputs = twice(inputs)
    return inputs, keras.ops.reshape(kernel, (*kernel_size, channels * multiplier, 1))


def _runs(inputs: Any, geometry: Geometry) -> bool:
    """Whether these kernels run, and not for a compiler or an exporter."""
    return (
        geometry.data_format == "channels_last"
        and keras.backend.standardize_dtype(inputs.dtype) == "float32"
        and context.device() == "cpu"
        and not (context.compiled() or context.traced_by_torch())
        and context.forced_lowering() != "portable"
        and context.has_onednn()
    )


def _twice(values: Any) -> Any:
    """Repeats each channel: as both parts of a complex number, faster than `tf.repeat`."""
    import tensorflow as tf

    @tf.custom_gradient
    def repeat(values: Any) -> tuple:
        *sizes, channels = keras.ops.shape(values)

        def gradient(upstream: Any) -> Any:
            return tf.add(*tf.unstack(tf.reshape(upstream, (*sizes, channels, 2)), axis=-1))

        pairs = tf.bitcast(tf.complex(values, values), tf.float32)
        return tf.reshape(pairs, (*sizes, 2 * channels)), gradient

    return repeat(values)


def _twice_in_torch(values: Any) -> Any:
    """The same as both parts of a complex number, in a third of the time of other ways."""
    import torch

    pairs = torch.view_as_real(torch.complex(values, values))
    return pairs.reshape(*values.shape[:-1], -1)


def has_slow_gradient(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether the gradient towards the kernel takes far too long."""
    return (
        geometry.kernel_size[-1] > COLUMNS
        and kernel.shape[-1] == 1
        and max(geometry.strides) <= STRIDE[geometry.rank]
        and max(geometry.dilation_rate) == 1
        and _runs(inputs, geometry)
    )


def convolve(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves sequences or images, with a gradient towards the kernel that is fast."""
    import tensorflow as tf

    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    if geometry.rank == 1:  # a sequence is an image of one row
        geometry = geometry.replace(
            kernel_size=(1, *geometry.kernel_size), strides=(1, 1), dilation_rate=(1, 1)
        )
        # Not by slices: the gradient of a slice is a copy.
        images, image_kernel = tf.expand_dims(inputs, 1), tf.expand_dims(kernel, 0)
        return tf.squeeze(convolve(images, image_kernel, geometry), 1)
    how = {"strides": (1, *geometry.strides, 1), "padding": geometry.padding.upper()}

    @tf.custom_gradient
    def convolve_images(inputs: Any, kernel: Any) -> tuple:
        def gradients(upstream: Any) -> tuple:
            to_inputs = tf.nn.depthwise_conv2d_backprop_input(
                tf.shape(inputs), kernel, upstream, **how
            )
            return to_inputs, _to_kernel(inputs, kernel.shape, upstream, geometry)

        return tf.nn.depthwise_conv2d(inputs, kernel, **how), gradients

    return convolve_images(inputs, kernel)


def _to_kernel(inputs: Any, shape: Any, upstream: Any, geometry: Geometry) -> Any:
    """The gradient towards a kernel, from those towards pieces of it that are few columns wide."""
    import tensorflow as tf

    padded, _ = geometry.pad(inputs)
    height, width, *channels = shape

    def to_piece(met: Any, columns: int, upstream: Any = upstream, rows: int = height) -> Any:
        return tf.nn.depthwise_conv2d_backprop_filter(
            met, (rows, columns, *channels), upstream, (1, *geometry.strides, 1), "VALID"
        )

    if padded.shape[1] == 1 and max(geometry.strides) == 1:  # turned, a row is one piece
        turned = to_piece(padded[:, 0, :, None], 1, upstream[:, 0, :, None], width)
        return tf.reshape(turned, shape)
    count = -(-width // COLUMNS)
    pieces, start = [], 0
    for i in range(count):
        size = width // count + (i < width % count)
        after = width - start - size
        pieces.append(to_piece(padded[:, :, start : -after if after else None], size))
        start += size
    return tf.concat(pieces, axis=1)
