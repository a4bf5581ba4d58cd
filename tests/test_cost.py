"""`profile` against counts by hand, published counts and TensorFlow's own profiler."""

import fnmatch
import json
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import sepconv_layers
from sepconv_layers.cost import RULES, profile, separable_ratio
from tests.backends import BACKEND


def chain(input_shape, *stages, **kwargs):
    return keras.Sequential([keras.Input(input_shape, **kwargs), *stages])


def connect(layer, *shapes):
    """A functional model of one layer with one or several inputs."""
    inputs = [keras.Input(shape) for shape in shapes]
    if "query" in layer._call_signature.parameters:
        return keras.Model(inputs, layer(*inputs))
    return keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))


def test_published_counts():
    assert profile(keras.applications.MobileNet(weights=None)).macs == 568_740_352
    assert profile(keras.applications.MobileNetV2(weights=None)).macs == 300_774_272


LSTM_4_TO_3 = 4 * 12 + 3 * 12  # MACs of one step from 4 features to 3 units
GRU_4_TO_3 = 4 * 9 + 3 * 9

BY_HAND = [
    # Outputs times what each output sums up; transposed, inputs times what each input adds to.
    ("Conv1D", {"filters": 4, "kernel_size": 3, "dilation_rate": 2}, [(10, 3)], 6 * 4 * (3 * 3)),
    ("Conv1D", {"filters": 4, "kernel_size": 3, "padding": "causal"}, [(10, 3)], 10 * 4 * (3 * 3)),
    ("Conv2D", {"filters": 5, "kernel_size": (3, 2)}, [(9, 7, 4)], 7 * 6 * 5 * (6 * 4)),
    (
        "Conv2D",
        {"filters": 6, "kernel_size": 3, "groups": 2, "strides": 2, "padding": "same"},
        [(9, 7, 4)],
        5 * 4 * 6 * (9 * 2),
    ),
    ("Conv3D", {"filters": 3, "kernel_size": (1, 2, 3)}, [(5, 6, 7, 2)], 5 * 5 * 5 * 3 * (6 * 2)),
    ("DepthwiseConv1D", {"kernel_size": 3, "depth_multiplier": 2}, [(10, 3)], 8 * 6 * 3),
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}, [(9, 7, 3)], 7 * 5 * 6 * 9),
    ("SeparableConv1D", {"filters": 5, "kernel_size": 3}, [(10, 4)], 8 * (4 * 3 + 4 * 5)),
    (
        "SeparableConv2D",
        {"filters": 5, "kernel_size": 3, "depth_multiplier": 2},
        [(9, 7, 4)],
        7 * 5 * (8 * 9 + 8 * 5),
    ),
    ("Conv1DTranspose", {"filters": 5, "kernel_size": 4, "strides": 2}, [(10, 3)], 10 * 3 * 4 * 5),
    (
        "Conv2DTranspose",
        {"filters": 5, "kernel_size": (4, 3), "strides": 2, "padding": "same"},
        [(4, 6, 3)],
        4 * 6 * 3 * 12 * 5,
    ),
    ("Conv3DTranspose", {"filters": 5, "kernel_size": 2}, [(4, 5, 3, 2)], 60 * 2 * 8 * 5),
    ("STFTSpectrogram", {"frame_length": 16, "frame_step": 8}, [(64, 1)], 7 * 9 * 16 * 2),
    ("STFTSpectrogram", {"mode": "stft", "frame_length": 16}, [(64, 1)], 7 * 18 * 16),
    ("Dense", {"units": 3}, [(4,)], 4 * 3),
    ("Dense", {"units": 3}, [(5, 6, 4)], 30 * 4 * 3),
    ("EinsumDense", {"equation": "ab,bc->ac", "output_shape": 3}, [(4,)], 4 * 3),
    (
        "EinsumDense",
        {"equation": "abcd,cdef->abef", "output_shape": (None, 3, 2)},
        [(5, 4, 7)],
        5 * (4 * 7) * (3 * 2),
    ),
    ("EinsumDense", {"equation": "...x,xy->...y", "output_shape": 3}, [(5, 4)], 5 * 4 * 3),
    ("Dot", {"axes": (2, 1)}, [(5, 8), (8, 3)], 5 * 8 * 3),
    ("Dot", {"axes": -1}, [(8,), (8,)], 8),
    # Scores and weighted sum for each pair of 5 queries and 7 values.
    ("Attention", {}, [(5, 8), (7, 8)], 5 * 7 * (8 + 8)),
    ("Attention", {"use_scale": True}, [(5, 8), (7, 3), (7, 8)], 5 * 7 * (8 + 3)),
    ("Attention", {"score_mode": "concat"}, [(5, 8), (7, 8)], 5 * 7 * 8),
    ("AdditiveAttention", {}, [(5, 8), (7, 8)], 5 * 7 * (8 + 8)),
    ("AdditiveAttention", {"use_scale": False}, [(5, 8), (7, 8)], 5 * 7 * 8),
    (
        "MultiHeadAttention",  # dropout keeps JAX from its kernel for equal dimensions
        {"num_heads": 2, "key_dim": 3, "value_dim": 4, "dropout": 0.1},
        [(5, 8), (7, 6)],
        5 * 8 * 6 + 7 * 6 * 6 + 7 * 6 * 8 + 5 * 8 * 8 + 2 * (5 * 7) * (3 + 4),
    ),
    (
        "MultiHeadAttention",
        {"num_heads": 2, "key_dim": 3, "attention_axes": (2,)},
        [(5, 4, 8), (5, 4, 8)],
        4 * (20 * 8 * 6) + 5 * 2 * (4 * 4) * (3 + 3),
    ),
    (
        "GroupQueryAttention",
        {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2},
        [(5, 8), (7, 8)],
        5 * 8 * 12 + 2 * (7 * 8 * 6) + 5 * 12 * 8 + 4 * (5 * 7) * (3 + 3),
    ),
    ("SimpleRNN", {"units": 3}, [(7, 4)], 7 * (4 * 3 + 3 * 3)),
    ("GRU", {"units": 3, "return_sequences": True}, [(7, 4)], 7 * GRU_4_TO_3),
    ("LSTM", {"units": 3, "return_state": True}, [(7, 4)], 7 * LSTM_4_TO_3),
    ("ConvLSTM1D", {"filters": 3, "kernel_size": 3}, [(6, 5, 2)], 6 * 3 * 12 * (3 * 2 + 3 * 3)),
    (
        "ConvLSTM2D",
        {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"},
        [(6, 8, 5, 2)],
        6 * (4 * 3) * 12 * (9 * 2 + 9 * 3),
    ),
    (
        "ConvLSTM3D",
        {"filters": 3, "kernel_size": 2, "return_sequences": True},
        [(6, 3, 4, 5, 2)],
        6 * (2 * 3 * 4) * 12 * (8 * 2 + 8 * 3),
    ),
    # Free by rule.
    ("BatchNormalization", {}, [(5, 6, 4)], 0),
    ("LayerNormalization", {}, [(5, 4)], 0),
    ("PReLU", {}, [(5, 4)], 0),
    ("AveragePooling3D", {"pool_size": 2}, [(4, 4, 4, 3)], 0),
    ("GlobalMaxPooling1D", {}, [(5, 4)], 0),
    ("Multiply", {}, [(5, 4), (5, 4)], 0),
    ("UpSampling2D", {"interpolation": "bilinear"}, [(5, 6, 4)], 0),
    ("SpatialDropout2D", {"rate": 0.5}, [(5, 6, 4)], 0),
    ("RandomRotation", {"factor": 0.1}, [(8, 8, 3)], 0),
    ("Embedding", {"input_dim": 9, "output_dim": 4}, [(7,)], 0),
]


