"""Standard convolution, with all arguments of the depthwise one: the basis of the twins."""

import math
from typing import Any

import keras

from sepconv_layers.ops import choice, context, native, on_tensorflow, on_torch, rewrites
from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.pointwise import add_bias, pointwise


def conv(inputs: Any, kernel: Any, geometry: Geometry, bias: Any = None) -> Any:
    """Standard or pointwise convolution with a `(*kernel_size, channels, filters)` kernel."""
    inputs, kernel, geometry = geometry.without_unused_taps(inputs, kernel)
    # Converters quantize a convolution per channel, but possibly not a matrix product. They do not
    # quantize a 3D convolution at all, and LiteRT runs it slowly.
    stays_conv = context.forced_lowering() == "portable" and geometry.rank < 3
    if max(geometry.kernel_size) == 1 and not stays_conv:
        return pointwise(inputs, kernel, geometry, bias)
    return standard(inputs, kernel, geometry, bias)


def grouped(inputs: Any, kernel: Any, geometry: Geometry, groups: int) -> Any:
    """Convolves with a `(*kernel_size, channels / groups, filters)` kernel.

    Uses the backend's own kernel where that is fast and has gradients: on PyTorch, and on JAX
    except on a CPU, where XLA's gradients take up to eighty times as long as those of the groups.
    TensorFlow has no gradients on a CPU without XLA, and LiteRT has no such operator in 1D and 3D.
    There and elsewhere, the groups are convolved one by one.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return on_torch.conv(inputs, kernel, geometry, groups)
    if backend == "jax" and context.device() != "cpu":
        inputs, geometry = geometry.pad(inputs)
        return native.conv(inputs, kernel, geometry)
    return rewrites.group_by_group(conv, inputs, kernel, geometry, groups)


def standard(inputs: Any, kernel: Any, geometry: Geometry, bias: Any = None) -> Any:
    """Standard convolution by the backend's kernel, with rewrites where that is slow."""
    if inputs.shape[0] == 0:
        # As in `depthwise`. Nothing is computed: any tap has the right shape and gradient.
        inputs, geometry = geometry.pad(inputs)
        return pointwise(inputs, kernel[(0,) * geometry.rank], geometry, bias)
    if keras.backend.backend() == "torch":
        return on_torch.conv(inputs, kernel, geometry, bias=bias)
    return add_bias(_standard(inputs, kernel, geometry), bias, geometry)


def _standard(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    if geometry.padding == "causal":
        inputs, geometry = geometry.pad(inputs)
    if geometry.has_symbolic_sizes(inputs):
        return native.conv(inputs, kernel, geometry)
    in_2d = _is_faster_in_2d(kernel, geometry)
    as_product = not in_2d and _is_faster_as_product(kernel, geometry)
    is_tensorflow = keras.backend.backend() == "tensorflow"
    # On a CPU, TensorFlow's kernels support channels-last only.
    needs_last = in_2d or as_product or (is_tensorflow and context.device() == "cpu")
    if geometry.data_format == "channels_first" and needs_last:
        return rewrites.with_channels_last(standard, inputs, kernel, geometry)
    if in_2d:
        return rewrites.volumes_as_images(standard, inputs, kernel, geometry)
    if as_product:
        return rewrites.as_product(pointwise, inputs, kernel, geometry)
    if is_tensorflow:
        return on_tensorflow.standard(standard, inputs, kernel, geometry)
    return native.conv(inputs, kernel, geometry)


def _is_faster_in_2d(kernel: Any, geometry: Geometry) -> bool:
    """Whether a 3D convolution is faster as a 2D one.

    On a CPU it is with XLA, and for few channels also on TensorFlow without oneDNN.
    """
    if geometry.rank < 3 or context.device() != "cpu":
        return False
    if context.compiled():
        return True
    has_few_channels = kernel.shape[-2] <= choice.MAX_CHANNELS_IN_2D
    return has_few_channels and geometry.strides[0] == 1 and not context.has_onednn()


def _is_faster_as_product(kernel: Any, geometry: Geometry) -> bool:
    """Whether XLA for a CPU multiplies faster than it convolves, as in the first layer of a net."""
    if not context.compiled() or context.device() != "cpu":
        return False
    has_few_channels = (
        kernel.shape[-2] <= choice.MAX_CHANNELS_OF_XLA_PRODUCT[keras.backend.backend()]
    )
    return has_few_channels and 1 < math.prod(geometry.kernel_size) <= choice.MAX_UNROLLED_TAPS
