"""Every activation and layer of Keras in LiteRT and ONNX: it agrees, or is refused by name."""

import importlib
import inspect
import re

import keras
import numpy as np
import pytest
from keras import layers as L

from sepconv_layers import export
from tests.backends import BACKEND, HAS_CHANNELS_FIRST, needs_channels_first

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)

WRITERS = {"litert": export.to_litert, "onnx": export.to_onnx}
SUFFIXES = {"litert": "tflite", "onnx": "onnx"}
KINDS = pytest.mark.parametrize("kind", WRITERS)
TEXTS = np.array([["a", "b"], ["b", "c"]], object)
# Names of inputs, and what is fed. Odd, unequal sizes, and channels in two groups at either end.
SHAPES = {
    "features": (5, 4),
    "sequence": (12, 4),
    "steps": (4, 3),
    "image": (8, 6, 4),
    "volume": (6, 5, 4, 4),
    "rgb": (8, 6, 3),
    "wave": (600,),
    "tokens": (6,),
}
BY_RANK = dict(enumerate(("sequence", "image", "volume"), start=1))


def twice(layer):
    """A layer that takes several tensors, called with two."""
    return lambda x: layer([x, -0.3 * x])


def first(layer):
    return lambda x: layer(x[..., :1])


ACTIVATIONS = {
    name: getattr(keras.activations, name)
    for name in keras.activations.__dict__
    if not name.startswith("_") and name not in ("get", "serialize", "deserialize", "threshold")
} | {
    "threshold": lambda x: keras.activations.threshold(x, 0.2, -1.0),
}


FIRST = {"data_format": "channels_first"}
CONVOLUTIONS = {
    "Conv": [
        {},
        {"strides": 2, "padding": "same"},
        {"dilation_rate": 2, "padding": "same"},
        FIRST,
        {"groups": 2},
        {"groups": 4, "filters": 8},
        {"groups": 2, "strides": 2, "padding": "same"},
        {"groups": 2, "dilation_rate": 2, "kernel_size": 2},
        {"groups": 2, **FIRST},
    ],
    "ConvTranspose": [{}, {"strides": 2, "padding": "same"}, FIRST],
    "SeparableConv": [{}, {"dilation_rate": 2, "padding": "same"}, FIRST],
}
POOLING = [{}, {"pool_size": 3, "strides": 2, "padding": "same"}, FIRST]


def of_rank(rank):
    """Layers that have a rank, as pairs of a name and arguments."""
    for family, variants in CONVOLUTIONS.items():
        name, transposed, _ = family.partition("Transpose")
        if family != "SeparableConv" or rank < 3:
            for variant in variants:
                yield f"{name}{rank}D{transposed}", {"filters": 6, "kernel_size": 3, **variant}
    if rank < 3:
        for variant in CONVOLUTIONS["SeparableConv"]:
            yield f"DepthwiseConv{rank}D", {"kernel_size": 3, **variant}
    for way in ("Max", "Average"):
        for variant in POOLING:
            yield f"{way}Pooling{rank}D", {"pool_size": 2, **variant}
        yield f"Global{way}Pooling{rank}D", {}
        yield f"Global{way}Pooling{rank}D", FIRST
        yield f"Adaptive{way}Pooling{rank}D", {"output_size": 3}
    yield f"UpSampling{rank}D", {}
    yield f"ZeroPadding{rank}D", {}
    yield f"Cropping{rank}D", {}
    yield f"SpatialDropout{rank}D", {"rate": 0.5}


