"""Models that are rebuilt, with operations, attention and quantized layers in them."""

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import convert
from tests.backends import BACKEND, SHORT, output_of, the_same_everywhere

ops = keras.ops
# Of what is no dense layer.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 8, 4)).astype("float32")
PER_CHANNEL = RNG.normal(size=(4,)).astype("float32")
MATRIX = RNG.normal(size=(4, 4)).astype("float32")
ROWS = np.array([4, 0, 2])

OPERATIONS = {
    "reshape to a NumPy integer": lambda x: ops.reshape(x, (-1, np.int64(8), 6, np.int32(4))),
    "reshape to an array": lambda x: ops.reshape(x, np.array([-1, 8, 6, 4])),
    "pad by an array": lambda x: ops.pad(x, np.array([[0, 0], [1, 2], [0, 1], [0, 0]])),
    "pad with a NumPy number": lambda x: ops.pad(
        x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=np.float32(0.5)
    ),
    "add an array": lambda x: x + PER_CHANNEL,
    "take": lambda x: ops.take(x, ROWS, axis=np.int64(1)),
    "slice": lambda x: ops.slice(x, np.array([0, 1, 2, 0]), np.array([2, 4, 4, 4])),
    "strided": lambda x: x[..., ::2, :],
    "index by a NumPy integer": lambda x: x[:, np.int64(1) : np.int64(5)],
    "where": lambda x: ops.where(np.array([True, False, True, True]), x, PER_CHANNEL),
    "clip by arrays": lambda x: ops.clip(x, np.float32(-0.5), np.float32(0.5)),
    "einsum": lambda x: ops.einsum("bhwc,cd->bhwd", x, MATRIX),
    "matmul": lambda x: x @ MATRIX,
    "concatenate": lambda x: ops.concatenate([x, x * 2], axis=np.int64(-1)),
    "split": lambda x: ops.add(*ops.split(x, 2, axis=-1)),
    "split by an array": lambda x: ops.split(x, np.array([1, 3]), axis=-1)[1],
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "roll": lambda x: ops.roll(x, np.int64(2), axis=1),
    "repeat": lambda x: ops.repeat(x, np.array([2]), axis=1),
    "mean": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "cast": lambda x: ops.cast(ops.cast(x, "float16"), np.dtype("float32")),
    "resize": lambda x: ops.image.resize(x, np.array([3, 4])),
    "map": lambda x: ops.map(lambda row: row * PER_CHANNEL, x),
    "vectorized map": lambda x: ops.vectorized_map(lambda row: row + PER_CHANNEL, x),
}


def around(operation, shape=X.shape[1:]):
    """A net with an operation between layers that are folded, converted and made twins of."""
    keras.utils.set_random_seed(0)
    x = images = keras.Input(shape)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(x))
    x = operation(sl.SeparableConvBlock2D(4)(x))
    x = keras.layers.Conv2D(3, 1)(x)
    model = keras.Model(images, x)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(RNG.normal(size=4))
    return model


# Of which Keras 3.15 on PyTorch cannot even run the model.
NOT_ON_TORCH = ("pad by an array", "map", "vectorized map") if BACKEND == "torch" else ()


@pytest.mark.parametrize("name", [*OPERATIONS][:: 4 if SHORT else 1])
def test_an_operation_is_used_as_it_is(name):
    if name in NOT_ON_TORCH:
        pytest.skip("Keras cannot run it")
    model = around(OPERATIONS[name])
    names = [operation.name for operation in model.operations]
    nodes = [len(operation._inbound_nodes) for operation in model.operations]
    expected = output_of(model, X)
    folded = convert.fold_batch_norm(model)
    np.testing.assert_allclose(output_of(folded, X), expected, rtol=1e-4, atol=1e-5)
    assert sl.standard_twin(model).output_shape == model.output_shape
    assert sl.separable_twin(model).output_shape == model.output_shape
    # The model is left as it was.
    assert [operation.name for operation in model.operations] == names
    assert [len(operation._inbound_nodes) for operation in model.operations] == nodes
    np.testing.assert_array_equal(output_of(model, X), expected)


@the_same_everywhere
def test_full_rank_conversion_and_distillation_around_operations():
    model = around(lambda x: ops.mean(OPERATIONS["take"](x), axis=(1, 2), keepdims=True))
    same, _ = convert.to_separable(model, rank=9)
    np.testing.assert_allclose(output_of(same, X), output_of(model, X), rtol=1e-4, atol=1e-5)
    history = convert.distill(convert.to_separable(model)[0], model, X, epochs=1, verbose=0)
    assert np.isfinite(history["loss"]).all()


