"""How each kind of layer couples its channels: the dependency graph of structured pruning."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from sepconv_layers.class_table import by_class
from sepconv_layers.convert.pruning.channels import Channels, Labels, Part, Terms, condensed, placed
from sepconv_layers.convert.unrolling import run_layers
from sepconv_layers.cost.rules import count_macs

ACTIVATIONS = {
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear "
        "log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus "
        "sparse_sigmoid squareplus tanh tanh_shrink"
    ).split()
}
"""Activation functions of each element alone."""
Shape = tuple[Any, ...]  # without the batch; None where a size is unknown


class Call(NamedTuple):
    """A call of a layer or operation.

    Attributes:
        path: Names of the layer and of the models around it.
        layer: The layer or operation.
        inputs: The label array of each input.
        shapes: The shape of each input without the batch.
        output: The shape of the first output without the batch.
    """

    path: str
    layer: Any
    inputs: list[Labels]
    shapes: list[Shape]
    output: Shape

    @property
    def macs(self) -> int:
        return count_macs(self.layer, [(1, *self.output)], [(1, *shape) for shape in self.shapes])

    @property
    def channel_axis(self) -> int:
        """The channel axis without the batch, according to the `data_format` of the layer."""
        is_first = getattr(self.layer, "data_format", None) == "channels_first"
        return 0 if is_first else len(self.shapes[0]) - 1


Rule = Callable[[Channels, Call], Labels]


def couple(model: keras.Model, inputs: Any, keep: Collection[str]) -> Channels:
    """Finds the channels of a model that must be removed together.

    Args:
        model: A functional model without blocks.
        inputs: Symbolic inputs.
        keep: Names of layers and models whose channels stay.
    """
    channels = Channels()
    labels_of: dict[int, Labels] = {}
    makers: dict[int, Part] = {}
    tensors: list[Any] = []  # so that no id is given twice

    def fixed(tensor: Any) -> Labels:
        return np.zeros([1] * (len(tensor.shape) - 1), int)

    def call(path: str, layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        taken = [x for x in keras.tree.flatten((args, kwargs)) if keras.backend.is_keras_tensor(x)]
        made = keras.tree.flatten(outputs)
        tensors.extend(made)
        shapes = [tuple(x.shape[1:]) for x in taken]
        labels = [labels_of.get(id(x), fixed(x)) if len(x.shape) else np.zeros(()) for x in taken]
        is_batch = all(len(x.shape) > 1 or not len(x.shape) for x in (*taken, *made))
        rule = _rule(layer, args, kwargs) if len(made) == 1 and is_batch else None
        if rule is None:
            for each in labels:
                channels.keep(each)
        else:
            result = rule(channels, Call(path, layer, labels, shapes, tuple(made[0].shape[1:])))
            labels_of[id(made[0])] = result
            part = channels.parts.get(id(layer))
            if part and part.outputs.size:
                makers[id(made[0])] = part
            if isinstance(layer, keras.layers.BatchNormalization) and id(taken[0]) in makers:
                makers[id(taken[0])].norm = layer
            if not _is_elementwise(layer) or set(path.split("/")).intersection(keep):
                channels.keep(result)
        return outputs

    outputs = run_layers(model, inputs, call)
    for tensor in keras.tree.flatten(outputs):
        channels.keep(labels_of.get(id(tensor), fixed(tensor)))
    return channels


def _rule(layer: Any, args: Sequence[Any], kwargs: Any) -> Rule | None:
    """The rule of a layer or operation, or `None` if it is not known."""
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return None
    if isinstance(layer, keras.layers.Layer):
        return _RULES.get(type(layer))
    constants = [
        x for x in keras.tree.flatten((args, kwargs)) if not keras.backend.is_keras_tensor(x)
    ]
    is_of_keras = type(layer).__module__.startswith("keras.src.ops.")
    is_scalar = all(np.ndim(x) == 0 for x in constants)
    return _RULES_BY_NAME.get(type(layer).__name__) if is_of_keras and is_scalar else None


def _is_elementwise(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is None or activation in ACTIVATIONS


# Layers that mix channels.


def _conv(channels: Channels, call: Call) -> Labels:
    layer, axis = call.layer, call.channel_axis
    before = channels.along(call.inputs[0], call.shapes[0], axis)
    groups = getattr(layer, "groups", 1)
    if groups == len(before) > 1:
        return _grouped_as_depthwise(channels, call, before)
    after = channels.new(layer.filters)
    if groups > 1:  # from each group, the same channels are removed
        for labels in (before, after):
            first, *others = labels.reshape(groups, -1)
            for other in others:
                channels.join(first, other)
    if "Transpose" in type(layer).__name__:
        axes = {-1: before, -2: after}
    else:
        axes = {-1: after, -2: before[: len(before) // groups]}
    cuts = {"kernel": axes, "bias": {0: after}}
    terms = [(call.macs, (before, after))]
    return _mixing(channels, call, axis, (before, after), cuts, "filters", terms)


def _grouped_as_depthwise(channels: Channels, call: Call, before: Labels) -> Labels:
    after = np.repeat(before, call.layer.filters // len(before))
    part = Part(
        call.path,
        call.layer,
        {"kernel": {-1: after}, "bias": {0: after}},
        {"filters": after, "groups": before},
        terms=[(call.macs, (before,))],
    )
    channels.add(part)
    return placed(after, call.channel_axis, len(call.output))


def _separable_conv(channels: Channels, call: Call) -> Labels:
    layer, axis = call.layer, call.channel_axis
    before = channels.along(call.inputs[0], call.shapes[0], axis)
    after = channels.new(layer.filters)
    positions = math.prod(call.output) // layer.filters
    pointwise = positions * math.prod(layer.pointwise_kernel.shape)
    cuts = {
        "depthwise_kernel": {-2: before},
        "pointwise_kernel": {-2: np.repeat(before, layer.depth_multiplier), -1: after},
        "bias": {0: after},
    }
    terms = [(call.macs - pointwise, (before,)), (pointwise, (before, after))]
    return _mixing(channels, call, axis, (before, after), cuts, "filters", terms)


def _dense(channels: Channels, call: Call) -> Labels:
    axis = len(call.output) - 1
    before = channels.along(call.inputs[0], call.shapes[0], axis)
    after = channels.new(call.layer.units)
    cuts = {"kernel": {0: before, 1: after}, "bias": {0: after}}
    terms = [(call.macs, (before, after))]
    return _mixing(channels, call, axis, (before, after), cuts, "units", terms)


def _embedding(channels: Channels, call: Call) -> Labels:
    channels.keep(call.inputs[0])
    after = channels.new(call.layer.output_dim)
    axis, ends = len(call.output) - 1, (after[:0], after)
    return _mixing(channels, call, axis, ends, {"embeddings": {1: after}}, "output_dim")


def _mixing(
    channels: Channels,
    call: Call,
    axis: int,
    ends: tuple[Labels, Labels],
    cuts: Mapping[str, Mapping[int, Labels]],
    argument: str,
    terms: Terms = (),
) -> Labels:
    """Adds a layer that mixes the input channels, one end, into those that `argument` counts."""
    before, after = ends
    channels.add(
        Part(
            call.path,
            call.layer,
            cuts,
            {argument: after},
            inputs=before,
            outputs=after,
            axis=axis + 1,
            terms=terms,
        )
    )
    return placed(after, axis, len(call.output))


# Layers that treat each channel alone.


def _depthwise_conv(channels: Channels, call: Call) -> Labels:
    layer, axis = call.layer, call.channel_axis
    before = channels.along(call.inputs[0], call.shapes[0], axis)
    after = np.repeat(before, layer.depth_multiplier)
    cuts = {"kernel": {-2: before}, "bias": {0: after}}
    channels.add(Part(call.path, layer, cuts, terms=[(call.macs, (before,))]))
    return placed(after, axis, len(call.output))


def _batch_norm(channels: Channels, call: Call) -> Labels:
    axis = _axis(call.layer.axis, call.output)
    labels = channels.along(call.inputs[0], call.shapes[0], axis)
    if getattr(call.layer, "renorm", False):
        channels.keep(labels)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    channels.add(Part(call.path, call.layer, {name: {0: labels} for name in names}))
    return placed(labels, axis, len(call.output))


def _group_norm(channels: Channels, call: Call) -> Labels:
    """Whole groups are removed, so that the moments of the others do not change."""
    axis = _axis(call.layer.axis, call.output)
    labels = channels.along(call.inputs[0], call.shapes[0], axis)
    groups = labels.reshape(call.layer.groups, -1)
    channels.join(groups, groups[:, :1])
    cuts = {name: {0: labels} for name in ("gamma", "beta")}
    channels.add(Part(call.path, call.layer, cuts, {"groups": groups[:, 0]}))
    return placed(labels, axis, len(call.output))


def _prelu(channels: Channels, call: Call) -> Labels:
    labels = call.inputs[0]
    shared = [axis - 1 for axis in call.layer.shared_axes or ()]
    cuts = {
        axis: channels.along(labels, call.output, axis)
        for axis, size in enumerate(labels.shape)
        if size > 1 and axis not in shared
    }
    channels.add(Part(call.path, call.layer, {"alpha": cuts}))
    return labels


def _same(channels: Channels, call: Call) -> Labels:
    return call.inputs[0]


def _spatial(channels: Channels, call: Call) -> Labels:
    """For layers that move over all axes except the channel axis."""
    axis = call.channel_axis
    labels = channels.along(call.inputs[0], call.shapes[0], axis)
    return placed(labels, axis, len(call.output))


def _global_pooling(channels: Channels, call: Call) -> Labels:
    labels = channels.along(call.inputs[0], call.shapes[0], call.channel_axis)
    return placed(labels, call.channel_axis if call.layer.keepdims else 0, len(call.output))


def _reduction(channels: Channels, call: Call) -> Labels:
    labels, rank = call.inputs[0], len(call.shapes[0])
    axes = call.layer.axis
    axes = range(rank + 1) if axes is None else np.atleast_1d(axes) % (rank + 1)
    if 0 in axes or any(labels.shape[axis - 1] > 1 for axis in axes):
        return _all_kept(channels, call)
    return labels.reshape(
        [1 if axis + 1 in axes else size for axis, size in enumerate(labels.shape)]
        if call.layer.keepdims
        else [size for axis, size in enumerate(labels.shape) if axis + 1 not in axes]
    )


# Layers that rearrange channels or combine several inputs.


def _merge(channels: Channels, call: Call) -> Labels:
    """For elementwise functions of any number of inputs of the same rank."""
    rank = len(call.output)
    inputs = list(zip(call.inputs, call.shapes, strict=True))
    axes = {axis for labels in call.inputs for axis, n in enumerate(labels.shape) if n > 1}
    if len(axes) != 1 or any(len(shape) != rank for shape in call.shapes):
        return _all_kept(channels, call)
    (axis,) = axes
    is_broadcast = [shape[axis] == 1 != call.output[axis] for shape in call.shapes]
    for (labels, _), is_alone in zip(inputs, is_broadcast, strict=True):
        if is_alone:
            channels.keep(labels)
    first, *others = [
        channels.along(labels, shape, axis)
        for (labels, shape), is_alone in zip(inputs, is_broadcast, strict=True)
        if not is_alone
    ]
    for other in others:
        channels.join(first, other)
    return placed(first, axis, rank)


def _concatenate(channels: Channels, call: Call) -> Labels:
    axis = _axis(call.layer.axis, call.output)
    if axis < 0:  # the batch
        return _merge(channels, call)
    if any(labels.size != labels.shape[axis] for labels in call.inputs):
        return _concatenate_along_another_axis(channels, call, axis)
    arrays = [
        channels.along(labels, shape, axis)
        for labels, shape in zip(call.inputs, call.shapes, strict=True)
    ]
    return placed(np.concatenate(arrays), axis, len(call.output))


def _concatenate_along_another_axis(channels: Channels, call: Call, axis: int) -> Labels:
    if any(labels.shape[axis] > 1 for labels in call.inputs):
        return _all_kept(channels, call)
    return _merge(channels, call)


def _permute(channels: Channels, call: Call) -> Labels:
    return call.inputs[0].transpose([axis - 1 for axis in call.layer.dims])


def _flatten(channels: Channels, call: Call) -> Labels:
    labels, shape = call.inputs[0], call.shapes[0]
    if None in shape:
        return _all_kept(channels, call)
    labels = np.broadcast_to(labels, shape)
    if call.layer.data_format == "channels_first" and labels.ndim > 1:
        labels = np.moveaxis(labels, 0, -1)
    return condensed(labels.reshape(-1))


def _reshape(channels: Channels, call: Call) -> Labels:
    if None in (*call.shapes[0], *call.output):
        return _all_kept(channels, call)
    labels = condensed(np.broadcast_to(call.inputs[0], call.shapes[0]).reshape(call.output))
    if labels.size not in labels.shape:  # they differ along several axes
        return _all_kept(channels, call)
    target = tuple(
        labels.ravel() if size == call.output[axis] and labels.shape[axis] > 1 else size
        for axis, size in enumerate(call.layer.target_shape)
    )
    channels.add(Part(call.path, call.layer, {}, {"target_shape": target}))
    return labels


def _repeat_vector(channels: Channels, call: Call) -> Labels:
    return call.inputs[0][None]


def _expand_dims(channels: Channels, call: Call) -> Labels:
    axes = np.atleast_1d(call.layer.axis) % (len(call.output) + 1)
    return np.expand_dims(call.inputs[0], tuple(axis - 1 for axis in axes))


def _squeeze(channels: Channels, call: Call) -> Labels:
    axes = [axis - 1 for axis, size in enumerate((None, *call.shapes[0])) if size == 1]
    if call.layer.axis is not None:
        axes = list(np.atleast_1d(call.layer.axis) % (len(call.shapes[0]) + 1) - 1)
    return call.inputs[0].squeeze(tuple(axes))


def _all_kept(channels: Channels, call: Call) -> Labels:
    """Excludes all channels of the inputs from removal."""
    for labels in call.inputs:
        channels.keep(labels)
    return np.zeros([1] * len(call.output), int)


def _axis(axis: int, shape: Sequence[int | None]) -> int:
    """An axis of a tensor of that shape, counted without the batch, which is -1."""
    return axis % (len(shape) + 1) - 1


_RULES: dict[type, Rule] = by_class(
    {
        "Conv?D Conv?DTranspose": _conv,
        "SeparableConv?D SeparableConv?DTranspose": _separable_conv,
        "DepthwiseConv?D DepthwiseConv?DTranspose": _depthwise_conv,
        "Dense": _dense,
        "Embedding": _embedding,
        "BatchNormalization": _batch_norm,
        "GroupNormalization": _group_norm,
        "PReLU": _prelu,
        "Activation ELU LeakyReLU ReLU Identity": _same,
        "ActivityRegularization *Dropout DropPath GaussianNoise": _same,
        "AveragePooling?D MaxPooling?D": _spatial,
        "Cropping?D SpatialDropout?D UpSampling?D ZeroPadding?D": _spatial,
        "GlobalAveragePooling?D GlobalMaxPooling?D": _global_pooling,
        "Add Average Maximum Minimum Multiply Subtract": _merge,
        "Concatenate": _concatenate,
        "Flatten": _flatten,
        "Permute": _permute,
        "RepeatVector": _repeat_vector,
        "Reshape": _reshape,
    }
)

# The nodes that `keras.ops` create in a functional model.
_RULES_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(
        "Absolute Cast Celu Elu Exp Gelu HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid "
        "Negative Relu Relu6 Selu Sigmoid Silu Softplus Softsign Sqrt Square Tanh".split(),
        _same,
    ),
    **dict.fromkeys("Add Divide Maximum Minimum Multiply Subtract TrueDivide".split(), _merge),
    **dict.fromkeys("Max Mean Min Sum".split(), _reduction),
    "Concatenate": _concatenate,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
}
