"""Folding of batch normalisation: the same outputs, without what was folded."""

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers.convert import fold_batch_norm
from tests.backends import output_of
from tests.cases import CHANNELS, FEW_CASES, RANKS, SIZES, class_of

NORMALIZATIONS = (keras.layers.BatchNormalization, sl.BatchNormalization)
TRANSPOSED = ("DepthwiseConvTranspose", "SeparableConvTranspose")


def norms_of(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, NORMALIZATIONS)]


def as_trained(model):
    """Gives all batch normalisations statistics and weights that are not the ones at the start."""
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
def test_every_convolution_takes_in_the_normalisation_after_it(rank):
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


@pytest.mark.parametrize("model", [keras.Sequential([sl.Conv1D(4, 3)]), sl.Conv1D(4, 3), None])
def test_a_model_whose_layers_are_not_known_is_refused(model):
    with pytest.raises(ValueError, match="The `model` argument must be a functional model"):
        fold_batch_norm(model)
