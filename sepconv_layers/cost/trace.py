"""`profile`: traces which layers a model calls, and with which shapes."""

import collections
import contextlib
import functools
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import keras

from sepconv_layers.cost.report import LayerCost, Profile
from sepconv_layers.cost.rules import Shape, count_macs, is_counted_whole, one_or_all, sublayers


def profile(model: keras.layers.Layer, input_shape: Any = None) -> Profile:
    """Counts MACs, parameters, activations and bytes moved, per layer and in total.

    It accepts functional, sequential, subclassed and nested models and single layers, on any Keras
    backend. It traces the model with a batch of 1 and leaves it unchanged. All counts are for
    inference with **one sample**:

    - **MACs**, not FLOPs (one MAC is two FLOPs): convolutions of all kinds, `Dense`,
      `EinsumDense`, attention, recurrent layers, `Dot`, and `keras.ops.matmul` and
      `keras.ops.einsum` in a functional model. A convolution counts all kernel taps, including
      those on padding; a transposed one counts all input positions, including cropped outputs.
    - **Free**, with 0 MACs: biases, activations, normalization, pooling, merging, regularization,
      reshaping, padding, resizing, embedding, preprocessing and augmentation (see `RULES`), and
      element-wise `keras.ops` in a functional model.
    - **Parameters**: the elements of all weights, trainable or not, as in `model.count_params()`.
      A shared layer counts its parameters once and its MACs at each call.
    - **Activations**: the elements of the outputs of all layers.
    - **Bytes**: weights, inputs and outputs, with floats in the compute dtype, as if each call ran
      alone, without fusion or cache. An embedding counts its whole table.

    A layer without a rule has `macs=None` in its row, is listed in `Profile.uncounted` and causes a
    warning. Such layers are custom layers that have no sublayers, that call none of them, or that
    own weights in addition to those of their sublayers. Any other custom layer counts as the sum
    of its sublayers: **its own arithmetic between them**, such as `keras.ops.matmul`, **is not
    counted**, and the body of a `keras.ops` loop may count once. In all these cases the layer can
    provide the count itself, sublayers included, by a method
    `compute_macs(input_shape, output_shape)`, whose shapes have a batch of 1 and otherwise the
    form that `compute_output_shape` uses.

    Args:
        model: Model or layer with its weights.
        input_shape: Shape of the input **without the batch**, or a list or dict of shapes for
            several inputs. Required if the model has open sizes.

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
        [Howard et al., "MobileNets", 2017](https://arxiv.org/abs/1704.04861), whose Table 4 lists
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
    result = Profile(model.name, _numbers_in(_unique(model.weights)), trace.rows())
    if result.uncounted:
        warnings.warn(
            f"The MACs of {', '.join(result.uncounted)} cannot be counted and are missing from the "
            "total. A layer can count its own by `compute_macs(input_shape, output_shape)`.",
            stacklevel=2,
        )
    return result


class _Probe(keras.Operation):
    """An operation that runs a function, which Keras traces to infer its output."""

    def __init__(self, function: Callable, name: str) -> None:
        super().__init__(name=name)
        self.function = function

    def call(self, inputs: Any) -> Any:
        return self.function(inputs)


class Call(NamedTuple):
    """A call of a layer, with the shapes of its inputs and outputs for a batch of 1."""

    path: str
    operation: keras.Operation
    is_whole: bool  # whether it includes its sublayers
    tensor_bytes: int
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates; `None` if they cannot be counted."""
        try:
            return count_macs(self.operation, self.outputs, self.inputs)
        except NotImplementedError:
            return None


def traced_calls(model: keras.layers.Layer, input_shape: Any = None) -> list[Call]:
    """Returns the calls that `profile` counts, or raises the same errors."""
    return _Trace(model, input_shape).calls