@pytest.mark.parametrize(
    ("name", "arguments", "shapes", "macs"), BY_HAND, ids=lambda v: str(v)[:40]
)
def test_layer_by_hand(name, arguments, shapes, macs):
    model = connect(getattr(layers, name)(**arguments), *shapes)
    result = profile(model)
    assert result.macs == macs
    assert result.uncounted == ()
    assert result.params == sum(row.params for row in result.rows) == model.count_params()


def test_layers_around_layers():
    """Wrappers and cells cost what they hold."""
    conv = 6 * 6 * 4 * (9 * 3)
    cases = [
        (chain((8, 8, 3), layers.SpectralNormalization(layers.Conv2D(4, 3))), conv),
        (chain((5, 8, 8, 3), layers.TimeDistributed(layers.Conv2D(4, 3))), 5 * conv),
        (chain((7, 4), layers.Bidirectional(layers.LSTM(3))), 2 * 7 * LSTM_4_TO_3),
        (chain((7, 4), layers.Bidirectional(layers.GRU(3), merge_mode="sum")), 2 * 7 * GRU_4_TO_3),
        (
            chain((7, 4), layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])),
            7 * (LSTM_4_TO_3 + 3 * 6 + 2 * 6),
        ),
    ]
    for model, macs in cases:
        result = profile(model)
        assert (result.macs, result.params, result.uncounted) == (macs, model.count_params(), ())


