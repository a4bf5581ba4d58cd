"""Chooses the ranks of layers: where multiply-accumulates (MACs) remove the most error."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Steps in which a budget is spent. Each layer may waste one of them.
STEPS = 2**14


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

    Each layer has to be given one form. This is a multiple-choice knapsack problem, solved by
    dynamic programming on costs that are rounded up.

    Args:
        layers: The forms of each layer, from the cheapest on.
        budget: The limit on the sum of costs, at least that of the cheapest forms.
    """
    least = sum(forms[0].cost for forms in layers)
    unit = (budget - least) / STEPS
    best = np.zeros(STEPS + 1)  # the smallest error within each number of steps
    choices = []
    for forms in layers:
        extra = [_steps(form.cost - forms[0].cost, unit) for form in forms]
        errors = np.stack(
            [
                np.concatenate([np.full(steps, np.inf), best[: len(best) - steps] + form.error])
                for form, steps in zip(forms, extra, strict=True)
                if steps <= STEPS
            ]
        )
        choices.append((errors.argmin(0), extra))
        best = errors.min(0)
    left, chosen = STEPS, []
    for forms, (choice, extra) in zip(layers[::-1], choices[::-1], strict=True):
        chosen.append(forms[choice[left]])
        left -= extra[choice[left]]
    return chosen[::-1]


def _steps(cost: float, unit: float) -> int:
    if not cost:
        return 0
    return int(min(np.ceil(cost / unit), STEPS + 1)) if unit > 0 else STEPS + 1
