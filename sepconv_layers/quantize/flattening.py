"""A model as a flat graph of the layers that an int8 file has scales for."""

import re
from collections.abc import Iterator
from typing import Any

import keras

from sepconv_layers import layers
from sepconv_layers.class_table import by_class
from sepconv_layers.convert.unrolling import run_layers, unrolled
from sepconv_layers.graph_edit import calls_as_defined, clone_layer, copy_state
from sepconv_layers.quantize.rules import RELUS, Kind, kind_of

DTYPE = "float32"  # a half-precision number has fewer digits than the sums of a convolution
SEPARABLE = by_class({"SeparableConv?D": "", "SeparableConv?DTranspose": "Transpose"})
SHARED = ("strides", "padding", "data_format", "dilation_rate")
OF_WEIGHTS = ("initializer", "regularizer", "constraint")


def flat_copy(model: keras.Model) -> keras.Model:
    """Returns a copy of a model in float32, without blocks and models inside it.

    Separable convolutions are two layers, and so are layers with activations that a file computes
    in a step of their own. The names have those of the outer blocks and models before them.

    Args:
        model: A functional model or a built sequential model. It is not changed.

    Raises:
        ValueError: If the model is of another kind.
    """
    original = unrolled(model)
    inputs = keras.tree.map_structure(new_input, original.input)
    made: dict[int, list[Any]] = {}
    names: set[str] = set()

    def call(path: str, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_cast(layer):
            return args[0]
        if id(layer) not in made:
            made[id(layer)] = list(_parts(layer, _unused(path.replace("/", "_"), names)))
            names.update(part.name for part in made[id(layer)])
        first, *others = made[id(layer)]
        x = first(*args, **kwargs)
        for part in others:
            x = part(x)
        return x

    outputs = run_layers(original, inputs, call)
    return keras.Model(inputs, outputs, name=model.name)


def new_input(tensor: Any) -> Any:
    """An input like another one, in float32 if it is a float."""
    dtype = DTYPE if "float" in tensor.dtype else tensor.dtype
    return keras.Input(batch_shape=tensor.shape, dtype=dtype, name=tensor.name)


def _is_cast(operation: Any) -> bool:
    """Whether an operation casts one float to another."""
    return type(operation).__name__ == "Cast" and "float" in str(operation.dtype)


def _unused(name: str, names: set[str]) -> str:
    number = 1
    unused = name
    while unused in names:
        unused, number = f"{name}_{number}", number + 1
    return unused


def _parts(layer: Any, name: str) -> Iterator[Any]:
    """Yields the layers that a layer consists of in a file."""
    if not isinstance(layer, keras.layers.Layer):
        yield clone_layer(layer, name=name)
        return
    changes = {"dtype": DTYPE} if "float" in layer.compute_dtype else {}
    transposed = next((SEPARABLE[cls] for cls in type(layer).__mro__ if cls in SEPARABLE), None)
    is_own = kind_of(layer) is Kind.KERNEL and layer.activation not in (
        None,
        keras.activations.linear,
        *RELUS,
    )
    if transposed is not None and calls_as_defined(layer):
        yield from _separated(layer, transposed, name)
    elif is_own:
        yield copied(layer, name=name, activation=None, **changes)
        yield keras.layers.Activation(layer.activation, name=f"{name}_activation", dtype=DTYPE)
    else:
        yield copied(layer, name=name, **changes)


def copied(old: Any, **changes: Any) -> Any:
    """A copy of a layer with its weights, or of an operation, that is in no graph yet."""
    new = clone_layer(old, **changes)
    if isinstance(old, keras.layers.Layer) and old.built:
        if not new.built:
            new.build_from_config(old.get_build_config())
        copy_state(old, new)
    return new


def _separated(layer: Any, transposed: str, name: str) -> Iterator[Any]:
    """Yields the depthwise and the pointwise convolution of a separable one."""
    rank = int(re.findall(r"(\d)D", _class_name(layer))[0])
    common = {"dtype": DTYPE, "trainable": layer.trainable}
    more = {"output_padding": layer.output_padding} if transposed else {}
    depthwise = getattr(layers, f"DepthwiseConv{rank}D{transposed}")(
        layer.kernel_size,
        depth_multiplier=layer.depth_multiplier,
        use_bias=False,
        **{key: getattr(layer, key) for key in SHARED},
        **{f"depthwise_{key}": getattr(layer, f"depthwise_{key}") for key in OF_WEIGHTS},
        **more,
        **common,
        name=f"{name}_depthwise",
    )
    pointwise = getattr(layers, f"Conv{rank}D")(
        layer.filters,
        1,
        data_format=layer.data_format,
        use_bias=layer.use_bias,
        activity_regularizer=layer.activity_regularizer,
        **{f"kernel_{key}": getattr(layer, f"pointwise_{key}") for key in OF_WEIGHTS},
        **{f"bias_{key}": getattr(layer, f"bias_{key}") for key in OF_WEIGHTS},
        **common,
        name=name,
    )
    channels = layer.depthwise_kernel.shape[-2]
    shape = [None] * (rank + 2)
    axis = 1 if layer.data_format == "channels_first" else -1
    for part, size in ((depthwise, channels), (pointwise, channels * layer.depth_multiplier)):
        shape[axis] = size
        part.build(shape)
    depthwise.kernel.assign(layer.depthwise_kernel)
    pointwise.kernel.assign(layer.pointwise_kernel)
    if layer.use_bias:
        pointwise.bias.assign(layer.bias)
    yield depthwise
    yield pointwise
    if layer.activation not in (None, keras.activations.linear):
        yield keras.layers.Activation(layer.activation, name=f"{name}_activation", dtype=DTYPE)


def _class_name(layer: Any) -> str:
    return next(cls.__name__ for cls in type(layer).__mro__ if cls in SEPARABLE)
