"""What cases are drawn from: geometries, operators, layers, nets, and any Python object."""

import functools
import math

import keras
import numpy as np
from hypothesis import strategies as st

from sepconv_layers import ops
from tests import oracle
from tests.backends import HAS_CHANNELS_FIRST
from tests.cases import BLOCKS, class_of

RANKS = st.integers(1, 3)
PADDINGS = st.sampled_from(["valid", "same", "causal"])
DATA_FORMATS = st.sampled_from(["channels_last", "channels_first"])
SEEDS = st.integers(0, 2**32 - 1)
DIGITS = st.integers(0, 4)
OPERATORS = {
    name: getattr(ops, name)
    for name in (
        "depthwise_conv",
        "separable_conv",
        "conv",
        "depthwise_conv_transpose",
        "separable_conv_transpose",
    )
}


def per_axis(rank, low, high):
    """A number for each axis."""
    return st.tuples(*[st.integers(low, high)] * rank)


def for_axes(rank, low, high):
    """A number for each axis, or one for all of them."""
    return st.integers(low, high) | per_axis(rank, low, high)


@st.composite
def geometries(draw, rank):
    """Arguments of an operator, and the size of its kernel; most have an output."""
    return {
        "kernel_size": draw(per_axis(rank, 1, 4 if rank < 3 else 3)),
        "strides": draw(for_axes(rank, 1, 3)),
        "dilation_rate": draw(for_axes(rank, 1, 3)),
        "padding": draw(PADDINGS),
        "data_format": draw(DATA_FORMATS),
    }


@st.composite
def problems(draw):
    """An operator with its tensors, channels last in NumPy, and its other arguments."""
    rank = draw(RANKS)
    name = draw(st.sampled_from(list(OPERATORS)))
    how = draw(geometries(rank))
    kernel_size = how.pop("kernel_size")
    batch, channels = draw(st.sampled_from([2, 1, 0])), draw(st.integers(1, 4))
    spatial = draw(per_axis(rank, 1, (13, 8, 5)[rank - 1]))
    multiplier, filters = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(SEEDS))
    last = filters if name == "conv" else multiplier
    tensors = [
        rng.normal(size=(batch, *spatial, channels)),
        rng.normal(size=(*kernel_size, channels, last)),
    ]
    if name.startswith("separable"):
        tensors.append(rng.normal(size=(*(1,) * rank, channels * multiplier, filters)))
    return name, tensors, how


def by_definition(name, tensors, how):
    """What an operator must give, in NumPy, or `None` where nothing would be left."""
    x, kernel, *pointwise = tensors
    rank = x.ndim - 2
    strides, dilation = (
        (value,) * rank if isinstance(value, int) else value
        for value in (how["strides"], how["dilation_rate"])
    )
    sizes = zip(x.shape[1:-1], kernel.shape, dilation, strict=False)
    is_transposed = name.endswith("transpose")
    if (
        not is_transposed
        and how["padding"] == "valid"
        and any((k - 1) * d >= n for n, k, d in sizes)
    ):
        return None
    define = oracle.depthwise_conv_transpose if is_transposed else oracle.depthwise_conv
    y = define(x, kernel, strides, how["padding"], dilation)
    if name == "conv":
        y = y.reshape(*y.shape[:-1], x.shape[-1], kernel.shape[-1]).sum(-2)
    return y @ pointwise[0].reshape(pointwise[0].shape[-2:]) if pointwise else y


def in_format(array, data_format):
    return np.moveaxis(array, -1, 1) if data_format == "channels_first" else array


# Layers and blocks. Strategies draw what to make, for Keras draws random numbers where it is made.

LAYERS = ("Conv", "DepthwiseConv", "SeparableConv")
TRANSPOSED = ("DepthwiseConvTranspose", "SeparableConvTranspose")
EVERY_BLOCK = tuple(name for pair in BLOCKS.items() for name in pair)
ACTIVATIONS = st.sampled_from([None, "relu", "relu6", "tanh", "hard_silu"])


@st.composite
def layers(draw, rank, families=(*LAYERS, *TRANSPOSED, *EVERY_BLOCK), **fixed):
    """What makes a layer or block, with any arguments that are allowed."""
    family = draw(st.sampled_from(families))
    arguments = {**draw(geometries(rank)), "activation": draw(ACTIVATIONS), **fixed}
    if family not in ("DepthwiseConv", "DepthwiseConvTranspose"):
        arguments["filters"] = draw(st.integers(1, 6))
    if family in (*LAYERS, *TRANSPOSED):
        arguments["use_bias"] = draw(st.booleans())
    else:
        arguments["normalization"] = draw(st.sampled_from(["batch", "layer", "group", None]))
    if family in ("SeparableConv", "SeparableConvBlock") or family.startswith("Depthwise"):
        arguments["depth_multiplier"] = draw(st.integers(1, 3))
    if "Residual" in family:
        arguments["repeats"] = draw(st.integers(1, 3))
        arguments["project_shortcut"] = draw(st.booleans())
    if "Inverted" in family:
        arguments["expansion"] = draw(st.integers(1, 3))
        arguments["se_ratio"] = draw(st.sampled_from([0.0, 0.25, 1.0]))
    if "Residual" in family or "Inverted" in family:
        arguments["drop_path"] = draw(st.sampled_from([0.0, 0.3]))
    return functools.partial(class_of(family, rank), **arguments)


def in_shape(data_format, batch, spatial, channels):
    if data_format == "channels_first":
        return (batch, channels, *spatial)
    return (batch, *spatial, channels)


