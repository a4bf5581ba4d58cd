"""Which form of a convolution runs where: the table of lowerings, and every threshold.

The thresholds separate cases of the benchmarks that are named above them. `results/` has the
records: `lowerings-*.json`, `layers-*.json`, `nets-*.json` and `compile_time-*.json`.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.geometry import Geometry

LOWERINGS = ("native", "triton", "taps", "planes", "portable")


class Where(NamedTuple):
    """A place where a lowering runs."""

    backend: str
    device: str
    compiled: bool  # by XLA
    rank: int
    strided: bool = False


# The fastest lowering at each place, by `benchmarks.lowerings`. A strided entry is listed only
# where it differs. At a place that is not listed, nothing was measured and the backend's own kernel
# runs.
TABLE: dict[Where, str] = {
    Where("tensorflow", "cpu", False, 1): "native",
    Where("tensorflow", "cpu", False, 2): "native",
    Where("tensorflow", "cpu", False, 3): "planes",
    Where("tensorflow", "cpu", True, 1): "taps",
    Where("tensorflow", "cpu", True, 2): "taps",
    Where("tensorflow", "cpu", True, 3): "taps",
    Where("jax", "cpu", True, 1): "taps",
    Where("jax", "cpu", True, 2): "taps",
    Where("jax", "cpu", True, 3): "taps",
    Where("jax", "gpu", True, 1): "taps",
    Where("jax", "gpu", True, 2): "native",
    Where("jax", "gpu", True, 2, strided=True): "taps",
    Where("jax", "gpu", True, 3): "planes",
    Where("torch", "cpu", False, 1): "native",
    Where("torch", "cpu", False, 2): "native",
    Where("torch", "cpu", False, 3): "native",
    Where("torch", "gpu", False, 1): "native",
    Where("torch", "gpu", False, 2): "triton",
    Where("torch", "gpu", False, 3): "native",
}

# Depthwise, `benchmarks.lowerings`, held-out shapes with a single position: oneDNN starts a kernel
# in more time than a TensorFlow graph needs to multiply. The positions include the padding.
MAX_TINY_POSITIONS, MAX_TINY_TAPS = 6, 3

# Depthwise with XLA, `benchmarks.compile_time`, 7×7 and 31×31 kernels: XLA compiles up to 49 taps
# in reasonable time. A larger kernel is a loop over pieces of it.
MAX_UNROLLED_TAPS = 49

# Depthwise with XLA, kernels of more taps than that, and gradients with respect to any kernel on a
# CPU: the most weights that one pass of a loop adds up.
MAX_UNROLLED_WEIGHTS = 32

# Sums per channel with XLA for a CPU, `benchmarks.nets`, training: the numbers of slices that XLA
# adds up vectorized, and the rows of a product that it leaves to a library.
SLICES_OF_SUM, ROWS_OF_ONES = (8, 7, 6, 5, 4, 3, 2), 8

# Depthwise with oneDNN, `benchmarks.layers`, the layer with a depth multiplier of 2: repeated
# channels with one kernel each are faster than oneDNN's fallback for several.
REPEATED_MULTIPLIERS, MIN_REPEATED_CHANNELS = (2, 4), 16

# Several depthwise kernels per channel before a pointwise step, `benchmarks.layers`, the layers
# with depth multipliers of 2 and 3: from that many channels and kernels on, and for inputs of that
# many values for all kernels, one kernel after the other is faster. By backend, the ranks where it
# is.
MIN_CHANNELS_APART, MIN_KERNELS_APART, MIN_VALUES_APART = 8, 3, 2**18
RANKS_OF_KERNELS_APART = {"tensorflow": (1, 2, 3), "jax": (2,), "torch": (2,)}

# Depthwise on TensorFlow with oneDNN, `benchmarks.layers`, kernels of sizes 5, 7 and 13, and 9 and
# 13 in sequences: the gradient with respect to the kernel is slow above three columns. By rank, the
# strides up to which pieces of the kernel are faster.
MAX_ONEDNN_COLUMNS, MAX_STRIDE_OF_PIECES = 3, {1: 1, 2: 2}

# Depthwise on PyTorch and a CPU, `benchmarks.layers`, kernels of sizes 5, 7 and 13: the gradients
# of a row are slow above three columns. Strips of a kernel need an input of that many values to pay
# for their calls.
MAX_TORCH_COLUMNS, MIN_VALUES_OF_STRIPS = 3, 2**17

# Depthwise on PyTorch and a GPU, `benchmarks.lowerings --batches 64`, 5×5 and 7×7 kernels: cuDNN
# has fast float32 gradients on channels-last memory up to that many taps.
MAX_CUDNN_TAPS = 25

# Depthwise on PyTorch and a GPU, `benchmarks.lowerings --batches 128`, half precision: up to that
# many taps, Triton's kernels are faster in training and with strides, and otherwise on maps of at
# least that many columns.
MAX_TRITON_TAPS, MIN_TRITON_COLUMNS = 9, 28

# In Triton's kernels, same benchmark: all loops over the kernel are unrolled. A thread loads as
# many bytes as the hardware can at once, and holds a patch of outputs, in rows and columns, that
# leaves room in its registers for the kernel. Most nets have maps of seven times a power of two.
MAX_UNROLLED_TRITON_TAPS, BYTES_OF_LOAD, PROGRAMS_PER_PROCESSOR = 49, 16, 8
PATCH, PATCH_OF_LARGE_KERNEL, PATCH_WITH_STRIDES, PATCH_OF_GRADIENT = (7, 2), (2, 4), (2, 2), (4, 2)
MAX_CHANNELS_OF_PROGRAM = {1: 128, 2: 64}  # by the strides

# Pointwise on PyTorch and a CPU, `benchmarks.nets`: a convolution is faster than a matrix product
# from that many positions on.
MIN_POSITIONS_OF_TORCH_CONV = 8192

# Standard, `benchmarks.nets` (the stem) and `benchmarks.layers` (3D): up to how many input channels
# XLA for a CPU multiplies faster than it convolves, by backend, and TensorFlow without oneDNN
# convolves volumes faster as images.
MAX_CHANNELS_OF_XLA_PRODUCT, MAX_CHANNELS_IN_2D = {"jax": 4, "tensorflow": 1}, 4


@contextlib.contextmanager
def lowering(name: str) -> Iterator[None]:
    """Forces one lowering of the depthwise convolution inside a `with` block.

    A function that is traced inside the block keeps the forced lowering. A model that is already
    compiled is not compiled again.

    Args:
        name: `"auto"` (the fastest one, by a measured table), `"native"` (the backend's own
            kernel), `"triton"` (kernels of this package, for channels-last images with PyTorch on
            a GPU; elsewhere as `"native"`), `"taps"` (a sum of shifted products, for fusing
            compilers), `"planes"` (3D as a sum of 2D) or `"portable"` (only what LiteRT and ONNX
            have as built-in operators).

    Raises:
        ValueError: If there is no lowering of that name.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import ops
        >>> x, kernel = np.ones((1, 5, 2), "float32"), np.ones((3, 2, 1), "float32")
        >>> with ops.lowering("taps"):
        ...     y = ops.depthwise_conv(x, kernel)
        >>> y.shape[1]
        3
    """
    expected = ("auto", *LOWERINGS)
    if name not in expected:
        raise ValueError(f"The `name` of a lowering must be one of {expected}. Received: {name!r}")
    token = context.forced.set(name)
    try:
        yield
    finally:
        context.forced.reset(token)


def choose(geometry: Geometry, inputs: Any, kernel: Any) -> str:
    """Returns the name of the lowering for a convolution that is being run or traced.

    Args:
        geometry: The geometry of the whole convolution.
        inputs: The inputs, without those that only dropped taps overlap.
        kernel: The kernel, without the taps that only overlap padding.
    """
    name = context.forced_lowering()
    if name != "auto":
        return name
    if _is_tiny(geometry, inputs, kernel):
        return "taps"
    if geometry.has_symbolic_sizes(inputs):
        return "native"
    where = Where(keras.backend.backend(), context.device(), context.compiled(), geometry.rank)
    # TensorFlow has no kernel for volumes.
    name = TABLE.get(where, "planes" if where.backend == "tensorflow" else "native")
    if max(geometry.strides) > 1 and math.prod(geometry.kernel_size) <= MAX_UNROLLED_TAPS:
        name = TABLE.get(where._replace(strided=True), name)
    if name == "triton" and not _is_better_in_triton(geometry, inputs, kernel):
        return "native"
    return name


def _is_better_in_triton(geometry: Geometry, inputs: Any, kernel: Any) -> bool:
    import torch

    if inputs.element_size() > 2 or math.prod(geometry.kernel_size) > MAX_TRITON_TAPS:
        return False
    trains = torch.is_grad_enabled() and (inputs.requires_grad or kernel.requires_grad)
    columns = inputs.shape[geometry.spatial_axes[-1]]
    return trains or max(geometry.strides) > 1 or columns >= MIN_TRITON_COLUMNS


def _is_tiny(geometry: Geometry, inputs: Any, kernel: Any) -> bool:
    """Whether a TensorFlow graph multiplies a few numbers faster than oneDNN starts a kernel."""
    if keras.backend.backend() != "tensorflow" or context.device() != "cpu":
        return False
    if not context.has_onednn():
        return False
    import tensorflow as tf

    positions = [inputs.shape[axis] for axis in geometry.spatial_axes]
    return (
        not tf.executing_eagerly()
        and None not in positions
        and math.prod(positions) <= MAX_TINY_POSITIONS
        and math.prod(kernel.shape[: geometry.rank]) <= MAX_TINY_TAPS
    )


def runs_onednn(inputs: Any, geometry: Geometry) -> bool:
    """Whether oneDNN kernels run a depthwise convolution, and no compiler or exporter traces it."""
    return (
        geometry.data_format == "channels_last"
        and keras.backend.standardize_dtype(inputs.dtype) == "float32"
        and context.device() == "cpu"
        and not (context.compiled() or context.traced_by_torch())
        and context.forced_lowering() != "portable"
        and context.has_onednn()
    )


def repeats_channels(inputs: Any, kernel: Any, geometry: Geometry) -> bool:
    """Whether channels are repeated, so that each has a single kernel."""
    *_, channels, multiplier = kernel.shape
    return (
        multiplier in REPEATED_MULTIPLIERS
        and channels >= MIN_REPEATED_CHANNELS
        and runs_onednn(inputs, geometry)
    )


def form_of_kernels(inputs: Any, kernel: Any, geometry: Geometry) -> str:
    """How to compute a separable convolution with several depthwise kernels per channel.

    Returns:
        `"together"`: all kernels, then the pointwise step. `"concatenated"`: one kernel after the
        other, then the pointwise step, which is faster in LiteRT and ONNX Runtime.
        `"summed"`: a depthwise and a pointwise step for each kernel.
    """
    *_, channels, multiplier = context.fixed_sizes(kernel.shape)
    if multiplier == 1 or channels < MIN_CHANNELS_APART:
        return "together"
    if context.forced_lowering() == "portable":
        return "concatenated"
    is_faster = (
        context.forced_lowering() == "auto"
        and multiplier >= MIN_KERNELS_APART
        and geometry.rank in RANKS_OF_KERNELS_APART[keras.backend.backend()]
        and _is_large(inputs, multiplier)
        and _is_fast_on_cpu(inputs, geometry)
    )
    return "summed" if is_faster else "together"


def _is_large(inputs: Any, multiplier: int) -> bool:
    sizes = context.known_sizes(inputs.shape)
    return None in sizes or math.prod(sizes) * multiplier >= MIN_VALUES_APART  # type: ignore


def _is_fast_on_cpu(inputs: Any, geometry: Geometry) -> bool:
    """Whether a depthwise convolution with one kernel per channel runs well on a CPU."""
    if keras.backend.backend() != "jax":
        return runs_onednn(inputs, geometry)
    is_last = geometry.data_format == "channels_last"
    is_float32 = keras.backend.standardize_dtype(inputs.dtype) == "float32"
    return is_last and is_float32 and context.device() == "cpu"
