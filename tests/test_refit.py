"""With data, the channels that are left take over what the removed ones did."""

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import convert
from tests.backends import needs_channels_first, output_of
from tests.cases import RANKS, SIZES, class_of

# In tiny nets, a channel is a large share.
pytestmark = pytest.mark.filterwarnings("ignore:The pruned model has:UserWarning")

SAMPLES = 32


def samples(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(SAMPLES, *shape)).astype("float32")


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif not weight.path.endswith("seed_generator_state"):
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def with_copies(layer):
    """Makes the second half of the output channels of a layer smaller copies of the first."""
    for weight in layer.weights:
        first = keras.ops.convert_to_numpy(weight)[..., : weight.shape[-1] // 2]
        weight.assign(np.concatenate([first, -0.3 * first], axis=-1))


def relative_error(model, other, x):
    wanted = output_of(model, x)
    return np.sqrt(np.mean((output_of(other, x) - wanted) ** 2) / np.var(wanted))


NEXT = {
    "standard": lambda rank: class_of("Conv", rank)(5, 3, strides=2, padding="same"),
    "of keras": lambda rank: getattr(keras.layers, f"Conv{rank}D")(5, 2, dilation_rate=2),
    "without bias": lambda rank: class_of("Conv", rank)(5, 3, use_bias=False),
    "transposed": lambda rank: getattr(keras.layers, f"Conv{rank}DTranspose")(5, 3, strides=2),
    "separable": lambda rank: class_of("SeparableConv", rank)(5, 3, depth_multiplier=2),
    "dense": lambda rank: keras.layers.Dense(5),
}


@pytest.mark.parametrize("kind", NEXT)
@pytest.mark.parametrize("rank", RANKS)
def test_what_copies_of_channels_did_is_taken_over(rank, kind):
    x = samples(*SIZES[:rank], 3)
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), class_of("Conv", rank)(8, 1), NEXT[kind](rank)]
    )
    with_copies(randomized(model).layers[0])
    if kind == "separable":  # its depthwise kernel is not fitted
        depthwise = model.layers[1].depthwise_kernel
        first = keras.ops.convert_to_numpy(depthwise)[..., :4, :]
        depthwise.assign(np.concatenate([first, first], axis=-2))
    without, _ = convert.prune_channels(model, 0.5)
    fitted, (first, second) = convert.prune_channels(model, 0.5, x)
    assert first.channels == 4 and second.channels == 5
    np.testing.assert_array_equal(
        fitted.layers[1].kernel, keras.ops.convert_to_numpy(model.layers[0].kernel)[..., :4]
    )
    assert relative_error(model, fitted, x) < 0.02 < 0.1 < relative_error(model, without, x)
    assert first.output_error == 0 <= second.output_error < 0.02


def test_groups_are_fitted_one_by_one():
    x = samples(9, 4)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras.layers.Conv1D(8, 1, groups=2),
            keras.layers.Conv1D(6, 3, groups=2),
        ]
    )
    layer = randomized(model).layers[0]
    for weight in layer.weights:  # of each group
        halves = np.split(keras.ops.convert_to_numpy(weight), 2, axis=-1)
        weight.assign(
            np.concatenate([part for h in halves for part in (h[..., :2], -0.3 * h[..., :2])], -1)
        )
    fitted, _ = convert.prune_channels(model, 0.5, x)
    assert [layer.filters for layer in fitted.layers[1:]] == [4, 6]
    assert relative_error(model, fitted, x) < 0.01


def test_a_kernel_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(12, activation="relu"), keras.layers.Dense(3)]
    )
    x = rng.normal(size=(200, 6)).astype("float32")
    randomized(model)
    fitted, (_, row) = convert.prune_channels(model, 0.5, x)
    hidden = output_of(fitted.layers[1], x)
    design = np.concatenate([hidden, np.ones((200, 1))], axis=1)
    wanted = output_of(model, x)
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    lost = np.linalg.norm(wanted - design @ solution)
    reached = np.linalg.norm(wanted - output_of(fitted, x))
    assert lost <= reached < 1.01 * lost
    spread = np.linalg.norm(wanted - wanted.mean(0))
    np.testing.assert_allclose(row.output_error, reached / spread, rtol=1e-3)


