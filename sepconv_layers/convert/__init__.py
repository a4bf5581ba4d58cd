"""Converts trained models: separable convolutions, pruning, distillation, batch-norm folding."""

from sepconv_layers.convert.decoupling import ConvertedLayer, to_separable
from sepconv_layers.convert.distillation import distill
from sepconv_layers.convert.folding import fold_batch_norm
from sepconv_layers.convert.pruning import PrunedLayer, PruningReport, prune_channels

__all__ = [
    "ConvertedLayer",
    "PrunedLayer",
    "PruningReport",
    "distill",
    "fold_batch_norm",
    "prune_channels",
    "to_separable",
]