def test_tied_embedding_counts_its_projection_alone():
    tokens = keras.Input((7,), dtype="int32")
    embedding = layers.ReversibleEmbedding(10, 4)
    result = profile(keras.Model(tokens, embedding(embedding(tokens), reverse=True)))
    assert result.macs == 7 * 4 * 10
    assert [row.params for row in result.rows] == [40, 0]


def test_every_keras_layer_has_a_rule_or_a_reason():
    patterns = [pattern for names in RULES for pattern in names.split()]
    classes = {name: cls for name, cls in vars(layers).items() if isinstance(cls, type)}
    without = {
        name
        for name, cls in classes.items()
        if not any(fnmatch.fnmatchcase(base.__name__, p) for base in cls.__mro__ for p in patterns)
    }
    bases = {"InputSpec", "Layer", "Wrapper"}
    sums_of_their_layers = {"Pipeline", "TimeDistributed"}
    opaque = {"FlaxLayer", "JaxLayer", "Lambda", "TFSMLayer", "TorchModuleWrapper"}
    fourier_transforms = {"MelSpectrogram"}
    assert without <= bases | sums_of_their_layers | opaque | fourier_transforms


SIZES = (6, 5, 7)
BLOCK_MACS = {  # taps K, filters 6, of an input of 4 channels
    "Conv{}D": lambda taps: taps * 4 * 6,
    "DepthwiseConv{}D": lambda taps: taps * 4,
    "SeparableConv{}D": lambda taps: taps * 4 + 4 * 6,
    "ConvBlock{}D": lambda taps: taps * 4 * 6,
    "SeparableConvBlock{}D": lambda taps: taps * 4 + 4 * 6,
    "ResidualConvBlock{}D": lambda taps: taps * 4 * 6 + 4 * 6,
    "ResidualSeparableConvBlock{}D": lambda taps: taps * 4 + 4 * 6 + 4 * 6,
    "InvertedBottleneckBlock{}D": lambda taps: 4 * 8 + taps * 8 + 8 * 6,
    "FusedInvertedBottleneckBlock{}D": lambda taps: taps * 4 * 8 + 8 * 6,
}
BLOCK_ARGUMENTS = {"Residual": {"repeats": 1}, "Inverted": {"expansion": 2}}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", BLOCK_MACS)
def test_own_layers_and_blocks(name, rank):
    filters = () if name.startswith("Depthwise") else (6,)
    arguments = [v for k, v in BLOCK_ARGUMENTS.items() if k in name]
    cls = getattr(sepconv_layers, name.format(rank))
    layer = cls(*filters, kernel_size=3, padding="same", **(arguments or [{}])[0])
    result = profile(chain((*SIZES[:rank], 4), layer))
    assert result.macs == np.prod(SIZES[:rank]) * BLOCK_MACS[name](3**rank)
    assert result.uncounted == ()
    assert result.params == sum(row.params for row in result.rows)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_squeeze_excite_and_channels_first_input(rank):
    layer = getattr(sepconv_layers, f"SqueezeExcite{rank}D")(0.5, data_format="channels_first")
    result = profile(chain((4, *SIZES[:rank]), layer))
    assert result.macs == 4 * 2 + 2 * 4
    assert [row.name for row in result.rows] == [f"{layer.name}/squeeze", f"{layer.name}/excite"]


