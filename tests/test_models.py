"""The reference nets: published counts, equality with `keras.applications`, and both forms."""

import inspect
import json
import math

import keras
import numpy as np
import pytest

from sepconv_layers import models, profile, streaming
from tests.backends import BACKEND, SHORT, the_same_everywhere

CONVS = ("separable", "standard")


def trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


# MACs, trainable parameters, and how much the paper's rounding leaves open.
PUBLISHED = [
    (models.mobilenet, {}, 568.7e6, 4.2e6, 0.01),
    (models.mobilenet, {"conv": "standard"}, 4867e6, 29.3e6, 0.01),
    (models.mobilenet, {"width": 0.5}, 149e6, 1.3e6, 0.03),
    (models.mobilenet_v2, {}, 300.8e6, 3.5e6, 0.01),
    (models.mobilenet_v3, {"size": "small"}, 56e6, 2.5e6, 0.02),
    (models.mobilenet_v3, {"size": "large"}, 219e6, 5.4e6, 0.02),
    (models.ds_cnn, {"size": "s"}, 2.7e6, None, 0.02),
    (models.ds_cnn, {"size": "m"}, 9.8e6, None, 0.02),
    (models.ds_cnn, {"size": "l"}, 28.3e6, None, 0.02),
    (models.matchboxnet, {"repeats": 1}, None, 77e3, 0.02),
    (models.matchboxnet, {"repeats": 2}, None, 93e3, 0.02),
    (models.bc_resnet, {"width": 1}, None, 9.2e3, 0.02),
    (models.bc_resnet, {"width": 8}, None, 321e3, 0.02),
    (models.mobilenet_3d, {"include_top": False}, None, 3.3e6, 0.02),
]


@the_same_everywhere
@pytest.mark.parametrize(("make", "arguments", "macs", "params", "tolerance"), PUBLISHED)
def test_counts_are_the_published_ones(make, arguments, macs, params, tolerance):
    model = make(**arguments)
    if macs is not None:
        assert profile(model).macs == pytest.approx(macs, rel=tolerance)
    if params is not None:
        assert trainable(model) == pytest.approx(params, rel=tolerance)


def output_of(model, x):
    """What a model makes of `x`, in the way that takes the backend less long."""
    if BACKEND == "jax":
        return model.predict(x, verbose=0)
    return keras.ops.convert_to_numpy(model(x, training=False))


def randomize(model, seed=0):
    """Weights of random normals: positive variances, and kernels whose outputs are as large as
    their inputs.

    Larger kernels make a deep net with bounded activations chaotic: what float32 rounds off in the
    first layer, and float64 does not, then decides the output.
    """  # noqa: D205
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        value = rng.normal(size=weight.shape)
        if "variance" in weight.path:
            value = 0.5 + np.abs(value)
        elif weight.name == "kernel":
            value /= math.sqrt(math.prod(weight.shape) / weight.shape[-1 - (weight.shape[-1] == 1)])
        values.append(value)
    model.set_weights(values)


APPLICATIONS = [
    (models.mobilenet, keras.applications.MobileNet, {}),
    (models.mobilenet_v2, keras.applications.MobileNetV2, {}),
    (models.mobilenet_v3, keras.applications.MobileNetV3Small, {"size": "small"}),
    (models.mobilenet_v3, keras.applications.MobileNetV3Large, {"size": "large"}),
]
names = [application.__name__ for _, application, _ in APPLICATIONS]
every_application = pytest.mark.parametrize(("make", "application", "how"), APPLICATIONS, ids=names)


def source_of(application, input_shape, width, classes, **arguments):
    if "V3" in application.__name__:
        arguments["include_preprocessing"] = False
    arguments |= {"weights": None, "classes": classes}
    return application(input_shape, alpha=width, **arguments)


