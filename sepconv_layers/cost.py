"""What a model costs: multiply-accumulates, parameters and memory traffic, layer by layer.

`profile` traces a model on abstract tensors, so nothing is computed, and looks up the
multiply-accumulates (MACs) of each layer that is called in `RULES`. The rules follow the
convention of the papers: convolutions, dense layers, attention and recurrences count, everything
element-wise is free. A layer without a rule is reported, never taken for zero.
"""

import collections
import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import keras

from sepconv_layers.extras import require
from sepconv_layers.files import write
from sepconv_layers.layers.by_name import by_class

Shape = tuple[int, ...]
Rule = Callable[..., int]


def separable_ratio(
    filters: int, kernel_size: int | Sequence[int], depth_multiplier: int = 1
) -> float:
    """MACs of a depthwise-separable convolution divided by those of the standard one.

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
        ValueError: If an argument is not positive.

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
    if min(filters, depth_multiplier, *sizes) < 1:
        raise ValueError(
            "`filters`, `kernel_size` and `depth_multiplier` must be positive. Received: "
            f"filters={filters}, kernel_size={kernel_size}, depth_multiplier={depth_multiplier}"
        )
    return depth_multiplier * (1 / filters + 1 / prod(sizes))


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One row of a `Profile`: all calls of a layer with the same shapes.

    Attributes:
        name: Name of the layer after those of the models and blocks around it, joined by `/`.
        kind: Name of its class.
        input_shape: Shape of the input with a batch of 1, or a tuple of shapes.
        output_shape: Shape of the output with a batch of 1, or a tuple of shapes.
        calls: Number of calls with these shapes.
        params: Numbers in the weights, but for weights that an earlier row has listed.
        macs: Multiply-accumulates of all calls; `None` if they cannot be counted.
        activations: Numbers in the outputs of all calls.
        bytes: Bytes of the weights, inputs and outputs of all calls.
    """

    name: str
    kind: str
    input_shape: tuple
    output_shape: tuple
    calls: int
    params: int
    macs: int | None
    activations: int
    bytes: int

    @property
    def intensity(self) -> float | None:
        """MACs per byte moved; `None` if the MACs cannot be counted."""
        return None if self.macs is None else self.macs / max(self.bytes, 1)


@dataclasses.dataclass(frozen=True)
class Profile:
    """What one forward pass with one sample costs; `print` shows it as a table.

    Attributes:
        name: Name of the model.
        params: Numbers in all weights of the model.
        rows: One `LayerCost` for each layer, in the order of the first call.
    """

    name: str
    params: int
    rows: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers that can be counted."""
        return sum(row.macs or 0 for row in self.rows)

    @property
    def activations(self) -> int:
        """Numbers in the outputs of all layers."""
        return sum(row.activations for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes moved if each layer reads its weights and inputs and writes its outputs."""
        return sum(row.bytes for row in self.rows)

    @property
    def intensity(self) -> float:
        """MACs per byte moved."""
        return self.macs / max(self.bytes, 1)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The layers whose MACs are unknown and missing in the total, as `"name (Kind)"`."""
        names = [f"{row.name} ({row.kind})" for row in self.rows if row.macs is None]
        return tuple(dict.fromkeys(names))

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        line = "-" * (sum(widths) + 2 * len(widths) - 2)
        header, *body, total = (
            "  ".join(
                cell.ljust(width) if column < _TEXT_COLUMNS else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        )
        return "\n".join([header, line, *body, line, total, *self._notes()])

    def to_markdown(self) -> str:
        """The table in Markdown."""
        header, *body = self._cells()
        align = ["---"] * _TEXT_COLUMNS + ["---:"] * (len(header) - _TEXT_COLUMNS)
        lines = [f"| {' | '.join(row)} |" for row in (header, align, *body)]
        return "\n".join([*lines, *(f"\n{note}" for note in self._notes())])

    def to_json(self) -> str:
        """Totals and rows as a JSON object, in which an unknown count is `null`."""
        totals = ("name", "macs", "params", "activations", "bytes", "intensity", "uncounted")
        rows = [{**dataclasses.asdict(row), "intensity": row.intensity} for row in self.rows]
        return json.dumps({**{key: getattr(self, key) for key in totals}, "rows": rows})

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Draws the MACs and bytes of each layer that has MACs as bars.

        Args:
            path: File to write, in the format that its suffix names; by default none.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is missing.
        """
        rows = [row for row in reversed(self.rows) if row.macs]
        places = range(len(rows))  # two rows may bear the same name
        figure_class = require("matplotlib.figure", "plot", "Profile.plot").Figure
        figure = figure_class(figsize=(10, 1.5 + 0.2 * len(rows)), layout="constrained")
        figure.suptitle(f"{self.name}: {self.macs / 1e6:,.1f} M MACs, {self.params:,} parameters")
        macs, moved = figure.subplots(1, 2, sharey=True)
        macs.barh(places, [(row.macs or 0) / 1e6 for row in rows])
        macs.set_yticks(places, [row.name for row in rows])
        macs.set_xlabel("MACs (millions)")
        moved.barh(places, [row.bytes / 1e6 for row in rows], color="tab:orange")
        moved.set_xlabel("bytes moved (millions)")
        if path is not None:
            write(Path(path), figure.savefig)
        return figure

    def _cells(self) -> list[list[str]]:
        header = "layer|kind|output shape|params|MACs|activations|bytes|MACs/byte".split("|")
        body = [
            [
                row.name if row.calls == 1 else f"{row.name} x{row.calls}",
                row.kind,
                str(row.output_shape),
                f"{row.params:,}",
                "?" if row.macs is None else f"{row.macs:,}",
                f"{row.activations:,}",
                f"{row.bytes:,}",
                "?" if row.macs is None else f"{row.intensity:.2f}",
            ]
            for row in self.rows
        ]
        counts = (self.params, self.macs, self.activations, self.bytes)
        total = ["total", "", "", *(f"{count:,}" for count in counts), f"{self.intensity:.2f}"]
        return [header, *body, total]

    def _notes(self) -> list[str]:
        return [f"Not counted: {', '.join(self.uncounted)}"] if self.uncounted else []


