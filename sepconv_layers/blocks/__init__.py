"""Blocks for one, two and three dimensions, each separable one with its standard twin."""

from sepconv_layers.blocks.inverted_bottleneck import (
    FusedInvertedBottleneckBlock1D,
    FusedInvertedBottleneckBlock2D,
    FusedInvertedBottleneckBlock3D,
    InvertedBottleneckBlock1D,
    InvertedBottleneckBlock2D,
    InvertedBottleneckBlock3D,
)
from sepconv_layers.blocks.residual import (
    ResidualConvBlock1D,
    ResidualConvBlock2D,
    ResidualConvBlock3D,
    ResidualSeparableConvBlock1D,
    ResidualSeparableConvBlock2D,
    ResidualSeparableConvBlock3D,
)
from sepconv_layers.blocks.separable import (
    ConvBlock1D,
    ConvBlock2D,
    ConvBlock3D,
    SeparableConvBlock1D,
    SeparableConvBlock2D,
    SeparableConvBlock3D,
)

__all__ = [
    "ConvBlock1D",
    "ConvBlock2D",
    "ConvBlock3D",
    "FusedInvertedBottleneckBlock1D",
    "FusedInvertedBottleneckBlock2D",
    "FusedInvertedBottleneckBlock3D",
    "InvertedBottleneckBlock1D",
    "InvertedBottleneckBlock2D",
    "InvertedBottleneckBlock3D",
    "ResidualConvBlock1D",
    "ResidualConvBlock2D",
    "ResidualConvBlock3D",
    "ResidualSeparableConvBlock1D",
    "ResidualSeparableConvBlock2D",
    "ResidualSeparableConvBlock3D",
    "SeparableConvBlock1D",
    "SeparableConvBlock2D",
    "SeparableConvBlock3D",
]