class _Trace:
    """Records the calls of the layers of a model in one abstract forward pass.

    A layer with a rule, or without sublayers, is a leaf: it is recorded, and nothing inside it is.
    Any other layer is recorded only if it has weights of its own or calls none of its sublayers.
    """

    def __init__(self, model: keras.layers.Layer, input_shape: Any) -> None:
        if not model.built:
            raise _UnbuiltError
        self.calls: list[Call] = []
        self._path: list[str] = []
        self._is_inside_leaf = False
        takes_training = "training" in inspect.signature(model.call).parameters
        options = {"training": False} if takes_training else {}

        def forward(inputs: Any) -> Any:
            self.calls.clear()  # PyTorch restarts if its meta device lacks an operation
            return model(inputs, **options)

        with contextlib.ExitStack() as stack:
            for operation in _operations(model):
                is_quantized = getattr(operation, "quantization_mode", None) is not None
                method = "quantized_call" if is_quantized else "call"
                recording = self._recording(operation, getattr(operation, method))
                stack.enter_context(replaced(operation, method, recording))
                if not getattr(operation, "built", True):
                    stack.enter_context(replaced(operation, "build", _refuse_to_build))
            inputs = _abstract_inputs(model, input_shape)
            _Probe(forward, model.name).compute_output_spec(inputs)

    def _recording(self, operation: keras.Operation, call: Callable) -> Callable:
        is_leaf = is_counted_whole(operation)
        has_own_weights = bool(_weights(operation, is_whole=False))

        @functools.wraps(call)
        def recording_call(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside_leaf:
                return call(*args, **kwargs)
            self._path.append(operation.name)
            path = "/".join(self._path[1:]) or operation.name
            calls_before = len(self.calls)
            self._is_inside_leaf = is_leaf
            try:
                outputs = call(*args, **kwargs)
            finally:
                self._is_inside_leaf = False
                self._path.pop()
            is_text = isinstance(operation, keras.layers.TextVectorization)
            if is_text and hasattr(outputs, "set_shape"):
                outputs.set_shape((1, *outputs.shape[1:]))  # its operations lose the batch size
            is_whole = is_leaf or len(self.calls) == calls_before
            if is_whole or has_own_weights:
                arguments = inspect.signature(call).bind(*args, **kwargs).arguments
                inputs, results = _leaves(list(arguments.values())), _leaves(outputs)
                moved = sum(_bytes(tensor, operation) for tensor in inputs + results)
                shapes = _shapes(inputs), _shapes(results)
                self.calls.append(Call(path, operation, is_whole, moved, *shapes))
            return outputs

        return recording_call

    def rows(self) -> tuple[LayerCost, ...]:
        rows = []
        listed: set[int] = set()
        for call, repeats in collections.Counter(self.calls).items():
            weights = _weights(call.operation, call.is_whole)
            weight_bytes = sum(_bytes(weight, call.operation) for weight in weights)
            rows.append(
                LayerCost(
                    name=call.path,
                    kind=type(call.operation).__name__,
                    input_shape=one_or_all(call.inputs),
                    output_shape=one_or_all(call.outputs),
                    calls=repeats,
                    params=_numbers_in(w for w in weights if id(w) not in listed),
                    macs=None if call.macs is None else call.macs * repeats,
                    activations=sum(map(_numbers, call.outputs)) * repeats,
                    bytes=(weight_bytes + call.tensor_bytes) * repeats,
                )
            )
            listed.update(map(id, weights))
        return tuple(rows)


@contextlib.contextmanager
def replaced(operation: keras.Operation, method: str, function: Callable) -> Iterator[None]:
    """Replaces a method of an instance, bypassing the attribute tracking of Keras."""
    before = vars(operation).get(method)
    object.__setattr__(operation, method, function)
    try:
        yield
    finally:
        object.__delattr__(operation, method)
        if before is not None:
            object.__setattr__(operation, method, before)


class _UnbuiltError(ValueError):
    """A layer would have to create its weights during the trace."""


def _refuse_to_build(*args: Any, **kwargs: Any) -> None:
    raise _UnbuiltError


def _operations(model: keras.layers.Layer) -> list[keras.Operation]:
    """The model, all its layers, and the operations between the layers of functional models."""
    everything = model._flatten_layers()
    nodes = (getattr(layer, "operations", ()) for layer in everything)
    return _unique(itertools.chain(everything, *nodes))


def _weights(operation: keras.Operation, is_whole: bool) -> list[keras.Variable]:
    """All weights, or only those that no sublayer owns."""
    inner = [] if is_whole else sublayers(operation)
    theirs = {id(weight) for layer in inner for weight in layer.weights}
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
            "`input_shape` must contain every size of the input without the batch, as in "
            "`profile(model, input_shape=(224, 224, 3))`, or be a list or dict of shapes for "
            f"several inputs. The model declares {expected}. Received: input_shape={input_shape}"
        )
    tensors = [
        keras.KerasTensor((1, *shape), dtype=spec.dtype, sparse=spec.sparse)
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    return keras.tree.pack_sequence_as(declared, tensors)


def _declared_inputs(model: keras.layers.Layer, input_shape: Any) -> Any:
    """Inputs of a functional model; for other models, from `input_shape` or the build config."""
    if getattr(model, "inputs", None):
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    if input_shape is None:
        shapes = (model.get_build_config() or {}).get("input_shape", [])
        if isinstance(shapes, dict | list):  # Keras wraps them in tracking types that JAX rejects
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
    """Whether a shape without the batch has all sizes and agrees with the declared ones."""
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
    """Bytes of a tensor or weight, counting floats in the compute dtype of the layer."""
    is_float = keras.backend.is_float_dtype(tensor.dtype)
    dtype = getattr(operation, "compute_dtype", tensor.dtype) if is_float else tensor.dtype
    bits = re.search(r"\d+", keras.backend.standardize_dtype(dtype))  # "bool" has none
    return _numbers(tensor.shape) * max(int(bits[0]) // 8 if bits else 1, 1)


def _numbers_in(weights: Iterable[keras.Variable]) -> int:
    return sum(_numbers(weight.shape) for weight in weights)


def _numbers(shape: Shape) -> int:
    """Number of elements of a tensor, taking sizes that are unknown before running as 1."""
    return prod(size for size in shape if size is not None)


def _unique(items: Iterable[Any]) -> list[Any]:
    """The distinct items, by identity: Keras variables can be neither compared nor hashed."""
    return list({id(item): item for item in items}.values())
