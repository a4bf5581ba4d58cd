"""The choice of the channels to remove: the least error for the MACs that are saved."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from sepconv_layers.convert.pruning.channels import KEPT, Channels, Part, macs_of

TINY = 1e-12  # in place of zero, to divide by


class Choice:
    """Chooses channels to keep.

    Channels with equal labels are one. Those created by the same layers form a segment, which loses
    units of `divisor` channels, the least important ones first, and keeps at least one unit.

    Args:
        channels: The channels of a model.
        shares: The share of each input channel in the outputs of a layer, by the id of the layer.
        macs: MACs of the model.
        divisor: Number that the output channels of a layer are a multiple of, or stay.
    """

    def __init__(
        self, channels: Channels, shares: Mapping[int, np.ndarray], macs: int, divisor: int
    ) -> None:
        parts = channels.parts.values()
        self.roots = channels.roots()
        self.terms = [
            (count, tuple(self.roots[labels] for labels in arrays))
            for part in parts
            for count, arrays in part.terms
        ]
        self.fixed = macs - macs_of(self.terms, np.ones(len(self.roots), bool))
        importance, cost = np.zeros((2, len(self.roots)))
        for part in parts:
            if id(part.layer) in shares:
                np.add.at(importance, self.roots[part.inputs], shares[id(part.layer)])
        for count, arrays in self.terms:
            for labels in arrays:
                np.add.at(cost, labels, count / len(labels))
        self.units: list[np.ndarray] = []
        self.segments: list[list[int]] = []  # the units of each, the least important first
        error: list[float] = []
        for members, size in self._segments(parts, divisor):
            members = members[np.argsort(importance[members], kind="stable")]
            rest = len(members) % size if len(members) > size else 0
            units = [members[:rest]] if rest else []
            units += np.split(members[rest:], range(size, len(members) - rest, size))
            values = np.array([importance[unit].sum() for unit in units[:-1]])
            # The fewer channels are left, the more does one of them count.
            total = importance[members].sum() + TINY
            rates = values / np.maximum(1 - np.cumsum(values) / total, TINY)
            rates /= np.array([cost[unit].sum() + TINY for unit in units[:-1]])
            self.segments.append(list(range(len(self.units), len(self.units) + len(rates))))
            self.units += units[:-1]
            error += list(np.maximum.accumulate(rates))
        self.error = np.array(error)  # for each MAC

    def within(self, budget: float) -> tuple[np.ndarray, int]:
        """Returns for each label whether it is kept, and the MACs, which are at most the budget."""
        order = np.argsort(self.error, kind="stable")
        least = self._macs(order)
        if least > budget:
            raise ValueError(
                f"The `macs` argument must be at least {least:,} MACs, which the fewest channels "
                f"that can remain take. Received: {budget:,} MACs."
            )
        few, many = 0, len(order)  # of the units to remove
        while few < many:
            middle = (few + many) // 2
            if self._macs(order[:middle]) > budget:
                few = middle + 1
            else:
                many = middle
        removed = self._without_needless(set(order[:many]), budget)
        return self._kept(removed)[self.roots], self._macs(removed)

    def _without_needless(self, removed: set[int], budget: float) -> set[int]:
        """Takes back units as long as the budget permits it, the most important ones first."""
        before = None
        while removed != before:
            before = removed
            gone = [removed.intersection(units) for units in self.segments]
            for unit in sorted(map(max, filter(None, gone)), key=lambda unit: -self.error[unit]):
                if self._macs(removed - {unit}) <= budget:
                    removed = removed - {unit}
        return removed

    def _segments(self, parts: Iterable[Part], divisor: int) -> Iterator[tuple[np.ndarray, int]]:
        """Yields the channels of each segment, and how many of them make a unit."""
        counts = np.array(
            [
                np.bincount(self.roots[part.outputs], minlength=len(self.roots))
                for part in parts
                if part.outputs.size
            ]
        ).reshape(-1, len(self.roots))
        counts[:, KEPT] = 0
        found, inverse = np.unique(counts, axis=1, return_inverse=True)
        for number, column in enumerate(found.T):
            if column.any():
                sizes = [divisor // math.gcd(divisor, int(count)) for count in column[column > 0]]
                yield np.flatnonzero(inverse.ravel() == number), math.lcm(*sizes)

    def _macs(self, removed: Iterable[int]) -> int:
        return self.fixed + macs_of(self.terms, self._kept(removed))

    def _kept(self, removed: Iterable[int]) -> np.ndarray:
        kept = np.ones(len(self.roots), bool)
        for unit in removed:
            kept[self.units[unit]] = False
        return kept
