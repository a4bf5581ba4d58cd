"""Converts trained models: batch-norm folding, separable convolutions, and distillation."""

from sepconv_layers.convert.decoupling import to_separable
from sepconv_layers.convert.distillation import distill
from sepconv_layers.convert.folding import fold_batch_norm
from sepconv_layers.convert.report import Conversion, ConvertedLayer

__all__ = ["Conversion", "ConvertedLayer", "distill", "fold_batch_norm", "to_separable"]
