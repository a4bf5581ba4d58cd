"""Equalization before quantization-aware training: another scale of channels, the same function."""

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import quantize
from sepconv_layers.graph_edit import ModelGraph
from sepconv_layers.quantize.equalization import equalize
from sepconv_layers.quantize.flattening import flat_copy
from tests.backends import output_of, the_same_everywhere
from tests.test_convert import as_trained


def net(rank):
    """Each kind of layer that makes or reads channels, and what is passed on the way."""

    def layer(kind, *args, module=sl, **kwargs):
        return getattr(module, kind.format(rank))(*args, **kwargs)

    def keras_layer(*args, **kwargs):
        return layer(*args, module=keras.layers, **kwargs)

    x = inputs = keras.Input((*(8, 7, 6)[:rank], 3))
    x = layer("Conv{}D", 6, 3, padding="same", activation="relu", name="conv")(x)
    x = layer("DepthwiseConv{}D", 3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = sl.BatchNormalization(name="norm")(x)
    x = keras.layers.LeakyReLU()(keras.layers.Dropout(0.5)(x))
    x = keras.layers.BatchNormalization(name="project_norm")(
        layer("Conv{}D", 6, 1, name="project")(x)
    )
    x = x + sl.BatchNormalization(name="branch_norm")(layer("Conv{}D", 6, 1, name="branch")(x))
    x = keras_layer("MaxPooling{}D", 2)(x)
    x = layer("Conv{}D", 4, 3, padding="same", groups=2, activation="relu", name="grouped")(x)
    x = keras_layer("ZeroPadding{}D", 1)(x)
    x = keras_layer("Conv{}DTranspose", 4, 2, strides=2, name="transposed")(x)
    x = keras.layers.ReLU()(keras_layer("AveragePooling{}D", 2)(x))
    x = keras.layers.Dense(5, activation="relu", name="dense")(keras.layers.Flatten()(x))
    x = keras.layers.Dense(4, activation="relu6", name="hidden")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="classes")(x))


# Layers that make some channels → those that read them, with the axis of the kernel.
EDGES = [
    (["conv"], {"depthwise": -2}),
    (["norm"], {"project": -2}),
    (["project_norm", "branch_norm"], {"branch": -2, "grouped": -2}),
    (["grouped"], {"transposed": -1}),
    (["transposed"], {"dense": 0}),
    (["dense"], {"hidden": 0}),
]


def with_outliers(model, seed):
    """The same function, in which single channels of each layer are 200 times as large."""
    rng = np.random.default_rng(seed)
    new = keras.models.clone_model(model)
    new.set_weights(model.get_weights())
    for makers, users in EDGES:
        (size,) = new.get_layer(makers[0]).weights[-1 if "norm" not in makers[0] else 1].shape
        factors = np.where(np.arange(size) % 3 == rng.integers(3), 200.0, 1.0)
        if "grouped" in users:  # each group reads three of the channels
            factors = np.tile(factors[:3], 2)
        for name in makers:
            layer = new.get_layer(name)
            for weight in layer.weights[:2]:  # kernel and bias, or gamma and beta
                shape = np.shape(weight)
                is_transposed = name == "transposed" and len(shape) > 1
                by_channel = factors[:, None] if is_transposed else factors
                weight.assign(keras.ops.convert_to_numpy(weight) * by_channel)
        for name, axis in users.items():
            kernel = new.get_layer(name).kernel
            by_input = np.tile(factors, kernel.shape[axis] // len(factors) or 1)
            by_input = by_input[: kernel.shape[axis]]
            shape = [1] * len(kernel.shape)
            shape[axis] = len(by_input)
            kernel.assign(keras.ops.convert_to_numpy(kernel) / by_input.reshape(shape))
    return new


@pytest.mark.parametrize("rank", [1, 2, pytest.param(3, marks=the_same_everywhere)])
def test_outliers_vanish_and_the_function_stays(rank):
    keras.utils.set_random_seed(0)
    model = as_trained(net(rank))
    for layer in model.layers:
        if getattr(layer, "use_bias", False):
            layer.bias.assign(np.random.default_rng(2).normal(size=layer.bias.shape))
    x = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype("float32")
    wanted = output_of(model, x)
    weights = []
    for seed in (None, 0):
        flat = flat_copy(model if seed is None else with_outliers(model, seed))
        np.testing.assert_allclose(output_of(flat, x), wanted, rtol=1e-3, atol=1e-4)
        equalize(ModelGraph(flat))
        np.testing.assert_allclose(output_of(flat, x), wanted, rtol=1e-3, atol=1e-4)
        weights.append(flat.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_channels_before_depthwise_kernels_have_one_range():
    model = keras.Sequential([
        keras.Input((9, 4)),
        sl.BatchNormalization(name="norm"),
        keras.layers.ReLU(),
        sl.DepthwiseConv1D(3),
    ])  # fmt: skip
    aware = quantize.aware(as_trained(model))
    gamma, beta, *_ = aware.get_layer("norm").get_weights()
    np.testing.assert_allclose(3 * abs(gamma) + abs(beta), (3 * abs(gamma) + abs(beta))[0], 1e-5)


@pytest.mark.parametrize(
    "between",
    [
        keras.layers.ReLU(6.0),
        keras.layers.Activation("hard_silu"),
        lambda x: keras.layers.Concatenate()([x, x]),
        lambda x: keras.ops.flip(x, -1),
        lambda x: x + 1.0,
    ],
)
def test_channels_stay_where_a_factor_would_change_the_function(between):
    inputs = keras.Input((9, 4))
    x = between(sl.Conv1D(4, 1)(inputs))
    model = as_trained(keras.Model(inputs, sl.Conv1D(3, 1)(x)))
    flat = flat_copy(model)
    equalize(ModelGraph(flat))
    for weight, old in zip(flat.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, old)
