"""Trained models in another form: batch normalisation folded into the convolutions before it."""

import collections
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from sepconv_layers import layers
from sepconv_layers.blocks.base import Block, ShortcutBlock
from sepconv_layers.layers.base import BaseConv
from sepconv_layers.layers.depthwise_conv import DepthwiseConv

Pair = tuple[keras.layers.Layer, keras.layers.Layer]

NORMALIZATIONS = (keras.layers.BatchNormalization, layers.BatchNormalization)
# Axes of the last kernel that are the output channels, by class; the first that fits counts.
CHANNEL_AXES: tuple[tuple[tuple[type, ...], tuple[int, ...]], ...] = (
    (
        (DepthwiseConv, keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
        (-2, -1),
    ),
    (
        (
            keras.layers.Conv1DTranspose,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3DTranspose,
        ),
        (-2,),
    ),
    (
        (
            BaseConv,
            keras.layers.Conv1D,
            keras.layers.Conv2D,
            keras.layers.Conv3D,
            keras.layers.SeparableConv1D,
            keras.layers.SeparableConv2D,
            keras.layers.Dense,
        ),
        (-1,),
    ),
)
FUNCTIONS = ("activation", "normalization")  # what may be a function in a configuration


def fold_batch_norm(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """Makes a model for inference that has no batch normalisation after a convolution.

    In inference a batch normalisation multiplies and shifts each channel by numbers that are
    fixed, and the kernel and bias of the convolution or dense layer before it can do that for
    nothing. The blocks of this package, which then have `normalization=None`, are folded, and so
    are layers of this package and of `keras.layers`, also in models inside the model. A layer whose
    output has another use, or that has an activation or another call, is left as it is, and so is a
    block with another normalisation.

    Args:
        model: A functional or a built sequential model. It is not changed.
        dtype: What the new layers compute in, such as `"float32"` for a model that was trained in
            mixed precision; by default what the old ones do.

    Returns:
        A functional model of new layers with the names, inputs and outputs of the old ones.

    Raises:
        ValueError: If the model is of another kind.

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
    if not _is_graph(model):
        raise ValueError(
            "The `model` argument must be a functional model, or a sequential one that is built, "
            f"such as by a `keras.Input` at its start. Received: model={model!r}"
        )
    return _Folding(model, dtype).result()


# The arithmetic.


def scale_and_shift(norm: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """What a batch normalisation multiplies each channel with in inference, and then adds."""
    mean, variance, gamma, beta = (
        None if weight is None else keras.ops.convert_to_numpy(weight).astype("float64")
        for weight in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
    )
    scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + norm.epsilon)
    return scale, (0.0 if beta is None else beta) - mean * scale


def folded_weights(conv: keras.layers.Layer, norm: keras.layers.Layer) -> list[np.ndarray]:
    """The kernels and the bias with which a convolution does the work of its normalisation."""
    kernels: list[np.ndarray] = conv.get_weights()
    bias = kernels.pop() if conv.use_bias else 0.0
    scale, shift = scale_and_shift(norm)
    last = kernels.pop()
    axes = channel_axes(conv)
    shape = [size if axis - last.ndim in axes else 1 for axis, size in enumerate(last.shape)]
    scaled = last * scale.reshape(shape)
    return [*kernels, scaled.astype(last.dtype), (bias * scale + shift).astype(last.dtype)]


def channel_axes(conv: keras.layers.Layer) -> tuple[int, ...]:
    """Axes of the last kernel that are the output channels; none of what is no convolution."""
    return next((axes for classes, axes in CHANNEL_AXES if isinstance(conv, classes)), ())


def can_fold(conv: Any, norm: Any, rank: int) -> bool:
    """Whether a layer with outputs of that rank can do the work of the layer that follows."""
    is_pair = bool(channel_axes(conv)) and isinstance(norm, NORMALIZATIONS)
    if not is_pair or not all(_calls_as_defined(layer) for layer in (conv, norm)):
        return False
    is_first = getattr(conv, "data_format", None) == "channels_first"
    return (
        conv.activation in (None, keras.activations.linear)
        and norm.axis % rank == (1 if is_first else rank - 1)
        and conv.compute_dtype == norm.compute_dtype
        # What Keras has put in place of the kernel.
        and not getattr(conv, "lora_enabled", False)
        and getattr(conv, "quantization_mode", None) is None
    )


def pairs_of(block: Block) -> list[Pair]:
    """Each convolution of a block with its normalisation; none if not all can be folded."""
    pairs = []
    for chain in _chains(block):
        for conv, norm in itertools.zip_longest(chain, chain[1:]):
            if isinstance(conv, BaseConv):
                if not can_fold(conv, norm, block.rank + 2):
                    return []
                pairs.append((conv, norm))
    return pairs


def _chains(block: Block) -> list[list[keras.layers.Layer]]:
    if isinstance(block, ShortcutBlock):
        return [block.stages, block.shortcut or [], block.tail]
    return [block.stages]


# The surgery.


class _Folding:
    """One model that is made anew, with all models inside it."""

    def __init__(self, model: keras.Model, dtype: str | None) -> None:
        self.model = model
        self.dtype = dtype
        self.graphs = {id(graph): _plain(graph) for graph in _graphs(model)}
        self.norms = self._norms_to_fold()  # by the identity of the convolution before
        self.skipped = {id(norm) for norm in self.norms.values()}
        self.made: dict[int, Any] = {}
        self.pending: list[tuple[Any, Any]] = []  # old and new layers, before the weights are there

    def result(self) -> keras.Model:
        model = self._make_graph(self.model)
        for old, new in self.pending:
            if id(old) in self.norms:
                new.set_weights(folded_weights(old, self.norms[id(old)]))
            elif isinstance(old, Block) and new.normalization is not old.normalization:
                _fill_block(old, new)
            else:
                _copy_state(old, new)
        return model

    def _norms_to_fold(self) -> dict[int, keras.layers.Layer]:
        calls: collections.Counter[int] = collections.Counter()
        uses: collections.Counter[int] = collections.Counter()
        by_depth = [graph._nodes_by_depth for graph in self.graphs.values()]
        nodes = [node for levels in by_depth for level in levels.values() for node in level]
        for node in nodes:
            calls[id(node.operation)] += 1
            uses.update(id(tensor) for tensor in node.input_tensors)
        for graph in self.graphs.values():
            uses.update(id(tensor) for tensor in graph.outputs)
        found = {}
        for node in nodes:
            norm, tensors, arguments = node.operation, node.input_tensors, node.arguments
            if not isinstance(norm, NORMALIZATIONS) or len(tensors) != 1:
                continue
            conv = tensors[0]._keras_history.operation
            is_training = any(arguments.args[1:]) or arguments.kwargs.get("training")
            once = calls[id(norm)] == calls[id(conv)] == uses[id(tensors[0])] == 1
            if once and not is_training and can_fold(conv, norm, len(tensors[0].shape)):
                found[id(conv)] = norm
        return found

    def _make_graph(self, model: keras.Model) -> keras.Model:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if id(layer) in self.skipped:
                return keras.tree.flatten((args, kwargs))[0]
            return layer(*args, **kwargs)

        return keras.models.clone_model(
            self.graphs[id(model)], clone_function=self._make, call_function=call
        )

    def _make(self, old: Any) -> Any:
        """The new layer in place of an old one, the same one at each call."""
        if id(old) in self.skipped:
            return old  # which is not called
        if id(old) not in self.made:
            if id(old) in self.graphs:
                self.made[id(old)] = self._make_graph(old)
            else:
                changes: dict[str, Any] = {}
                if id(old) in self.norms:
                    changes["use_bias"] = True
                elif isinstance(old, Block) and pairs_of(old):
                    changes["normalization"] = None
                if self.dtype and "float" in getattr(old, "compute_dtype", ""):
                    changes["dtype"] = self.dtype
                new = self.made[id(old)] = _remade(old, **changes)
                if isinstance(old, keras.layers.Layer):  # other operations have no weights
                    self.pending.append((old, new))
        return self.made[id(old)]


def _remade(layer: Any, **changes: Any) -> Any:
    """A layer or operation of the same configuration, without weights.

    Functions are handed on as they are: not every one can be found by its name, or written.
    """
    if isinstance(layer, keras.layers.Lambda):
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            name=layer.name,
            dtype=changes.get("dtype", layer.dtype_policy),
        )
    with warnings.catch_warnings():
        # That it could not be loaded safely: it is not written.
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        config = layer.get_config()
    functions = {key: getattr(layer, key) for key in FUNCTIONS if key in config}
    return type(layer).from_config({**config, **functions, **changes})


def _calls_as_defined(layer: Any) -> bool:
    """Whether the layer is called as its class in Keras or in this package defines it."""
    return type(layer).call.__module__.partition(".")[0] in ("keras", "sepconv_layers")


def _is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose layers and their calls are known."""
    is_model = isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    return bool(is_model and _calls_as_defined(layer))


def _graphs(model: keras.Model) -> Iterator[keras.Model]:
    """The model and all models that it calls, each as often as it is met."""
    yield model
    for layer in model.layers:
        if _is_graph(layer):
            yield from _graphs(layer)


def _plain(model: keras.Model) -> keras.Model:
    """The same graph as a functional model that is not compiled: how it was trained is no matter.

    Clones of a compiled model are compiled again, which not every loss survives.
    """
    if isinstance(model, keras.Sequential):
        outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
        return keras.Model(model.inputs[0], outputs, name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def _fill_block(old: Block, new: Block) -> None:
    """Gives a block without normalisation the weights of one that has it."""
    norms = {id(conv): norm for conv, norm in pairs_of(old)}
    skipped = {id(norm) for norm in norms.values()}
    stages = [stage for chain in _chains(old) for stage in chain if id(stage) not in skipped]
    for stage, now in zip(stages, itertools.chain(*_chains(new)), strict=True):
        if id(stage) in norms:
            now.set_weights(folded_weights(stage, norms[id(stage)]))
        else:
            _copy_state(stage, now)


def _copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Copies weights and vocabularies, by what Keras saves and loads."""
    for one, other in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        other.load_own_variables(store)
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)
