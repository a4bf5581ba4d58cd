"""Each separable block, and each model, and its standard twin: alike in all but the kernels."""

import inspect
import itertools
import math

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from tests.backends import output_of, the_same_everywhere
from tests.cases import TWINS

CHANNELS = 2
SIZES = (14, 8, 7)  # room for two unpadded kernels with all that follows
KERNEL = (3, 2, 2)
PER_AXIS = (2, 1, 2)

every_pair = pytest.mark.parametrize(
    ("separable", "standard", "rank"), TWINS, ids=[pair[0].__name__ for pair in TWINS]
)


def own_arguments(cls):
    """What keeps a block of that class small, and plain where it matters here."""
    small = {"repeats": 2, "expansion": 2, "depth_multiplier": 2}
    return {name: small[name] for name in small.keys() & inspect.signature(cls).parameters}


@every_pair
def test_twins_have_the_same_signature_and_configuration(separable, standard, rank):
    assert inspect.signature(separable) == inspect.signature(standard)
    arguments = {**own_arguments(separable), "filters": 6, "strides": 2, "name": "same"}
    assert separable(**arguments).get_config() == standard(**arguments).get_config()


def influence(cls, rank, filters, **arguments):
    """Which input position reaches which output position: a matrix of truth values.

    All kernels are of ones and nothing is normalized, so that no influence cancels out; each
    sample of the batch has its only ones in a position of its own.
    """
    plain = {"activation": None, "normalization": None, **own_arguments(cls)}
    block = cls(filters, KERNEL[:rank], **plain, **arguments)
    sizes = SIZES[:rank]
    step = 5 if rank == 3 else 1  # some of the positions of a volume do
    x = np.eye(math.prod(sizes), dtype="float32")[::step]
    x = x.reshape(-1, *sizes, 1).repeat(CHANNELS, axis=-1)
    block.build(x.shape)
    block.set_weights([np.full(w.shape, len(w.shape) > 1, "float32") for w in block.get_weights()])
    return output_of(block, x) > 0.5


@the_same_everywhere
@every_pair
@pytest.mark.parametrize(
    ("padding", "filters"),
    [("valid", 3), ("same", CHANNELS), ("same", 3), ("causal", CHANNELS)],  # with a shortcut or not
)
def test_twins_have_the_same_shape_stride_and_receptive_field(
    separable, standard, rank, padding, filters
):
    choices = [1, 2, PER_AXIS[:rank]]
    for strides, dilation in itertools.product(choices, choices):
        arguments = {"strides": strides, "padding": padding, "dilation_rate": dilation}
        one = influence(separable, rank, filters, **arguments)
        assert one.any()
        other = influence(standard, rank, filters, **arguments)
        np.testing.assert_array_equal(one, other, err_msg=str(arguments))


# For four channels, six filters, and a multiplier, expansion and number of repeats of two: the
# shapes of the kernels that look around in space, without the kernel size.
SPATIAL_KERNELS = {
    "SeparableConvBlock": [(4, 2)],
    "ConvBlock": [(4, 6)],
    "ResidualSeparableConvBlock": [(4, 1), (6, 1)],
    "ResidualConvBlock": [(4, 6), (6, 6)],
    "InvertedBottleneckBlock": [(8, 1)],
    "FusedInvertedBottleneckBlock": [(4, 8)],
}


@every_pair
def test_the_twin_has_a_standard_kernel_of_the_kernel_size(separable, standard, rank):
    kernel_size = KERNEL[:rank]
    for cls in (separable, standard):
        block = cls(6, kernel_size, **own_arguments(cls))
        block.build((None, *(None,) * rank, 4))
        shapes = [tuple(weight.shape) for weight in block.weights]
        spatial = [shape[rank:] for shape in shapes if shape[:rank] == kernel_size]
        assert spatial == SPATIAL_KERNELS[cls.__name__[:-2]]


# Any model as its twin.


def kernels(model):
    """The shapes of the weights that are no vectors."""
    return [tuple(weight.shape) for weight in model.weights if len(weight.shape) > 1]