@pytest.mark.parametrize("rank", RANKS)
def test_normalizations_get_what_they_are_made_for(rank):
    """As the moving statistics fit the inputs of the original one, so do those of the new one."""

    def block(cls, *args, **kwargs):
        return getattr(sl, f"{cls}{rank}D")(*args, **kwargs)

    x = samples(*SIZES[:rank], 3)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            block("ConvBlock", 12),
            block("ResidualSeparableConvBlock", 16, strides=2),
            block("InvertedBottleneckBlock", 16, expansion=2),
            block("SeparableConvBlock", 16, name="last"),
            getattr(keras.layers, f"GlobalAveragePooling{rank}D")(),
            keras.layers.Dense(4),
        ]
    )
    randomized(model)
    for norm in (layer for layer in model._flatten_layers() if hasattr(layer, "moving_mean")):
        norm.momentum = 0.0
    model(x, training=True)
    fitted, report = convert.prune_channels(model, 0.7, x)
    assert sum(row.channels < row.channels_before for row in report) > 5
    before = fitted.get_weights()
    for norm in (layer for layer in fitted._flatten_layers() if hasattr(layer, "moving_mean")):
        norm.momentum = 0.0
    fitted(x, training=True)
    for mine, measured in zip(before, fitted.get_weights(), strict=True):
        np.testing.assert_allclose(mine, measured, rtol=2e-2, atol=2e-2)
    without, _ = convert.prune_channels(model, 0.7)
    assert relative_error(model, fitted, x) < 0.8 * relative_error(model, without, x)


def test_nothing_changes_where_nothing_is_removed():
    x = samples(8, 3)
    model = keras.Sequential([keras.Input(x.shape[1:]), sl.ConvBlock1D(6), sl.ConvBlock1D(4)])
    same, _ = convert.prune_channels(randomized(model), 1, x)
    for old, new in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


@needs_channels_first
def test_channels_first():
    x = samples(3, 9, 7)
    layers = [sl.Conv2D(8, 1, data_format="channels_first")]
    layers += [sl.Conv2D(5, 3, data_format="channels_first")]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    with_copies(randomized(model).layers[0])
    fitted, _ = convert.prune_channels(model, 0.5, x)
    assert relative_error(model, fitted, x) < 0.01


def test_a_shared_layer_is_fitted_to_all_of_its_calls():
    x = [samples(9, 3), samples(9, 3, seed=1)]
    inputs = [keras.Input(x[0].shape[1:]) for _ in x]
    first, shared = keras.layers.Conv1D(8, 1), keras.layers.Conv1D(2, 3)
    model = keras.Model(inputs, keras.layers.Add()([shared(first(one)) for one in inputs]))
    with_copies(randomized(model).get_layer(first.name))
    fitted, _ = convert.prune_channels(model, 0.5, x)
    assert fitted.get_layer(first.name).filters == 4
    assert relative_error(model, fitted, x) < 0.01


def test_sizes_that_the_data_has_are_left_open():
    x = inputs = keras.Input((None, None, 3))
    x = sl.ResidualConvBlock2D(8)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    data = np.random.default_rng(0).normal(size=(5, 9, 8, 3)).astype("float32")
    pruned, report = convert.prune_channels(randomized(model), 0.5, data, batch_size=2)
    assert sl.profile(pruned, (9, 8, 3)).macs == report.macs <= 0.5 * report.macs_before
    assert "| output error |" in report.to_markdown() and pruned(data[:, :7]).shape == (5, 3)
    assert pruned.inputs[0].shape == (None, None, None, 3)
    with pytest.raises(ValueError, match="`data` argument is required if the model takes any size"):
        convert.prune_channels(model, 0.5)
