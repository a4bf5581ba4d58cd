"""The layers as drop-ins for those of `keras.layers`, and the initializers."""

import inspect
import itertools

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from tests.backends import MODES, SHORT, output_of, run_with_gradients
from tests.cases import RANKS, SIZES

# More than there are positions in a row: where the numbers agree, Keras takes the bias of a
# channels-first layer for that of a channels-last one on TensorFlow.
CHANNELS = 11
# Each class of ours that Keras has, with the arguments that it needs and its rank.
NEEDED = {"DepthwiseConv": {"kernel_size": 3}, "SeparableConv": {"filters": 13, "kernel_size": 3}}
DROP_INS = [
    pytest.param(f"{name}{rank}D", needed, rank, id=f"{name}{rank}D")
    for name, needed in NEEDED.items()
    for rank in (1, 2)
]
CONVS = [
    pytest.param(f"Conv{rank}D", {"filters": 13, "kernel_size": 3}, rank, id=f"Conv{rank}D")
    for rank in RANKS
]
drop_ins = pytest.mark.parametrize(("name", "needed", "rank"), DROP_INS)
drop_ins_and_convs = pytest.mark.parametrize(("name", "needed", "rank"), DROP_INS + CONVS)


def both(cls, **arguments):
    return getattr(sl, cls)(**arguments), getattr(keras.layers, cls)(**arguments)


def inputs(rank, data_format="channels_last"):
    x = np.random.default_rng(rank).normal(size=(2, *SIZES[:rank], CHANNELS)).astype("float32")
    return np.moveaxis(x, -1, 1) if data_format == "channels_first" else x


def weights_of(layer):
    return [(weight.name, tuple(weight.shape), weight.trainable) for weight in layer.weights]


@drop_ins
def test_the_constructor_is_that_of_keras(name, needed, rank):
    ours, theirs = (
        [(p.name, p.kind) for p in inspect.signature(getattr(module, name)).parameters.values()]
        for module in (sl, keras.layers)
    )
    assert ours == theirs


@drop_ins_and_convs
def test_the_defaults_are_those_of_keras_but_for_the_depthwise_initializer(name, needed, rank):
    ours, theirs = (layer.get_config() for layer in both(name, **needed, name="same"))
    if not name.startswith("Conv"):
        initializer = ours.pop("depthwise_initializer")
        assert initializer["class_name"] == "DepthwiseVarianceScaling"
        del theirs["depthwise_initializer"]
    assert ours == theirs


def combinations(name, rank):
    """Arguments of every kind together, thinned by a step that meets every value of each."""
    per_axis = (2, 1, 3)[:rank]
    choices = {
        "kernel_size": [3, per_axis, 1],
        "strides": [1, 2, per_axis],
        "padding": ["valid", "same"] + ["causal"] * (name == "Conv1D"),
        "dilation_rate": [1, 2, per_axis],
        "data_format": ["channels_last", "channels_first"],
        "use_bias": [True, False],
        "activation": [None, "relu"],
    }
    if not name.startswith("Conv"):
        choices["depth_multiplier"] = [1, 2]
    every = [dict(zip(choices, v, strict=True)) for v in itertools.product(*choices.values())]
    if name.startswith("Conv"):  # in which Keras refuses strides together with a dilation
        every = [some for some in every if some["strides"] == 1 or some["dilation_rate"] == 1]
    return every[:: 131 if SHORT else 11]


@drop_ins_and_convs
def test_weights_copied_from_keras_give_the_outputs_of_keras(name, needed, rank):
    rng = np.random.default_rng(0)
    compared = 0
    for arguments in combinations(name, rank):
        data_format, arguments = arguments["data_format"], {**needed, **arguments}
        x = inputs(rank)
        try:
            # Not every CPU knows channels-first.
            last = {**arguments, "data_format": "channels_last"}
            theirs = getattr(keras.layers, name)(**last)
            theirs.build(x.shape)
            theirs.set_weights([rng.normal(size=w.shape) for w in theirs.get_weights()])
            expected = output_of(theirs, x)
        except Exception:  # whatever Keras or the backend says to what is not supported there
            continue
        x = inputs(rank, data_format)
        ours = getattr(sl, name)(**arguments)
        ours.build(x.shape)
        assert weights_of(ours) == weights_of(theirs)
        ours.set_weights(theirs.get_weights())
        y = output_of(ours, x)
        y = np.moveaxis(y, 1, -1) if data_format == "channels_first" else y
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4, err_msg=str(arguments))
        compared += 1
    assert compared > len(combinations(name, rank)) / 2