@the_same_everywhere
def test_an_operation_may_stand_in_several_places():
    class Scale(keras.Operation):
        """Takes an array, so that nothing is known of its configuration."""

        def __init__(self, by, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def call(self, x):
            return ops.multiply(x, self.by)

    scale = Scale(PER_CHANNEL, name="scale")
    x = keras.Input(X.shape[1:])
    inner = keras.Model(x, scale(sl.SeparableConvBlock2D(4)(scale(x))), name="inner")
    images = keras.Input(X.shape[1:])
    model = keras.Model(images, scale(inner(scale(inner(images)))))
    folded = convert.fold_batch_norm(model)
    np.testing.assert_allclose(output_of(folded, X), output_of(model, X), rtol=1e-4, atol=1e-5)
    new = folded.get_layer("inner").operations
    assert sum(operation.name == "scale" for operation in new) == 1
    assert scale not in new and sl.standard_twin(model).output_shape == model.output_shape


@the_same_everywhere
def test_operations_behind_a_pooling_stream():
    x = sequences = keras.Input((20, 4))
    x = keras.layers.Conv1D(4, 3, padding="causal")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(sequences, ops.reshape(x + PER_CHANNEL, (-1, np.int64(2), np.int64(2))))
    stream = sl.streaming.to_streaming(model).stream()
    x = RNG.normal(size=(1, 20, 4)).astype("float32")
    np.testing.assert_allclose(stream(x), output_of(model, x), rtol=1e-5, atol=1e-6)


@the_same_everywhere
def test_a_layer_that_cannot_be_made_anew_is_named():
    class Scale(keras.layers.Layer):
        def __init__(self, by, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def call(self, x):
            return ops.multiply(x, self.by)

    model = around(Scale(PER_CHANNEL, name="mine"))
    for function in (convert.fold_batch_norm, convert.to_separable, sl.standard_twin):
        with pytest.raises(ValueError, match="layer 'mine' cannot be cloned.*Scale.*get_config"):
            function(model)


# What Keras makes of the layers inside others.

SEQUENCES = RNG.normal(size=(2, 16, 3)).astype("float32")


WITH_DENSE_LAYERS_INSIDE = {
    "squeeze-excite": lambda: keras.Sequential(
        [keras.Input((16, 3)), sl.SqueezeExcite1D(0.7), keras.layers.Dense(2)]
    ),
    "block": lambda: keras.Sequential(
        [keras.Input((16, 3)), sl.InvertedBottleneckBlock1D(3, se_ratio=0.5)]
    ),
}


def weights_of(model):
    return sorted((*weight.path.split("/")[-2:], weight.dtype) for weight in model.weights)


def modes_of(model):
    modes = {layer.name: layer.quantization_mode for layer in model._flatten_layers()}
    return {name: mode for name, mode in modes.items() if mode}


# Keras collects garbage for each layer that it quantizes, which takes long: few layers, few modes.
QUANTIZED = [("squeeze-excite", "int8"), ("block", "int8"), ("block", "int4"), ("block", "float8")]


@pytest.mark.parametrize(("name", "mode"), QUANTIZED[1:2] if SHORT else QUANTIZED)
def test_a_quantized_model_is_saved_and_made_anew(name, mode, tmp_path):
    model = WITH_DENSE_LAYERS_INSIDE[name]()
    model.quantize(mode)
    x, expected = SEQUENCES, output_of(model, SEQUENCES)
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(output_of(again, x), expected)
    assert weights_of(again) == weights_of(model)
    for folded in (convert.fold_batch_norm(model), convert.fold_batch_norm(again, "float32")):
        np.testing.assert_allclose(output_of(folded, x), expected, rtol=1e-3, atol=1e-5)
        assert modes_of(folded) == modes_of(model)
    assert sl.profile(again).macs == sl.profile(WITH_DENSE_LAYERS_INSIDE[name]()).macs


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports need TensorFlow")
def test_a_quantized_model_is_exported_or_its_layers_are_named(tmp_path):
    model = WITH_DENSE_LAYERS_INSIDE["block"]()
    model.quantize("int8")
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    sl.export.to_hub(again, tmp_path / "hub", sample=SEQUENCES)
    sl.export.to_onnx(again, tmp_path / "net.onnx", sample=SEQUENCES)
    with pytest.raises(ValueError, match="quantized .*squeeze' to int8.*before `model.quantize`"):
        sl.export.to_litert(again, tmp_path / "net.tflite", sample=SEQUENCES)


@the_same_everywhere
def test_how_a_layer_was_quantized_is_kept(tmp_path):
    model = WITH_DENSE_LAYERS_INSIDE["block"]()
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.quantize(config=config)  # the weights alone
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(output_of(again, SEQUENCES), output_of(model, SEQUENCES))


@the_same_everywhere
def test_twins_and_conversion_of_a_quantized_model():
    model = WITH_DENSE_LAYERS_INSIDE["block"]()
    model.quantize("int8")
    standard = sl.standard_twin(model)
    assert [weight.dtype for weight in standard.weights].count("int8") == 2
    separable = sl.separable_twin(standard)
    assert separable.count_params() == model.count_params()
    same, _ = convert.to_separable(standard, rank=3)
    np.testing.assert_allclose(
        output_of(same, SEQUENCES), output_of(standard, SEQUENCES), rtol=1e-3, atol=1e-5
    )


def squeeze_of(model):
    (layer,) = (layer for layer in model._flatten_layers() if layer.name == "squeeze")
    return layer


def test_lora_inside_a_block_stays(tmp_path):
    model = WITH_DENSE_LAYERS_INSIDE["block"]()
    squeeze_of(model).enable_lora(2, lora_alpha=3)
    squeeze_of(model).lora_kernel_b.assign(np.ones(squeeze_of(model).lora_kernel_b.shape))
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    expected = output_of(model, SEQUENCES)
    for other in (again, convert.fold_batch_norm(model)):
        np.testing.assert_allclose(output_of(other, SEQUENCES), expected, rtol=1e-4, atol=1e-6)
        assert (squeeze_of(other).lora_rank, squeeze_of(other).lora_alpha) == (2, 3)
        assert not squeeze_of(other)._kernel.trainable


def test_a_type_of_one_stage_stays(tmp_path):
    model = WITH_DENSE_LAYERS_INSIDE["block"]()
    plain = WITH_DENSE_LAYERS_INSIDE["block"]()
    plain.set_weights(model.get_weights())
    before = output_of(plain, SEQUENCES)
    (expand,) = (layer for layer in model._flatten_layers() if layer.name == "expand")
    expand.dtype_policy = "bfloat16"
    expected = output_of(model, SEQUENCES)
    assert np.abs(expected - before).max() > 1e-5  # it counts on every backend
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(output_of(again, SEQUENCES), expected)


@the_same_everywhere
def test_a_map_of_types_is_heeded_inside(tmp_path):
    half = keras.dtype_policies.DTypePolicy("bfloat16")
    types = keras.dtype_policies.DTypePolicyMap("float32", {".*/squeeze": half})
    block = sl.InvertedBottleneckBlock1D(3, se_ratio=0.5, dtype=types)
    model = keras.Sequential([keras.Input((16, 3)), block])
    assert squeeze_of(model).compute_dtype == "bfloat16"
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert squeeze_of(again).compute_dtype == "bfloat16"
    np.testing.assert_array_equal(output_of(again, SEQUENCES), output_of(model, SEQUENCES))
    floats = {layer.compute_dtype for layer in convert.fold_batch_norm(model, "float32").layers}
    assert floats == {"float32"}


# Nets of others.


def conformer():
    """Attention, gates and a depthwise convolution, with operations between them."""
    x = sequences = keras.Input((20, 8))
    x = keras.layers.Conv1D(8, 3, padding="same")(x) + RNG.normal(size=(20, 8)).astype("float32")
    attended = keras.layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    x = keras.layers.LayerNormalization()(x + attended)
    y, gate = ops.split(keras.layers.Conv1D(16, 1)(x), 2, axis=-1)
    y = sl.DepthwiseConv1D(5, padding="same")(y * ops.sigmoid(gate))
    y = ops.silu(keras.layers.BatchNormalization()(y))
    return keras.Model(sequences, x + keras.layers.Conv1D(8, 1)(y))


def mobilenet_v3():
    return keras.applications.MobileNetV3Small(
        (32, 32, 3), alpha=0.35, weights=None, classes=2, minimalistic=False
    )


@the_same_everywhere
@pytest.mark.parametrize("net", [conformer, mobilenet_v3])
def test_nets_of_others_are_counted_and_made_anew(net):
    keras.utils.set_random_seed(0)
    model = net()
    x = RNG.normal(size=(2, *model.input_shape[1:])).astype("float32")
    assert not sl.profile(model).uncounted
    expected = model.predict(x, verbose=0)
    folded = convert.fold_batch_norm(model)
    np.testing.assert_allclose(folded.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
    assert len(folded.weights) < len(model.weights)
    for twin in (sl.standard_twin, sl.separable_twin):
        assert twin(model).output_shape == model.output_shape
    same, _ = convert.to_separable(model, rank=9)
    np.testing.assert_allclose(same.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