@pytest.mark.parametrize("kernel_size", [3, (5,), (3, 3), (1, 3, 5)])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_separable_ratio_is_the_ratio_of_the_profiles(kernel_size, multiplier):
    rank = 2 if isinstance(kernel_size, int) else len(kernel_size)
    shape = (*SIZES[:rank], 4)
    separable = getattr(sepconv_layers, f"SeparableConv{rank}D")
    standard = getattr(sepconv_layers, f"Conv{rank}D")
    options = {"filters": 10, "kernel_size": kernel_size, "padding": "same"}
    counts = [
        profile(chain(shape, layer)).macs
        for layer in (separable(depth_multiplier=multiplier, **options), standard(**options))
    ]
    assert separable_ratio(10, kernel_size, multiplier) == pytest.approx(counts[0] / counts[1])


def test_separable_ratio_is_the_textbook_one_and_rejects_sizes_below_one():
    assert separable_ratio(512, 3) == pytest.approx(1 / 512 + 1 / 9)
    for bad in [(0, 3), (8, 0), (8, (3, -1)), (8, 3, 0)]:
        with pytest.raises(ValueError, match="strictly positive value|value > 0"):
            separable_ratio(*bad)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3)
        self.head = keras.Sequential([layers.Flatten(), layers.Dense(2)], name="head")

    def call(self, inputs):
        return self.head(self.conv(inputs))


class TwoInputs(keras.Model):
    def __init__(self, keys):
        super().__init__()
        self.keys = keys
        self.left = layers.Dense(4)
        self.right = layers.Dense(4)

    def call(self, inputs):
        return self.left(inputs[self.keys[0]]) + self.right(inputs[self.keys[1]])


def test_subclassed_model_at_the_size_of_its_first_call():
    model = Subclassed()
    model(np.zeros((2, 8, 8, 3), "float32"))
    result = profile(model)
    assert result.macs == 36 * 4 * 27 + 36 * 4 * 2
    assert [row.kind for row in result.rows] == ["Conv2D", "Flatten", "Dense"]
    assert result.rows[1].name.startswith("head/")


def test_subclassed_models_with_several_inputs():
    shape = {"left": (3,), "right": (5,)}
    model = TwoInputs(["left", "right"])
    model({name: np.zeros((2, *sizes), "float32") for name, sizes in shape.items()})
    assert profile(model).macs == profile(model, shape).macs == (3 + 5) * 4
    model = TwoInputs([0, 1])
    model([np.zeros((2, 3), "float32"), np.zeros((2, 5), "float32")])
    assert profile(model).macs == profile(model, [(3,), (5,)]).macs == (3 + 5) * 4


def test_single_layer():
    layer = layers.Dense(3, name="alone")
    layer.build((None, 5))
    (row,) = profile(layer).rows
    assert (row.name, row.kind, row.macs, row.params) == ("alone", "Dense", 15, 18)


