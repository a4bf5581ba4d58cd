"""Trained models in another form: folded with the same outputs, separable with the closest."""

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import convert
from sepconv_layers.convert import fold_batch_norm
from tests.backends import needs_channels_first, output_of
from tests.cases import CHANNELS, FEW_CASES, RANKS, SIZES, class_of

NORMALIZATIONS = (keras.layers.BatchNormalization, sl.BatchNormalization)
TRANSPOSED = ("DepthwiseConvTranspose", "SeparableConvTranspose")


def norms_of(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, NORMALIZATIONS)]


def as_trained(model):
    """Gives all batch normalizations statistics and weights that are not the ones at the start."""
    rng = np.random.default_rng(0)
    for norm in norms_of(model):
        for weight in norm.weights:
            positive = weight is norm.gamma or weight is norm.moving_variance
            low, high = (0.5, 1.5) if positive else (-0.5, 0.5)
            weight.assign(rng.uniform(low, high, weight.shape))
    return model


def arrays_of(outputs):
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def inputs_for(model):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(2, *x.shape[1:])).astype("float32") for x in model.inputs]


def folded_and_compared(model):
    as_trained(model)
    before, layers = model.get_weights(), list(model._flatten_layers())
    folded = fold_batch_norm(model)
    inputs = keras.tree.pack_sequence_as(folded.input, inputs_for(model))
    for y, expected in zip(arrays_of(folded(inputs)), arrays_of(model(inputs)), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert list(model._flatten_layers()) == layers
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    return folded


def of_many(rank, branches):
    """A model with one output for each function of an input, whose channels are last or first."""
    sizes = SIZES[:rank]
    shapes = {"channels_last": (*sizes, CHANNELS), "channels_first": (CHANNELS, *sizes)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    outputs = [branch(inputs[data_format]) for branch, data_format in branches]
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("rank", RANKS)
def test_every_block_gives_the_same(rank):
    cases = [case for case in FEW_CASES if case.rank == rank and "Block" in case.cls.__name__]
    made = [case.make(name=f"block_{i}") for i, case in enumerate(cases)]
    branches = [
        (block, case.arguments.get("data_format", "channels_last"))
        for block, case in zip(made, cases, strict=True)
    ]
    folded = folded_and_compared(of_many(rank, branches))
    assert not norms_of(folded)
    for block in made:
        now = folded.get_layer(block.name)
        is_batch = block.normalization in ("batch", *NORMALIZATIONS)
        assert type(now) is type(block)
        assert now.normalization == (None if is_batch else block.normalization)


@pytest.mark.parametrize("rank", RANKS)
def test_every_convolution_takes_in_the_normalization_after_it(rank):
    layers, common = keras.layers, {"strides": 2, "padding": "same"}
    made = [
        layer
        for use_bias in (True, False)
        for layer in (
            class_of("Conv", rank)(6, 3, use_bias=use_bias, **common),
            class_of("DepthwiseConv", rank)(3, depth_multiplier=2, use_bias=use_bias, **common),
            class_of("SeparableConv", rank)(6, 3, use_bias=use_bias, **common),
            class_of(TRANSPOSED[0], rank)(3, depth_multiplier=2, use_bias=use_bias, **common),
            class_of(TRANSPOSED[1], rank)(6, 3, use_bias=use_bias, **common),
            getattr(layers, f"Conv{rank}D")(6, 3, groups=2, use_bias=use_bias),
            getattr(layers, f"Conv{rank}DTranspose")(6, 3, use_bias=use_bias),
            layers.Dense(6, use_bias=use_bias),
        )
    ]
    if rank < 3:
        made.append(getattr(layers, f"DepthwiseConv{rank}D")(3, depth_multiplier=2))
        made.append(getattr(layers, f"SeparableConv{rank}D")(6, 3))
    norms = [
        NORMALIZATIONS[i % 2](center=i % 3 > 0, scale=i % 5 > 0, epsilon=1e-2)
        for i in range(len(made))
    ]
    branches = [
        (lambda x, conv=conv, norm=norm: norm(conv(x)), "channels_last")
        for conv, norm in zip(made, norms, strict=True)
    ]
    first = class_of("SeparableConv", rank)(6, 3, data_format="channels_first")
    branches.append((lambda x: sl.BatchNormalization(axis=1)(first(x)), "channels_first"))
    folded = folded_and_compared(of_many(rank, branches))
    assert not norms_of(folded)
    assert all(folded.get_layer(conv.name).use_bias for conv in (*made, first))


def test_what_cannot_be_folded_is_left_as_it_is():
    def conv(**arguments):
        return sl.Conv1D(4, 3, padding="same", **arguments)

    x = keras.Input((6, 4))
    shared, norm = conv(), sl.BatchNormalization()
    used_elsewhere, is_output = conv()(x), conv()(x)
    outputs = [
        sl.BatchNormalization()(conv(activation="relu")(x)),
        sl.BatchNormalization()(shared(x)) + sl.BatchNormalization()(shared(x)),
        norm(conv()(x)) + norm(conv()(x)),
        sl.BatchNormalization()(used_elsewhere) + used_elsewhere,
        sl.BatchNormalization()(is_output),
        is_output,
        sl.BatchNormalization(axis=1)(conv()(x)),
        sl.BatchNormalization(dtype="float64")(conv()(x)),
        sl.BatchNormalization()(keras.layers.ReLU()(conv()(x))),
    ]
    model = keras.Model(x, outputs)
    folded = folded_and_compared(model)
    assert [n.name for n in norms_of(folded)] == [n.name for n in norms_of(model)]


def test_statistics_of_the_batch_are_no_matter_of_the_kernel():
    x = keras.Input((6, 4))
    y = sl.BatchNormalization()(sl.Conv1D(4, 3)(x), training=True)
    assert len(norms_of(fold_batch_norm(keras.Model(x, y)))) == 1


def test_models_inside_models_with_all_that_they_may_hold():
    measured = keras.layers.Normalization()
    measured.adapt(np.random.default_rng(0).normal(3, 2, size=(20, 8, 3)))
    scale = 2.0  # which a Lambda that is read from a file would have lost
    inner = keras.Sequential(
        [
            keras.layers.Conv1D(4, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            sl.ResidualSeparableConvBlock1D(5, activation=lambda x: keras.ops.tanh(x)),
        ]
    )
    x = keras.Input((8, 3))
    y = keras.layers.Lambda(lambda values: values * scale)(measured(x))
    y = keras.ops.log(keras.ops.abs(y) + 1)[:, 1:]
    y = inner(y) + inner(-y)
    y = keras.layers.Bidirectional(keras.layers.LSTM(3))(y)
    y = keras.layers.Dropout(0.5)(keras.layers.Dense(4)(y))
    model = keras.Model(x, {"b": y, "a": keras.layers.Dense(2)(y)})
    model.compile("sgd", lambda y, expected: 0.0)
    folded = folded_and_compared(model)
    assert not norms_of(folded)
    assert set(folded.output) == {"a", "b"}


def test_a_folded_model_is_saved_and_loaded_again(tmp_path):
    model = as_trained(sl.models.ds_cnn((12, 8, 1), classes=3, width=0.1))
    folded = fold_batch_norm(model)
    folded.save(tmp_path / "folded.keras")
    again = keras.saving.load_model(tmp_path / "folded.keras")
    (x,) = inputs_for(model)
    np.testing.assert_array_equal(output_of(again, x), output_of(folded, x))
    assert folded.name == model.name
    assert folded.count_params() < model.count_params()


def test_a_model_of_mixed_precision_becomes_one_of_float32():
    model = keras.Sequential(
        [keras.Input((9, 4)), sl.SeparableConvBlock1D(6, dtype="mixed_float16")]
    )
    (x,) = inputs_for(as_trained(model))
    folded = fold_batch_norm(model, dtype="float32")
    assert fold_batch_norm(model).layers[1].compute_dtype == "float16"
    y = output_of(folded, x)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, output_of(model, x), rtol=1e-2, atol=1e-2)


def test_what_a_wrapper_holds_becomes_float32_too():
    policy = keras.DTypePolicy("mixed_float16")
    lstm = keras.layers.LSTM(3, dtype=policy)
    model = keras.Sequential([keras.Input((9, 4)), keras.layers.Bidirectional(lstm, dtype=policy)])
    (x,) = inputs_for(model)
    folded = fold_batch_norm(model, dtype="float32")
    floats = {layer.compute_dtype for layer in folded._flatten_layers()} - {"int32"}
    assert floats == {"float32"}
    np.testing.assert_allclose(output_of(folded, x), output_of(model, x), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="`dtype` argument must be None or the name.*'flot'"):
        fold_batch_norm(model, dtype="flot")


@keras.saving.register_keras_serializable("tests")
class Activated(keras.layers.Layer):
    """Has `activation` in its configuration, and its function elsewhere."""

    def __init__(self, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.function = keras.activations.get(activation)

    def call(self, inputs):
        return self.function(inputs)

    def get_config(self):
        activation = keras.activations.serialize(self.function)
        return {**super().get_config(), "activation": activation}


def test_a_layer_may_keep_its_function_where_it_likes():
    model = keras.Sequential(
        [keras.Input((9, 4)), sl.SeparableConvBlock1D(6), Activated("sigmoid")]
    )
    folded_and_compared(model)


@pytest.mark.parametrize("model", [keras.Sequential([sl.Conv1D(4, 3)]), sl.Conv1D(4, 3), None])
def test_a_model_whose_layers_are_not_known_is_refused(model):
    with pytest.raises(ValueError, match="The `model` argument must be a functional model"):
        fold_batch_norm(model)


# Standard convolutions as separable ones.


def plain_net():
    """A net with a convolution of every kind that is converted, and some that are not."""
    keras.utils.set_random_seed(0)
    images = keras.Input((12, 11, 3))
    x = keras.layers.Conv2D(6, (3, 2), 2, "same", activation="relu", name="keras")(images)
    x = sl.Conv2D(5, 3, dilation_rate=2, padding="same", use_bias=False, name="ours")(x)
    x = sl.ConvBlock2D(6, activation="relu6", name="block")(x)
    x = sl.ResidualConvBlock2D(8, strides=2, name="residual")(x)
    x = sl.FusedInvertedBottleneckBlock2D(8, expansion=2, name="fused")(x)
    x = keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="transposed")(x)
    x = sl.SeparableConvBlock2D(4, name="separable")(x)
    x = keras.layers.Conv2D(4, 1, name="pointwise")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return randomized(keras.Model(images, keras.layers.Dense(3)(x)))


def randomized(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if not weight.path.endswith("seed_generator_state"):
            weight.assign(weight + np.abs(rng.normal(0, 0.1, weight.shape)))
    return model


def test_full_rank_is_exact_and_a_lower_rank_less_so():
    model, x = plain_net(), np.random.default_rng(1).normal(size=(4, 12, 11, 3)).astype("float32")
    expected, errors = output_of(model, x, training=False), []
    for rank in (1, 2, 4, 9):
        converted, report = convert.to_separable(model, rank)
        found = output_of(converted, x, training=False)
        errors.append(np.abs(found - expected).max())
        assert len(report) == 7  # one of each but the residual block, which has two
        assert all(0 <= layer.error < 1 for layer in report)
        assert [layer.rank for layer in report] == [min(rank, 6), *[rank] * 6]
    assert errors[-1] < 1e-6 * np.abs(expected).max() and errors == sorted(errors)[::-1]
    assert max(layer.error for layer in report) < 1e-6
    assert converted.output_shape == model.output_shape
    names = [[layer.name for layer in net.layers[1:]] for net in (converted, model)]
    assert names[0] == names[1]


def test_the_kernel_is_the_closest_one_of_its_rank():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 5)).astype("float32")
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(5, 3, use_bias=False)])
    model.set_weights([kernel])
    converted, (layer,) = convert.to_separable(model, rank=2)
    depthwise, pointwise = converted.get_weights()
    product = np.einsum("hwcr,crm->hwcm", depthwise, pointwise.reshape(2, 2, 5))
    lost = 0
    for channel in range(2):
        values = np.linalg.svd(kernel[:, :, channel].reshape(9, 5), compute_uv=False)
        lost += np.sum(values[2:] ** 2)
    np.testing.assert_allclose(np.sum((product - kernel) ** 2), lost, rtol=1e-5)
    np.testing.assert_allclose(layer.error, np.sqrt(lost) / np.linalg.norm(kernel), rtol=1e-5)
    assert layer.macs_ratio == pytest.approx(sl.profile(converted).macs / sl.profile(model).macs)


