"""Chooses the ranks of layers: where multiply-accumulates (MACs) remove the most error."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST = 2**14  # combinations to keep


class Candidate(NamedTuple):
    """A form of a layer.

    Attributes:
        rank: Number of depthwise outputs per input channel; `None` for the standard convolution.
        cost: MACs of all calls of the layer.
        error: Share of the energy of the kernel, or of the outputs on data, that is lost.
    """

    rank: int | None
    cost: float
    error: float


def for_energy(layers: Sequence[Sequence[Candidate]], energy: float) -> list[Candidate]:
    """The cheapest form of each layer that keeps a share of its energy."""
    return [next(one for one in forms if one.error <= 1 - energy) for forms in layers]


def for_budget(layers: Sequence[Sequence[Candidate]], budget: float) -> list[Candidate]:
    """The forms with the smallest sum of errors whose costs are within a budget.

    This is a multiple-choice knapsack problem. Layer after layer, it keeps the combinations of
    forms that no other one beats in both cost and error, which is exact unless there are too many.

    Args:
        layers: The forms of each layer, from the cheapest on.
        budget: The limit on the sum of costs, at least that of the cheapest forms.
    """
    costs, errors = np.zeros(1), np.zeros(1)  # of the combinations so far, by cost
    left = budget - sum(forms[0].cost for forms in layers)
    least = 0.0
    choices = []
    for forms in layers:
        least += forms[0].cost
        more_costs = np.add.outer([form.cost for form in forms], costs).ravel()
        more_errors = np.add.outer([form.error for form in forms], errors).ravel()
        order = np.lexsort((more_errors, more_costs))
        order = order[more_costs[order] - least <= left]
        lowest = np.minimum.accumulate(more_errors[order])
        order = order[np.r_[True, lowest[1:] < lowest[:-1]]]
        order = _thinned(order, more_costs[order])
        choices.append(np.divmod(order, len(costs)))
        costs, errors = more_costs[order], more_errors[order]
    at, chosen = len(costs) - 1, []  # the most expensive one has the smallest error
    for forms, (form, before) in zip(layers[::-1], choices[::-1], strict=True):
        chosen.append(forms[form[at]])
        at = before[at]
    return chosen[::-1]


def _thinned(combinations: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """At most `MOST` combinations: the cheapest one, and the last one in intervals of cost."""
    if len(combinations) <= MOST:
        return combinations
    interval = np.floor((costs - costs[0]) / (costs[-1] - costs[0]) * (MOST - 2))
    is_last = np.r_[interval[1:] > interval[:-1], True]
    is_last[0] = True
    return combinations[is_last]
