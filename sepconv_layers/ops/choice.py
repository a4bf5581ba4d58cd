"""Which lowering runs where: the one table, and the context manager that overrides it."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from sepconv_layers.ops import context
from sepconv_layers.ops.geometry import Convolve, Geometry
from sepconv_layers.ops.native import native
from sepconv_layers.ops.planes import planes
from sepconv_layers.ops.portable import portable
from sepconv_layers.ops.taps import WRITTEN_OUT, taps

LOWERINGS: dict[str, Convolve] = {
    "native": native,
    "taps": taps,
    "planes": planes,
    "portable": portable,
}


class Where(NamedTuple):
    """A place where a lowering runs."""

    backend: str
    device: str
    compiled: bool  # by XLA
    rank: int
    strided: bool = False


# The fastest lowering at each place; that of strided convolutions is only there if it is another.
# A place that is not listed was not measured, and takes the backend's own kernel.
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
    Where("torch", "gpu", False, 2): "native",
    Where("torch", "gpu", False, 3): "native",
}

FEW_POSITIONS, FEW_TAPS = 6, 3  # of a map with its padding, where nothing of the table is faster


@contextlib.contextmanager
def lowering(name: str) -> Iterator[None]:
    """Forces one lowering of the depthwise convolution inside a `with` block.

    What is traced inside the block keeps the forced lowering: a model that has been compiled
    before is not compiled again.

    Args:
        name: `"auto"` (the fastest where it runs, by a measured table), `"native"` (the backend's
            own kernel), `"taps"` (a sum of shifted products, for fusing compilers), `"planes"` (3D
            as a sum of 2D) or `"portable"` (only what LiteRT and ONNX have as built-in operators).

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
        and math.prod(positions) <= FEW_POSITIONS
        and math.prod(kernel.shape[: geometry.rank]) <= FEW_TAPS
    )


def choose(geometry: Geometry, inputs: Any, kernel: Any) -> Convolve:
    """The lowering to use for a convolution that is being run or traced now.

    Args:
        geometry: That of the convolution.
        inputs: What is left of the inputs without what meets nothing but padding.
        kernel: What is left of the kernel.
    """
    name = context.forced_lowering()
    if name == "auto" and _is_tiny(geometry, inputs, kernel):
        name = "taps"
    elif name == "auto" and geometry.is_open(inputs):
        name = "native"
    elif name == "auto":
        where = Where(keras.backend.backend(), context.device(), context.compiled(), geometry.rank)
        # TensorFlow has no kernel for volumes.
        name = TABLE.get(where, "planes" if where.backend == "tensorflow" else "native")
        if max(geometry.strides) > 1 and math.prod(geometry.kernel_size) <= WRITTEN_OUT:
            name = TABLE.get(where._replace(strided=True), name)
    return LOWERINGS[name]