def test_layers_to_keep_stay_as_they_are():
    model = plain_net()
    converted, report = convert.to_separable(model, keep=["keras", "block"])
    assert type(converted.get_layer("keras")) is keras.layers.Conv2D
    assert type(converted.get_layer("block")) is sl.ConvBlock2D
    assert len(report) == 5 and not any(layer.name.startswith("block") for layer in report)
    for layer in ("keras", "block"):
        for ours, theirs in zip(
            converted.get_layer(layer).get_weights(),
            model.get_layer(layer).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_models_to_keep_stay_as_they_are():
    inner = keras.Sequential(
        [keras.Input((9, 4)), keras.layers.Conv1D(4, 3, name="in_it")], name="inner"
    )
    model = keras.Sequential([keras.Input((9, 4)), inner, keras.layers.Conv1D(5, 3, name="after")])
    converted, report = convert.to_separable(model, keep=["inner"])
    assert [layer.name.split("/")[-1] for layer in report] == ["after"]
    assert type(converted.get_layer("inner").get_layer("in_it")) is keras.layers.Conv1D


def test_what_lora_adds_to_a_kernel_is_part_of_it():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
    (x,) = inputs_for(model)
    exact, _ = convert.to_separable(model, rank=9)
    np.testing.assert_allclose(output_of(exact, x), output_of(model, x), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "Invalid value for argument `rank`. Expected a strictly positive value"),
        ({"keep": ["absent"]}, r"`keep` argument must hold names of layers.*\['absent'\]"),
    ],
)
def test_a_conversion_that_cannot_be_is_a_clear_error(arguments, message):
    model = keras.Sequential([keras.Input((6, 2)), keras.layers.Conv1D(5, 3, name="conv")])
    with pytest.raises(ValueError, match=message):
        convert.to_separable(model, **arguments)
    with pytest.raises(ValueError, match="with a standard convolution that is not in `keep`"):
        convert.to_separable(model, keep=["conv"])


@needs_channels_first
@pytest.mark.parametrize("family", ["Conv", "SeparableConv", "Conv?Transpose"])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("use_bias", [False, True])
def test_folding_keeps_outputs_whose_last_axis_is_as_long_as_the_channels(family, rank, use_bias):
    # There Keras 3.15 adds a channels-first bias along the last axis, on TensorFlow.
    name, _, ending = family.partition("?")
    cls = getattr(keras.layers, f"{name}{rank}D{ending}")
    arguments = {"padding": "same", "data_format": "channels_first", "use_bias": use_bias}
    model = as_trained(
        keras.Sequential(
            [
                keras.Input((2, *(6, 4)[-rank:])),
                cls(4, 3, **arguments),
                keras.layers.BatchNormalization(axis=1),
            ]
        )
    )
    if use_bias:
        model.layers[0].bias.assign([1, -2, 3, -4])
    x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype("float32")
    expected = keras.ops.convert_to_numpy(model(x))
    folded = keras.ops.convert_to_numpy(convert.fold_batch_norm(model)(x))
    np.testing.assert_allclose(folded, expected, atol=1e-4)
