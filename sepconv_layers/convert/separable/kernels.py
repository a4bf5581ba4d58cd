"""The depthwise and pointwise kernels closest to a standard kernel, in weights or in outputs.

All kernels here are `(channels, positions, ...)`, where positions are the elements of the spatial
kernel. A standard kernel is `(channels, positions, filters)`, a depthwise one `(channels,
positions, rank)`, and a pointwise one `(channels, rank, filters)`. Each group of a convolution has
its own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

SWEEPS = 20  # at most
FEW_SWEEPS = 3  # to compare ranks
GAIN = 1e-3  # a sweep that removes less of the error is the last one
# Weight of reproducing each kernel element itself, relative to the mean second moment. It decides
# where the data do not: for channels that are always zero, or fewer patches than kernel elements.
RIDGE = 1e-4


class Factors(NamedTuple):
    """A depthwise and a pointwise kernel."""

    depthwise: np.ndarray
    pointwise: np.ndarray

    def product(self) -> np.ndarray:
        """The standard kernel that they stand for."""
        return self.depthwise @ self.pointwise

    def balanced(self) -> "Factors":
        """The same product from factors with columns and rows of equal norm."""
        left = np.linalg.norm(self.depthwise, axis=1)[:, None]
        right = np.linalg.norm(self.pointwise, axis=2)[..., None]
        norm = np.sqrt(left.swapaxes(1, 2) * right)
        return Factors(
            self.depthwise * _divided(norm.swapaxes(1, 2), left),
            self.pointwise * _divided(norm, right),
        )

    def padded(self, rank: int) -> "Factors":
        """The same product with zeros up to a rank."""
        more = rank - self.depthwise.shape[-1]
        return Factors(
            np.pad(self.depthwise, ((0, 0), (0, 0), (0, more))),
            np.pad(self.pointwise, ((0, 0), (0, more), (0, 0))),
        )


def _divided(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.divide(one, other, out=np.zeros_like(one), where=other > 0)


def closest(kernel: np.ndarray, rank: int) -> Factors:
    """The factors of a rank whose product is closest to a kernel: a truncated SVD per channel."""
    left, values, right = np.linalg.svd(kernel, full_matrices=False)
    used = min(rank, values.shape[1])
    root = np.sqrt(values[:, :used])
    factors = Factors(left[..., :used] * root[:, None], root[..., None] * right[:, :used])
    return factors.padded(rank)


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


def fitted(kernel: np.ndarray, rank: int, metric: Metric, sweeps: int = SWEEPS) -> Factors:
    """The factors of a rank whose outputs are closest to those to reproduce.

    From the closest kernel on, each step has a closed form and lowers the error. Given all other
    channels, the best factors of one channel are a generalized SVD. Given the depthwise kernel, the
    best pointwise kernel is a least-squares solution.

    Reference:
        [He et al., "Depth-wise Decomposition for Accelerating Separable Convolutions in Efficient
        Convolutional Neural Networks", 2019](https://arxiv.org/abs/1910.09455).
    """
    plain = closest(kernel, rank)
    channels, positions, filters = kernel.shape
    used = min(rank, positions, filters)
    ridge = RIDGE * np.trace(metric.second) / len(metric.second)
    if not ridge:
        return plain
    second = metric.second + ridge * np.eye(len(metric.second))
    cross = metric.cross + ridge * kernel.reshape(metric.cross.shape)
    energy = metric.energy + ridge * np.sum(kernel**2)
    own = second.reshape(channels, positions, channels, positions)
    own = own[np.arange(channels), :, np.arange(channels)]  # the block of each channel
    values, vectors = np.linalg.eigh(own)
    roots = np.sqrt(np.maximum(values, ridge))  # rounding may have made them smaller
    whitening = vectors.swapaxes(1, 2) / roots[..., None]
    factors, error = plain, np.inf
    for _ in range(sweeps):
        now = factors.product()
        rest = cross - second @ now.reshape(cross.shape)
        depthwise = np.empty((channels, positions, used))
        pointwise = np.empty((channels, used, filters))
        for c in range(channels):
            rows = slice(c * positions, (c + 1) * positions)
            whitened = whitening[c] @ (rest[rows] + own[c] @ now[c])
            largest = np.linalg.eigh(whitened @ whitened.T)[1][:, -used:]
            depthwise[c], pointwise[c] = whitening[c].T @ largest, largest.T @ whitened
            rest -= second[:, rows] @ (depthwise[c] @ pointwise[c] - now[c])
        factors = Factors(depthwise, _best_pointwise(depthwise, second, cross))
        before, error = error, Metric(second, cross, energy).error(factors.product())
        if before - error <= GAIN * before:
            break
    factors = factors.balanced().padded(rank)
    is_better = metric.error(factors.product()) <= metric.error(plain.product())
    return factors if is_better else plain


def errors_of_ranks(
    kernels: np.ndarray, highest: int, metrics: Sequence[Metric] | None
) -> list[float]:
    """The shares of the energy that the best factors of each rank lose, from rank 1 on.

    Args:
        kernels: The standard kernel of each group.
        highest: The highest rank.
        metrics: Where errors are those of outputs, the metric of each group; by default they are
            those of the kernels.
    """
    ranks = range(1, highest + 1)
    if metrics is not None:
        groups = list(zip(kernels, metrics, strict=True))
        errors = [
            total_error(
                [fitted(kernel, rank, metric, FEW_SWEEPS).product() for kernel, metric in groups],
                metrics,
            )
            for rank in ranks
        ]
        return np.minimum.accumulate(errors).tolist()
    energies = np.sum(np.linalg.svd(kernels, compute_uv=False) ** 2, axis=(0, 1))
    total = max(float(energies.sum()), np.finfo(float).tiny)
    return [float(energies[rank:].sum()) / total for rank in ranks]


def total_error(kernels: Iterable[np.ndarray], metrics: Sequence[Metric]) -> float:
    """The share of the energy of all outputs that the kernels of the groups do not reproduce."""
    lost = sum(
        metric.error(kernel) * metric.energy
        for kernel, metric in zip(kernels, metrics, strict=True)
    )
    energy = sum(metric.energy for metric in metrics)
    return float(lost / energy) if energy else 0.0


def _best_pointwise(depthwise: np.ndarray, second: np.ndarray, cross: np.ndarray) -> np.ndarray:
    channels, positions, rank = depthwise.shape

    def projected(matrix: np.ndarray) -> Any:
        """Multiplies the transposed depthwise kernel and the rows of a matrix."""
        rows = matrix.reshape(channels, positions, -1)
        return (depthwise.swapaxes(1, 2) @ rows).reshape(channels * rank, -1)

    outputs = projected(projected(second).T)
    return np.linalg.solve(outputs, projected(cross)).reshape(channels, rank, -1)
