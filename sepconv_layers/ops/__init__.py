"""Stateless N-D convolutions: depthwise, separable and standard, each in its fastest form."""

from sepconv_layers.ops.choice import lowering
from sepconv_layers.ops.functions import (
    conv,
    depthwise_conv,
    depthwise_conv_transpose,
    separable_conv,
    separable_conv_transpose,
)

__all__ = [
    "conv",
    "depthwise_conv",
    "depthwise_conv_transpose",
    "lowering",
    "separable_conv",
    "separable_conv_transpose",
]
