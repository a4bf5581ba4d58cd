"""Separable and standard twins, trained and timed under one budget."""

from sepconv_layers.comparison.choices import search
from sepconv_layers.comparison.comparison_record import Comparison
from sepconv_layers.comparison.experiment import compare
from sepconv_layers.comparison.frontier_record import Frontier
from sepconv_layers.comparison.record import Record
from sepconv_layers.comparison.row import Row, SizedRow
from sepconv_layers.comparison.search_record import Search, Trial
from sepconv_layers.comparison.sizes import frontier
from sepconv_layers.comparison.tradeoff import Difference, Margin

__all__ = [
    "Comparison",
    "Difference",
    "Frontier",
    "Margin",
    "Record",
    "Row",
    "Search",
    "SizedRow",
    "Trial",
    "compare",
    "frontier",
    "search",
]
