"""Puts fake quantization into a model, where its int8 file has scales."""

import warnings
from collections.abc import Iterable
from typing import Any

import keras

from sepconv_layers import sources
from sepconv_layers.convert.folding import norms_to_fold
from sepconv_layers.convert.unrolling import run_layers
from sepconv_layers.graph_edit import ModelGraph
from sepconv_layers.quantize.equalization import equalize
from sepconv_layers.quantize.flattening import DTYPE, copied, flat_copy, new_input
from sepconv_layers.quantize.layers import FakeQuantize, FakeQuantizeKernel, check_bits
from sepconv_layers.quantize.rules import Kind, fixed_range, is_relu, kind_of

BATCH = 128  # samples of a data set that is read by index
WITH_RELU = (Kind.KERNEL, Kind.ADDING)  # a ReLU after them is computed with them


def aware(
    model: keras.Model,
    weight_bits: int = 8,
    momentum: float = 0.99,
    calibration: Any = None,
) -> keras.Model:
    """Returns a model that is trained with the rounding of its int8 LiteRT file.

    Train it for a few epochs at a small learning rate, and the weights adapt to the rounding:
    where `export.to_litert(model, quantize="int8")` alone loses accuracy, such as if the channels
    of a kernel differ widely or with weights of 4 bits, most of it comes back. Export the result
    with `export.to_litert(aware_model, path, quantize="int8")`: the file gets the learned scales,
    and needs no calibration.

    - First, the channels are equalized, as Nagel et al. do: where all that is between two layers
      commutes with a positive factor, such as a ReLU, pooling or an addition, factors move from one
      layer's weights to the next one's, so that no channel has values much larger than the others.
      The function stays the same. This cannot be done past a ReLU6 or a hard swish, which keep the
      differences that their inputs have.
    - Kernels of convolutions and dense layers are rounded to one scale for each output channel, the
      largest of whose values is the largest integer.
    - Inputs, outputs and activations are rounded to 256 values of a range that follows the batches
      of training: after a ReLU where there is one, and after a concatenation. Pooling, reshaping
      and padding keep the range of their input.
    - Batch normalization still learns from the statistics of the batches. As its scale for a
      channel scales all steps of that channel's kernel, it changes none of the kernel's integers,
      and the file has it folded exactly. No correction for noisy statistics is needed.

    Layers of other kinds with weights, such as recurrent layers, run in float32 also in the file,
    between rounded inputs and outputs. A warning names them. A layer that LiteRT computes in
    several operations, such as a layer normalization, may be rounded in between as well, which
    training does not see: the `agreement` of the exported `Artifact` says how much it matters.

    Args:
        model: A functional model or a built sequential model, usually a trained one. It is not
            changed.
        weight_bits: 8 or 4 bits for the kernels. Activations have 8.
        momentum: Momentum of the moving ranges of activations.
        calibration: Typical inputs to set the ranges, so that the model can be evaluated before it
            is trained: a batch as the model takes it, an iterable of batches, or a data set with
            `len` and `[indices]`. Otherwise the first batches of training set them.

    Returns:
        A functional model in float32 with the same inputs and outputs. Blocks, nested models and
        separable convolutions in it are replaced by their layers, named after them. It is not
        compiled.

    Raises:
        ValueError: If an argument is invalid, or the model is of another kind or aware already.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import SeparableConvBlock1D, quantize
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> x = np.random.default_rng(0).normal(size=(32, 9, 4)).astype("float32")
        >>> aware_model = quantize.aware(model, calibration=x)
        >>> error = np.abs(model.predict(x, verbose=0) - aware_model.predict(x, verbose=0))
        >>> bool(0 < error.max() < 0.1)
        True

    Reference:
        [Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017](https://arxiv.org/abs/1712.05877);
        [Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
        2019](https://arxiv.org/abs/1906.04721).
    """
    check_bits(weight_bits, "weight_bits")
    FakeQuantize(momentum)  # raises a `ValueError` for an invalid one
    if is_aware(model):
        raise ValueError(
            "The `model` argument must be a model without fake quantization. Received: "
            f"{model.name!r}, which `quantize.aware` has returned. Pass the original model."
        )
    flat = flat_copy(model)
    graph = ModelGraph(flat)
    equalize(graph)
    quantized, joined = _quantized_operations(graph), _joined_operations(graph)
    ranges: dict[int, FakeQuantize] = {}  # by the ids of the tensors that have them
    made: dict[int, Any] = {}
    made_ranges: dict[str, FakeQuantize] = {}
    tensors: list[Any] = []  # kept, so that no other one gets their ids

    def with_range(tensor: Any, name: str, **arguments: Any) -> Any:
        if name not in made_ranges:
            made_ranges[name] = FakeQuantize(
                momentum, name=f"{name}_range", dtype=DTYPE, **arguments
            )
        return remember(made_ranges[name](tensor), made_ranges[name])

    def remember(tensor: Any, layer: FakeQuantize) -> Any:
        ranges[id(tensor)] = layer
        tensors.append(tensor)
        return tensor

    def call(name: str, layer: Any, *args: Any, **kwargs: Any) -> Any:
        kind = kind_of(layer)
        if id(layer) not in made:
            new = copied(layer)
            is_kernel = kind is Kind.KERNEL
            made[id(layer)] = FakeQuantizeKernel(new, weight_bits) if is_kernel else new
        outputs = made[id(layer)](*args, **kwargs)
        given = [ranges.get(id(leaf)) for leaf in keras.tree.flatten((args, kwargs))]
        source = given[0] if kind in (Kind.PASSING, Kind.ROUNDING) else None

        def finished(index: int, tensor: Any) -> Any:
            if source is not None:
                # Said again before a concatenation, whose range LiteRT would give to the input.
                is_said = kind is Kind.ROUNDING or id(layer) in joined
                return remember(source(tensor, is_update=False) if is_said else tensor, source)
            if id(layer) not in quantized or not is_float(tensor):
                return tensor
            suffix = f"_{index}" if index else ""
            return with_range(tensor, f"{name}{suffix}", fixed_range=fixed_range(layer))

        leaves = [finished(*pair) for pair in enumerate(keras.tree.flatten(outputs))]
        return keras.tree.pack_sequence_as(outputs, leaves)

    inputs = keras.tree.map_structure(new_input, flat.input)
    rounded = keras.tree.map_structure(
        lambda tensor: with_range(tensor, tensor.name) if is_float(tensor) else tensor, inputs
    )
    outputs = run_layers(flat, rounded, call)
    new = keras.Model(inputs, outputs, name=model.name)
    _warn_of_float_weights(flat)
    if calibration is not None:
        measure(new, calibration)
    return new


