"""Separable and standard twins, trained and timed under one budget."""

from sepconv_layers.comparison.experiment import compare
from sepconv_layers.comparison.record import Comparison
from sepconv_layers.comparison.row import Row

__all__ = ["Comparison", "Row", "compare"]
