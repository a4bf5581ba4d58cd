"""Twins under one budget: what the separable net loses in accuracy, and what it gains in speed."""

from sepconv_layers.comparison.experiment import compare
from sepconv_layers.comparison.record import Comparison
from sepconv_layers.comparison.row import Row

__all__ = ["Comparison", "Row", "compare"]
