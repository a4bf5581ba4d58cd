"""Depthwise convolution: dispatch to the lowering that `choice` names."""

from typing import Any

import keras

from sepconv_layers.ops import choice, context, native, on_tensorflow, on_torch, on_triton, rewrites
from sepconv_layers.ops.geometry import Convolve, Geometry
from sepconv_layers.ops.taps import taps


def depthwise(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """Depthwise convolution with a `(*kernel_size, channels, multiplier)` kernel."""
    inputs, kernel, remaining = geometry.without_unused_taps(inputs, kernel)
    # TensorFlow's oneDNN kernels return the shape of the input for an empty batch.
    is_empty = context.known_sizes(inputs.shape[:1]) == (0,)
    name = "taps" if is_empty else choice.choose(geometry, inputs, kernel)
    return LOWERINGS[name](inputs, kernel, remaining)


def _native(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """The backend's own kernel, with rewrites for what it does not support."""
    backend = keras.backend.backend()
    if backend == "torch":
        return on_torch.depthwise(inputs, kernel, geometry)
    if backend == "tensorflow":
        return on_tensorflow.depthwise(inputs, kernel, geometry)
    return native.depthwise_conv(inputs, kernel, geometry)


def _triton(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """The kernels of this package for PyTorch on a GPU, where there is one."""
    is_torch = keras.backend.backend() == "torch"
    if is_torch and on_triton.supports(inputs, kernel, geometry):
        return on_triton.depthwise(inputs, kernel, geometry)
    return _native(inputs, kernel, geometry)


def _planes(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """A 3D convolution as a sum of 2D ones by the backend's own kernel."""
    if geometry.rank == 3 and geometry.data_format == "channels_first":
        return rewrites.with_channels_last(_planes, inputs, kernel, geometry)
    if geometry.rank == 3:  # once, instead of for each plane of the kernel
        backend = keras.backend.backend()
        room = {"tensorflow": on_tensorflow, "torch": on_torch}.get(backend)
        if room is not None:
            inputs, kernel = room.with_single_kernels(inputs, kernel, geometry)
    return rewrites.planes(_native, inputs, kernel, geometry)


LOWERINGS: dict[str, Convolve] = {
    "native": _native,
    "triton": _triton,
    "taps": taps,
    "planes": _planes,
    # 2D depthwise convolutions, slices and additions: what LiteRT and ONNX have as built-in
    # operators. Exporters rely on that, not on the way it is done.
    "portable": _planes,
}
