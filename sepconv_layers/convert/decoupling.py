"""Replaces trained standard convolutions with separable ones, by singular value decomposition."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.arguments import positive_int
from sepconv_layers.blocks.base import Block, Chain, Walker
from sepconv_layers.cost import separable_ratio
from sepconv_layers.graph_edit import ModelGraph, calls_as_defined, clone_layer, copy_state
from sepconv_layers.layers.separable_conv import SeparableConv
from sepconv_layers.twins import TRANSPOSED, hidden_layers, is_spatial, is_standard, separable_like

Pair = tuple[keras.layers.Layer, keras.layers.Layer]


@dataclasses.dataclass(frozen=True)
class ConvertedLayer:
    """Report on a converted convolution.

    Attributes:
        name: Path of the layer in the model.
        rank: Number of depthwise output channels per input channel.
        error: Relative Frobenius error of the kernel (0 = exact).
        macs_ratio: MACs of the new layer divided by MACs of the old one.
    """

    name: str
    rank: int
    error: float
    macs_ratio: float


def to_separable(
    model: keras.Model, rank: int = 1, keep: Sequence[str] = ()
) -> tuple[keras.Model, list[ConvertedLayer]]:
    """Replaces the standard convolutions of a trained model with the closest separable ones.

    For each input channel, a kernel is a matrix of positions by filters. Its `rank` largest
    singular values yield the depthwise and the pointwise kernel, and no separable convolution of
    that rank is closer. A rank equal to the number of positions, 9 for a 3×3 kernel, is exact but
    saves nothing. A low rank loses accuracy, which `distill` partly recovers. This converts layers
    of this package and of `keras.layers`, and blocks of this package, which become models of their
    inner layers.

    Args:
        model: A functional model or a built sequential model. It is not changed.
        rank: Number of depthwise output channels per input channel, at most the number of kernel
            positions.
        keep: Names of layers, blocks and nested models to leave as they are, such as a stem with
            few channels.

    Returns:
        A functional model with the same inputs, output shapes and names, and a `ConvertedLayer`
        for each convolution.

    Raises:
        ValueError: If the model is of another kind or has no standard convolution, `rank` is not a
            positive integer, or `keep` has an unknown name.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import convert
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(32, 3)])
        >>> exact, (layer,) = convert.to_separable(model, rank=9)
        >>> layer.error < 1e-6
        True
        >>> x = np.random.normal(size=(1, 8, 8, 4)).astype("float32")
        >>> np.allclose(model(x), exact(x), atol=1e-5)
        True
        >>> _, (layer,) = convert.to_separable(model)
        >>> layer.macs_ratio
        0.142...

    Reference:
        [Guo et al., "Network Decoupling: From Regular to Depthwise Separable Convolutions", 2018](
        https://arxiv.org/abs/1808.05517).
    """
    graph, rank = ModelGraph(model), positive_int(rank, "rank")
    names = {getattr(node.operation, "name", "") for node in graph.nodes}
    unknown = sorted(set(keep) - names)
    if unknown:
        raise ValueError(
            "The `keep` argument must hold names of layers of the model. Received unknown names: "
            f"{unknown}."
        )
    report: list[ConvertedLayer] = []
    unrolled: dict[int, list[Pair]] = {}
    kept = {
        id(layer)
        for node in graph.nodes
        if getattr(node.operation, "name", "") in keep
        for layer in _with_inner(node.operation)
    }

    def make(old: Any) -> Any:
        if id(old) in kept:
            return clone_layer(old)
        if is_spatial(old):
            return _separable_layer(old, rank)
        if isinstance(old, Block) and _is_convertible(old):
            new, unrolled[id(old)] = _unrolled(old, rank)
            return new
        return clone_layer(old)

    converted, pairs = graph.rebuild(make)
    for old, new in pairs:
        for stage, now in unrolled.get(id(old), [(old, new)]):
            if is_spatial(stage) and isinstance(now, SeparableConv):
                report.append(_set_closest_kernels(stage, now))
            else:
                copy_state(stage, now)
    if not report:
        raise ValueError(
            "The `model` argument must be a model with a standard convolution that is not in "
            f"`keep`. Received: model={model!r} without one.{hidden_layers(graph, is_standard)}"
        )
    return converted, report


def _with_inner(operation: Any) -> Sequence[Any]:
    is_layer = isinstance(operation, keras.layers.Layer)
    return operation._flatten_layers() if is_layer else [operation]


def _is_convertible(block: Block) -> bool:
    return calls_as_defined(block) and any(map(is_spatial, block.inner_layers()))


def _separable_layer(conv: Any, rank: int) -> Any:
    return separable_like(conv, depth_multiplier=min(rank, math.prod(conv.kernel_size)))


def _set_closest_kernels(conv: Any, separable: Any) -> ConvertedLayer:
    """Sets the kernels of a separable convolution to the closest ones to a standard kernel."""
    kernel = keras.ops.convert_to_numpy(conv.kernel)  # including what LoRA adds
    bias = [keras.ops.convert_to_numpy(conv.bias)] if conv.use_bias else []
    is_transposed = isinstance(conv, TRANSPOSED)
    if is_transposed:
        kernel = np.swapaxes(kernel, -1, -2)  # to (*kernel_size, channels, filters)
    *size, channels, filters = kernel.shape
    rank = separable.depth_multiplier
    matrices = kernel.reshape(-1, channels, filters).swapaxes(0, 1).astype("float64")
    left, values, right = np.linalg.svd(matrices, full_matrices=False)
    used = min(rank, values.shape[1])
    root = np.sqrt(values[:, :used])
    depthwise = np.zeros((channels, math.prod(size), rank))
    pointwise = np.zeros((channels, rank, filters))
    depthwise[..., :used] = left[..., :used] * root[:, None]
    pointwise[:, :used] = root[..., None] * right[:, :used]
    norm = np.linalg.norm(values)
    new = (
        depthwise.swapaxes(0, 1).reshape(*size, channels, rank),
        pointwise.reshape(*(1,) * len(size), channels * rank, filters),
    )
    separable.set_weights([*(array.astype(kernel.dtype) for array in new), *bias])
    return ConvertedLayer(
        name=conv.path,
        rank=rank,
        error=float(np.linalg.norm(values[:, used:]) / norm) if norm else 0.0,
        macs_ratio=separable_ratio(filters, size, rank),
    )


class _Unroller(Walker):
    """Calls copies of the layers of a block, with separable ones for standard convolutions."""

    def __init__(self, block: Block, rank: int) -> None:
        self.block, self.rank = block, rank
        self.pairs: list[Pair] = []

    def run(self, chain: Chain, x: Any) -> Any:
        for old in chain:
            new = _separable_layer(old, self.rank) if is_spatial(old) else clone_layer(old)
            self.pairs.append((old, new))
            x = new(x)
        is_cast = keras.backend.standardize_dtype(x.dtype) == self.block.compute_dtype
        return x if is_cast else keras.ops.cast(x, self.block.compute_dtype)


def _unrolled(block: Block, rank: int) -> tuple[keras.Model, list[Pair]]:
    """A block as a model of its inner layers, and the pairs of old and new layers."""
    inputs = keras.Input(batch_shape=block.input.shape, dtype=block.compute_dtype)
    unroller = _Unroller(block, rank)
    outputs = block.walk(inputs, block.chains(), unroller)
    return keras.Model(inputs, outputs, name=block.name), unroller.pairs
