"""Folds batch normalization into the preceding convolutions."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers import layers
from sepconv_layers.blocks.base import Block
from sepconv_layers.class_table import by_class
from sepconv_layers.graph_edit import ModelGraph, calls_as_defined, clone_layer, copy_state
from sepconv_layers.layers.base import BaseConv
from sepconv_layers.layers.batch_normalization import scale_and_shift

Pair = tuple[keras.layers.Layer, keras.layers.Layer]
NORMALIZATIONS = (keras.layers.BatchNormalization, layers.BatchNormalization)
# Axes of the last kernel that are the output channels.
CHANNEL_AXES = by_class(
    {
        "DepthwiseConv?D DepthwiseConv?DTranspose": (-2, -1),
        "Conv?DTranspose": (-2,),
        "Conv?D SeparableConv?D SeparableConv?DTranspose Dense": (-1,),
    }
)


def fold_batch_norm(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """Returns an inference model with each batch normalization folded into the layer before it.

    At inference, a batch normalization scales and shifts each channel by constants, which the
    kernel and bias of the preceding convolution or dense layer can absorb at no cost. This folds
    layers of this package and of `keras.layers`, also in nested models, and blocks of this package,
    which then have `normalization=None`. A layer stays as it is if its output is used elsewhere, it
    is called more than once, or it has an activation, and so does a block with another
    normalization.

    Args:
        model: A functional model or a built sequential model. It is not changed.
        dtype: Dtype policy of the new layers, such as `"float32"` for a model that was trained in
            mixed precision. Defaults to the policies of the old layers.

    Returns:
        A functional model of new layers with the names, inputs and outputs of the old ones.

    Raises:
        ValueError: If the model is of another kind, or `dtype` is not the name of a dtype policy.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import SeparableConvBlock2D, convert
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), SeparableConvBlock2D(4)])
        >>> folded = convert.fold_batch_norm(model)
        >>> model.count_params(), folded.count_params()
        (67, 46)
        >>> x = np.ones((1, 8, 8, 3), "float32")
        >>> np.allclose(model(x), folded(x), atol=1e-6)
        True

    Reference:
        [Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017](https://arxiv.org/abs/1712.05877).
    """
    return fold(model, dtype, clone_layer)


def fold(model: keras.Model, dtype: str | None, clone: Callable[..., Any]) -> keras.Model:
    """Like `fold_batch_norm`, with `clone` in place of `clone_layer`."""
    graph = ModelGraph(model)
    _check_policy(dtype)
    norms = norms_to_fold(graph)  # id of the convolution → its normalization

    def make(old: Any) -> Any:
        changes: dict[str, Any] = {}
        if id(old) in norms:
            changes["use_bias"] = True
        elif isinstance(old, Block) and pairs_of(old):
            changes["normalization"] = None
        if dtype and "float" in getattr(old, "compute_dtype", ""):
            changes["dtype"] = dtype
        return clone(old, **changes)

    folded, pairs = graph.rebuild(make, skipped=norms.values())
    for old, new in pairs:
        if id(old) in norms:
            new.set_weights(folded_weights(old, norms[id(old)]))
        elif isinstance(old, Block) and new.normalization is not old.normalization:
            _fill_block(old, new)
        else:
            copy_state(old, new)
    return folded


def _check_policy(dtype: Any) -> None:
    try:
        keras.dtype_policies.get(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The `dtype` argument must be None or the name of a dtype policy, such as 'float32'. "
            f"Received: dtype={dtype!r}"
        ) from error


def norms_to_fold(graph: ModelGraph) -> dict[int, keras.layers.Layer]:
    """The normalization of each layer that can absorb it, by the id of the layer."""
    found = {}
    for node in graph.nodes:
        norm, tensors, arguments = node.operation, node.input_tensors, node.arguments
        if not isinstance(norm, NORMALIZATIONS) or len(tensors) != 1:
            continue
        conv = tensors[0]._keras_history.operation
        is_training = any(arguments.args[1:]) or arguments.kwargs.get("training")
        once = graph.is_called_once(norm) and graph.is_called_once(conv)
        is_all = graph.only_user(tensors[0]) is node
        foldable = can_fold(conv, norm, len(tensors[0].shape))
        if once and is_all and not is_training and foldable and _takes_bias(conv, tensors[0].shape):
            found[id(conv)] = norm
    return found


def _takes_bias(conv: keras.layers.Layer, shape: Sequence[int | None]) -> bool:
    """Whether a layer adds a bias along its channel axis.

    With channels first on TensorFlow, layers of Keras 3.15 add the bias along the last axis if that
    axis is as long as the channel axis.
    """
    is_first = getattr(conv, "data_format", None) == "channels_first"
    is_of_keras = not isinstance(conv, BaseConv) and keras.backend.backend() == "tensorflow"
    return not (is_first and is_of_keras and shape[-1] == shape[1])


def folded_weights(conv: keras.layers.Layer, norm: keras.layers.Layer) -> list[np.ndarray]:
    """The kernels and the bias of a convolution that absorbs its normalization."""
    kernels: list[np.ndarray] = conv.get_weights()
    bias = kernels.pop() if conv.use_bias else 0.0
    scale, shift = scale_and_shift(norm, _as_float64)
    last = kernels.pop()
    axes = channel_axes(conv)
    shape = [size if axis - last.ndim in axes else 1 for axis, size in enumerate(last.shape)]
    scaled = last * scale.reshape(shape)
    return [*kernels, scaled.astype(last.dtype), (bias * scale + shift).astype(last.dtype)]


def _as_float64(weight: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight).astype("float64")


def channel_axes(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Axes of the last kernel that are the output channels; empty for other layers."""
    return next((CHANNEL_AXES[cls] for cls in type(layer).__mro__ if cls in CHANNEL_AXES), ())


def can_fold(conv: Any, norm: Any, rank: int) -> bool:
    """Whether a layer with outputs of that rank can absorb the normalization after it."""
    is_pair = bool(channel_axes(conv)) and isinstance(norm, NORMALIZATIONS)
    if not is_pair or not all(calls_as_defined(layer) for layer in (conv, norm)):
        return False
    is_first = getattr(conv, "data_format", None) == "channels_first"
    return (
        conv.activation in (None, keras.activations.linear)
        and norm.axis % rank == (1 if is_first else rank - 1)
        and conv.compute_dtype == norm.compute_dtype
        # Keras has replaced the kernel.
        and not getattr(conv, "lora_enabled", False)
        and getattr(conv, "quantization_mode", None) is None
    )


def pairs_of(block: Block) -> list[Pair]:
    """Each convolution of a block with its normalization; empty if one cannot be folded."""
    pairs: list[Pair] = []
    if not calls_as_defined(block):
        return []
    for chain in block.chains().values():
        for conv, norm in itertools.pairwise([*(chain or ()), None]):
            if isinstance(conv, BaseConv):
                if not can_fold(conv, norm, block.rank + 2):
                    return []
                pairs.append((conv, norm))
    return pairs


def _fill_block(old: Block, new: Block) -> None:
    """Sets the weights of a block without normalization from one with it."""
    norms = {id(conv): norm for conv, norm in pairs_of(old)}
    skipped = {id(norm) for norm in norms.values()}
    stages = [stage for stage in old.inner_layers() if id(stage) not in skipped]
    for stage, now in zip(stages, new.inner_layers(), strict=True):
        if id(stage) in norms:
            now.set_weights(folded_weights(stage, norms[id(stage)]))
        else:
            copy_state(stage, now)
