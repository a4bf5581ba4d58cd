"""Twins of models: standard for separable convolutions, or separable for standard ones."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from sepconv_layers import blocks, layers
from sepconv_layers.blocks.base import CONV, SEPARABLE_CONV
from sepconv_layers.class_table import by_class
from sepconv_layers.graph_edit import ModelGraph, clone_layer, is_graph

RANKS = (1, 2, 3)
TRANSPOSE = {rank: getattr(keras.layers, f"Conv{rank}DTranspose") for rank in RANKS}
TRANSPOSED = tuple(TRANSPOSE.values())
SEPARABLE_TRANSPOSE = {rank: getattr(layers, f"SeparableConv{rank}DTranspose") for rank in RANKS}
# Arguments that the layers have in common.
GEOMETRY = ("kernel_size", "strides", "padding", "output_padding", "data_format", "dilation_rate")
COMMON = (
    "name",
    "trainable",
    "activation",
    "use_bias",
    "bias_initializer",
    "bias_regularizer",
    "bias_constraint",
    "activity_regularizer",
)
PER_KERNEL = ("regularizer", "constraint")  # a separable convolution has one for each kernel

BLOCKS = {
    getattr(blocks, f"{separable}{rank}D"): getattr(blocks, f"{standard}{rank}D")
    for rank in RANKS
    for separable, standard in (
        ("SeparableConvBlock", "ConvBlock"),
        ("ResidualSeparableConvBlock", "ResidualConvBlock"),
        ("InvertedBottleneckBlock", "FusedInvertedBottleneckBlock"),
    )
}
KIND = by_class(
    {
        "Conv?D": "conv",
        "SeparableConv?D": "separable",
        "DepthwiseConv?D": "depthwise",
        "Conv?DTranspose": "transpose",
        "SeparableConv?DTranspose": "separable transpose",
        "DepthwiseConv?DTranspose": "depthwise transpose",
        "BatchNormalization LayerNormalization GroupNormalization": "between",
        "Activation ELU LeakyReLU PReLU ReLU Dropout SpatialDropout?D": "between",
        "ZeroPadding?D": "padding",
    }
)
KNOWN = {*KIND, *BLOCKS, *BLOCKS.values()}


def standard_twin(model: keras.Model) -> keras.Model:
    """Returns the twin of a model with standard convolutions in place of separable ones.

    Use it to see what separable convolutions save and cost in an existing model. Blocks of this
    package become their twins. Separable layers of this package and of `keras.layers` become
    standard ones with the same kernel size. A separate depthwise and pointwise convolution, with or
    without normalization and activation between them, become one standard convolution. In an
    inverted bottleneck, where a pointwise convolution expands the channels before the depthwise one
    and another one reduces them after it, the first two become one and the last one stays. A
    depthwise convolution without a pointwise one becomes a standard convolution with the same
    number of output channels.

    Args:
        model: A functional model or a built sequential model. It is not changed.

    Returns:
        A functional model of new, untrained layers, with the same inputs, output shapes and names.

    Raises:
        ValueError: If the model is of another kind, or has no separable part.

    Example:
        >>> import keras
        >>> from sepconv_layers import profile, standard_twin
        >>> model = keras.Sequential(
        ...     [keras.Input((32, 32, 16)), keras.layers.SeparableConv2D(64, 3, padding="same")]
        ... )
        >>> twin = standard_twin(model)
        >>> twin.output_shape, profile(twin).macs / profile(model).macs
        ((None, 32, 32, 64), 7.89...)
    """
    graph = ModelGraph(model)
    changed, skipped = _pairs(graph)
    settled = {*changed, *map(id, skipped)}
    for node in graph.nodes:
        layer = node.operation
        if id(layer) in settled:
            continue
        kind = _kind(node)
        if type(layer) in BLOCKS:
            changed[id(layer)] = _twin_block(layer, BLOCKS[type(layer)])
        elif kind == "separable":
            changed[id(layer)] = _standard(CONV, layer, layer.filters)
        elif kind == "separable transpose":
            changed[id(layer)] = _standard(TRANSPOSE, layer, layer.filters)
        elif kind in ("depthwise", "depthwise transpose"):
            family = CONV if kind == "depthwise" else TRANSPOSE
            changed[id(layer)] = _standard(family, layer, _filters_of(node))
    return _twin(graph, changed, skipped, "separable part", _is_separable)


def separable_twin(model: keras.Model) -> keras.Model:
    """Returns the twin of a model with separable convolutions in place of standard ones.

    Use it to see what a model would save. Blocks of this package become their twins. Convolutions
    and transposed convolutions of this package and of `keras.layers` become separable ones, except
    those with a kernel of one element, which are already pointwise, and those with groups.

    Args:
        model: A functional model or a built sequential model. It is not changed.

    Returns:
        A functional model of new, untrained layers, with the same inputs, output shapes and names.

    Raises:
        ValueError: If the model is of another kind, or has no standard convolution.

    Example:
        >>> import keras
        >>> from sepconv_layers import profile, separable_twin
        >>> model = keras.Sequential(
        ...     [keras.Input((32, 32, 16)), keras.layers.Conv2D(64, 3, padding="same")]
        ... )
        >>> twin = separable_twin(model)
        >>> twin.output_shape, profile(model).macs / profile(twin).macs
        ((None, 32, 32, 64), 7.89...)
    """
    graph = ModelGraph(model)
    separable = {standard: separable for separable, standard in BLOCKS.items()}
    changed: dict[int, Callable[[], Any]] = {}
    for node in graph.nodes:
        layer = node.operation
        if type(layer) in separable:
            changed[id(layer)] = _twin_block(layer, separable[type(layer)])
        elif is_spatial(layer):
            changed[id(layer)] = partial(separable_like, layer)
    return _twin(graph, changed, [], "standard convolution", is_standard)


def _twin(
    graph: ModelGraph,
    changed: dict[int, Callable[[], Any]],
    skipped: list[Any],
    wanted: str,
    is_wanted: Callable[[Any, type], bool],
) -> keras.Model:
    hidden = hidden_layers(graph, is_wanted)
    if not changed:
        raise ValueError(
            f"The `model` argument must be a model with a {wanted}: a block or layer of this "
            "package or of `keras.layers`, also in a nested model. Received: "
            f"model={graph.model!r} without one.{hidden}"
        )
    if hidden:
        warnings.warn(f"The twin keeps some layers as they are.{hidden}", stacklevel=3)

    def make(old: Any) -> Any:
        return changed[id(old)]() if id(old) in changed else clone_layer(old)

    twin, _ = graph.rebuild(make, skipped)
    return twin


def hidden_layers(graph: ModelGraph, is_wanted: Callable[[Any, type], bool]) -> str:
    """A sentence that names the layers hidden in subclasses or in other layers, or an empty one.

    Args:
        graph: The model.
        is_wanted: Whether a layer would be replaced if it were of that class, one of its bases.
    """
    hidden: dict[int, str] = {}
    for node in graph.nodes:
        layer = node.operation
        is_known = type(layer) in KNOWN or is_graph(layer)
        if is_known or not isinstance(layer, keras.layers.Layer):
            continue
        for inner in layer._flatten_layers():
            base = next((cls for cls in type(inner).__mro__ if cls in KNOWN), None)
            if base is None or not is_wanted(inner, base):
                continue
            if inner is layer:
                hidden[id(inner)] = f"{layer.name!r} ({type(layer).__name__}, of {base.__name__})"
                break
            within = f"{layer.name!r} ({type(layer).__name__})"
            hidden[id(inner)] = f"{inner.name!r} ({type(inner).__name__}) in {within}"
    if not hidden:
        return ""
    return (
        " Subclasses, and layers inside a layer of another class, are not seen: "
        f"{', '.join(hidden.values())}. Use layers of the known classes in the model itself."
    )


def _kind(node: Any) -> str | None:
    """The kind of a layer. A subclass of a class in the table has none."""
    layer = node.operation
    kind = KIND.get(type(layer))
    if kind == "conv" and getattr(layer, "groups", 1) > 1:
        channels = node.input_tensors[0].shape[_channel_axis(layer)]
        return "depthwise" if layer.groups == channels else None
    return kind


def _channel_axis(layer: Any) -> int:
    return 1 if layer.data_format == "channels_first" else -1


def _filters_of(node: Any) -> int:
    return node.outputs[0].shape[_channel_axis(node.operation)]


# Replacements of layers.


def _twin_block(layer: Any, cls: type) -> Callable[[], Any]:
    return partial(clone_layer, layer, cls)


def _standard(
    family: dict[int, Any], layer: Any, filters: int, pointwise: Any = None
) -> Callable[[], Any]:
    """A standard convolution with the geometry of a layer and the rest of its pointwise one."""
    last = pointwise or layer
    arguments = {**_arguments(last), **_geometry(layer), "filters": filters}
    for what in PER_KERNEL:
        names = (f"kernel_{what}", f"pointwise_{what}", f"depthwise_{what}")
        arguments[f"kernel_{what}"] = next(
            (getattr(last, name) for name in names if hasattr(last, name)), None
        )
    return partial(family[len(layer.kernel_size)], **arguments)


def separable_like(layer: Any, **changes: Any) -> Any:
    """A separable convolution in place of a standard one, transposed or not.

    In place of one with groups, it is a model of a depthwise and a grouped pointwise convolution.
    """
    if getattr(layer, "groups", 1) > 1:
        return _grouped_separable(layer, **changes)
    arguments = {**_arguments(layer), **_geometry(layer), "filters": layer.filters}
    for what in PER_KERNEL:
        for kernel in ("depthwise", "pointwise"):
            arguments[f"{kernel}_{what}"] = getattr(layer, f"kernel_{what}")
    family = SEPARABLE_CONV if KIND[type(layer)] == "conv" else SEPARABLE_TRANSPOSE
    return family[len(layer.kernel_size)](**{**arguments, **changes})


def _grouped_separable(layer: Any, depth_multiplier: int = 1) -> keras.Model:
    rank, last = len(layer.kernel_size), _arguments(layer)
    per_kernel = {what: getattr(layer, f"kernel_{what}") for what in PER_KERNEL}
    depthwise = getattr(layers, f"DepthwiseConv{rank}D")(
        **_geometry(layer),
        depth_multiplier=depth_multiplier,
        use_bias=False,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
        name="depthwise",
        **{f"depthwise_{what}": value for what, value in per_kernel.items()},
    )
    pointwise = CONV[rank](
        **{**last, "name": "pointwise"},
        kernel_size=1,
        filters=layer.filters,
        groups=layer.groups,
        data_format=layer.data_format,
        **{f"kernel_{what}": value for what, value in per_kernel.items()},
    )
    return keras.Sequential([depthwise, pointwise], name=layer.name)


def is_grouped(layer: Any) -> bool:
    """Whether a built layer is a convolution with groups of several input channels each."""
    is_known = KIND.get(type(layer)) == "conv" and getattr(layer, "groups", 1) > 1
    return is_known and math.prod(layer.kernel_size) > 1 and layer.kernel.shape[-2] > 1


def is_spatial(layer: Any) -> bool:
    """Whether a layer is a standard convolution, transposed or not, with a spatial kernel."""
    return type(layer) in KIND and is_standard(layer, type(layer))


def is_standard(layer: Any, cls: type) -> bool:
    """Whether a layer of that class is a standard block or a convolution with a spatial kernel."""
    if KIND.get(cls) not in ("conv", "transpose"):
        return cls in BLOCKS.values()
    return math.prod(layer.kernel_size) > 1 and getattr(layer, "groups", 1) == 1


def _is_separable(layer: Any, cls: type) -> bool:
    return cls in BLOCKS or "separable" in KIND.get(cls, "") or "depthwise" in KIND.get(cls, "")


def _geometry(layer: Any) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in GEOMETRY if hasattr(layer, name)}


def _arguments(layer: Any) -> dict[str, Any]:
    common = {name: getattr(layer, name) for name in COMMON}
    return {**common, "dtype": layer.dtype_policy}


# Pairs of a depthwise and a pointwise convolution.


def _pairs(graph: ModelGraph) -> tuple[dict[int, Callable[[], Any]], list[Any]]:
    """The replacement of one layer of each pair, and the other layers to leave out."""
    changed: dict[int, Callable[[], Any]] = {}
    skipped: list[Any] = []
    for node in graph.nodes:
        depthwise = node.operation
        if _kind(node) != "depthwise" or not graph.is_called_once(depthwise):
            continue
        before, after = _before(graph, node), _after(graph, node)
        is_free = bool(before) and id(before[0].operation) not in changed
        narrows = not after or _filters_of(after[-1]) < _filters_of(node)
        if is_free and narrows and _widens(before[0]):
            changed[id(depthwise)] = _standard(CONV, depthwise, _filters_of(node))
            skipped += [other.operation for other in before]
        elif after:
            *between, last = (other.operation for other in after)
            changed[id(last)] = _standard(CONV, depthwise, last.filters, last)
            skipped += [depthwise, *between]
    return changed, skipped


def _widens(node: Any) -> bool:
    return _filters_of(node) > node.input_tensors[0].shape[_channel_axis(node.operation)]


def _is_pointwise(node: Any) -> bool:
    layer = node.operation
    return _kind(node) == "conv" and math.prod((*layer.kernel_size, *layer.strides)) == 1


def _before(graph: ModelGraph, node: Any) -> list[Any]:
    """The calls from a pointwise convolution that lead to this call only."""
    found: list[Any] = []
    while True:
        tensor = node.input_tensors[0]
        history = tensor._keras_history
        if graph.only_user(tensor) is not node or not graph.is_called_once(history.operation):
            return []
        node = history.operation._inbound_nodes[history.node_index]
        if _is_pointwise(node):
            return [node, *found]
        if _kind(node) == "between":
            found.insert(0, node)
        elif _kind(node) != "padding":  # it stays where it is
            return []


def _after(graph: ModelGraph, node: Any) -> list[Any]:
    """The calls from this one to a pointwise convolution, if each is the only use of the last."""
    found: list[Any] = []
    while True:
        node = graph.only_user(node.outputs[0])
        if node is None or not graph.is_called_once(node.operation):
            return []
        found.append(node)
        if _is_pointwise(node):
            return found
        if _kind(node) != "between":
            return []