@the_same_everywhere
@every_application
@pytest.mark.parametrize(("sizes", "width"), [((64, 96), 0.75), ((96, 96), 1.0)])
def test_outputs_are_those_of_keras_on_copied_weights(make, application, how, sizes, width):
    shape = (*sizes, 3)
    source = source_of(application, shape, width, 7, classifier_activation=None)
    randomize(source)
    model = make((None, None, 3), 7, width=width, **how)
    models.load_keras_application(model, source)
    x = np.random.default_rng(1).uniform(-1, 1, (2, *shape)).astype("float32")
    expected = output_of(source, x)
    difference = np.abs(output_of(model, x) - expected).max()
    assert np.isfinite(expected).all()
    assert difference < 1e-4 * np.abs(expected).max()


@the_same_everywhere
@every_application
def test_a_source_without_a_top_leaves_the_classifier_as_it_was(make, application, how):
    shape = (32, 32, 3)
    source = source_of(application, shape, 1.0, 1000, include_top=False, pooling="avg")
    randomize(source)
    model = make(shape, 5, **how)
    before = model.get_layer("logits").get_weights()
    models.load_keras_application(model, source)
    after = model.get_layer("logits").get_weights()
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    bare = make(shape, include_top=False, pooling="avg", **how)
    models.load_keras_application(bare, source)
    x = np.random.default_rng(1).uniform(-1, 1, (1, *shape)).astype("float32")
    expected = output_of(source, x)
    np.testing.assert_allclose(output_of(bare, x) / np.abs(expected).max(),
                               expected / np.abs(expected).max(), atol=1e-4)  # fmt: skip