def cases():
    """What is to be exported: the input, the class or activation, and a function."""
    for name, activation in ACTIVATIONS.items():
        yield "features", name, L.Activation(activation)
    for rank, source in BY_RANK.items():
        for name, arguments in of_rank(rank):
            if arguments.get("data_format") == "channels_first" and not HAS_CHANNELS_FIRST:
                continue
            yield source, name, getattr(L, name)(**arguments)
    yield "image", "ConvLSTM1D", L.ConvLSTM1D(2, 3, padding="same")
    yield "volume", "ConvLSTM2D", L.ConvLSTM2D(2, 2)
    yield "volume", "ConvLSTM3D", lambda x: L.ConvLSTM3D(2, 2)(x[..., None])
    for layer in (
        L.Add(), L.Average(), L.Maximum(), L.Minimum(), L.Multiply(), L.Subtract(), L.Concatenate(),
    ):  # fmt: skip
        yield "image", type(layer).__name__, twice(layer)
    for layer in (L.Dot(axes=1), L.Attention(), L.AdditiveAttention()):
        yield "sequence", type(layer).__name__, twice(layer)
    for arguments in ({}, {"use_causal_mask": True}):
        attend = L.MultiHeadAttention(2, 3)
        yield "sequence", "MultiHeadAttention", lambda x, a=arguments, f=attend: f(x, x, **a)
    yield "sequence", "GroupedQueryAttention", lambda x: L.GroupQueryAttention(3, 4, 2)(x, x)
    for layer in (
        L.SimpleRNN(3), L.LSTM(3), L.GRU(3), L.GRU(3, reset_after=False), L.LSTM(3, unroll=True),
        L.LSTM(3, go_backwards=True, return_sequences=True), L.RNN(L.GRUCell(3)),
        L.RNN(L.StackedRNNCells([L.LSTMCell(3), L.SimpleRNNCell(2)])),
        L.Bidirectional(L.LSTM(3, return_sequences=True)), L.EinsumDense("abc,cd->abd", (None, 5)),
    ):  # fmt: skip
        yield "steps", type(layer).__name__, layer
    yield "steps", "Masking", lambda x: L.LSTM(3)(L.Masking()(x))
    yield "image", "TimeDistributed", L.TimeDistributed(L.Conv1D(4, 3, groups=2))
    # Not beside the exact one: LiteRT has GELU as a whole, and no common part of the two.
    yield "image", "gelu", L.Activation(lambda x: keras.activations.gelu(x, approximate=True))
    for layer in (
        L.BatchNormalization(), L.LayerNormalization(), L.UnitNormalization(), L.RMSNormalization(),
        L.GroupNormalization(2), L.Normalization(mean=1.0, variance=2.0),
        L.SpectralNormalization(L.Conv2D(3, 3)), L.ActivityRegularization(),
        L.AlphaDropout(0.5), L.Dropout(0.5), L.GaussianDropout(0.5), L.GaussianNoise(1.0),
        L.ELU(), L.LeakyReLU(), L.PReLU(), L.PReLU(shared_axes=(1, 2)), L.ReLU(6.0),
        L.ReLU(3.0, 0.1, 0.2), L.Softmax(), L.Identity(), L.Flatten(), L.Permute((2, 3, 1)),
        L.Reshape((-1, 2)), L.Dense(3), L.Rescaling(2.0, 1.0), L.Lambda(lambda x: 2 * x),
        L.CenterCrop(4, 4), L.Resizing(5, 5), L.Resizing(13, 7), L.Resizing(16, 18),
        L.Resizing(5, 5, interpolation="nearest"), L.Resizing(7, 11, pad_to_aspect_ratio=True),
        L.UpSampling2D(2, interpolation="bilinear"),
    ):  # fmt: skip
        yield "image", type(layer).__name__, layer
    yield "wave", "RepeatVector", L.RepeatVector(3)
    yield "wave", "STFTSpectrogram", lambda x: L.STFTSpectrogram("log", 64, 32, 64)(x[..., None])
    for layer in (L.Embedding(9, 3), L.ReversibleEmbedding(9, 3)):
        yield "tokens", type(layer).__name__, layer
    yield "tokens", "CategoryEncoding", first(L.CategoryEncoding(9, output_mode="one_hot"))
    # Layers that do nothing in inference, or always the same.
    half = {"factor": 0.5}
    for name, arguments in {
        "AugMix": {}, "AutoContrast": {}, "ContrastLimitedAdaptiveHistogramEqualization": {},
        "CutMix": {}, "MixUp": {}, "RandAugment": {}, "RandomBrightness": half,
        "RandomColorDegeneration": half, "RandomColorJitter": {"value_range": (0, 255)},
        "RandomContrast": half, "RandomCrop": {"height": 4, "width": 4},
        "RandomElasticTransform": {}, "RandomErasing": {}, "RandomFlip": {},
        "RandomGaussianBlur": {}, "RandomGrayscale": {}, "RandomHue": half, "RandomInvert": {},
        "RandomPerspective": {}, "RandomPosterization": {"factor": 4}, "RandomRotation": half,
        "RandomSaturation": half, "RandomSharpness": half, "RandomShear": {},
        "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
        "RandomZoom": {"height_factor": 0.2}, "Solarization": {},
    }.items():  # fmt: skip
        yield "rgb", name, getattr(L, name)(**arguments)