def test_shared_layer_counts_weights_once_and_macs_at_each_call():
    dense = layers.Dense(4, name="shared")
    x, y = keras.Input((4,), name="x"), keras.Input((6, 4), name="y")
    result = profile(keras.Model({"x": x, "y": y}, [dense(dense(x)), dense(y)]))
    assert result.macs == 2 * 16 + 6 * 16
    assert result.params == 20
    assert [(row.calls, row.params, row.macs) for row in result.rows] == [(2, 20, 32), (1, 0, 96)]


def test_nested_models_give_the_path_and_repeats_share_a_row():
    frame, video = keras.Input((8, 8, 3)), keras.Input((5, 8, 8, 3))
    inner = keras.Sequential([layers.Conv2D(4, 3, name="conv")], name="inner")
    outer = keras.Model(frame, inner(frame), name="outer")
    result = profile(keras.Model(video, layers.TimeDistributed(outer, name="frames")(video)))
    (row,) = result.rows
    assert (row.name, row.calls, row.macs) == ("frames/outer/inner/conv", 5, 5 * 36 * 4 * 27)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has strings")
def test_layers_behind_strings_are_counted():
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            layers.TextVectorization(vocabulary=["bad", "good"], output_sequence_length=6),
            layers.Embedding(4, 4),
            layers.Conv1D(3, 3),
        ]
    )
    result = profile(model)
    assert result.macs == 4 * 3 * 4 * 3 and result.rows[-1].output_shape == (1, 4, 3)
    assert result.uncounted == ()


def test_operations_of_a_functional_model():
    x = keras.Input((5, 8))
    scores = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    mixed = ops.einsum("bij,bjk->bik", ops.softmax(scores * 2 + 1), x)
    result = profile(keras.Model(x, mixed))
    assert result.macs == 2 * 5 * 5 * 8
    kernel = np.ones((3, 8, 2), "float32")
    with pytest.warns(UserWarning, match="Conv"):
        result = profile(keras.Model(x, ops.conv(mixed, kernel)))
    assert result.macs == 2 * 5 * 5 * 8


def test_bytes_activations_and_intensity():
    result = profile(chain((8, 8, 3), layers.Conv2D(4, 3)))
    numbers = 8 * 8 * 3 + (27 * 4 + 4) + 6 * 6 * 4
    assert (result.activations, result.bytes) == (6 * 6 * 4, 4 * numbers)
    assert result.intensity == result.rows[0].intensity == result.macs / result.bytes
    half = profile(chain((8, 8, 3), layers.Conv2D(4, 3, dtype="mixed_float16"), dtype="float16"))
    assert half.bytes == 2 * numbers
    tokens = profile(chain((7,), layers.Embedding(9, 4), dtype="int32"))
    assert tokens.bytes == 4 * (7 + 9 * 4 + 7 * 4)


def test_quantized_layer_keeps_its_macs():
    dense = layers.Dense(6)
    model = chain((8,), dense)
    before = profile(model)
    dense.quantize("int8")
    after = profile(model)
    assert after.macs == before.macs == 8 * 6
    assert after.bytes < before.bytes


class Scale(layers.Layer):
    """No sublayers."""

    def call(self, inputs):
        return inputs * 2


class Mixes(layers.Layer):
    """Weights of its own beside those of a sublayer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.mix = self.add_weight(shape=(4, 4))

    def call(self, inputs):
        return ops.matmul(self.dense(inputs), self.mix)


class NotJustPooling(layers.GlobalAveragePooling1D):
    """No longer what makes its base class free."""

    def call(self, inputs):
        return ops.matmul(super().call(inputs), ops.ones((4, 4)))


class Borrows(layers.Layer):
    """Calls none of its sublayers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return ops.matmul(inputs, self.dense.kernel)


class Speaks(Mixes):
    def compute_macs(self, input_shape, output_shape):
        assert (input_shape, output_shape) == ((1, 3), (1, 4))
        return 3 * 4 + 4 * 4