def is_float(tensor: Any) -> bool:
    """Whether a tensor has float values, which an int8 file rounds."""
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def is_aware(model: Any) -> bool:
    """Whether a model has fake quantization."""
    return bool(ranges_of(model))


def ranges_of(model: Any) -> list[FakeQuantize]:
    """The layers of a model that have the ranges of its activations."""
    layers = model._flatten_layers() if isinstance(model, keras.layers.Layer) else ()
    return [layer for layer in layers if isinstance(layer, FakeQuantize)]


def measure(model: keras.Model, calibration: Any) -> None:
    """Sets the ranges of an aware model to those of inputs, without rounding any."""
    is_list = isinstance(calibration, list | tuple)
    if (
        hasattr(calibration, "shape")
        or isinstance(calibration, dict)
        or (is_list and len(model.inputs) > 1)
    ):
        batches: Iterable[Any] = [calibration]
    elif not is_list and sources.is_by_sample(calibration):
        data = sources.sources_of(calibration, "The `calibration` argument")
        batches = sources.in_turn(data, BATCH, len(model.inputs))
    elif isinstance(calibration, Iterable):
        batches = calibration
    else:
        raise ValueError(
            "The `calibration` argument must be a batch of inputs or an iterable of batches. "
            f"Received: calibration={calibration!r}"
        )
    layers = ranges_of(model)
    for layer in layers:
        layer.is_measuring = True
    try:
        for batch in batches:
            model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False)
    finally:
        for layer in layers:
            layer.is_measuring = False


def _quantized_operations(graph: ModelGraph) -> set[int]:
    """The ids of the layers and operations whose outputs have scales of their own."""
    norms = norms_to_fold(graph)
    folded = {id(norm) for norm in norms.values()}

    def is_computed_with(operation: Any, user: Any) -> bool:
        """Whether the file computes both in one step, or rounds after the second one."""
        if norms.get(id(operation)) is user or kind_of(user) is Kind.JOINING:
            return True
        takes_relu = kind_of(operation) in WITH_RELU or id(operation) in folded
        has_relu = getattr(operation, "activation", None) not in (None, keras.activations.linear)
        return takes_relu and is_relu(user) and not has_relu

    found = set()
    for node in graph.nodes:
        users = [graph.only_user(tensor) for tensor in node.output_tensors]
        is_inside = all(
            user is not None and is_computed_with(node.operation, user.operation) for user in users
        )
        if not is_inside:
            found.add(id(node.operation))
    return found


def _joined_operations(graph: ModelGraph) -> set[int]:
    """The ids of the layers and operations before a concatenation or the like."""
    return {
        id(tensor._keras_history.operation)
        for node in graph.nodes
        if kind_of(node.operation) is Kind.JOINING
        for tensor in node.input_tensors
    }


def _warn_of_float_weights(flat: keras.Model) -> None:
    names = [
        layer.name
        for layer in flat.layers
        if kind_of(layer) is Kind.OTHER and any(len(weight.shape) > 1 for weight in layer.weights)
    ]
    if names:
        warnings.warn(
            f"Weights of the layers {', '.join(names)} stay in float32, also in the exported file: "
            "LiteRT has no int8 kernel for layers of their kinds.",
            stacklevel=3,
        )
