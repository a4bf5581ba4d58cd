"""Twins under one budget: what the separable net loses in accuracy, and what it wins in time."""

from sepconv_layers.comparison.experiment import compare
from sepconv_layers.comparison.record import Comparison, Row

__all__ = ["Comparison", "Row", "compare"]