_TEXT_COLUMNS = 3  # the columns on the left hold text, the others numbers


def profile(model: keras.layers.Layer, input_shape: Any = None) -> Profile:
    """Counts MACs, parameters, activations and bytes moved, for each layer and in total.

    It takes functional, sequential, subclassed and nested models and single layers, on any Keras
    backend. The model is traced with a batch of 1 and is left as it was. All counts are for
    inference with **one sample**:

    - **MACs**, not FLOPs, of which a MAC has two: convolutions of all kinds, `Dense`,
      `EinsumDense`, attention, recurrent layers, `Dot`, and `keras.ops.matmul` and
      `keras.ops.einsum` in a functional model. A convolution counts all kernel taps, also those
      on padding; a transposed one all input positions, also where the output is cropped.
    - **Free by rule**, so 0 MACs: biases, activations, normalization, pooling, merging,
      regularization, reshaping, padding, resizing, embedding, preprocessing and augmentation
      (see `RULES`), and element-wise `keras.ops` in a functional model.
    - **Parameters**: the numbers in all weights, trained or not, as `model.count_params()` has
      them. A shared layer counts them once, and its MACs at each call.
    - **Activations**: the numbers in the outputs of all layers.
    - **Bytes**: weights, inputs and outputs, the floats at the compute dtype, as if each call ran
      alone, without fusion or cache. An embedding is charged its whole table.

    A layer that no rule covers has `macs=None` in its row, is listed in `Profile.uncounted` and
    raises a warning. These are custom layers that have no sublayers, that call none of them, or
    that own weights beside those of their sublayers. Any other custom layer is the sum of its
    sublayers: arithmetic of its own between them, such as `keras.ops.matmul`, **remains unseen**,
    and what a loop of `keras.ops` repeats may count once. In all these cases the layer can give
    the count itself, sublayers included, by a method `compute_macs(input_shape, output_shape)`,
    which gets shapes as `compute_output_shape` does, with a batch of 1.

    Args:
        model: Model or layer with its weights.
        input_shape: Shape of the input **without the batch**, or a list or dict of shapes for
            several inputs. Needed where the model leaves a size open.

    Returns:
        A `Profile`.

    Raises:
        ValueError: If the model is not built, a size is unknown or `input_shape` does not fit.

    Example:
        >>> import keras
        >>> from sepconv_layers.cost import profile
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
        >>> profile(model).macs == (6 * 6) * (3 * 3 * 3) * 4
        True
        >>> profile(keras.applications.MobileNet(weights=None)).macs
        568740352

    Reference:
        [Howard et al., "MobileNets", 2017](https://arxiv.org/abs/1704.04861), whose Table 4 has
        569 million MACs.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras model or layer. Received: model={model!r}")
    try:
        trace = _Trace(model, input_shape)
    except _UnbuiltError:
        raise ValueError(
            "`model` must have all its weights: call it once, or `model.build(shape)` with `None` "
            f"for the batch. Received model={model.name!r}, which has layers that are not built."
        ) from None
    result = Profile(model.name, sum(map(_size, _unique(model.weights))), trace.rows())
    if result.uncounted:
        warnings.warn(
            f"The MACs of {', '.join(result.uncounted)} cannot be counted and are missing in the "
            "total. A layer can count them by `compute_macs(input_shape, output_shape)`.",
            stacklevel=2,
        )
    return result


# Rules: formulas for one call, of the layer, the shape of its (first) output and of its inputs.


def _size(variable: Any) -> int:
    return prod(variable.shape)


def _free(layer: Any, output: Shape, *inputs: Shape) -> int:
    return 0


def _contraction(equation: str, output: Shape, kernel: Sequence[int]) -> int:
    """MACs of a two-operand einsum: one for each output and each index that the sum removes."""
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
    """MACs of the kernels around attention: those of key and value are applied to the source."""
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
    "StackedRNNCells": lambda layer, y, *x: sum(_macs(cell, [y], x) for cell in layer.cells),
    "RNN": lambda layer, y, *x: x[0][1] * _macs(layer.cell, [y], x),
    "ConvLSTM?D": _conv_lstm,
    "Bidirectional": lambda layer, y, *x: (
        _macs(layer.forward_layer, [y], x) + _macs(layer.backward_layer, [y], x)
    ),
    "SpectralNormalization": lambda layer, y, *x: _macs(layer.layer, [y], x),
    # Free by rule.
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
"""Formula by names, or patterns of names, of `keras.layers` and of this library's layers.