@the_same_everywhere
@pytest.mark.parametrize(
    ("model", "source", "word"),
    [
        ({"width": 0.5}, {}, "'stem/"),
        ({"conv": "standard"}, {}, "block_0"),
        ({"classes": 4}, {}, "logits/kernel"),
        ({"include_top": False}, {}, "weights where"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_named_and_none_is_copied(model, source, word):
    source = keras.applications.MobileNet((32, 32, 3), weights=None, classes=3, **source)
    model = models.mobilenet((32, 32, 3), **{"classes": 3, **model})
    before = model.get_weights()
    with pytest.raises(ValueError, match="`source`.*Received.*include_top=False") as error:
        models.load_keras_application(model, source)
    assert word in str(error.value)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# Small forms of every net: input shape, the same with what may be unknown, arguments.
SMALL = [
    (models.mobilenet, (20, 33, 3), (None, None, 3), {"width": 0.25}),
    (models.mobilenet_v2, (20, 33, 3), (None, None, 3), {"width": 0.35}),
    (models.mobilenet_v3, (20, 33, 3), (None, None, 3), {"width": 0.35, "size": "small"}),
    (models.mobilenet_v3, (20, 33, 3), (None, None, 3), {"width": 0.35, "size": "large"}),
    (models.ds_cnn, (25, 10, 1), (None, None, 1), {"width": 0.25, "size": "s"}),
    (models.ds_cnn, (25, 10, 1), (None, None, 1), {"width": 0.1, "size": "m"}),
    (models.matchboxnet, (30, 12), (None, 12), {"width": 0.25}),
    (models.bc_resnet, (40, 17, 1), (40, None, 1), {}),
    (models.sep_cnn, (11,), (None,), {"vocabulary_size": 50, "embedding": 8, "width": 0.1}),
    (models.region_cnn, (11,), (None,), {"vocabulary_size": 50, "embedding": 8}),
    (models.mobilenet_3d, (9, 20, 17, 1), (None, None, None, 1), {"width": 0.1}),
    (models.keyword_resnet, (25, 12, 1), (None, None, 1), {"width": 0.25}),
    (models.separable_resnet, (20, 33, 3), (None, None, 3), {"width": 0.25, "depth": 0.5}),
    (models.separable_resnet, (9, 20, 17, 1), (None, None, None, 1), {"width": 0.25}),
]
OF_TEXTS = (models.sep_cnn, models.region_cnn)
if SHORT:  # what is left out is made of the same blocks, or of those of `cases.py`
    SMALL = [SMALL[4], SMALL[6], SMALL[8]]
every_net = pytest.mark.parametrize(
    ("make", "shape", "unknown", "how"),
    SMALL,
    ids=[f"{make.__name__}{how.get('size', len(shape) - 1)}" for make, shape, _, how in SMALL],
)
both_forms = pytest.mark.parametrize("conv", CONVS)


def batch_of(make, shape, size=4):
    rng = np.random.default_rng(0)
    if make in OF_TEXTS:
        return rng.integers(1, 50, (size, *shape)).astype("int32")
    return rng.normal(size=(size, *shape)).astype("float32")


DEEP = (models.mobilenet_v2, models.mobilenet_v3)  # their blocks have tests in both forms


def nets_and_forms():
    """Every net in both forms, deep nets in the separable one, or of few nets one form each."""
    for number, (make, *rest) in enumerate(SMALL):
        one = CONVS[number % 2 :: 2] if SHORT else CONVS[:1]
        for conv in one if SHORT or make in DEEP else CONVS:
            name = f"{conv}-{make.__name__}{rest[-1].get('size', len(rest[0]) - 1)}"
            yield pytest.param(make, *rest, conv, id=name)


@pytest.mark.parametrize(("make", "shape", "unknown", "how", "conv"), list(nets_and_forms()))
def test_every_net_trains_saves_reloads_and_is_counted(make, shape, unknown, how, conv, tmp_path):
    keras.utils.set_random_seed(0)
    model = make(shape, 3, conv=conv, **how)
    x, y = batch_of(make, shape), np.array([0, 1, 2, 0])
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=BACKEND == "jax",
        # To trace a net takes longer than all else here.
        run_eagerly=BACKEND == "tensorflow" and (conv == "standard" or make in DEEP),
    )
    before = model.get_weights()
    assert np.isfinite(model.train_on_batch(x, y))
    moved = [
        not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True)
    ]
    assert np.mean(moved) > 0.9  # a rectifier of a narrow layer may be dead
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    expected = output_of(model, x)
    np.testing.assert_allclose(output_of(again, x), expected, rtol=1e-4, atol=1e-5)
    assert json.loads(json.dumps(again.get_config())) == json.loads(json.dumps(model.get_config()))
    counted = profile(model)
    assert counted.uncounted == ()
    assert counted.params == model.count_params()
    if SHORT:
        return
    open_sizes = make(unknown, 3, conv=conv, **how)
    open_sizes.set_weights(model.get_weights())
    np.testing.assert_allclose(output_of(open_sizes, x), expected, rtol=1e-4, atol=1e-5)


@the_same_everywhere
@every_net
def test_the_twin_has_the_same_layers_around_more_macs(make, shape, unknown, how):
    separable, standard = (make(shape, 3, conv=conv, **how) for conv in CONVS)
    assert separable.name == standard.name
    assert separable.output_shape == standard.output_shape == (None, 3)
    assert profile(standard).macs > profile(separable).macs


@the_same_everywhere
@every_net
def test_without_a_top_a_net_gives_features(make, shape, unknown, how):
    features = make(shape, include_top=False, **how)
    x = batch_of(make, shape, 2)
    if make in OF_TEXTS:
        assert len(features.output_shape) == 2
        return
    assert len(features.output_shape) == len(shape) + 1
    expected = output_of(features, x)
    poolings = {"avg": np.mean, "max": np.max}
    if make in DEEP:  # a pooling each
        del poolings["avg" if make is models.mobilenet_v2 else "max"]
    for pooling, reduce in poolings.items():
        model = make(shape, include_top=False, pooling=pooling, **how)
        model.set_weights(features.get_weights())
        pooled = reduce(expected, axis=tuple(range(1, len(shape))))
        np.testing.assert_allclose(output_of(model, x), pooled, rtol=1e-4, atol=1e-5)


@the_same_everywhere
@every_net
def test_a_bad_argument_is_named(make, shape, unknown, how):
    bad = {
        "conv": ["depthwise", None],
        "width": [0, -1, math.nan, "1"],
        "classes": [0, 2.5],
        "input_shape": [(), (*shape, 3, 3), (0, *shape[1:]), None, "images"],
        "pooling": ["sum"],
        "padding": ["valid", None],
        "size": ["xxl"],
        "repeats": [0],
        "vocabulary_size": [0],
        "depth": [0, "1"],
        "stem_strides": [0, 1.5],
    }
    for argument in bad.keys() & inspect.signature(make).parameters:
        for value in bad[argument]:
            arguments = {"input_shape": shape, **how, argument: value}
            with pytest.raises(ValueError) as error:
                make(**arguments)
            message = str(error.value)
            assert f"`{argument}`" in message and "eceived" in message, message
            assert str(value) in message


@the_same_everywhere
@pytest.mark.parametrize(
    "make", [models.mobilenet, models.ds_cnn, models.mobilenet_3d, models.separable_resnet]
)
def test_the_channels_of_the_input_must_be_known(make):
    shape = next(unknown for net, _, unknown, _ in SMALL if net is make)
    with pytest.raises(ValueError, match="`input_shape`.*channels"):
        make((*shape[:-1], None))


def test_bc_resnet_refuses_frequencies_that_its_bands_do_not_divide():
    with pytest.raises(ValueError, match="multiple of 40"):
        models.bc_resnet((60, 101, 1))


@the_same_everywhere
@both_forms
@pytest.mark.parametrize(
    ("make", "shape", "how"),
    [
        (models.ds_cnn, (49, 10, 1), {"width": 0.25}),
        (models.keyword_resnet, (49, 12, 1), {"width": 0.25}),
        (models.matchboxnet, (49, 12), {"width": 0.1}),
    ],
)
def test_causal_nets_of_sounds_give_their_logits_chunk_by_chunk(make, shape, how, conv):
    model = make(shape, 4, conv=conv, padding="causal", **how)
    randomize(model)
    x = batch_of(make, shape, 2)
    expected = output_of(model, x)
    made = streaming.to_streaming(model)
    for size in (7, 20):  # an odd one too, where time has a stride
        stream = made.stream(batch_size=2)
        for start in range(0, shape[0], size):
            logits = stream(x[:, start : start + size])
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@the_same_everywhere
@both_forms
@pytest.mark.parametrize("width", [1e-6, 0.125, 0.2])
def test_narrow_nets_of_sounds_have_strides_too(width, conv):
    model = models.bc_resnet((40, 9, 1), 3, width=width, conv=conv)
    assert output_of(model, np.ones((2, 40, 9, 1), "float32")).shape == (2, 3)


@the_same_everywhere
@both_forms
@pytest.mark.parametrize("make", OF_TEXTS)
def test_padding_never_changes_what_is_said_of_a_text(make, conv):
    model = make((None,), 3, vocabulary_size=50, conv=conv)
    rng = np.random.default_rng(0)
    randomize(model)
    texts = [rng.integers(1, 50, length) for length in (1, 4, 19, 7)]
    together = np.zeros((4, 31), "int32")
    for row, text in zip(together, texts, strict=True):
        row[: len(text)] = text
    alone = np.concatenate([output_of(model, text[None].astype("int32")) for text in texts])
    np.testing.assert_allclose(output_of(model, together), alone, rtol=1e-4, atol=1e-4)
    assert np.isfinite(output_of(model, np.zeros((1, 5), "int32"))).all()


@pytest.mark.parametrize("kernel_sizes", [5, "57", (3, 0), (2.5,)])
def test_region_cnn_refuses_what_are_no_kernel_sizes(kernel_sizes):
    with pytest.raises(ValueError, match="`kernel_size"):
        models.region_cnn((5,), kernel_sizes=kernel_sizes)
