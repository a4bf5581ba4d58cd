"""Depthwise convolution in what LiteRT and ONNX have as built-in operators."""

from typing import Any

from sepconv_layers.ops.geometry import Geometry
from sepconv_layers.ops.planes import planes


def portable(inputs: Any, kernel: Any, geometry: Geometry) -> Any:
    """2D depthwise convolutions, slices and additions: no compiled cluster, no grouped kernel.

    That is the planes lowering today. It has a name of its own because what an exporter relies on
    is this promise, not the way in which it is kept.
    """
    return planes(inputs, kernel, geometry)
