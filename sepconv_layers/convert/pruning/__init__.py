"""Removes whole channels: which ones belong together, which matter least, and the smaller model."""

from sepconv_layers.convert.pruning.removal import PrunedLayer, PruningReport, prune_channels

__all__ = ["PrunedLayer", "PruningReport", "prune_channels"]
