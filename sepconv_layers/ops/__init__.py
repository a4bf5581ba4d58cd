"""Stateless N-D convolutions: depthwise, separable and standard, each in its fastest form."""

from sepconv_layers.ops.choice import lowering
from sepconv_layers.ops.convolution import conv, depthwise_conv, separable_conv

__all__ = ["conv", "depthwise_conv", "lowering", "separable_conv"]
