"""Stateless N-D convolutions: depthwise, separable and standard, in the fastest form everywhere.

From the public functions down to the arithmetic. A file imports only from files below it:

    functions                  public functions
    operations                 Keras operations: checks, symbolic shapes, one cache
    depthwise, transposed      depthwise convolution, and its transpose
    standard, pointwise        standard convolution, and its matrix product
    rematerialization          cheap steps that training computes again, to keep less
    normalization              batch normalization in training
    on_tensorflow              TensorFlow without XLA: oneDNN, missing kernels, slow gradients
    on_torch                   PyTorch: memory layouts, slow gradients, cheaper calls
    on_triton, triton_kernels  PyTorch on a GPU: depthwise convolution of images
    taps                       XLA: depthwise convolution as a sum of taps, fast sums
    correlation                XLA: a loop over many taps
    choice                     which form runs where: the table, and every threshold
    rewrites                   exact rewrites that are handed the convolution they call
    native                     the kernels that Keras calls
    geometry                   arguments, padding, shapes, slices
    bilinear                   functions that are derivatives of each other
    on_jax                     JAX: such functions as primitives
    gradients                  custom gradients that are differentiable themselves
    context                    device, XLA, tracing, the forced lowering
"""

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