@the_same_everywhere
def test_the_reference_nets_become_their_own_twins():
    for net, shape in (
        (sl.models.mobilenet, (32, 32, 3)),
        (sl.models.mobilenet_v2, (32, 32, 3)),
        (sl.models.ds_cnn, (49, 10, 1)),
        (sl.models.mobilenet_3d, (16, 16, 16, 1)),
    ):
        small = {"input_shape": shape, "classes": 3, "width": 0.25}
        separable, standard = net(**small), net(conv="standard", **small)
        assert kernels(sl.standard_twin(separable)) == kernels(standard)
        again = sl.separable_twin(standard)
        assert again.output_shape == standard.output_shape
        assert again.layers[1].name == separable.layers[1].name
        assert sl.profile(again).macs <= sl.profile(separable).macs  # the stem is one, too


def applications():
    small = {"input_shape": (64, 64, 3), "weights": None, "classes": 5}
    return [
        (keras.applications.MobileNet, {**small, "alpha": 0.25}, sl.models.mobilenet),
        (keras.applications.MobileNetV2, {**small, "alpha": 0.35}, sl.models.mobilenet_v2),
    ]


@the_same_everywhere
@pytest.mark.parametrize(("net", "arguments", "ours"), applications())
def test_twins_of_keras_applications_are_those_of_our_nets(net, arguments, ours):
    model = net(**arguments)
    twin = sl.standard_twin(model)
    assert twin.output_shape == model.output_shape and twin.input_shape == model.input_shape
    assert not any("Depthwise" in type(layer).__name__ for layer in twin.layers)
    same = ours((64, 64, 3), classes=5, width=arguments["alpha"], conv="standard")
    # A first block without expansion is a depthwise and a pointwise layer: one convolution.
    difference = sl.profile(same).macs - sl.profile(twin).macs
    first = {"mobilenet": 0, "mobilenet_v2": 32 * 32 * (9 * 16 * (16 - 8) + 16 * 8)}
    assert difference == first[same.name]


@the_same_everywhere
def test_layers_keep_reach_shape_and_names():
    images = keras.Input((17, 15, 6))
    x = keras.layers.SeparableConv2D(8, (3, 5), 2, "same", activation="relu", name="a")(images)
    x = sl.SeparableConv2D(8, 3, dilation_rate=2, padding="same", use_bias=False, name="b")(x)
    x = sl.SeparableConv2DTranspose(4, 3, strides=2, padding="same", name="c")(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="alone")(x)
    model = keras.Model(images, keras.layers.GlobalMaxPooling2D()(x))
    twin = sl.standard_twin(model)
    assert twin.output_shape == model.output_shape
    assert kernels(twin) == [(3, 5, 6, 8), (3, 3, 8, 8), (3, 3, 4, 8), (3, 3, 4, 8)]
    assert twin.get_layer("a").activation is keras.activations.relu
    assert not twin.get_layer("b").use_bias and twin.get_layer("b").dilation_rate == (2, 2)
    back = sl.separable_twin(twin)
    assert back.output_shape == model.output_shape
    assert kernels(back)[:2] == kernels(model)[:2]
    x = np.random.default_rng(0).normal(size=(2, 17, 15, 6)).astype("float32")
    assert np.isfinite(twin.predict(x, verbose=0)).all()


@the_same_everywhere
def test_a_depthwise_and_a_pointwise_layer_become_one():
    def chain(*between):
        return keras.Sequential(
            [
                keras.Input((9, 4)),
                keras.layers.DepthwiseConv1D(3, 2, "same", use_bias=False, name="look"),
                *between,
                keras.layers.Conv1D(6, 1, activation="relu", name="mix"),
            ]
        )

    between = keras.layers.BatchNormalization(), keras.layers.ReLU()
    for model in (chain(), chain(*between)):
        twin = sl.standard_twin(model)
        assert [layer.name for layer in twin.layers[1:]] == ["mix"]
        assert kernels(twin) == [(3, 4, 6)] and twin.output_shape == (None, 5, 6)
    grouped = keras.Sequential(
        [keras.Input((5, 6, 7, 4)), keras.layers.Conv3D(4, 3, groups=4), keras.layers.Conv3D(2, 1)]
    )
    assert kernels(sl.standard_twin(grouped)) == [(3, 3, 3, 4, 2)]