@drop_ins_and_convs
@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "random_normal"])
def test_an_initializer_by_name_draws_the_numbers_that_it_draws_in_keras(
    name, needed, rank, initializer
):
    kind = "kernel" if name.startswith("Conv") else "depthwise"
    drawn = []
    for module in (sl, keras.layers):
        keras.utils.set_random_seed(7)
        layer = getattr(module, name)(
            **needed, **{f"{kind}_initializer": initializer}, bias_initializer=initializer
        )
        layer.build((None, *SIZES[:rank], CHANNELS))
        drawn.append(layer.get_weights())
    for ours, theirs in zip(*drawn, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@drop_ins_and_convs
def test_regularizers_and_constraints_are_those_of_keras(name, needed, rank):
    kinds = {"Conv": ["kernel"], "Dept": ["depthwise"], "Sepa": ["depthwise", "pointwise"]}
    arguments = {"activity_regularizer": "l1"}
    for kind in [*kinds[name[:4]], "bias"]:
        arguments |= {f"{kind}_regularizer": "l2", f"{kind}_constraint": "non_neg"}
        arguments[f"{kind}_initializer"] = keras.initializers.RandomNormal(seed=1)
    layers = both(name, **needed, **arguments, name="same")
    for layer in layers:
        layer(inputs(rank))
    ours, theirs = (
        sorted(float(keras.ops.convert_to_numpy(loss)) for loss in layer.losses) for layer in layers
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    constraints = [[type(w.constraint) for w in layer.weights] for layer in layers]
    assert constraints[0] == constraints[1] == [keras.constraints.NonNeg] * len(ours[1:])


@drop_ins
def test_a_configuration_of_keras_makes_our_layer(name, needed, rank):
    theirs = getattr(keras.layers, name)(**needed, strides=2, activation="relu", name="same")
    config = theirs.get_config()
    assert getattr(sl, name).from_config(config).get_config() == config


# Every output sums over the kernel of one channel: prod(kernel_size) elements, whatever the number
# of channels; the gradient of an input also sums over the multiplier.
GAINS = {"fan_in": 1, "fan_out": 1 / 2, "fan_avg": 2 / 3}  # with a multiplier of 2


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("mode", GAINS)
@pytest.mark.parametrize("distribution", ["truncated_normal", "untruncated_normal", "uniform"])
def test_the_initializer_sets_the_variance_of_the_output(rank, mode, distribution):
    initializer = sl.DepthwiseVarianceScaling(1.5, mode, distribution, seed=rank)
    kernel = keras.ops.convert_to_numpy(initializer((*(3, 5, 4)[:rank], 4000, 2)))
    # What a channel makes of input of unit variance has the variance of its squared kernel's sum.
    per_channel = np.square(kernel).sum(tuple(range(rank)))
    assert per_channel.mean() == pytest.approx(1.5 * GAINS[mode], rel=0.04)
    assert abs(kernel.mean()) < 0.02


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("name", ["DepthwiseConv", "SeparableConv"])
def test_layers_keep_the_variance_by_default(name, rank):
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(2, *(200, 20, 10)[:rank], 200)).astype("float32")
    needed = {"filters": 200} if name == "SeparableConv" else {}
    y = output_of(getattr(sl, f"{name}{rank}D")(kernel_size=3, **needed), x)
    per_channel = y.var(axis=tuple(range(rank + 1)))
    assert per_channel.mean() == pytest.approx(1, rel=0.1)


def test_the_initializer_repeats_itself_by_its_seed():
    shape = (3, 3, 4, 2)
    seeded = sl.DepthwiseVarianceScaling(2, "fan_avg", "uniform", seed=5)
    again = keras.initializers.deserialize(keras.initializers.serialize(seeded))
    assert again.get_config() == seeded.get_config()
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(each(shape)) for each in (seeded, again))
    )
    others = [sl.DepthwiseVarianceScaling()(shape) for _ in range(2)]
    assert not np.array_equal(*map(keras.ops.convert_to_numpy, others))


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [("scale", 0, "positive"), ("mode", "fan", "fan_in"), ("distribution", "cauchy", "uniform")],
)
def test_the_initializer_names_a_bad_argument(argument, value, expected):
    with pytest.raises(ValueError) as error:
        sl.DepthwiseVarianceScaling(**{argument: value})
    assert all(word in str(error.value) for word in (f"`{argument}`", expected, str(value)))


def test_the_initializer_names_a_shape_that_is_not_of_a_depthwise_kernel():
    with pytest.raises(ValueError, match=r"`shape`.*kernel_size.*Received: shape=\(4, 2\)"):
        sl.DepthwiseVarianceScaling()((4, 2))