A subclass has the rule of its nearest base class; but with a `call` of its own it is not free.
"""

_RULES_BY_CLASS = by_class(RULES)

# Classes without a public name: the nodes that `keras.ops` make in a functional model, and layers
# of `keras.applications`. They are element-wise, but for these, of which most have no rule.
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


def _is_leaf(operation: keras.Operation) -> bool:
    is_counted = hasattr(operation, "compute_macs") or _rule(operation) is not None
    return is_counted or not _sublayers(operation)


def _macs(operation: Any, outputs: Sequence[Shape], inputs: Sequence[Shape]) -> int:
    """MACs of one call, or a `NotImplementedError` where they are unknown."""
    if hasattr(operation, "compute_macs"):
        return operation.compute_macs(_one_or_all(inputs), _one_or_all(outputs))
    rule = _rule(operation)
    if rule is None or any(None in shape for shape in itertools.chain(outputs, inputs)):
        raise NotImplementedError
    return rule(operation, outputs[0], *inputs)


# Tracing: which layers a model calls, and with which shapes.


class _Probe(keras.Operation):
    """Runs a function, so that Keras traces it to infer its output."""

    def __init__(self, function: Callable, name: str) -> None:
        super().__init__(name=name)
        self.function = function

    def call(self, inputs: Any) -> Any:
        return self.function(inputs)


class _Call(NamedTuple):
    path: str
    operation: keras.Operation
    is_whole: bool  # whether it stands for its sublayers too
    tensor_bytes: int
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


class _Trace:
    """The calls of the layers of a model in one abstract forward pass.

    A layer that has a rule, or no sublayers, is a leaf: it is recorded, and nothing inside it is.
    Any other layer is recorded only if it has weights of its own or calls none of its sublayers.
    """

    def __init__(self, model: keras.layers.Layer, input_shape: Any) -> None:
        if not model.built:
            raise _UnbuiltError
        self._calls: list[_Call] = []
        self._path: list[str] = []
        self._is_inside_leaf = False
        takes_training = "training" in inspect.signature(model.call).parameters
        options = {"training": False} if takes_training else {}

        def forward(inputs: Any) -> Any:
            self._calls.clear()  # PyTorch begins anew if its abstract device cannot do it all
            return model(inputs, **options)

        with contextlib.ExitStack() as stack:
            for operation in _operations(model):
                is_quantized = getattr(operation, "quantization_mode", None) is not None
                method = "quantized_call" if is_quantized else "call"
                recording = self._recording(operation, getattr(operation, method))
                stack.enter_context(_replaced(operation, method, recording))
                if not getattr(operation, "built", True):
                    stack.enter_context(_replaced(operation, "build", _refuse_to_build))
            inputs = _abstract_inputs(model, input_shape)
            _Probe(forward, model.name).compute_output_spec(inputs)

    def _recording(self, operation: keras.Operation, call: Callable) -> Callable:
        is_leaf, has_own_weights = _is_leaf(operation), bool(_weights(operation, is_whole=False))

        @functools.wraps(call)
        def recording_call(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside_leaf:
                return call(*args, **kwargs)
            self._path.append(operation.name)
            path = "/".join(self._path[1:]) or operation.name
            calls_before = len(self._calls)
            self._is_inside_leaf = is_leaf
            try:
                outputs = call(*args, **kwargs)
            finally:
                self._is_inside_leaf = False
                self._path.pop()
            is_text = isinstance(operation, keras.layers.TextVectorization)
            if is_text and hasattr(outputs, "set_shape"):
                outputs.set_shape((1, *outputs.shape[1:]))  # its operations lose the batch
            is_whole = is_leaf or len(self._calls) == calls_before
            if is_whole or has_own_weights:
                arguments = inspect.signature(call).bind(*args, **kwargs).arguments
                inputs, results = _leaves(list(arguments.values())), _leaves(outputs)
                moved = sum(_bytes(tensor, operation) for tensor in inputs + results)
                shapes = _shapes(inputs), _shapes(results)
                self._calls.append(_Call(path, operation, is_whole, moved, *shapes))
            return outputs

        return recording_call

    def rows(self) -> tuple[LayerCost, ...]:
        rows = []
        listed: set[int] = set()
        for call, repeats in collections.Counter(self._calls).items():
            weights = _weights(call.operation, call.is_whole)
            weight_bytes = sum(_bytes(weight, call.operation) for weight in weights)
            try:
                macs = _macs(call.operation, call.outputs, call.inputs) * repeats
            except NotImplementedError:
                macs = None
            rows.append(
                LayerCost(
                    name=call.path,
                    kind=type(call.operation).__name__,
                    input_shape=_one_or_all(call.inputs),
                    output_shape=_one_or_all(call.outputs),
                    calls=repeats,
                    params=sum(_size(weight) for weight in weights if id(weight) not in listed),
                    macs=macs,
                    activations=sum(map(_numbers, call.outputs)) * repeats,
                    bytes=(weight_bytes + call.tensor_bytes) * repeats,
                )
            )
            listed.update(map(id, weights))
        return tuple(rows)


@contextlib.contextmanager
def _replaced(operation: keras.Operation, method: str, function: Callable) -> Iterator[None]:
    """Replaces a method of an instance, unnoticed by Keras, which tracks what is assigned."""
    before = vars(operation).get(method)
    object.__setattr__(operation, method, function)
    try:
        yield
    finally:
        object.__delattr__(operation, method)
        if before is not None:
            object.__setattr__(operation, method, before)


class _UnbuiltError(ValueError):
    """A layer that is called would have to make its weights first."""


def _refuse_to_build(*args: Any, **kwargs: Any) -> None:
    raise _UnbuiltError


def _operations(model: keras.layers.Layer) -> list[keras.Operation]:
    """The model, all its layers, and the operations between those of functional models."""
    everything = model._flatten_layers()
    nodes = (getattr(layer, "operations", ()) for layer in everything)
    return _unique(itertools.chain(everything, *nodes))


def _sublayers(operation: keras.Operation) -> list[keras.layers.Layer]:
    is_layer = isinstance(operation, keras.layers.Layer)
    return operation._flatten_layers(include_self=False) if is_layer else []


def _weights(operation: keras.Operation, is_whole: bool) -> list[keras.Variable]:
    """All weights, or those that no sublayer has."""
    sublayers = [] if is_whole else _sublayers(operation)
    theirs = {id(weight) for layer in sublayers for weight in layer.weights}
    weights = _unique(getattr(operation, "weights", ()))
    return [weight for weight in weights if id(weight) not in theirs]


def _abstract_inputs(model: keras.layers.Layer, input_shape: Any) -> Any:
    """Abstract tensors with a batch of 1, in the structure that the model takes."""
    declared = _declared_inputs(model, input_shape)
    specs = keras.tree.flatten(declared)
    if input_shape is None:
        shapes = [spec.shape[1:] for spec in specs]
    elif isinstance(input_shape, Mapping):
        names = sorted(declared) if isinstance(declared, dict) else [spec.name for spec in specs]
        shapes = [input_shape.get(name) for name in dict.fromkeys([*names, *input_shape])]
    else:
        shapes = [input_shape] if _is_shape(input_shape) else list(input_shape)
    if not specs or len(shapes) != len(specs) or not all(map(_fits, shapes, specs)):
        expected = keras.tree.map_structure(lambda spec: spec.shape[1:], declared)
        raise ValueError(
            "`input_shape` must give every size of the input without the batch, as in "
            "`profile(model, input_shape=(224, 224, 3))`, or a list or dict of shapes for several "
            f"inputs. The model declares {expected}. Received: input_shape={input_shape}"
        )
    tensors = [
        keras.KerasTensor((1, *shape), dtype=spec.dtype, sparse=spec.sparse)
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    return keras.tree.pack_sequence_as(declared, tensors)


def _declared_inputs(model: keras.layers.Layer, input_shape: Any) -> Any:
    """The inputs of a functional model; of any other, those of `input_shape` or of its build."""
    if getattr(model, "inputs", None):
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    if input_shape is None:
        shapes = (model.get_build_config() or {}).get("input_shape", [])
        if isinstance(shapes, dict | list):  # tracked by types of Keras that JAX does not take
            shapes = {**shapes} if isinstance(shapes, dict) else [*shapes]
    elif isinstance(input_shape, Sequence | Mapping):
        shapes = keras.tree.map_shape_structure(lambda shape: (None, *shape), input_shape)
    else:
        shapes = []
    return keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor(shape, dtype=model.compute_dtype), shapes
    )


def _is_shape(value: Any) -> bool:
    sizes = value if isinstance(value, Sequence) else ()
    return all(size is None or isinstance(size, int) for size in sizes)


def _fits(shape: Any, spec: keras.KerasTensor) -> bool:
    """Whether a shape without the batch gives each size, and those that are declared."""
    if not isinstance(shape, Sequence) or len(shape) != len(spec.shape) - 1:
        return False
    return all(
        isinstance(size, int) and size > 0 and declared in (None, size)
        for size, declared in zip(shape, spec.shape[1:], strict=True)
    )


def _leaves(structure: Any) -> list[Any]:
    """The tensors and arrays in a structure."""
    return [leaf for leaf in keras.tree.flatten(structure) if hasattr(leaf, "dtype")]


def _shapes(tensors: Iterable[Any]) -> tuple[Shape, ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _bytes(tensor: Any, operation: keras.Operation) -> int:
    """Bytes of a tensor or weight, with floats in the compute dtype of the layer."""
    is_float = keras.backend.is_float_dtype(tensor.dtype)
    dtype = getattr(operation, "compute_dtype", tensor.dtype) if is_float else tensor.dtype
    bits = re.search(r"\d+", keras.backend.standardize_dtype(dtype))  # "bool" has none
    return _numbers(tensor.shape) * max(int(bits[0]) // 8 if bits else 1, 1)


def _numbers(shape: Shape) -> int:
    """How many numbers a tensor holds, if sizes that only running the model tells are 1."""
    return prod(size for size in shape if size is not None)


def _one_or_all(shapes: Sequence[Shape]) -> Any:
    return shapes[0] if len(shapes) == 1 else tuple(shapes)


def _unique(items: Iterable[Any]) -> list[Any]:
    """The items without repetitions; Keras's variables cannot be compared or hashed."""
    return list({id(item): item for item in items}.values())