# What a format has no operation for: the input, what makes the layer, and the missing operation.
LOOKUP = {"onnx": "LookupTableFindV2", "litert": "LookupTableFindV2"}
REFUSED = {
    "AdaptiveAveragePooling3D": ("volume", lambda n: n(3), {"litert": "AvgPool3D"}),
    "AdaptiveMaxPooling3D": ("volume", lambda n: n(3), {"litert": "MaxPool3D"}),
    "CategoryEncoding": ("tokens", lambda n: n(9), {"litert": "DenseBincount"}),
    "Discretization": ("wave", lambda n: n([-0.5, 0.0]), {"onnx": "Bucketize"}),
    "HashedCrossing": (
        "tokens",
        lambda n: lambda x: n(5)((x[:, :1], x[:, 1:2])),
        {"onnx": "SparseCross", "litert": "SparseCross"},
    ),
    "Hashing": (
        "tokens",
        lambda n: n(5),
        {"onnx": "StringToHashBucketFast", "litert": "AsString, StringToHashBucketFast"},
    ),
    "IntegerLookup": ("tokens", lambda n: n(vocabulary=[1, 2]), LOOKUP),
    "StringLookup": ("texts", lambda n: n(vocabulary=["a", "b"]), LOOKUP),
    "TextVectorization": (
        "texts",
        lambda n: first(n(vocabulary=["a"], output_sequence_length=4)),
        {"onnx": "LookupTableFindV2", "litert": "LookupTableFindV2, .*StringSplitV2"},
    ),
    # Its decibels are above a floor that the whole batch has, of which LiteRT sees one sample.
    "MelSpectrogram": (
        "wave",
        lambda n: n(fft_length=64, sequence_stride=32),
        {"onnx": "RFFT"},
    ),
    "Resizing": (
        "image",
        lambda n: n(16, 18, interpolation="bicubic"),
        {"litert": "ResizeBicubic"},
    ),
    "UpSampling2D": (
        "image",
        lambda n: n(2, interpolation="bicubic"),
        {"litert": "ResizeBicubic"},
    ),
}
# Bases, cells, which are tested in `RNN`, and what cannot be in such a model.
NO_LAYERS = {
    "Layer", "Wrapper", "InputLayer", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells",
    "JaxLayer", "FlaxLayer", "TorchModuleWrapper",  # of other backends
    "TFSMLayer",  # in test_hub.py
    "Pipeline", "MaxNumBoundingBoxes",  # of data sets
    "Equalization",  # is no function of symbolic tensors in Keras
}  # fmt: skip


def input_of(source):
    dtype = {"tokens": "int32", "texts": "string"}.get(source, "float32")
    return keras.Input(SHAPES.get(source, (2,)), dtype=dtype, name=source)


def sample_of(source, count=2):
    rng = np.random.default_rng(3)
    if source == "texts":
        return TEXTS
    if source == "tokens":
        return rng.integers(0, 9, (count, *SHAPES[source])).astype("int32")
    return rng.normal(size=(count, *SHAPES[source])).astype("float32")


@pytest.fixture(scope="module")
def models():
    """A model for each input, with an output for each case."""
    keras.utils.set_random_seed(0)
    inputs, outputs = {}, {}
    for source, name, function in cases():
        x = inputs.setdefault(source, input_of(source))
        own = outputs.setdefault(source, {})
        own[f"{name}_{len(own)}"] = function(x)
    return {source: keras.Model(inputs[source], outputs[source]) for source in inputs}


