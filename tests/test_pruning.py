"""Pruning: a pruned model computes what the original does with the removed channels at zero."""

import warnings

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import convert
from tests.backends import needs_channels_first, output_of
from tests.cases import RANKS, SIZES, class_of

# In tiny nets, a channel is a large share.
pytestmark = pytest.mark.filterwarnings("ignore:The pruned model has:UserWarning")


def distinct(model, seed=0):
    """Gives each weight distinct numbers of a usual size, which tell what is left of it."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith("seed_generator_state"):
            continue
        size = int(np.prod(weight.shape))
        values = (rng.permutation(size).reshape(weight.shape) + 0.5) / size - 0.5
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(1 + values)
        else:
            fan = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4
            weight.assign(values * 3 / np.sqrt(fan))
    return model


def inputs_for(model, count=3):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(count, *x.shape[1:])).astype("float32") for x in model.inputs]


def outputs_of(model, inputs):
    inputs = inputs[0] if len(inputs) == 1 else inputs
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(inputs))]


def outputs_without_removed(model, pruned, inputs):
    """What the model computes with zeros in place of all numbers that the pruned one lacks."""
    weights = model.get_weights()
    left = [
        np.where(np.isin(old, new), old, 0)
        for old, new in zip(weights, pruned.get_weights(), strict=True)
    ]
    model.set_weights(left)
    outputs = outputs_of(model, inputs)
    model.set_weights(weights)
    return outputs


def pruned_and_compared(model, macs=0.5, inputs=None, **arguments):
    distinct(model)
    inputs = inputs or inputs_for(model)
    before = model.get_weights()
    pruned, report = convert.prune_channels(model, macs, **arguments)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    expected = outputs_without_removed(model, pruned, inputs)
    for y, wanted in zip(outputs_of(pruned, inputs), expected, strict=True):
        np.testing.assert_allclose(y, wanted, atol=1e-5 * np.abs(wanted).max())
    shapes = [x.shape[1:] for x in inputs]
    shapes = shapes[0] if len(shapes) == 1 else shapes
    assert sl.profile(pruned, shapes).macs == report.macs == sum(row.macs for row in report)
    assert sl.profile(model, shapes).macs == report.macs_before
    assert 0.7 * macs < report.macs / report.macs_before <= macs
    assert pruned.output_shape == model.output_shape
    assert names_of(pruned) == names_of(model)
    return pruned, report


def names_of(model):
    inputs = keras.layers.InputLayer
    return [layer.name for layer in model.layers if not isinstance(layer, inputs)]


def channels_of(report):
    return {row.name.split("/")[-1]: (row.channels_before, row.channels) for row in report}


# The couplings.


@pytest.mark.parametrize("rank", RANKS)
def test_blocks(rank):
    def block(cls, *args, **kwargs):
        return getattr(sl, f"{cls}{rank}D")(*args, **kwargs)

    x = inputs = keras.Input((*SIZES[:rank], 3))
    x = block("ConvBlock", 8, name="a")(x)
    x = block("SeparableConvBlock", 10, depth_multiplier=2, activation="relu6", name="b")(x)
    x = block("ResidualConvBlock", 10, drop_path=0.2, name="c")(x)
    x = block("ResidualSeparableConvBlock", 12, strides=2, name="d")(x)
    x = block("InvertedBottleneckBlock", 12, expansion=2, se_ratio=0.5, name="e")(x)
    x = block("FusedInvertedBottleneckBlock", 9, normalization="group", name="f")(x)
    x = keras.layers.Dense(4)(getattr(keras.layers, f"GlobalMaxPooling{rank}D")()(x))
    pruned, report = pruned_and_compared(keras.Model(inputs, x), 0.25)
    left = {row.name: row.channels for row in report}
    assert left["c/conv_1"] == left["b/pointwise"]  # by the shortcut
    assert left["d/conv_1"] == left["d/shortcut"] == left["e/project"]
    assert left["e/depthwise"] == left["e/squeeze_excite/excite"] == left["e/expand"]
    assert sum(row.channels < row.channels_before for row in report) >= 10


def plain_net(data_format="channels_last"):
    """A net of `keras.layers` with every kind of coupling."""
    layers, common = keras.layers, {"padding": "same", "data_format": data_format}
    axis = -1 if data_format == "channels_last" else 1
    sizes = (30, 28)  # for a bias of channels first, Keras takes no axis as long as the channels
    inputs = keras.Input((*sizes, 2) if axis == -1 else (2, *sizes))
    a = layers.Conv2D(8, 3, activation="relu", **common)(inputs)
    b = layers.Conv2D(6, 3, use_bias=False, **common)(inputs)
    x = layers.Concatenate(axis)([a, b])
    x = layers.BatchNormalization(axis)(x)
    x = layers.PReLU(shared_axes=[1, 2] if axis == -1 else [2, 3])(x)
    x = layers.ZeroPadding2D(1, data_format=data_format)(x)
    x = layers.Conv2D(12, 3, groups=2, **common)(x)  # 14 channels in two groups of 7
    x = layers.GroupNormalization(6, axis)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, **common)(x)
    x = layers.LeakyReLU()(x)
    x = layers.AveragePooling2D(2, data_format=data_format)(x)
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, **common)(x)
    gates = keras.ops.mean(x, [1, 2] if axis == -1 else [2, 3])
    gates = layers.Dense(8, activation="sigmoid")(layers.Dense(4, activation="relu")(gates))
    x = x * layers.Reshape((1, 1, 8) if axis == -1 else (8, 1, 1))(gates)
    x = layers.Conv2D(8, 3, groups=8, **common)(x)  # depthwise
    x = keras.ops.relu(x) + layers.Conv2D(1, 1, **common)(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, **common)(x)
    y = layers.Flatten(data_format=data_format)(x)
    y = layers.Dense(5, activation="softmax")(layers.Dropout(0.3)(y))
    return keras.Model(inputs, [y, layers.Conv2D(2, 1, **common)(x)])


def test_layers_of_keras():
    _, report = pruned_and_compared(plain_net(), 0.25)
    assert sum(row.channels < row.channels_before for row in report) >= 8


@needs_channels_first
def test_layers_of_keras_with_channels_first():
    pruned_and_compared(plain_net("channels_first"), 0.25)


def test_layers_of_this_package_with_channels_first():
    x = inputs = keras.Input((3, 6, 7))
    common = {"data_format": "channels_first", "padding": "same"}
    x = sl.Conv2D(8, 3, groups=1, **common)(x)
    x = sl.BatchNormalization(1)(x)
    x = sl.InvertedBottleneckBlock2D(8, se_ratio=0.5, data_format="channels_first")(x)
    x = sl.SeparableConv2DTranspose(6, 3, strides=2, **common)(x)
    x = sl.DepthwiseConv2DTranspose(3, **common)(x)
    x = keras.layers.Permute((2, 3, 1))(x)
    x = keras.layers.Dense(6, activation="relu")(x)
    x = keras.layers.Flatten(data_format="channels_last")(x)
    pruned_and_compared(keras.Model(inputs, keras.layers.Dense(3)(x)))


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks_of_keras_layers(rank):
    def layer(name, *args, **kwargs):
        return getattr(keras.layers, f"{name}{rank}D")(*args, **kwargs)

    x = inputs = keras.Input((6,) * rank + (3,))
    x = layer("Conv", 8, 3, padding="same", activation="relu")(x)
    x = layer("UpSampling", 2)(layer("MaxPooling", 2)(x))
    x = layer("Cropping", 1)(layer("SpatialDropout", 0.1)(x))
    y = keras.ops.expand_dims(keras.ops.max(x, tuple(range(1, rank + 1))), 1)
    y = keras.layers.Dense(8)(keras.ops.squeeze(y, 1))
    x = class_of("SeparableConv", rank)(8, 3)(x)
    x = layer("GlobalAveragePooling", keepdims=True)(x)
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x), y])
    pruned_and_compared(keras.Model(inputs, keras.layers.Dense(3)(x)))


def test_a_band_of_channels_keeps_its_form_through_reshaping():
    pruned, _ = pruned_and_compared(sl.models.bc_resnet((40, 4, 1), classes=3, width=0.5), 0.6)
    assert pruned.get_layer("block_0_0_frequency_norm").gamma.shape[0] % 5 == 0


def test_texts_have_channels_from_their_embedding_on():
    model = distinct(sl.models.region_cnn((9,), vocabulary_size=20, embedding=16, classes=3))
    tokens = np.random.default_rng(0).integers(20, size=(4, 9))
    pruned, report = convert.prune_channels(model, 0.5, divisor=4)
    (expected,) = outputs_without_removed(model, pruned, [tokens])
    np.testing.assert_allclose(output_of(pruned, tokens), expected, atol=1e-5)
    assert pruned.get_layer("embedding").output_dim == 8
    assert report.macs * 2 == report.macs_before


def test_shared_layers_and_models_lose_the_same_channels_in_all_calls():
    inner = keras.Sequential(
        [keras.Input((8, 6)), sl.Conv1D(6, 3, padding="same"), keras.layers.ReLU()], name="inner"
    )
    conv, norm = sl.Conv1D(6, 3, padding="same"), keras.layers.BatchNormalization()
    inputs = [keras.Input((8, 6)), keras.Input((8, 6))]
    x, y = (norm(inner(conv(each))) for each in inputs)
    z = keras.layers.Concatenate()([inner(x), y])
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(z)))
    pruned, report = pruned_and_compared(model)
    assert isinstance(pruned.get_layer("inner"), keras.Model)
    left = {row.channels for row in report if "conv" in row.name}
    assert len(report) == 3 and len(left) == 1 and left < {1, 2, 3, 4, 5}


@keras.saving.register_keras_serializable("tests")
class Sorted(keras.layers.Layer):
    """A layer of an unknown kind, whose outputs depend on all channels."""

    def call(self, inputs):
        return keras.ops.sort(inputs, -1)


@pytest.mark.filterwarnings("ignore:The MACs of:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.LayerNormalization(),
        lambda: keras.layers.LSTM(8, return_sequences=True),
        lambda: keras.layers.MultiHeadAttention(2, 4),
        lambda: keras.layers.Softmax(),
        lambda: keras.layers.Activation("softmax"),
        lambda: keras.layers.TimeDistributed(keras.layers.Dense(8)),
        lambda: keras.layers.Reshape((4, 2, 8)),
        lambda: keras.layers.Lambda(lambda x: x * np.arange(8, dtype="float32")),
        Sorted,
    ],
)
def test_channels_that_reach_an_unknown_layer_stay(make):
    x = inputs = keras.Input((8, 2))
    x = keras.layers.Conv1D(8, 3, padding="same", activation="relu", name="before")(x)
    layer = make()
    x = layer(x, x) if isinstance(layer, keras.layers.MultiHeadAttention) else layer(x)
    x = keras.layers.Flatten()(keras.layers.Reshape((8, 8))(x))
    x = keras.layers.Dense(99, activation="relu", name="after")(x)
    model = distinct(keras.Model(inputs, keras.layers.Dense(3, name="logits")(x)))
    pruned, report = convert.prune_channels(model, 0.7)
    counts = channels_of(report)
    assert counts["before"] == (8, 8) and counts["after"][1] < 99 and counts["logits"] == (3, 3)
    found = outputs_of(pruned, inputs_for(model))
    expected = outputs_without_removed(model, pruned, inputs_for(model))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


def test_arrays_and_broadcasts_between_channels_keep_them():
    x = inputs = keras.Input((4, 5, 2))
    x = keras.layers.Conv2D(6, 1, name="scaled")(x) * np.arange(6, dtype="float32")
    gate = keras.layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    y = keras.layers.Conv2D(8, 3, name="free")(x * gate)
    y = y + keras.ops.mean(y, axis=1, keepdims=True)
    other = keras.layers.Conv2D(3, 1, name="other")(inputs)
    other = keras.ops.mean(other, axis=-1, keepdims=True)
    y = keras.layers.Concatenate(1)([y, y * other[:, :2, :3]])
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(y)))
    _, report = pruned_and_compared(model, 0.7)
    counts = channels_of(report)
    assert counts["scaled"] == (6, 6) and counts["gate"] == (1, 1) and counts["other"] == (3, 3)
    assert counts["free"][1] < 8


# The choice.


def test_the_least_contribution_to_the_next_layer_goes_first():
    rng = np.random.default_rng(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(12, activation="relu", name="hidden")(inputs)
    model = distinct(keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden)))
    x = rng.normal(2, 1, (50, 4)).astype("float32")
    kernel, bias, following, _ = model.get_weights()
    squares = np.mean(np.maximum(x @ kernel + bias, 0) ** 2, 0)
    importance = squares * np.sum(following**2, 1)
    for left in (11, 7, 2):
        pruned, _ = convert.prune_channels(model, left / 12, x)
        best = np.sort(np.argsort(importance)[12 - left :])
        np.testing.assert_array_equal(pruned.get_layer("hidden").kernel, kernel[:, best])


def test_without_data_a_normalization_tells_which_channels_are_dead():
    model = keras.Sequential(
        [
            keras.Input((9, 3)),
            keras.layers.Conv1D(6, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2),
        ]
    )
    norm = distinct(model).get_layer("norm")
    norm.beta.assign([1, -9, 1, 1, -9, 1])  # a negative one before a rectifier
    norm.gamma.assign([1, 1, 1, 0.01, 1, 1])
    norm.beta.assign([1, -9, 1, 0, -9, 1])
    kernel = keras.ops.convert_to_numpy(model.get_layer("conv").kernel)
    pruned, _ = convert.prune_channels(model, 0.5)
    np.testing.assert_array_equal(pruned.get_layer("conv").kernel, kernel[..., [0, 2, 5]])


def test_the_scale_of_the_next_normalization_counts():
    x = inputs = keras.Input((6,))
    x = keras.layers.Dense(4, use_bias=False, name="hidden")(x)
    x = keras.layers.Dense(2, name="next")(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    model = distinct(keras.Model(inputs, keras.layers.Dense(2)(x)))
    model.get_layer("hidden").kernel.assign(np.tile(np.eye(6)[:, :1], 4) + np.eye(6, 4) / 100)
    model.get_layer("next").kernel.assign([[1, 0], [1, 0], [0, 2], [0, 2]])
    model.layers[-2].moving_variance.assign([1, 100])
    pruned, _ = convert.prune_channels(model, 0.6, np.ones((9, 6)), keep=["next"])
    hidden = [layer.get_layer("hidden").kernel for layer in (model, pruned)]
    np.testing.assert_array_equal(hidden[1], hidden[0][:, :2])


@pytest.mark.parametrize("macs", [1, 0.8, 0.3, 0.1, 50_000])
def test_the_budget_is_met_and_never_exceeded(macs):
    model = distinct(sl.models.ds_cnn((12, 8, 1), classes=3, width=0.5, conv="standard"))
    pruned, report = convert.prune_channels(model, macs)
    budget = report.macs_before * macs if macs <= 1 else macs
    assert 0.98 * budget <= sl.profile(pruned).macs <= budget
    if macs == 1:
        assert all(row.channels == row.channels_before for row in report)


def test_channel_counts_are_multiples():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            sl.ConvBlock2D(20),
            sl.ConvBlock2D(7, name="narrow"),
            sl.ResidualConvBlock2D(24, strides=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, report = convert.prune_channels(distinct(model), 0.32, divisor=8)
    assert any("that `macs` permits: with more channels" in str(each.message) for each in caught)
    counts = channels_of(report).values()
    assert all(after == before or after % 8 == 0 for before, after in counts)
    assert sum(after < before for before, after in counts) >= 3


def test_layers_blocks_and_models_to_keep():
    inner = keras.Sequential(
        [keras.Input((9, 8)), keras.layers.Conv1D(8, 3, name="in_it")], name="inner"
    )
    model = keras.Sequential(
        [
            keras.Input((9, 4)),
            keras.layers.Conv1D(8, 3, padding="same", name="first"),
            inner,
            sl.SeparableConvBlock1D(8, name="block"),
            sl.ConvBlock1D(32, name="free"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )
    _, report = pruned_and_compared(model, 0.8, keep=["first", "inner", "block"])
    changed = [row.name for row in report if row.channels < row.channels_before]
    assert changed == ["free/conv"]


# The result.


def test_a_converted_model_is_pruned_trained_saved_and_loaded(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            sl.ConvBlock2D(16),
            sl.ResidualConvBlock2D(24),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    separable, _ = convert.to_separable(distinct(model), rank=2)
    pruned, report = convert.prune_channels(separable, 0.5)
    assert 0.45 < sl.profile(pruned).macs / sl.profile(separable).macs <= 0.5
    pruned.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    pruned.fit(x, np.arange(8) % 3, verbose=0)
    pruned.save(tmp_path / "pruned.keras")
    again = keras.saving.load_model(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(output_of(again, x), output_of(pruned, x))


def test_the_report_is_a_table():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(2, name="b")]
    )
    _, report = convert.prune_channels(distinct(model), 0.5)
    assert report.to_markdown().splitlines()[2:] == [
        "| a | 8 | 4 | 32 | 16 | 0.50 |",
        "| b | 2 | 2 | 16 | 8 | 0.50 |",
        "| total |  |  | 48 | 24 | 0.50 |",
    ]
    assert str(report).startswith("layer  channels before") and len(report) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"macs": 0}, r"argument `macs`. Expected a share in \(0, 1\] or a number of MACs"),
        ({"macs": "half"}, "argument `macs`"),
        ({"macs": 1e-6}, "`macs` argument must be at least 28 MACs, which the fewest"),
        ({"divisor": 0}, "argument `divisor`. Expected a strictly positive value"),
        ({"batch_size": 0}, "argument `batch_size`. Expected a strictly positive value"),
        ({"keep": ["absent"]}, r"`keep` argument must hold names of layers.*\['absent'\]"),
        ({"data": np.ones((4, 5, 2))}, r"`data` argument must be .* 6, 2\).* 5, 2\)"),
        ({"data": [np.ones((4, 6, 2))] * 2}, "Received: a batch of shapes .*, .4, 6, 2."),
    ],
)
def test_a_pruning_that_cannot_be_is_a_clear_error(arguments, message):
    model = keras.Sequential(
        [keras.Input((6, 2)), keras.layers.Conv1D(5, 3), keras.layers.Flatten()]
        + [keras.layers.Dense(1, name="dense")]
    )
    with pytest.raises(ValueError, match=message):
        convert.prune_channels(model, **{"macs": 0.5, **arguments})


def test_arrays_of_unequal_length_and_inputs_without_noise():
    inputs = [keras.Input((4,)), keras.Input((4,), dtype="int32")]
    x = keras.layers.Dense(6)(inputs[0]) + keras.ops.cast(inputs[1], "float32")[:, :1]
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    with pytest.raises(ValueError, match="`data` argument is required for a model with inputs"):
        convert.prune_channels(model, 0.5)
    with pytest.raises(ValueError, match="Received: arrays of .2, 3. samples"):
        convert.prune_channels(model, 0.5, [np.ones((2, 4)), np.ones((3, 4))])
    assert len(convert.prune_channels(model, 0.5, [np.ones((2, 4)), np.ones((2, 4))])[1]) == 2


@pytest.mark.parametrize("model", [keras.Sequential([sl.Conv1D(4, 3)]), sl.Conv1D(4, 3), None])
def test_a_model_whose_layers_are_not_known_is_refused(model):
    with pytest.raises(ValueError, match="The `model` argument must be a functional model"):
        convert.prune_channels(model, 0.5)
