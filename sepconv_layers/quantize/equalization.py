"""Cross-layer equalization: channels of like range, in the same function."""

import dataclasses
from typing import Any

import keras
import numpy as np

from sepconv_layers.class_table import by_class
from sepconv_layers.convert.folding import NORMALIZATIONS, channel_axes
from sepconv_layers.graph_edit import ModelGraph, calls_as_defined
from sepconv_layers.quantize.rules import Kind, kind_of

DEVIATIONS = 3  # of a batch-normalized channel, in Gaussian standard deviations, as in Nagel et al.
SMALLEST_RANGE = 1e-6  # of a channel, relative to the largest of its tensor
HOMOGENEOUS = (None, keras.activations.linear, keras.activations.relu)
# Layers that commute with a positive factor for each channel.
PASSING = by_class(
    {
        "AveragePooling?D GlobalAveragePooling?D MaxPooling?D GlobalMaxPooling?D": True,
        "Cropping?D UpSampling?D ZeroPadding?D Flatten": True,
        "Dropout SpatialDropout?D DropPath Identity LeakyReLU": True,
    }
)
ADDING = by_class({"Add Average Subtract": True})
OPERATIONS = ("Add", "Subtract", "Relu")


@dataclasses.dataclass
class Group:
    """Tensors whose channels have one factor each.

    Attributes:
        makers: Layers whose weights can scale these channels as outputs.
        users: Layers whose kernels can scale them as inputs.
        is_fixed: Whether anything else reads or writes them.
        formats: The data formats of the layers around them.
    """

    makers: list[Any] = dataclasses.field(default_factory=list)
    users: list[Any] = dataclasses.field(default_factory=list)
    is_fixed: bool = False
    formats: set[str] = dataclasses.field(default_factory=set)


def equalize(graph: ModelGraph) -> None:
    """Scales the weights of a flat model so that the channels of a tensor have like ranges.

    An int8 tensor has one scale for all channels: if one of them has much larger values than the
    others, these have few integers left. A factor for a channel moves from the layer that makes it
    to the kernels that read it, past additions and everything that commutes with positive factors:
    ReLU (not ReLU6), pooling, padding. The outputs stay the same, up to rounding of floats.

    Channels that only depthwise kernels read get the same range, as each of those kernels has a
    scale of its own. For others, the factor balances the range of the channel and that of its
    weights. The result does not depend on the factors that the channels had before.

    Args:
        graph: The graph of a model without blocks. Its weights are changed.

    Reference:
        [Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
        2019](https://arxiv.org/abs/1906.04721).
    """
    for group in _groups(graph):
        sizes = {len(_output_ranges(maker)) for maker in group.makers}
        if group.is_fixed or not group.users or len(sizes) != 1 or len(group.formats) > 1:
            continue
        factors = _factors(group)
        for maker in group.makers:
            _scale_outputs(maker, 1 / factors)
        for user in group.users:
            _scale_inputs(user, factors)


def _groups(graph: ModelGraph) -> list[Group]:
    """The groups of a model, from inputs to outputs."""
    groups: dict[int, Group] = {}

    def group_of(tensor: Any) -> Group:
        return groups.setdefault(id(tensor), Group())

    def join(tensors: list[Any]) -> Group:
        first, *others = {id(group): group for group in map(group_of, tensors)}.values()
        for other in others:
            first.makers += other.makers
            first.users += other.users
            first.is_fixed |= other.is_fixed
            first.formats |= other.formats
            groups.update({key: first for key, group in groups.items() if group is other})
        for tensor in tensors:
            groups[id(tensor)] = first
        return first

    for node in graph.nodes:
        operation, tensors = node.operation, (*node.input_tensors, *node.output_tensors)
        once = graph.is_called_once(operation)
        if _is_passing(operation, tensors):
            touched = [join(list(tensors))]
        elif once and _is_weighted(operation) and len(tensors) == 2:
            before, after = (group_of(tensor) for tensor in tensors)
            touched = [before, after]
            if isinstance(operation, NORMALIZATIONS):
                before.is_fixed = True  # its statistics would change with the factors
            else:
                before.users.append(operation)
            after.makers.append(operation)
            after.is_fixed |= not _scales_outputs(operation)
        else:
            touched = []
            for tensor in tensors:
                group_of(tensor).is_fixed = True
        # A tensor without spatial axes has the same channel axis in both formats.
        if any(len(tensor.shape) > 2 for tensor in tensors):
            for group in touched:
                group.formats |= _formats(operation)
    for tensor in (*graph.model.inputs, *graph.model.outputs):
        group_of(tensor).is_fixed = True
    return list({id(group): group for group in groups.values()}.values())


def _is_passing(operation: Any, tensors: tuple) -> bool:
    """Whether factors of the channels of all inputs are factors of the output."""
    cls = type(operation)
    is_layer = isinstance(operation, keras.layers.Layer)
    is_adding = cls in ADDING or (not is_layer and cls.__name__ in OPERATIONS[:2])
    if is_adding:  # without constants and broadcasting
        return len(tensors) > 2 and len({tuple(tensor.shape) for tensor in tensors}) == 1
    if isinstance(operation, keras.layers.ReLU):
        return operation.max_value is None and operation.threshold == 0
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in HOMOGENEOUS
    return cls in PASSING or (not is_layer and cls.__name__ in OPERATIONS[2:])


