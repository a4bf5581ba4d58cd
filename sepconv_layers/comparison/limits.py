"""Limits on costs that an untrained net has: checked before any training."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from sepconv_layers.arguments import positive_number
from sepconv_layers.comparison import deployment
from sepconv_layers.comparison.data import Parts
from sepconv_layers.cost import Profile

LIMITS = "macs", "params", "int8_bytes"


def check_limits(limits: Any, alternative: str) -> dict[str, float]:
    """Returns the limits as a dictionary.

    Args:
        limits: Name of a cost to its largest value, or `None`.
        alternative: What limits other costs, for the message.
    """
    limits = {} if limits is None else limits
    if not isinstance(limits, Mapping) or not set(limits) <= set(LIMITS):
        raise ValueError(
            f"`limits` must map any of {', '.join(map(repr, LIMITS))} to a number. For other "
            f"costs, use {alternative}. Received: limits={limits!r}."
        )
    for name, limit in limits.items():
        positive_number(limit, f"limits[{name!r}]")
    why_not = deployment.unavailable()
    if "int8_bytes" in limits and why_not:
        raise ValueError(f"`limits` must not have 'int8_bytes' here. {why_not}")
    return dict(limits)


def untrained_costs(
    model: keras.Model, profile: Profile, parts: Parts, limits: Mapping[str, float]
) -> dict[str, float]:
    """The costs of a net that need no training.

    The size of the int8 file takes seconds to find. It is missing unless it is limited and the
    other costs are within their limits.
    """
    costs: dict[str, float] = {"macs": profile.macs, "params": profile.params}
    if "int8_bytes" in limits and not excess(costs, limits):
        with tempfile.TemporaryDirectory() as folder:
            path = deployment.write_artifact(model, "int8", Path(folder), parts["train"][0])
            costs["int8_bytes"] = path.stat().st_size
    return costs


def excess(costs: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """The limits that a net exceeds, each with the factor by which it does."""
    return {
        name: costs[name] / limit
        for name, limit in limits.items()
        if name in costs and costs[name] > limit
    }


def excess_text(costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """The same in words."""
    over = excess(costs, limits)
    return ", ".join(f"{name} {costs[name]:,} > {limits[name]:,}" for name in over)
