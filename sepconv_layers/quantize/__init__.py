"""Quantization-aware training: models that are trained with the rounding of their int8 files."""

from sepconv_layers.quantize.insertion import aware
from sepconv_layers.quantize.layers import FakeQuantize, FakeQuantizeKernel

__all__ = ["FakeQuantize", "FakeQuantizeKernel", "aware"]
