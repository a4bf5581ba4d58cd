"""Sums over float32, for half-precision inputs where a kernel would not keep them so."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from sepconv_layers.ops.geometry import Convolve, Geometry


def sums_in_float32(lowering: Convolve) -> Callable:
    """Makes a lowering compute in float32 what comes in half precision, and round the outputs."""

    @functools.wraps(lowering)
    def in_float32(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if dtype not in ("float16", "bfloat16"):
            return lowering(inputs, kernel, geometry)
        inputs, kernel = keras.ops.cast(inputs, "float32"), keras.ops.cast(kernel, "float32")
        return keras.ops.cast(lowering(inputs, kernel, geometry), dtype)

    return in_float32