@pytest.mark.parametrize(
    ("layer", "macs"), [(Scale, 0), (Mixes, 12), (Borrows, 0), (layers.Lambda, 0)]
)
def test_what_cannot_be_counted_is_listed(layer, macs):
    arguments = {"function": lambda x: x + 1} if layer is layers.Lambda else {}
    model = chain((3,), layer(name="custom", **arguments))
    with pytest.warns(UserWarning, match="cannot be counted"):
        result = profile(model)
    assert result.uncounted == (f"custom ({layer.__name__})",)
    assert result.macs == macs
    assert result.params == model.count_params() == sum(row.params for row in result.rows)
    assert [row.macs for row in result.rows][-1] is None
    assert "?" in str(result) and "Not counted: custom" in str(result)
    assert "Not counted: custom" in result.to_markdown()


def test_a_subclass_with_its_own_call_is_not_free():
    with pytest.warns(UserWarning, match="NotJustPooling"):
        assert profile(chain((3, 4), NotJustPooling(name="pool"))).rows[0].macs is None


def test_custom_cell_cannot_be_counted():
    class Cell(layers.Layer):
        state_size = 4

        def call(self, inputs, states):
            return inputs, states

    with pytest.warns(UserWarning, match="RNN"):
        assert profile(chain((7, 4), layers.RNN(Cell()))).uncounted


def test_a_layer_can_count_itself():
    result = profile(chain((3,), Speaks()))
    assert (result.macs, result.uncounted) == (3 * 4 + 4 * 4, ())
    assert len(result.rows) == 1


def test_the_model_is_left_as_it_was():
    model = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), classes=3)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    weights, outputs = model.get_weights(), model.predict(x, verbose=0)
    states = [dict(vars(layer)) for layer in model._flatten_layers()]
    profile(model)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == [set(s) for s in states]
    assert all(map(np.array_equal, model.get_weights(), weights))
    np.testing.assert_array_equal(model.predict(x, verbose=0), outputs)


def test_an_error_leaves_the_model_as_it_was():
    class Fails(layers.Layer):
        def compute_output_shape(self, input_shape):
            return input_shape

        def call(self, inputs):
            raise RuntimeError("on purpose")

    model = chain((3,), layers.Dense(2), Fails())
    with pytest.raises(RuntimeError, match="on purpose"):
        profile(model)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())


def test_open_sizes_and_misfits_are_refused():
    model = chain((None, None, 3), layers.Conv2D(4, 3))
    assert profile(model, (8, 6, 3)).macs == 6 * 4 * 4 * 27
    for bad in (None, 8, (None, 6, 3), (1, 8, 6, 3), (8, 6, 4), (0, 6, 3), [(8, 6, 3)] * 2):
        with pytest.raises(ValueError, match="`input_shape` must contain every size .* Received"):
            profile(model, bad)
    inputs = [keras.Input((3,), name="a"), keras.Input((None,), name="b")]
    model = keras.Model(inputs, layers.Concatenate()(inputs))
    assert profile(model, [(3,), (4,)]).rows[0].output_shape == (1, 7)
    assert profile(model, {"b": (4,), "a": (3,)}).rows[0].output_shape == (1, 7)
    for bad in ([(3,)], (3,), {"a": (3,)}, {"a": (3,), "b": (4,), "c": (5,)}):
        with pytest.raises(ValueError, match="`input_shape` must contain every size .* Received"):
            profile(model, bad)


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer:UserWarning")
def test_a_model_without_weights_is_refused_and_not_built():
    called_built = Subclassed()
    called_built.build((None, 8, 8, 3))  # marks the model as built, without its layers
    with pytest.raises(ValueError, match="`model` must be a Keras model or layer. Received.*'net'"):
        profile("net")
    for model in (Subclassed(), called_built, keras.Sequential([layers.Dense(3)])):
        with pytest.raises(ValueError, match="`model` must have all its weights"):
            profile(model, (8, 8, 3))
        assert model.weights == []


