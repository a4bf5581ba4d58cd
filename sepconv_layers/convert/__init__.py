"""Converts trained models: batch-norm folding, separable convolutions, and distillation."""

from sepconv_layers.convert.decoupling import ConvertedLayer, to_separable
from sepconv_layers.convert.distillation import distill
from sepconv_layers.convert.folding import fold_batch_norm

__all__ = ["ConvertedLayer", "distill", "fold_batch_norm", "to_separable"]
