"""Keras layers: depthwise, separable and standard convolutions, and the parts of blocks."""

from sepconv_layers.layers.batch_normalization import BatchNormalization
from sepconv_layers.layers.conv import Conv1D, Conv2D, Conv3D
from sepconv_layers.layers.conv_transpose import (
    DepthwiseConv1DTranspose,
    DepthwiseConv2DTranspose,
    DepthwiseConv3DTranspose,
    SeparableConv1DTranspose,
    SeparableConv2DTranspose,
    SeparableConv3DTranspose,
)
from sepconv_layers.layers.depthwise_conv import DepthwiseConv1D, DepthwiseConv2D, DepthwiseConv3D
from sepconv_layers.layers.drop_path import DropPath
from sepconv_layers.layers.separable_conv import SeparableConv1D, SeparableConv2D, SeparableConv3D
from sepconv_layers.layers.squeeze_excite import SqueezeExcite1D, SqueezeExcite2D, SqueezeExcite3D

__all__ = [
    "BatchNormalization",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "DepthwiseConv1D",
    "DepthwiseConv1DTranspose",
    "DepthwiseConv2D",
    "DepthwiseConv2DTranspose",
    "DepthwiseConv3D",
    "DepthwiseConv3DTranspose",
    "DropPath",
    "SeparableConv1D",
    "SeparableConv1DTranspose",
    "SeparableConv2D",
    "SeparableConv2DTranspose",
    "SeparableConv3D",
    "SeparableConv3DTranspose",
    "SqueezeExcite1D",
    "SqueezeExcite2D",
    "SqueezeExcite3D",
]
