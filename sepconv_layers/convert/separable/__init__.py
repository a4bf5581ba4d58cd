"""Replaces standard convolutions with separable ones, by their kernels or by data."""

from sepconv_layers.convert.separable.conversion import to_separable
from sepconv_layers.convert.separable.report import Conversion, ConvertedLayer

__all__ = ["Conversion", "ConvertedLayer", "to_separable"]
