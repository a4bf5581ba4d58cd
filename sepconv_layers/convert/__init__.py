"""Converts trained models: separable, pruned, factorized and folded forms, and distillation."""

from sepconv_layers.convert.distillation import distill
from sepconv_layers.convert.factorization import FactorizationReport, FactorizedLayer, factorize
from sepconv_layers.convert.folding import fold_batch_norm
from sepconv_layers.convert.pruning import PrunedLayer, PruningReport, prune_channels
from sepconv_layers.convert.separable import Conversion, ConvertedLayer, to_separable

__all__ = [
    "Conversion",
    "ConvertedLayer",
    "FactorizationReport",
    "FactorizedLayer",
    "PrunedLayer",
    "PruningReport",
    "distill",
    "factorize",
    "fold_batch_norm",
    "prune_channels",
    "to_separable",
]