def _is_weighted(operation: Any) -> bool:
    """Whether a layer has weights that may change."""
    is_known = isinstance(operation, NORMALIZATIONS) or kind_of(operation) is Kind.KERNEL
    return (
        is_known
        and calls_as_defined(operation)
        and not any(value for key, value in vars(operation).items() if key.endswith("constraint"))
    )


def _scales_outputs(layer: Any) -> bool:
    """Whether factors of its weights are factors of its outputs."""
    if isinstance(layer, NORMALIZATIONS):
        return bool(layer.scale)
    return layer.activation in HOMOGENEOUS


def _formats(operation: Any) -> set[str]:
    """The data format of an operation, if it has one."""
    if isinstance(operation, NORMALIZATIONS):
        axis = operation.axis % len(operation.input.shape)
        names = {1: "channels_first", len(operation.input.shape) - 1: "channels_last"}
        return {names.get(axis, f"axis {axis}")}
    if isinstance(operation, keras.layers.Dense):
        return {"channels_last"}
    found = getattr(operation, "data_format", None)
    return {found} if found else set()


def _factors(group: Group) -> np.ndarray:
    """The factor of each channel, after which the largest has a deviation of about one."""
    ranges = _above_zero(np.max([_output_ranges(maker) for maker in group.makers], 0))
    users = [user for user in group.users if not _is_depthwise(user)]
    shares = np.max([_shares(user, ranges) for user in users], 0) if users else np.ones(len(ranges))
    factors: np.ndarray = ranges / (DEVIATIONS * np.sqrt(_above_zero(shares)))
    return factors


def _above_zero(ranges: np.ndarray) -> np.ndarray:
    return np.maximum(ranges, SMALLEST_RANGE * (ranges.max() or 1.0))


def _output_ranges(layer: Any) -> np.ndarray:
    """The size of each output channel, estimated from the weights."""
    if isinstance(layer, NORMALIZATIONS):
        shift = abs(_array(layer.beta)) if layer.center else 0.0
        scale = abs(_array(layer.gamma)) if layer.scale else 1.0
        return np.atleast_1d(shift + DEVIATIONS * scale)
    kernel = _array(layer.kernel)
    axes = channel_axes(layer)
    others = tuple(axis for axis in range(kernel.ndim) if axis - kernel.ndim not in axes)
    norms = np.sqrt(np.square(kernel).sum(others)).ravel()
    return DEVIATIONS * norms + (abs(_array(layer.bias)) if layer.use_bias else 0.0)


def _shares(layer: Any, ranges: np.ndarray) -> np.ndarray:
    """How much each input channel adds to an output, at most, relative to the largest addend.

    The factors change neither the addends nor, so, the shares.
    """
    addends = abs(_with_inputs_scaled(layer, ranges))
    addends = addends.reshape(-1, *addends.shape[-3:])
    largest = addends.max((0, 1), keepdims=True)
    relative = addends / np.where(largest > 0, largest, 1.0)
    of_groups = relative.max((0, 3)).T.ravel()  # group by group
    return of_groups.reshape(-1, len(ranges)).max(0)  # several positions after `Flatten`


def _by_input(layer: Any) -> np.ndarray:
    """The kernel as (..., input channels of a group, groups, output channels of a group)."""
    kernel = _array(layer.kernel)
    if _is_transposed(layer):
        kernel = np.swapaxes(kernel, -1, -2)
    if _is_depthwise(layer):
        return kernel[..., None, :, :]
    *spatial, inputs, outputs = kernel.shape
    groups = getattr(layer, "groups", 1)
    return kernel.reshape(*spatial, inputs, groups, outputs // groups)


def _with_inputs_scaled(layer: Any, factors: np.ndarray) -> np.ndarray:
    kernel = _by_input(layer)
    inputs, groups = kernel.shape[-3:-1]
    repeated = np.tile(factors, inputs * groups // len(factors))
    return kernel * repeated.reshape(groups, inputs).T[..., None]


def _scale_inputs(layer: Any, factors: np.ndarray) -> None:
    scaled = _with_inputs_scaled(layer, factors)
    if _is_transposed(layer):
        scaled = np.swapaxes(scaled[..., 0, :], -1, -2)
    layer.kernel.assign(scaled.reshape(layer.kernel.shape))


def _scale_outputs(layer: Any, factors: np.ndarray) -> None:
    if isinstance(layer, NORMALIZATIONS):
        shifts = [layer.beta] if layer.center else []
        scaled = [layer.gamma, *shifts]
    else:
        kernel, axes = layer.kernel, channel_axes(layer)
        shape = [
            n if axis - len(kernel.shape) in axes else 1 for axis, n in enumerate(kernel.shape)
        ]
        kernel.assign(_array(kernel) * factors.reshape(shape))
        scaled = [layer.bias] if layer.use_bias else []
    for weight in scaled:
        weight.assign(_array(weight) * factors)


def _is_transposed(layer: Any) -> bool:
    """Whether a kernel has its output channels before its input channels."""
    return channel_axes(layer) == (-2,)


def _is_depthwise(layer: Any) -> bool:
    return len(channel_axes(layer)) == 2


def _array(weight: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight).astype("float64")
