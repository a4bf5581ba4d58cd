"""Formulas that count the multiply-accumulates (MACs) of each kind of layer."""

import itertools
import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import keras

from sepconv_layers.arguments import positive_int, standardize_tuple
from sepconv_layers.class_table import by_class

Shape = tuple[int, ...]
Rule = Callable[..., int]


def separable_ratio(
    filters: int, kernel_size: int | Sequence[int], depth_multiplier: int = 1
) -> float:
    """Returns MACs of a depthwise-separable convolution divided by MACs of the standard one.

    For `K` kernel taps, `C` input channels and `M` filters a standard convolution takes `K·C·M`
    MACs per output position, the separable one `K·C·m` in its depthwise and `C·m·M` in its
    pointwise step. `C` cancels: the ratio is `m·(1/M + 1/K)`, the textbook's `1/M + 1/K²` for a
    square kernel and `m = 1`.

    Args:
        filters: Number of output channels, `M`.
        kernel_size: Size of the kernel in each of any number of spatial dimensions, or the side
            of a square kernel.
        depth_multiplier: Number of depthwise outputs for each input channel, `m`.

    Returns:
        The ratio; below 1 the separable convolution is the cheaper one.

    Raises:
        ValueError: If an argument is not a positive integer.

    Example:
        >>> from sepconv_layers.cost import separable_ratio
        >>> round(separable_ratio(filters=128, kernel_size=3), 4)
        0.1189
        >>> round(separable_ratio(filters=128, kernel_size=(3, 3, 3)), 4)
        0.0448

    Reference:
        [Howard et al., "MobileNets", 2017](https://arxiv.org/abs/1704.04861), section 3.1.
    """
    sizes = (kernel_size,) * 2 if isinstance(kernel_size, int) else tuple(kernel_size)
    sizes = standardize_tuple(sizes, len(sizes), "kernel_size")
    filters = positive_int(filters, "filters")
    depth_multiplier = positive_int(depth_multiplier, "depth_multiplier")
    return depth_multiplier * (1 / filters + 1 / prod(sizes))


# Each rule counts one call, from the layer, the shape of its (first) output and of its inputs.


def _size(variable: Any) -> int:
    return prod(variable.shape)


def _free(layer: Any, output: Shape, *inputs: Shape) -> int:
    return 0


def _contraction(equation: str, output: Shape, kernel: Sequence[int]) -> int:
    """MACs of a two-operand einsum: one for each output element and each summed index."""
    operands, result = equation.replace(" ", "").split("->")
    sizes = zip(operands.split(",")[1], kernel, strict=True)
    return prod(output) * prod(size for index, size in sizes if index not in result)


def _einsum(operation: Any, output: Shape, *inputs: Shape) -> int:
    if not re.fullmatch(r"[^,]+,[\w ]+->.*", operation.subscripts):
        raise NotImplementedError
    return _contraction(operation.subscripts, output, inputs[1])


def _attention(layer: Any, output: Shape, query: Shape, value: Shape, *_: Shape) -> int:
    is_additive = isinstance(layer, keras.layers.AdditiveAttention)
    multiplies = layer.use_scale if is_additive else layer.score_mode == "dot"
    return prod(query[:-1]) * value[-2] * (multiplies * query[-1] + value[-1])


def _multi_head_attention(layer: Any, output: Shape, query: Shape, value: Shape, *_: Shape) -> int:
    scores = layer.num_heads * prod(query[:-1]) * prod(value[axis] for axis in layer.attention_axes)
    return _projections(layer, query, value) + scores * (layer.key_dim + layer.value_dim)


def _grouped_attention(layer: Any, output: Shape, query: Shape, value: Shape, *_: Shape) -> int:
    scores = layer.num_query_heads * prod(query[:-1]) * value[1]
    return _projections(layer, query, value) + scores * 2 * layer.head_dim


def _projections(layer: Any, query: Shape, value: Shape) -> int:
    """MACs of the projections around attention: key and value project the source."""
    kernels = [weight for weight in layer.weights if weight.name == "kernel"]
    sources = [value if re.search("(key|value)/kernel$", k.path) else query for k in kernels]
    return sum(prod(s[:-1]) * _size(k) for s, k in zip(sources, kernels, strict=True))


def _cell(layer: Any, *_: Shape) -> int:
    return _size(layer.kernel) + _size(layer.recurrent_kernel)


def _conv_lstm(layer: Any, output: Shape, sequence: Shape, *_: Shape) -> int:
    batch, steps, *frame = sequence
    state, *_rest = layer.cell.compute_output_shape((batch, *frame))
    return steps * prod(state) // layer.filters * _cell(layer.cell)