def test_table_and_markdown_show_rows_and_totals():
    result = profile(chain((8, 8, 3), layers.Conv2D(4, 3, name="conv"), layers.ReLU(name="act")))
    lines = str(result).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert (
        lines[0].split()
        == "layer kind output shape params MACs activations bytes MACs/byte".split()
    )
    assert lines[2].split()[:2] == ["conv", "Conv2D"] and "3,888" in lines[2]
    assert lines[-1].split()[:3] == ["total", "112", "3,888"]
    rows = [line.strip("| ").split(" | ") for line in result.to_markdown().splitlines()]
    assert rows[2][:5] == ["conv", "Conv2D", "(1, 6, 6, 4)", "112", "3,888"]
    assert len({line.count("|") for line in result.to_markdown().splitlines()}) == 1


def test_json_holds_all_of_it():
    with pytest.warns(UserWarning):
        result = profile(chain((3,), layers.Dense(2), Scale(name="scale")))
    record = json.loads(result.to_json())
    for key in ("name", "macs", "params", "activations", "bytes", "intensity"):
        assert record[key] == getattr(result, key)
    assert record["uncounted"] == ["scale (Scale)"]
    assert [row["macs"] for row in record["rows"]] == [6, None]
    assert record["rows"][0]["output_shape"] == [1, 2]


def test_plot(tmp_path, monkeypatch):
    result = profile(chain((8, 8, 3), layers.Conv2D(4, 3), layers.ReLU(), layers.Conv2D(2, 3)))
    pytest.importorskip("matplotlib")
    figure = result.plot(tmp_path / "cost.png")
    assert [len(axes.patches) for axes in figure.axes] == [2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["cost.png"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[plot\]'"):
        result.plot()


# TensorFlow counts two FLOPs for a MAC of these operations. It counts others beside them, which
# `profile` takes as free: bias, batch norm (Mul, AddV2, Rsqrt, Sub), pooling, softmax and so on.
# Nets with grouped convolutions, such as ConvNeXt, are left out: on a CPU Keras compiles these into
# a call that the profiler does not look into.
MAC_OPERATIONS = {"Conv2D", "DepthwiseConv2dNative", "MatMul"}
FREE_OPERATIONS = {
    *("AddV2", "AvgPool", "BiasAdd", "MaxPool", "Maximum", "Mean", "Mul"),
    *("RealDiv", "Rsqrt", "Softmax", "Sub"),
}


def tensorflow_flops(model, input_shape):
    """FLOPs of one sample for each kind of operation, by TensorFlow's profiler."""
    import tensorflow as tf

    profiler = tf.compat.v1.profiler
    function = tf.function(lambda x: model(x, training=False))
    graph = function.get_concrete_function(tf.TensorSpec((1, *input_shape))).graph
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    node = profiler.profile(graph, cmd="op", options=options.with_empty_output().build())
    flops = {}
    while node.children:  # the profiler chains the kinds of operation
        (node,) = node.children
        flops[node.name] = node.float_ops
    return {name: count for name, count in flops.items() if count}


APPLICATIONS = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "MobileNetV3Large": 64,
    "EfficientNetB0": 64,
    "ResNet50": 64,
    "VGG16": 64,
    "VGG19": 64,
    "Xception": 71,
    "InceptionV3": 75,
}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's profiler reads its graphs")
@pytest.mark.parametrize("name", APPLICATIONS)
def test_agrees_with_the_profiler_of_tensorflow(name):
    shape = (APPLICATIONS[name],) * 2 + (3,)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    flops = tensorflow_flops(model, shape)
    result = profile(model)
    assert 2 * result.macs == sum(flops.pop(kind, 0) for kind in MAC_OPERATIONS)
    assert set(flops) <= FREE_OPERATIONS
    assert result.uncounted == ()
    assert result.params == sum(row.params for row in result.rows) == model.count_params()
