"""Everything specific to TensorFlow without XLA: oneDNN, missing kernels, slow gradients.

Functions import TensorFlow themselves, because the package has to load without it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.ops import choice, context, native, rewrites
from sepconv_layers.ops.geometry import Convolve, Geometry, cut

# Checks of inputs whose sizes are known only when a graph runs.


def with_a_sample(inputs: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Returns inputs with at least one sample, and a function that drops an added sample again.

    For an empty batch, oneDNN kernels return the shape of the input. Without oneDNN, slices raise
    an error. If the batch is not empty, neither the padding nor
    the slice copies anything, forward or backward. XLA has kernels of its own, and exported files
    get no operators for this.
    """
    if not _may_be_empty(inputs):
        return inputs, lambda outputs: outputs
    import tensorflow as tf

    batch, rank = tf.shape(inputs)[0], len(inputs.shape)
    one = np.zeros((rank, 2), "int32")
    one[0, 1] = 1
    padded = tf.pad(inputs, tf.maximum(one - batch, 0))
    padded.set_shape(inputs.shape)

    def without(outputs: Any) -> Any:
        samples = tf.slice(outputs, [0] * rank, tf.stack([batch, *[-1] * (rank - 1)]))
        samples.set_shape(outputs.shape)
        return samples

    return padded, without


def _with_gradient_if_empty(kernel: Any, inputs: Any) -> Any:
    """Returns a depthwise kernel whose gradient is zero if the batch turns out to be empty.

    TensorFlow's kernel returns memory that it has not initialized. A replica without samples then
    adds noise, or NaN, to the gradient of all.
    """
    if not _may_be_empty(inputs):
        return kernel
    import tensorflow as tf

    @tf.custom_gradient
    def differentiable(kernel: Any) -> tuple:
        def gradient(upstream: Any) -> Any:
            return tf.where(tf.shape(inputs)[0] > 0, upstream, tf.zeros_like(upstream))

        return tf.identity(kernel), gradient

    return differentiable(kernel)


def _may_be_empty(inputs: Any) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return (
        isinstance(inputs, tf.Tensor)
        and bool(inputs.shape.rank)
        and inputs.shape[0] is None
        and context.device() == "cpu"
        and not context.compiled()
        and context.forced_lowering() != "portable"
    )


def check_when_run(inputs: Any, extents: Sequence[tuple[int, int]]) -> Any:
    """Returns the inputs with a check that they span the kernel, given axes and extents.

    XLA leaves the check out.
    """
    import tensorflow as tf

    checks = [
        tf.debugging.assert_greater(
            tf.shape(inputs)[axis],
            extent,
            "Computed output size would be zero or negative. Use a larger input, a smaller "
            f"kernel or padding='same': axis {axis} of the inputs must be greater than",
        )
        for axis, extent in extents
    ]
    with tf.control_dependencies(checks):
        return tf.identity(inputs)


# Depthwise convolution.


def depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Depthwise convolution with TensorFlow's kernels, for all arguments."""
    # On a CPU without half-precision instructions, TensorFlow's kernel sums in half precision:
    # gradients with respect to the kernel are off by a fifth, and take twice as long as in float32.
    convolve = _depthwise_in_float32 if context.device() == "cpu" else _depthwise
    if geometry.rank < 3:  # a volume has no depthwise kernel in TensorFlow
        kernel = _with_gradient_if_empty(kernel, inputs)
    return convolve(inputs, kernel, geometry)


def _depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    if geometry.rank == 3:
        return _depthwise_volumes(inputs, kernel, geometry)
    inputs, kernel = with_single_kernels(inputs, kernel, geometry)
    strided, dilated = max(geometry.strides) > 1, max(geometry.dilation_rate) > 1
    if rewrites.is_dilated_sequence(geometry):  # which TensorFlow would copy into another order
        return rewrites.dilated_sequence(native.depthwise_conv, inputs, kernel, geometry)
    # TensorFlow's kernel requires equal strides along both axes, and no strides with dilation.
    if len(set(geometry.strides)) > 1 or (strided and dilated):
        return rewrites.polyphase(_depthwise, inputs, kernel, geometry)
    if _has_slow_kernel_gradient(inputs, kernel, geometry):
        return _with_fast_kernel_gradient(inputs, kernel, geometry)
    return native.depthwise_conv(inputs, kernel, geometry)


_depthwise_in_float32 = rewrites.sums_in_float32(_depthwise)