def normalized(cls, axis, x, upstream):
    """Outputs, statistics and gradients of a training step of a batch normalization."""
    rng = np.random.default_rng(1)
    layer = cls(axis, momentum=0.8, epsilon=1e-2)
    layer.build(x.shape)
    layer.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in layer.weights])
    gamma, beta = layer.gamma.value, layer.beta.value

    def step(x, gamma, beta):
        with keras.StatelessScope([(layer.gamma, gamma), (layer.beta, beta)]) as scope:
            outputs = layer(x, training=True)
        moving = [scope.get_current_value(v) for v in (layer.moving_mean, layer.moving_variance)]
        return keras.ops.concatenate(
            [keras.ops.ravel(outputs), *map(keras.ops.stop_gradient, moving)]
        )

    arrays = [keras.ops.convert_to_numpy(it) for it in (x, gamma, beta)]
    padded = np.concatenate([upstream.ravel(), np.zeros(2 * len(arrays[1]))])
    return [run_with_gradients(step, arrays, padded, mode, "float32") for mode in MODES]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_known", [True, False], ids=["batch known", "batch unknown"])
@pytest.mark.parametrize(("rank", "sizes"), [(1, (1030,)), (2, (41, 26)), (3, (11, 10, 10))])
def test_a_pointwise_layer_is_a_product_over_many_positions(rank, sizes, is_known, mode):
    rng = np.random.default_rng(0)
    layer = getattr(sl, f"Conv{rank}D")(5, 1, data_format="channels_last")
    layer.build((None, *sizes, 3))
    arrays = x, kernel, bias = [
        rng.normal(size=shape) for shape in ((2, *sizes, 3), layer.kernel.shape, (5,))
    ]
    upstream = rng.normal(size=(2, *sizes, 5))

    def step(x, *weights):
        return layer.stateless_call(weights, [], x)[0]

    signature = None if is_known else ((None, *sizes, 3), kernel.shape, bias.shape)
    results = run_with_gradients(step, arrays, upstream, mode, "float32", signature)
    rows, towards = x.reshape(-1, 3), upstream.reshape(-1, 5)
    matrix = kernel.reshape(3, 5)
    expected = (rows @ matrix + bias, towards @ matrix.T, rows.T @ towards, towards.sum(axis=0))
    for result, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.reshape(want.shape), want, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rank", RANKS)
def test_batch_normalization_trains_like_that_of_keras(rank, data_format):
    x = inputs(rank, data_format) * 3 + 1
    upstream = np.random.default_rng(0).normal(size=x.shape)
    axis = 1 if data_format == "channels_first" else -1
    ours = normalized(sl.BatchNormalization, axis, x, upstream)
    theirs = normalized(keras.layers.BatchNormalization, axis, x, upstream)
    for one, other in zip(ours, theirs, strict=True):
        for result, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(result, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "arguments", [{"center": False, "scale": False}, {"renorm": True}, {"trainable": False}]
)
def test_batch_normalization_has_the_options_of_keras(arguments):
    known = inspect.signature(keras.layers.BatchNormalization).parameters
    if not set(arguments) - {"trainable"} <= set(known):
        pytest.skip("this Keras does not have it")
    x = inputs(2)
    ours, theirs = both("BatchNormalization", **arguments)
    for _ in range(2):
        results = [output_of(layer, x, training=True) for layer in (ours, theirs)]
        np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output_of(ours, x), output_of(theirs, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    "name", ["SeparableConvBlock", "ResidualSeparableConvBlock", "FusedInvertedBottleneckBlock"]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_block_does_what_its_stages_do_one_by_one(name, rank, training):
    x = inputs(rank)
    block = getattr(sl, f"{name}{rank}D")(CHANNELS)  # with a shortcut that is the input itself
    block.build(x.shape)
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.5, 2, weight.shape) for weight in block.weights]
    block.set_weights(weights)
    expected = x
    for stage in block.stages:
        expected = output_of(stage, expected, training=training)
    if hasattr(block, "shortcut"):
        expected = expected + x
        for stage in block.tail:
            expected = output_of(stage, expected)
    expected_weights = block.get_weights()
    block.set_weights(weights)
    largest = np.abs(expected).max()
    outputs = output_of(block, x, training=training)
    np.testing.assert_allclose(outputs, expected, rtol=2e-4, atol=1e-6 * largest)
    for one, other in zip(block.get_weights(), expected_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch alone has hooks")
def test_hooks_on_the_stages_of_a_block_run():
    x, seen = inputs(2), []
    block = sl.SeparableConvBlock2D(CHANNELS)
    block.build(x.shape)
    for stage in block.stages:
        stage.register_forward_hook(lambda stage, *_: seen.append(stage))
    output_of(block, x)
    assert seen == block.stages


def test_what_a_normalization_of_another_type_gives_is_cast_to_that_of_the_block():
    seen = []

    def make():
        return keras.layers.LayerNormalization(dtype="float32")

    def activation(x):
        seen.append(keras.backend.standardize_dtype(x.dtype))
        return x

    block = sl.SeparableConvBlock2D(
        CHANNELS, normalization=make, activation=activation, dtype="mixed_bfloat16"
    )
    block(inputs(2))
    assert seen and set(seen) == {"bfloat16"}