@KINDS
@pytest.mark.parametrize("source", SHAPES)
def test_what_a_format_has_agrees(kind, source, models, tmp_path, caplog):
    model, sample = models[source], sample_of(source)
    refused = {name for name, (*_, lacking) in REFUSED.items() if kind in lacking}
    kept = {
        name: output
        for name, output in model.output.items()
        if name.rpartition("_")[0] not in refused - {"CategoryEncoding", "Resizing", "UpSampling2D"}
    }
    net = keras.Model(model.input, kept)
    path = tmp_path / f"net.{SUFFIXES[kind]}"
    WRITERS[kind](net, path, sample=sample, tolerance=None)  # what is wrong is named below
    assert not [record for record in caplog.records if record.name.startswith("tf2onnx")]
    found, expected = export.load(path), net(sample, training=False)
    named = {re.sub(r"\W", "_", name): np.asarray(array) for name, array in expected.items()}
    assert set(found.outputs) == set(named)
    wrong = {
        name: difference
        for name, array in zip(found.outputs, found(sample), strict=True)
        if not (difference := np.abs(array - named[name]).max()) < 1e-5 * (1 + np.abs(array).max())
    }
    assert not wrong


@KINDS
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_lacks_is_refused_by_the_name_of_the_layer(kind, name, tmp_path):
    source, make, lacking = REFUSED[name]
    x = input_of(source)
    model = keras.Model(x, make(lambda *args, **kwargs: named_layer(name, *args, **kwargs))(x))
    if kind in lacking:
        match = rf"whose layer 'culprit' \({name}\) needs {lacking[kind]}, which"
        with pytest.raises(ValueError, match=match):
            WRITERS[kind](model, tmp_path / "net", sample=sample_of(source))
        assert not list(tmp_path.iterdir())
    else:
        artifact = WRITERS[kind](model, tmp_path / "net", sample=sample_of(source, 1))
        assert artifact.max_difference < 1e-2


def test_what_the_runtime_cannot_run_is_refused(tmp_path):
    x = input_of("image")
    model = keras.Model(x, L.Resizing(5, 5, interpolation="bicubic")(x), name="net")
    with pytest.raises(ValueError, match="ONNX Runtime cannot run the converted model 'net'"):
        export.to_onnx(model, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def named_layer(kind, *args, **kwargs):
    return getattr(L, kind)(*args, name="culprit", **kwargs)


def test_every_activation_and_layer_is_in_the_table():
    found = {
        cls.__name__
        for cls in vars(L).values()
        if inspect.isclass(cls) and issubclass(cls, keras.layers.Layer)
    }
    exported = {"Activation", *(name for _, name, _ in cases())}
    missing = found - exported - set(REFUSED) - NO_LAYERS
    assert not missing
    assert len(ACTIVATIONS) > 25


def small_convnext(**arguments):
    """With convolutions in groups and GELU."""
    module = importlib.import_module("keras.src.applications.convnext")
    return module.ConvNeXt((1, 1, 1, 1), (8, 12, 16, 20), **arguments)


def small_resnet(**arguments):
    module = importlib.import_module("keras.src.applications.resnet")

    def stack(x):
        return module.stack_residual_blocks_v1(x, 8, 2, stride1=2, name="stack")

    return module.ResNet(stack, False, True, name="resnet", **arguments)


@pytest.mark.parametrize("build", [small_convnext, small_resnet])
def test_nets_of_keras_go_through(build, tmp_path):
    keras.utils.set_random_seed(0)
    model = build(weights=None, input_shape=(32, 32, 3), classes=5, classifier_activation=None)
    sample = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    int8 = {"quantize": "int8", "calibration": sample}
    for number, (function, options) in enumerate(
        (
            (export.to_litert, {}),
            (export.to_litert, int8),
            (export.to_onnx, {}),
            (export.to_hub, {}),
        )
    ):
        artifact = function(model, tmp_path / f"net-{number}", **options)
        scale = max(1, np.abs(model(sample)).max())
        assert artifact.max_difference < scale * (0.2 if options else 1e-4)


@needs_channels_first
@pytest.mark.parametrize("to", [export.to_litert, export.to_onnx])
@pytest.mark.parametrize("family", ["Conv1D", "SeparableConv1D"])
def test_a_bias_goes_where_keras_adds_it(to, family, tmp_path):
    # Channels first, Keras 3.15 adds it along the last axis if that is as long as the channels.
    layer = getattr(keras.layers, family)(4, 3, padding="same", data_format="channels_first")
    model = keras.Sequential([keras.Input((1, 4)), layer])
    layer.bias.assign([0, 10, 20, 30])
    assert to(model, tmp_path / "net.file").max_difference < 1e-4