@st.composite
def layers_and_inputs(draw, **fixed):
    """What makes a layer or block, and the shape of an input larger than its kernels."""
    rank = draw(RANKS)
    make = draw(layers(rank, **fixed))
    how = make.keywords
    strides, dilation = (
        (value,) * rank if isinstance(value, int) else value
        for value in (how["strides"], how["dilation_rate"])
    )
    repeats = how.get("repeats", 1)
    least = [
        1 + (k - 1) * d * (1 + s * (repeats - 1))
        for k, d, s in zip(how["kernel_size"], dilation, strides, strict=True)
    ]
    spatial = [n + draw(st.integers(0, 4)) for n in least]
    return make, in_shape(how["data_format"], draw(st.integers(1, 2)), spatial, 1 + draw(DIGITS))


# Nets.


@st.composite
def nets(draw, ranks=RANKS, data_formats=DATA_FORMATS, families=(*LAYERS, *EVERY_BLOCK)):
    """A plan of a functional model: a list of what to add to it, for `built`."""
    rank, data_format = draw(ranks), draw(data_formats)

    def layer():
        padding = draw(st.sampled_from(["same", "causal"]))
        return draw(layers(rank, families, padding=padding, data_format=data_format))

    kinds = ["layer", "layer", "norm", "add", "operator", "model"]
    if data_format == "channels_last" or HAS_CHANNELS_FIRST:
        kinds += ["join", "keras"]  # convolutions of Keras
    steps = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(kinds))
        how = {"layer": layer, "model": layer, "norm": lambda: draw(ACTIVATIONS)}
        how["keras"] = lambda: (draw(st.sampled_from(["Separable", ""])), draw(st.booleans()))
        steps.append((kind, how.get(kind, lambda: None)()))
    return rank, data_format, steps, draw(st.sampled_from(["Average", "Max", None])), draw(SEEDS)


def built(net):
    """The model of a plan, with weights."""
    rank, data_format, steps, pool, seed = net
    axis = -1 if data_format == "channels_last" else 1
    of_format = {"data_format": data_format}
    padded = {"padding": "same", **of_format}
    keras_layers = vars(keras.layers)
    inputs = x = keras.Input(in_shape(data_format, None, (11, 8, 6)[:rank], 3)[1:])
    for number, (kind, how) in enumerate(steps):
        if kind == "layer":
            x = how()(x)
        elif kind == "norm":
            x = keras.layers.Activation(how)(keras.layers.BatchNormalization(axis)(x))
        elif kind in ("add", "operator"):
            y = class_of("DepthwiseConv", rank)(3, **padded)(x)
            x = keras.layers.Add()([y, x]) if kind == "add" else y * 0.5 + x
        elif kind == "join":
            y = keras_layers[f"Conv{rank}D"](2, 3, **padded)(x)
            x = keras.layers.Concatenate(axis)([keras.layers.BatchNormalization(axis)(y), x])
        elif kind == "keras":
            family, use_bias = how
            conv = keras_layers[f"{family if rank < 3 else ''}Conv{rank}D"]
            if data_format == "channels_first" and x.shape[-1] == 4:
                use_bias = False  # Keras 3.15 adds it along the last axis if that is as long
            x = conv(4, 3, use_bias=use_bias, **padded)(x)
            x = keras.layers.BatchNormalization(axis)(x)
        else:
            inner = keras.Input(x.shape[1:])
            x = keras.Model(inner, how()(inner), name=f"inner_{number}")(x)
    if pool:
        x = keras_layers[f"Global{pool}Pooling{rank}D"](**of_format)(x)
        x = keras.layers.Dense(3)(x)
    model = keras.Model(inputs, x)
    randomize(model, seed)
    return model


def randomize(model, seed):
    """Weights as after a training: no bias is zero, no variance one."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed" in weight.path:
            continue
        if "variance" in weight.path or "gamma" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        else:
            fan = math.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 1
            weight.assign(rng.normal(size=weight.shape) / math.sqrt(fan))


# Any Python object.

NUMBERS = [-(2**63), -1, 0, 1, 2, 3, 2**31, 2**63, 2**70]


def junk(most=2**70):
    """Any object, most of which no argument is; numbers up to a bound."""
    integers = st.sampled_from([number for number in NUMBERS if number <= most])
    plain = st.one_of(
        st.none(),
        st.booleans(),
        integers,
        st.floats(),
        st.complex_numbers(),
        st.text(max_size=8),
        st.binary(max_size=4),
        st.builds(object),
        st.sampled_from([int, len, ..., slice(1), range(3), range(0), np.float32(2), np.int8(2)]),
        st.sampled_from(["same", "VALID", "channels_last", "float16", "string", "relu"]),
    )
    return st.one_of(
        plain,
        st.lists(plain, max_size=4),
        st.lists(plain, max_size=4).map(tuple),
        st.sets(st.integers(0, 3), max_size=3),
        st.dictionaries(st.text(max_size=3), plain, max_size=2),
        st.lists(integers, max_size=3).map(iter),
        st.sampled_from([(), (0,), (2, 3), (1, 4, 4, 2), (3, 3, 2, 1), (2, 2, 2, 2, 2, 2)]).map(
            np.ones
        ),
        st.sampled_from([np.array("text"), np.array([b"x"]), np.array([None]), np.array(2)]),
        st.just(keras.KerasTensor((None, 4, 4, 2))),
    )
