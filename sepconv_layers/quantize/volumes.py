"""3D convolutions as single 2D ones, whose sums have 32 bits in an int8 file.

LiteRT has no int8 kernel for volumes. A sum of 2D convolutions, one for each plane of the kernel,
would round each part to 8 bits, which training does not see.
"""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers import layers
from sepconv_layers.class_table import by_class
from sepconv_layers.layers.base import BaseConv


class _AsImages(BaseConv):
    """Convolves the images of all depths at once. It is only traced, on TensorFlow."""

    def _convolve(self, inputs: Any, scale: Any, bias: Any) -> Any:
        is_first = self.data_format == "channels_first"
        x = keras.ops.moveaxis(inputs, 1, -1) if is_first else inputs
        x, geometry = self.geometry.replace(data_format="channels_last").pad(x)
        batch, depth, height, width, channels = x.shape
        _, *strides = geometry.strides
        size = (depth - geometry.extent[0] - 1) // geometry.strides[0] + 1
        shape = (batch * size, height, width, channels)
        planes = []
        for index in range(geometry.kernel_size[0]):
            start = index * geometry.dilation_rate[0]
            stop = start + (size - 1) * geometry.strides[0] + 1
            is_all = size == depth
            plane = x if is_all else x[:, start : stop : geometry.strides[0]]
            planes.append(keras.ops.reshape(plane, shape))
        y = self._convolve_images(planes, strides, geometry.dilation_rate[1:])
        y = y if bias is None else y + bias
        y = keras.ops.reshape(y, (batch, size, *y.shape[1:]))
        return keras.ops.moveaxis(y, -1, 1) if is_first else y

    def _convolve_images(self, planes: list[Any], strides: Any, dilation: Sequence[int]) -> Any:
        """Convolves images, given those under each plane of the kernel."""
        raise NotImplementedError


class ConvAsImages(_AsImages, layers.Conv3D):
    """A standard convolution: neighboring planes are channels."""

    def _convolve_images(self, planes: list[Any], strides: Any, dilation: Sequence[int]) -> Any:
        import tensorflow as tf

        kernel = keras.ops.transpose(self.kernel, (1, 2, 0, 3, 4))
        kernel = keras.ops.reshape(kernel, (*self.kernel_size[1:], -1, self.filters))
        if self.groups == 1:
            return tf.nn.conv2d(tf.concat(planes, -1), kernel, strides, "VALID", dilations=dilation)
        groups = zip(*(tf.split(plane, self.groups, -1) for plane in planes), strict=True)
        kernels = tf.split(kernel, self.groups, -1)
        return tf.concat(
            [
                tf.nn.conv2d(tf.concat(group, -1), one, strides, "VALID", dilations=dilation)
                for group, one in zip(groups, kernels, strict=True)
            ],
            -1,
        )


class DepthwiseConvAsImages(_AsImages, layers.DepthwiseConv3D):
    """A depthwise convolution: the rows of neighboring planes alternate."""

    def _convolve_images(self, planes: list[Any], strides: Any, dilation: Sequence[int]) -> Any:
        import tensorflow as tf

        depth, (images, height, width, channels) = len(planes), planes[0].shape
        rows = [tf.reshape(plane, (images * height, 1, width * channels)) for plane in planes]
        x = tf.reshape(tf.concat(rows, 1), (images, height * depth, width, channels))
        kernel = keras.ops.transpose(self.kernel, (1, 0, 2, 3, 4))
        # Rows that a dilated kernel skips.
        kernel = tf.pad(kernel, [(0, 0), (0, (dilation[0] - 1) * depth), *[(0, 0)] * 3])
        kernel = tf.reshape(kernel, (-1, *kernel.shape[2:]))
        kernel = kernel[: kernel.shape[0] - (dilation[0] - 1) * depth]
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x,
            filter=kernel,
            strides=[1, strides[0] * depth, strides[1], 1],
            padding="VALID",
            dilations=[1, 1, dilation[1], 1],
        )


AS_IMAGES = by_class({"Conv3D": ConvAsImages, "DepthwiseConv3D": DepthwiseConvAsImages})