RULES: dict[str, Rule] = {
    # Kernels are `(*size, channels in a group, filters)`, transposed `(*size, filters, channels)`.
    "Conv?D": lambda layer, y, x: prod(y) * prod(layer.kernel.shape[:-1]),
    "Conv?DTranspose": lambda layer, y, x: prod(x) * prod(layer.kernel.shape[:-1]),
    "DepthwiseConv?D": lambda layer, y, x: prod(y) * prod(layer.kernel_size),
    "DepthwiseConv?DTranspose": lambda layer, y, x: (
        prod(x) * prod(layer.kernel_size) * layer.depth_multiplier
    ),
    "SeparableConv?D": lambda layer, y, x: (
        prod(y) // layer.filters * (_size(layer.depthwise_kernel) + _size(layer.pointwise_kernel))
    ),
    "SeparableConv?DTranspose": lambda layer, y, x: (
        prod(x) * prod(layer.kernel_size) * layer.depth_multiplier
        + prod(y) // layer.filters * _size(layer.pointwise_kernel)
    ),
    "STFTSpectrogram": lambda layer, y, x: (
        prod(y) * layer.frame_length * (1 if layer.mode in ("real", "imag", "stft") else 2)
    ),
    "Dense": lambda layer, y, x: prod(y) * x[-1],
    "EinsumDense": lambda layer, y, x: _contraction(layer.equation, y, layer.kernel.shape),
    "Dot": lambda layer, y, x, *_: (
        prod(y) * x[layer.axes if isinstance(layer.axes, int) else layer.axes[0]]
    ),
    "ReversibleEmbedding": lambda layer, y, x: prod(y) * x[-1] if len(x) == len(y) else 0,
    "Attention AdditiveAttention": _attention,
    "MultiHeadAttention": _multi_head_attention,
    "Group*QueryAttention": _grouped_attention,
    "SimpleRNNCell GRUCell LSTMCell": _cell,
    "StackedRNNCells": lambda layer, y, *x: sum(count_macs(cell, [y], x) for cell in layer.cells),
    "RNN": lambda layer, y, *x: x[0][1] * count_macs(layer.cell, [y], x),
    "ConvLSTM?D": _conv_lstm,
    "Bidirectional": lambda layer, y, *x: (
        count_macs(layer.forward_layer, [y], x) + count_macs(layer.backward_layer, [y], x)
    ),
    "SpectralNormalization": lambda layer, y, *x: count_macs(layer.layer, [y], x),
    # Free.
    "Activation ELU LeakyReLU PReLU ReLU Softmax": _free,
    "Add Average Concatenate Maximum Minimum Multiply Subtract": _free,
    "BatchNormalization GroupNormalization LayerNormalization Normalization": _free,
    "RMSNormalization UnitNormalization": _free,
    "*Pooling?D": _free,
    "ActivityRegularization *Dropout SpatialDropout?D DropPath GaussianNoise": _free,
    "Cropping?D Flatten Permute RepeatVector Reshape UpSampling?D ZeroPadding?D": _free,
    "Embedding Identity InputLayer Masking": _free,
    "CategoryEncoding Discretization HashedCrossing Hashing *Lookup TextVectorization": _free,
    "CenterCrop Rescaling Resizing Rand* AugMix AutoContrast CutMix Equalization": _free,
    "ContrastLimitedAdaptiveHistogramEqualization MaxNumBoundingBoxes MixUp Solarization": _free,
}
"""Formula by names, or patterns of names, of layers of Keras and of this library.

A subclass has the rule of its nearest base class, unless that layer is free and the subclass
overrides `call`: then its cost is unknown.
"""

_RULES_BY_CLASS = by_class(RULES)

# Classes without a public name: the nodes that `keras.ops` create in a functional model, and layers
# of `keras.applications`. All are element-wise except these, most of which have no rule.
_RULES_BY_NAME: dict[str, Rule | None] = {
    "Matmul": lambda operation, y, *x: prod(y) * x[0][-1],
    "Einsum": _einsum,
    **dict.fromkeys(
        "Conv ConvTranspose Correlate Corrcoef Cross DepthwiseConv Dot DotProductAttention Inner "
        "Kron Outer SeparableConv Tensordot Vdot AssociativeScan Cond ForiLoop Map Scan Switch "
        "VectorizedMap WhileLoop".split()
    ),
}
_ELEMENTWISE_MODULES = {
    *(f"keras.src.ops.{name}" for name in ("core", "image", "nn", "numpy")),
    *(f"keras.src.applications.{name}" for name in ("convnext", "inception_resnet_v2")),
}


def _rule(operation: keras.Operation) -> Rule | None:
    cls: Any = type(operation)
    if cls.__module__ in _ELEMENTWISE_MODULES:
        return _RULES_BY_NAME.get(cls.__name__, _free)
    for base in cls.__mro__:
        if base in _RULES_BY_CLASS:
            rule = _RULES_BY_CLASS[base]
            return rule if rule is not _free or cls.call is base.call else None
    return None


def is_counted_whole(operation: keras.Operation) -> bool:
    """Whether a layer is counted as a whole: it has a rule, or no sublayers."""
    is_counted = hasattr(operation, "compute_macs") or _rule(operation) is not None
    return is_counted or not sublayers(operation)


def count_macs(operation: Any, outputs: Sequence[Shape], inputs: Sequence[Shape]) -> int:
    """Counts the MACs of one call, or raises a `NotImplementedError` if they are unknown."""
    if hasattr(operation, "compute_macs"):
        return operation.compute_macs(one_or_all(inputs), one_or_all(outputs))
    rule = _rule(operation)
    if rule is None or any(None in shape for shape in itertools.chain(outputs, inputs)):
        raise NotImplementedError
    return rule(operation, outputs[0], *inputs)


def sublayers(operation: keras.Operation) -> list[keras.layers.Layer]:
    """All layers inside a layer; none for an operation that is not a layer."""
    is_layer = isinstance(operation, keras.layers.Layer)
    return operation._flatten_layers(include_self=False) if is_layer else []


def one_or_all(shapes: Sequence[Shape]) -> Any:
    """The only shape, or all of them as a tuple."""
    return shapes[0] if len(shapes) == 1 else tuple(shapes)
