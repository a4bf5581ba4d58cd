"""Accuracy against cost: margins at equal cost, Pareto fronts, and differences between nets."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000  # of the test samples in a bootstrap
CONFIDENCE = 0.95

Points = Sequence[tuple[float, Sequence[float]]]  # the cost and the accuracies of each net


@dataclasses.dataclass(frozen=True)
class Margin:
    """How much more accurate one family of nets is than another at equal cost.

    As text, it is in percentage points.

    Attributes:
        mean: Mean difference of the accuracies over the costs that both families cover, on a
            logarithmic axis.
        std: Sample standard deviation of that difference over the seeds; `None` for a single seed.
        low: Lowest cost that both families cover.
        high: Highest cost that both families cover.
    """

    mean: float
    std: float | None
    low: float
    high: float

    def __str__(self) -> str:
        points = f"{100 * self.mean:+.2f}"
        return points if self.std is None else f"{points} ± {100 * self.std:.2f}"


def margin_at_equal_cost(family: Points, other: Points) -> Margin | None:
    """Averages the difference between the accuracies of two families over their common costs.

    Between the nets of a family, accuracy is linear in the logarithm of the cost. Nothing is
    extrapolated.

    Args:
        family: The positive cost and the accuracies, one per seed, of each net of a family.
        other: The same of another family, with the same seeds.

    Returns:
        The margin of `family` over `other`, or `None` if their costs do not overlap.

    Example:
        >>> from sepconv_layers.comparison.tradeoff import margin_at_equal_cost
        >>> better, worse = [(1, [0.8]), (4, [0.9])], [(2, [0.8]), (8, [0.9])]
        >>> round(margin_at_equal_cost(better, worse).mean, 3)
        0.05
    """
    (costs, accuracies), (other_costs, other_accuracies) = _line(family), _line(other)
    low, high = max(costs[0], other_costs[0]), min(costs[-1], other_costs[-1])
    if low > high:
        return None
    knots = np.unique(np.clip(np.concatenate([costs, other_costs]), low, high))
    per_seed = []
    for ours, theirs in zip(accuracies, other_accuracies, strict=True):
        gaps = np.interp(knots, costs, ours) - np.interp(knots, other_costs, theirs)
        width = high - low
        per_seed.append(float(np.trapezoid(gaps, knots) / width if width else gaps[0]))
    return Margin(
        mean=statistics.fmean(per_seed),
        std=statistics.stdev(per_seed) if len(per_seed) > 1 else None,
        low=math.exp(low),
        high=math.exp(high),
    )


def _line(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """The logarithms of the costs in rising order, and the accuracies as (seeds, nets).

    Nets of equal cost become one, with the mean of their accuracies.
    """
    by_cost: dict[float, list[Sequence[float]]] = {}
    for cost, accuracies in points:
        by_cost.setdefault(math.log(cost), []).append(accuracies)
    costs = sorted(by_cost)
    return np.array(costs), np.array([np.mean(by_cost[cost], axis=0) for cost in costs]).T


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Finds the points that no other point beats in both cost and accuracy.

    Args:
        points: The cost and the accuracy of each net.

    Returns:
        The indices of these points, in the order of their cost.

    Example:
        >>> from sepconv_layers.comparison.tradeoff import pareto_front
        >>> pareto_front([(1.0, 0.8), (3.0, 0.9), (2.0, 0.7)])
        [0, 1]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between the test accuracies of two nets, with its confidence interval.

    Attributes:
        mean: Accuracy of the first net minus that of the second.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def goodness(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How good predictions are for each sample: the share that is right, or minus the mean error.

    Args:
        predictions: Classes, or numbers, as (seeds, samples, ...).
        labels: The labels, as (samples, ...).

    Returns:
        An array of shape (seeds, samples).
    """
    is_number = predictions.dtype.kind == "f"
    found = -np.abs(predictions - labels) if is_number else predictions == labels
    return found.reshape(*found.shape[:2], -1).mean(-1)


def paired_bootstrap(correct: np.ndarray, other: np.ndarray) -> Difference:
    """Compares two nets on the same test samples, which are drawn again with replacement.

    Args:
        correct: Whether the first net is right, or how good it is, as (seeds, samples).
        other: The same of the second net; the number of seeds can differ.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers.comparison.tradeoff import paired_bootstrap
        >>> right = np.arange(400).reshape(1, 400) % 10 > 0
        >>> paired_bootstrap(right, right).is_significant
        False

    Reference:
        [Efron and Tibshirani, "An Introduction to the Bootstrap", 1993](
        https://doi.org/10.1201/9780429246593).
    """
    gaps = correct.mean(axis=0) - other.mean(axis=0)
    rng = np.random.default_rng(0)
    means = [gaps[rng.integers(len(gaps), size=len(gaps))].mean() for _ in range(RESAMPLES)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Difference(float(gaps.mean()), float(low), float(high))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and the values themselves, rounded for a record."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": round(statistics.fmean(values), 6),
        "std": round(std, 6),
        "per_seed": list(values),
    }


def exceeded(costs: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """The names of the limits that a net exceeds. An unmeasured cost exceeds any limit."""
    return [name for name, limit in limits.items() if costs.get(name, math.inf) > limit]
