"""Makes trained standard convolutions separable, by a singular value decomposition."""

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
from sepconv_layers.twins import TRANSPOSED, is_spatial, is_standard, separable_like, unseen

Pair = tuple[keras.layers.Layer, keras.layers.Layer]


@dataclasses.dataclass(frozen=True)
class ConvertedLayer:
    """What became of a standard convolution.

    Attributes:
        name: Path of the layer in the model.
        rank: Number of depthwise outputs for each input channel.
        error: Norm of what the kernel lost, over its norm: 0 is exact, 1 is all.
        macs_ratio: Multiply-accumulates of the new layer, over those of the old one.
    """

    name: str
    rank: int
    error: float
    macs_ratio: float


def to_separable(
    model: keras.Model, rank: int = 1, keep: Sequence[str] = ()
) -> tuple[keras.Model, list[ConvertedLayer]]:
    """Makes the standard convolutions of a trained model separable, as close as a rank allows.

    For each input channel a kernel is a matrix of its positions by the filters. Its largest
    singular values, `rank` of them, make the depthwise and the pointwise kernel: no separable
    convolution of that rank is closer. A rank of the number of positions, 9 for a 3×3 kernel, is
    exact, and saves nothing; a low one loses accuracy, which `distill` brings back in part. Layers
    of this package and of `keras.layers` are converted, and blocks of this package, which become
    models of their layers.

    Args:
        model: Functional model, or a sequential one that is built. It is not changed.
        rank: Number of depthwise outputs for each input channel; for a kernel of fewer positions,
            that number.
        keep: Names of layers, blocks and models inside the model to leave as they are, such as a
            stem with few channels.

    Returns:
        A functional model with the inputs, output shapes and names of the old one, and a
        `ConvertedLayer` for each convolution.

    Raises:
        ValueError: If the model is of another kind or has no standard convolution, `rank` is no
            positive integer, or `keep` names what is not there.

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
            "The `keep` argument must hold names of layers of the model. Received: "
            f"{unknown}, which are none."
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
            return _factorizing(old, rank)
        if isinstance(old, Block) and _is_convertible(old):
            new, unrolled[id(old)] = _unrolled(old, rank)
            return new
        return clone_layer(old)

    converted, pairs = graph.rebuild(make)
    for old, new in pairs:
        for stage, now in unrolled.get(id(old), [(old, new)]):
            if is_spatial(stage) and isinstance(now, SeparableConv):
                report.append(_factorize(stage, now))
            else:
                copy_state(stage, now)
    if not report:
        raise ValueError(
            "The `model` argument must be a model with a standard convolution that is not in "
            f"`keep`. Received: model={model!r} without one.{unseen(graph, is_standard)}"
        )
    return converted, report


def _with_inner(operation: Any) -> Sequence[Any]:
    is_layer = isinstance(operation, keras.layers.Layer)
    return operation._flatten_layers() if is_layer else [operation]


def _is_convertible(block: Block) -> bool:
    return calls_as_defined(block) and any(map(is_spatial, block.inner_layers()))


def _factorizing(conv: Any, rank: int) -> Any:
    return separable_like(conv, depth_multiplier=min(rank, math.prod(conv.kernel_size)))


def _factorize(conv: Any, separable: Any) -> ConvertedLayer:
    """Gives a separable convolution the kernels that are closest to that of a standard one."""
    kernel = keras.ops.convert_to_numpy(conv.kernel)  # with what LoRA adds to it
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
    """Calls new layers in place of those of a block: separable ones for standard convolutions."""

    def __init__(self, block: Block, rank: int) -> None:
        self.block, self.rank = block, rank
        self.pairs: list[Pair] = []

    def run(self, chain: Chain, x: Any) -> Any:
        for old in chain:
            new = _factorizing(old, self.rank) if is_spatial(old) else clone_layer(old)
            self.pairs.append((old, new))
            x = new(x)
        is_cast = keras.backend.standardize_dtype(x.dtype) == self.block.compute_dtype
        return x if is_cast else keras.ops.cast(x, self.block.compute_dtype)


def _unrolled(block: Block, rank: int) -> tuple[keras.Model, list[Pair]]:
    """A block as a model of its layers, and the pairs of old and new ones."""
    inputs = keras.Input(batch_shape=block.input.shape, dtype=block.compute_dtype)
    unroller = _Unroller(block, rank)
    outputs = block.walk(inputs, block.chains(), unroller)
    return keras.Model(inputs, outputs, name=block.name), unroller.pairs