@the_same_everywhere
def test_an_inverted_bottleneck_keeps_its_projection():
    x = images = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(24, 1, use_bias=False)(x)
    x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Conv2D(4, 1, use_bias=False)(x)
    model = keras.Model(images, keras.layers.Add()([images, x]))
    assert kernels(sl.standard_twin(model)) == [(3, 3, 4, 24), (1, 1, 24, 4)]


@the_same_everywhere
def test_what_another_layer_looks_at_stays():
    x = images = keras.Input((8, 8, 4))
    x = middle = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.Conv2D(4, 1)(x)
    model = keras.Model(images, keras.layers.Add()([middle, x]))
    assert kernels(sl.standard_twin(model)) == [(3, 3, 4, 4), (1, 1, 4, 4)]


@the_same_everywhere
def test_models_inside_and_layers_that_are_called_twice():
    inner = keras.Sequential([keras.Input((8, 4)), sl.SeparableConvBlock1D(4), sl.ConvBlock1D(4)])
    sequences = keras.Input((8, 4))
    model = keras.Model(sequences, inner(inner(sequences)))
    assert kernels(sl.standard_twin(model)) == [(3, 4, 4), (3, 4, 4)]
    assert kernels(sl.separable_twin(model)) == [(3, 4, 1), (1, 4, 4)] * 2
    assert kernels(model) == [(3, 4, 1), (1, 4, 4), (3, 4, 4)]  # which stays as it was


@the_same_everywhere
def test_a_model_that_has_no_twin_is_a_clear_error():
    model = keras.Sequential([keras.Input((8, 4)), keras.layers.Conv1D(4, 1)])
    for function, what in ((sl.standard_twin, "separable part"), (sl.separable_twin, "standard")):
        with pytest.raises(ValueError, match=f"`model` argument must be a model with a {what}"):
            function(model)
        with pytest.raises(ValueError, match="must be a functional model"):
            function(keras.Sequential([keras.layers.Conv1D(4, 3)]))


class OwnSeparable(keras.layers.SeparableConv1D):
    """A subclass, which may do anything."""


class OwnBlock(sl.ConvBlock1D):
    """A subclass of a block."""


class Around(keras.layers.Layer):
    """A layer of another class, with one inside."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, shape):
        self.layer.build(shape)

    def call(self, x):
        return self.layer(x)


@the_same_everywhere
def test_what_a_twin_does_not_see_is_named():
    def model(*layers):
        return keras.Sequential([keras.Input((9, 4)), *layers])

    own = OwnSeparable(4, 3, name="mine")
    with pytest.raises(ValueError, match=r"not seen: 'mine' \(OwnSeparable, of SeparableConv1D\)"):
        sl.standard_twin(model(own))
    around = Around(sl.DepthwiseConv1D(3, name="inner"), name="outer")
    with pytest.raises(ValueError, match=r"'inner' \(DepthwiseConv1D\) in 'outer' \(Around\)"):
        sl.standard_twin(model(around))
    timed = keras.layers.TimeDistributed(keras.layers.Conv1D(2, 3, name="kernel"), name="timed")
    volumes = keras.Sequential([keras.Input((5, 9, 4)), timed])
    for function in (sl.separable_twin, sl.convert.to_separable):
        with pytest.raises(ValueError, match=r"'kernel' \(Conv1D\) in 'timed' \(TimeDistributed\)"):
            function(volumes)
    with pytest.raises(ValueError, match=r"not seen: 'mine' \(OwnBlock, of ConvBlock1D\)\."):
        sl.separable_twin(model(OwnBlock(4, name="mine")))
    # Where others are changed, what is not is said too.
    with pytest.warns(UserWarning, match="twin keeps some layers as they are.*'mine'"):
        twin = sl.standard_twin(model(own, sl.SeparableConv1D(4, 3)))
    assert kernels(twin)[-1] == (3, 4, 4)
    # A pointwise convolution is standard, and has nothing to make separable.
    pointwise = keras.layers.TimeDistributed(keras.layers.Conv1D(2, 1))
    with pytest.raises(ValueError, match="without one.$"):
        sl.separable_twin(keras.Sequential([keras.Input((5, 9, 4)), pointwise]))
