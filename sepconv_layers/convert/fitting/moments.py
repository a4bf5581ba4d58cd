"""Moments of what a layer gets, which decide on the best kernel."""

from collections.abc import Iterable, Sequence

import numpy as np

from sepconv_layers.convert.fitting.patches import Product

# Numbers in the rows of a batch: with more, they are taken at random output positions.
LARGEST_BATCH = 2**22


class Metric:
    """How far the outputs of a kernel are from those of a standard one, on patches of inputs.

    Args:
        second: Mean products of two elements of a patch, `(elements, elements)`, where the elements
            are ordered as those of a kernel.
        cross: Mean products of a patch and of the outputs to reproduce, `(elements, filters)`.
        energy: Mean square of the outputs to reproduce, summed over the filters.
    """

    def __init__(self, second: np.ndarray, cross: np.ndarray, energy: float) -> None:
        self.second, self.cross, self.energy = second, cross, energy

    def error(self, kernel: np.ndarray) -> float:
        """The share of the energy of the outputs that a kernel does not reproduce."""
        flat = kernel.reshape(self.cross.shape)
        lost = self.energy - np.sum(flat * (2 * self.cross - self.second @ flat))
        return float(max(lost, 0.0) / self.energy) if self.energy else 0.0


def total_error(kernels: Iterable[np.ndarray], metrics: Sequence[Metric]) -> float:
    """The share of the energy of all outputs that the kernels of the groups do not reproduce."""
    lost = sum(
        metric.error(kernel) * metric.energy
        for kernel, metric in zip(kernels, metrics, strict=True)
    )
    energy = sum(metric.energy for metric in metrics)
    return float(lost / energy) if energy else 0.0


class Moments:
    """Sums from which the kernel of a layer is fitted; their size does not depend on the data.

    Each has one row for each group of the layer.

    Args:
        original: The product whose outputs are to be reproduced.
        product: The product of the layer to fit; by default, it takes as many channels.
        kept: For each filter of the original layer, whether the layer to fit has it.
    """

    def __init__(
        self,
        original: Product,
        product: Product | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self.original, self.product = original, product or original
        weights = original.kernels
        if kept is not None:
            of_groups = zip(weights, kept.reshape(len(weights), -1), strict=True)
            weights = np.stack([kernel[:, filters] for kernel, filters in of_groups])
        self.weights = weights.astype("float32")
        groups, _, filters = weights.shape
        elements = self.product.kernels.shape[1]
        self.second = np.zeros((groups, elements, elements))
        self.cross = np.zeros((groups, elements, filters))
        self.inputs, self.outputs = np.zeros((groups, elements)), np.zeros((groups, filters))
        self.energy, self.count = np.zeros(groups), 0
        self.is_unchanged = True  # so far, the layer has got what the original one got
        self.random = np.random.default_rng(0)

    def add(self, inputs: np.ndarray, original: np.ndarray | None = None) -> None:
        """Adds a batch.

        Args:
            inputs: Inputs that the layer to fit gets.
            original: Inputs that the original layer gets for the same samples; by default the
                same.
        """
        positions = np.arange(self.product.number(inputs))
        groups, elements, _ = self.weights.shape
        most = max(LARGEST_BATCH // (groups * elements), 1)
        if len(positions) > most:
            positions = self.random.choice(positions, most, replace=False)
        mine = theirs = self.product.rows(inputs, positions)
        if original is not None:
            theirs = self.original.rows(original, positions)
            self.is_unchanged &= np.array_equal(inputs, original)
        wanted = theirs @ self.weights
        self.second += mine.swapaxes(1, 2) @ mine
        self.cross += mine.swapaxes(1, 2) @ wanted
        self.inputs += mine.sum(1, dtype="float64")
        self.outputs += wanted.sum(1, dtype="float64")
        self.energy += np.sum(np.square(wanted), axis=(1, 2), dtype="float64")
        self.count += len(positions)

    def metrics(self, centered: bool) -> list[Metric]:
        """The metric of each group, `centered` if the mean of each filter does not count."""
        second, cross = self.second / self.count, self.cross / self.count
        energy = self.energy / self.count
        if centered:
            inputs, outputs = self.inputs / self.count, self.outputs / self.count
            second = second - inputs[:, :, None] * inputs[:, None]
            cross = cross - inputs[:, :, None] * outputs[:, None]
            energy = np.maximum(energy - np.sum(outputs**2, axis=1), 0.0)
        return list(map(Metric, second, cross, map(float, energy)))

    def shift(self, kernels: np.ndarray) -> np.ndarray:
        """What the kernels of the groups miss in the mean of each filter."""
        reached = self.inputs[:, None] @ kernels.reshape(self.cross.shape)
        return (self.outputs - reached[:, 0]).ravel() / self.count
