"""The layers as drop-ins for those of `keras.layers`, and the initialiser that is theirs alone."""

import inspect
import itertools

import keras
import numpy as np
import pytest

import sepconv_layers
from sepconv_layers import DepthwiseVarianceScaling
from tests.backends import BACKEND

NAMES = [f"{family}{rank}D" for family in ("DepthwiseConv", "SeparableConv") for rank in (1, 2)]
SIZES = (11, 8)
CHANNELS = 3
VARIANTS = [
    {},
    {"depth_multiplier": 2, "activation": "relu"},
    {"use_bias": False},
    {"data_format": "channels_first"},
]


def pair(name, **arguments):
    """Our layer and Keras's of that name, with the same weights."""
    if name.startswith("Separable"):
        arguments["filters"] = 5
    ours, theirs = (getattr(m, name)(**arguments) for m in (sepconv_layers, keras.layers))
    sizes = SIZES[: int(name[-2])]
    first = arguments.get("data_format") == "channels_first"
    shape = (2, CHANNELS, *sizes) if first else (2, *sizes, CHANNELS)
    theirs.build(shape)
    ours.build(shape)
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.normal(size=w.shape) for w in theirs.weights])
    ours.set_weights(theirs.get_weights())
    return ours, theirs, rng.normal(size=shape).astype("float32")


def keras_can(strides, dilation_rate, arguments):
    """What `keras.layers` computes on this backend."""
    if BACKEND == "tensorflow" and arguments.get("data_format") == "channels_first":
        return False  # not on a CPU
    return strides == 1 or dilation_rate == 1


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_keras_with_its_weights(name, padding, variant):
    for kernel_size, strides, dilation_rate in itertools.product((1, 2, 3), (1, 2, 3), (1, 2)):
        if not keras_can(strides, dilation_rate, variant):
            continue
        moves = {"kernel_size": kernel_size, "strides": strides, "dilation_rate": dilation_rate}
        ours, theirs, x = pair(name, padding=padding, **moves, **variant)
        y, expected = (keras.ops.convert_to_numpy(layer(x)) for layer in (ours, theirs))
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5, err_msg=str(moves))


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_names_order_and_shapes_of_keras(name):
    ours, theirs, _ = pair(name, kernel_size=3, depth_multiplier=2)
    described = [[(w.name, tuple(w.shape)) for w in layer.weights] for layer in (ours, theirs)]
    assert described[0] == described[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_that_of_keras_but_for_the_initialiser(name):
    ours, theirs = (
        inspect.signature(getattr(module, name)).parameters
        for module in (sepconv_layers, keras.layers)
    )
    assert list(ours) == list(theirs)
    # Keras writes 1 for all dimensions as (1, 1) in 2D.
    plain = lambda default: 1 if default == (1, 1) else default  # noqa: E731
    different = {key for key in ours if ours[key].default != plain(theirs[key].default)}
    assert different == {"depthwise_initializer"}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("family", ["DepthwiseConv", "SeparableConv"])
def test_every_rank_has_the_same_signature(family, rank):
    signatures = [inspect.signature(getattr(sepconv_layers, f"{family}{r}D")) for r in (rank, 2)]
    assert signatures[0] == signatures[1]


@pytest.mark.parametrize("name", NAMES)
def test_an_initialiser_by_name_is_that_of_keras(name):
    drawn = []
    for module in (sepconv_layers, keras.layers):
        keras.utils.set_random_seed(7)
        arguments = {"filters": 5} if name.startswith("Separable") else {}
        layer = getattr(module, name)(
            kernel_size=3, depthwise_initializer="glorot_uniform", **arguments
        )
        layer.build((None, *SIZES[: int(name[-2])], CHANNELS))
        drawn.append(layer.get_weights())
    for ours, theirs in zip(*drawn, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_the_default_initialiser_keeps_the_variance_of_each_channel(rank, multiplier):
    """Over many channels, for every output channel has a kernel of its own."""
    keras.utils.set_random_seed(rank)
    layer = getattr(sepconv_layers, f"DepthwiseConv{rank}D")(
        (5, 4, 3)[:rank], depth_multiplier=multiplier
    )
    x = np.random.default_rng(0).normal(size=(8, *(24, 12, 8)[:rank], 400)).astype("float32")
    y = keras.ops.convert_to_numpy(layer(x))
    per_channel = y.var(axis=tuple(range(rank + 1)))
    assert len(per_channel) == 400 * multiplier
    assert per_channel.mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("distribution", ["truncated_normal", "untruncated_normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_variance_is_the_scale_over_the_true_fan(rank, mode, distribution):
    kernel_size, channels, multiplier = (5, 4, 3)[:rank], 300, 3
    taps = np.prod(kernel_size)
    fan = {"fan_in": taps, "fan_out": taps * multiplier, "fan_avg": taps * (1 + multiplier) / 2}
    initializer = DepthwiseVarianceScaling(2.0, mode, distribution, seed=1)
    kernel = keras.ops.convert_to_numpy(initializer((*kernel_size, channels, multiplier)))
    assert kernel.var() == pytest.approx(2.0 / fan[mode], rel=0.06)
    assert kernel.mean() == pytest.approx(0, abs=4 * float(kernel.std()) / kernel.size**0.5)


def test_the_initialiser_reloads_and_repeats_itself():
    initializer = DepthwiseVarianceScaling(2.0, "fan_avg", "uniform", seed=5)
    again = keras.initializers.get(keras.initializers.serialize(initializer))
    assert again.get_config() == initializer.get_config()
    first, second = (
        keras.ops.convert_to_numpy(each((3, 3, 8, 1))) for each in (initializer, again)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shape", [(), (3,), (3, 4)])
def test_the_initialiser_refuses_what_is_no_depthwise_kernel(shape):
    with pytest.raises(ValueError, match=r"`shape` of a depthwise kernel.*Received"):
        DepthwiseVarianceScaling()(shape)


def test_squeeze_excite_gates_by_the_mean_over_space():
    rng = np.random.default_rng(0)
    for rank in (1, 2, 3):
        layer = getattr(sepconv_layers, f"SqueezeExcite{rank}D")(ratio=0.5)
        x = rng.normal(size=(2, *(5, 4, 3)[:rank], 6)).astype("float32")
        layer.build(x.shape)
        layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
        narrow, narrow_bias, wide, wide_bias = layer.get_weights()
        mean = x.mean(axis=tuple(range(1, rank + 1)))
        gates = np.maximum(mean @ narrow + narrow_bias, 0) @ wide + wide_bias
        gates = 1 / (1 + np.exp(-gates))
        expected = x * gates.reshape(2, *(1,) * rank, 6)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5
        )
