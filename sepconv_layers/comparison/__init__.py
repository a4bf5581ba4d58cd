"""Twins under one budget: what the separable net loses in accuracy, and what it wins in time."""

from sepconv_layers.comparison.experiment import compare
from sepconv_layers.comparison.record import Comparison, Row
from sepconv_layers.comparison.timing import MODES, device, medians, versions
from sepconv_layers.files import write, write_text

__all__ = [
    "MODES",
    "Comparison",
    "Row",
    "compare",
    "device",
    "medians",
    "versions",
    "write",
    "write_text",
]
