"""The space of a search: which values each choice may take."""

import json
import math
from collections.abc import Mapping
from typing import Any

from sepconv_layers.arguments import is_integer
from sepconv_layers.extras import require

RESERVED = "conv"  # the first argument of `build`


class Space:
    """The values of each choice, in the form that optuna samples.

    Args:
        space: Name of a choice to its values, as `search` takes them.

    Attributes:
        distributions: Name of a choice to its distribution.
    """

    def __init__(self, space: Any) -> None:
        if not isinstance(space, Mapping) or not space:
            raise ValueError(
                "`space` must map the name of at least one argument of `build` to its values. "
                f"Received: space={space!r}."
            )
        self._listed: dict[str, dict[str, Any]] = {}  # label to value, of a list of values
        self.distributions = {name: self._distribution(name, space[name]) for name in space}

    @property
    def size(self) -> float:
        """The number of combinations."""
        return math.prod(map(_count, self.distributions.values()))

    def choices(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What optuna sampled, as arguments of `build`."""
        return {
            name: self._listed[name][value] if name in self._listed else value
            for name, value in params.items()
        }

    def record(self) -> dict[str, Any]:
        """The space as plain data: a list of values, or a range with `low` and `high`."""
        return {
            name: list(self._listed[name].values()) if name in self._listed else values._asdict()
            for name, values in self.distributions.items()
        }

    def _distribution(self, name: Any, values: Any) -> Any:
        distributions = require("optuna", "search", "search").distributions
        if not isinstance(name, str) or not name.isidentifier() or name == RESERVED:
            raise ValueError(
                f"The names in `space` must be arguments of `build` other than {RESERVED!r}. "
                f"Received: {name!r}."
            )
        if isinstance(values, distributions.CategoricalDistribution):
            values = list(values.choices)
        if isinstance(values, distributions.BaseDistribution):
            return values
        if isinstance(values, list):
            return distributions.CategoricalDistribution(self._labels(name, values))
        if isinstance(values, range) and values and values.step > 0:
            return distributions.IntDistribution(values[0], values[-1], step=values.step)
        if isinstance(values, tuple) and len(values) == 2:
            low, high = values
            if is_integer(low) and is_integer(high) and low < high:
                return distributions.IntDistribution(int(low), int(high))
            if _is_real(low) and _is_real(high) and low < high:
                return distributions.FloatDistribution(float(low), float(high))
        raise _bad_values(name, values)

    def _labels(self, name: str, values: list) -> list[str]:
        try:
            labels = [json.dumps(value) for value in values]
        except (TypeError, ValueError):
            raise _bad_values(name, values) from None
        if not labels or len(set(labels)) < len(labels):
            raise _bad_values(name, values)
        self._listed[name] = dict(zip(labels, values, strict=True))
        return labels


def _is_real(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _count(distribution: Any) -> float:
    """The number of values of a distribution."""
    if hasattr(distribution, "choices"):
        return len(distribution.choices)
    step = distribution.step
    return int((distribution.high - distribution.low) / step + 1e-9) + 1 if step else math.inf


def _bad_values(name: str, values: Any) -> ValueError:
    return ValueError(
        f"The values of {name!r} in `space` must be a list of distinct numbers, strings, lists or "
        "tuples; a pair (lowest, highest) of integers or floats, both included; a `range`; or a "
        f"distribution of optuna. Received: {values!r}."
    )