def _depthwise_volumes(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """A grouped convolution, which Keras has XLA compile: there is no 3D depthwise kernel.

    It does not support strides with dilation, and needs static shapes for its gradient.
    """
    if max(geometry.strides) > 1 and max(geometry.dilation_rate) > 1:
        return rewrites.polyphase(_depthwise_volumes, inputs, kernel, geometry)
    *kernel_size, channels, multiplier = kernel.shape
    grouped = keras.ops.reshape(kernel, (*kernel_size, 1, channels * multiplier))
    return native.conv(inputs, grouped, geometry)


def with_single_kernels(inputs: Any, kernel: Any, geometry: Geometry) -> tuple[Any, Any]:
    """Repeats channels so that each has one kernel, where that is faster.

    For several kernels per channel, TensorFlow does not use oneDNN. It then takes 1.4 to 3.6 times
    as long.
    """
    if not choice.repeats_channels(inputs, kernel, geometry):
        return inputs, kernel
    return rewrites.with_single_kernels(_double, inputs, kernel)


def _double(values: Any) -> Any:
    """Repeats each channel, as both parts of a complex number.

    `tf.repeat` makes a layer 1.1 to 1.4 times as slow.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def repeat(values: Any) -> tuple:
        *sizes, channels = keras.ops.shape(values)

        def gradient(upstream: Any) -> Any:
            return tf.add(*tf.unstack(tf.reshape(upstream, (*sizes, channels, 2)), axis=-1))

        pairs = tf.bitcast(tf.complex(values, values), tf.float32)
        return tf.reshape(pairs, (*sizes, 2 * channels)), gradient

    return repeat(values)


def _has_slow_kernel_gradient(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether oneDNN's gradient with respect to the kernel takes 2 to 20 times its share."""
    return (
        geometry.kernel_size[-1] > choice.MAX_ONEDNN_COLUMNS
        and kernel.shape[-1] == 1
        and max(geometry.strides) <= choice.MAX_STRIDE_OF_PIECES[geometry.rank]
        and max(geometry.dilation_rate) == 1
        and choice.runs_onednn(inputs, geometry)
    )


def _with_fast_kernel_gradient(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves sequences or images, with the kernel gradient assembled from narrow pieces."""
    import tensorflow as tf

    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    if geometry.rank == 1:  # a sequence is an image with one row
        geometry = geometry.replace(
            kernel_size=(1, *geometry.kernel_size), strides=(1, 1), dilation_rate=(1, 1)
        )
        # Not by indexing: the gradient of a slice is a copy.
        images, image_kernel = tf.expand_dims(inputs, 1), tf.expand_dims(kernel, 0)
        return tf.squeeze(_with_fast_kernel_gradient(images, image_kernel, geometry), 1)
    how = {"strides": (1, *geometry.strides, 1), "padding": geometry.padding.upper()}

    @tf.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> tuple:
        def gradients(upstream: Any) -> tuple:
            to_inputs = tf.nn.depthwise_conv2d_backprop_input(
                tf.shape(inputs), kernel, upstream, **how
            )
            return to_inputs, _kernel_gradient(inputs, kernel.shape, upstream, geometry)

        return tf.nn.depthwise_conv2d(inputs, kernel, **how), gradients

    return convolve(inputs, kernel)


def _kernel_gradient(inputs: Any, shape: Any, upstream: Any, geometry: Geometry) -> Any:
    """The gradient with respect to a kernel, from those with respect to pieces of few columns."""
    import tensorflow as tf

    padded, _ = geometry.pad(inputs)
    height, width, *channels = shape

    def of_piece(part: Any, columns: int, upstream: Any = upstream, rows: int = height) -> Any:
        return tf.nn.depthwise_conv2d_backprop_filter(
            part, (rows, columns, *channels), upstream, (1, *geometry.strides, 1), "VALID"
        )

    if padded.shape[1] == 1 and max(geometry.strides) == 1:  # turned into a column: one piece
        turned = of_piece(padded[:, 0, :, None], 1, upstream[:, 0, :, None], width)
        return tf.reshape(turned, shape)
    count = -(-width // choice.MAX_ONEDNN_COLUMNS)
    pieces, start = [], 0
    for i in range(count):
        size = width // count + (i < width % count)
        after = width - start - size
        pieces.append(of_piece(padded[:, :, start : -after if after else None], size))
        start += size
    return tf.concat(pieces, axis=1)


# Standard convolution.


def standard(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Standard convolution with TensorFlow's kernels, for all arguments.

    Args:
        convolve: Computes the standard convolutions that this one is rewritten as.
        inputs: As in `standard.standard`.
        kernel: As in `standard.standard`.
        geometry: As in `standard.standard`.
    """
    # TensorFlow does not support strides with dilation.
    if max(geometry.strides) > 1 and max(geometry.dilation_rate) > 1:
        return rewrites.polyphase(convolve, inputs, kernel, geometry)
    if _has_slow_gradients(inputs, kernel, geometry):
        return _with_gradients_in_2d(convolve, inputs, kernel, geometry)
    if _may_be_misread(inputs, geometry):
        return _with_two_outputs(inputs, kernel, geometry)
    return native.conv(inputs, kernel, geometry)


def _may_be_misread(inputs: Any, geometry: Geometry) -> bool:
    """Whether oneDNN may read numbers from elsewhere, at least up to TensorFlow 2.21.

    With AVX-512 it does for images of one channel, where a stride leaves a single output along the
    last axis only.
    """
    *others, last = geometry.strides
    axis = geometry.spatial_axes[-1]
    return (
        last > 1
        and min(others, default=last) == 1
        and inputs.shape[geometry.channel_axis] == 1
        and geometry.output_shape(inputs.shape, 1)[axis] in (1, None)
        and choice.runs_onednn(inputs, geometry)
    )


def _with_two_outputs(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves with a second output along the last axis where there is one, and drops it again."""
    import tensorflow as tf

    inputs, geometry = geometry.pad(inputs)
    axis, extent, stride = geometry.spatial_axes[-1], geometry.extent[-1], geometry.strides[-1]
    size = keras.ops.shape(inputs)[axis]
    widths = np.zeros((len(inputs.shape), 2), "int32")
    widths[axis, 1] = 1
    padded = tf.pad(inputs, widths * tf.maximum(extent + stride + 1 - size, 0))
    outputs = native.conv(padded, kernel, geometry)
    return cut(outputs, [axis], [0], [(size - extent - 1) // stride + 1])


def _has_slow_gradients(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether a graph runs without oneDNN: gradients of volumes then take up to 57 times as long.

    For a few positions they do not.
    """
    import tensorflow as tf

    if geometry.rank < 3 or context.device() != "cpu" or context.has_onednn():
        return False
    if tf.executing_eagerly() or context.compiled() or None in inputs.shape[1:-1]:
        return False
    positions = np.prod(inputs.shape[1:-1]) / np.prod(geometry.strides)
    return bool(positions > kernel.shape[-2])


def _with_gradients_in_2d(convolve: Convolve, inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Convolves volumes, with the gradients of a sum of 2D convolutions.

    The sum itself never runs, because a graph drops unused operations.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def convolve_volumes(inputs: Any, kernel: Any) -> tuple:
        def gradients(upstream: Any) -> tuple:
            with tf.GradientTape() as tape:
                tape.watch((inputs, kernel))
                outputs = rewrites.planes(convolve, inputs, kernel, geometry)
            return tuple(tape.gradient(outputs, (inputs, kernel), upstream))

        return native.conv(inputs, kernel, geometry), gradients

    return convolve_volumes(inputs, kernel)


# Around convolutions.


def add_bias(values: Any, bias: Any) -> Any:
    """Adds a bias to channels-last values, in a form that graphs fuse with their neighbors."""
    import tensorflow as tf

    return tf.nn.bias_add(values, bias)


def batch_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Fused batch normalization in training: outputs, mean and variance."""
    import tensorflow as tf

    images = _as_images(inputs)
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        images, gamma, beta, epsilon=epsilon, is_training=True
    )
    # The kernel returns the unbiased estimate. Keras's moving variance averages the biased one.
    count = tf.cast(tf.size(images) // images.shape[-1], variance.dtype)
    return _like(outputs, inputs), mean, variance * (count - 1) / count


def is_recorded() -> bool:
    """Whether a `tf.GradientTape` records what is computed."""
    from tensorflow.python.eager import record

    return record.could_possibly_record()


def batch_norm_again(
    inputs: Any, gamma: Any, beta: Any, epsilon: float, mean: Any, variance: Any
) -> Any:
    """The outputs of `batch_norm` from the moments that it returned, with the same gradients.

    For CPUs only: the kernels for GPUs keep other moments.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def normalize(images: Any, gamma: Any, beta: Any) -> tuple:
        def gradients(upstream: Any) -> tuple:
            return tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=images,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros((0,)),
                epsilon=epsilon,
            )[:3]

        outputs = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=epsilon,
            is_training=False,
        )
        return outputs.y, gradients

    return _like(normalize(_as_images(inputs), gamma, beta), inputs)


def _as_images(inputs: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(inputs, (tf.shape(inputs)[0], -1, 1, inputs.shape[-1]))


def _like(images: Any, inputs: Any) -> Any:
    import tensorflow as tf

    outputs = tf.reshape(images, tf.shape(inputs))
    outputs.set_shape(inputs.shape)
    return outputs
