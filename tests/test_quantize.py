"""Quantization-aware training: it sees the rounding of the int8 file, and the file what it saw."""

import warnings

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import export, quantize
from sepconv_layers.quantize.arithmetic import fake_quantize, fake_quantize_kernel
from tests.backends import BACKEND, MODES, output_of, run_with_gradients, the_same_everywhere
from tests.test_convert import as_trained

needs_export = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)
# Compiling takes longer than what is compiled.
PLAINLY = {"jit_compile": False} if BACKEND == "tensorflow" else {}


# What is computed, by its definition.


def grid_of(minimum, maximum):
    """The scale, and the integer of zero from 0 to 255."""
    minimum, maximum = min(minimum, 0), max(maximum, 0)
    scale = (maximum - minimum) / 255
    return scale, np.round(-minimum / scale)


def rounded(x, minimum, maximum):
    scale, zero = grid_of(minimum, maximum)
    return (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale


def rounded_kernel(kernel, bits, axes):
    largest = np.abs(kernel).max(axes, keepdims=True)
    scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    return np.round(kernel / scale) * scale


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ends", [(-0.9, 1.7), (0.0, 6.0), (0.5, 2.0), (-3.0, -1.0)])
def test_activations_and_their_gradients(ends, mode):
    x = np.random.default_rng(0).normal(size=(40, 3)) * 2
    upstream = np.random.default_rng(1).normal(size=x.shape)

    def function(x):
        return fake_quantize(x, *(keras.ops.convert_to_tensor(end, x.dtype) for end in ends))

    y, gradient = run_with_gradients(function, [x], upstream, mode)
    scale, zero = grid_of(*ends)
    np.testing.assert_allclose(y, rounded(x, *ends), atol=1e-12)
    inside = (x >= -zero * scale) & (x <= (255 - zero) * scale)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(gradient, np.where(inside, upstream, 0))
    assert 0 in function(keras.ops.zeros((1,)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("channels", "axes"), [((-1,), (0, 1)), ((-2, -1), (0,)), ((-2,), (0, 2))])
def test_kernels_and_their_gradients(channels, axes, bits, mode):
    kernel = np.random.default_rng(0).normal(size=(5, 3, 4))
    kernel[:, :, 1] = 0  # of which no scale is known
    upstream = np.random.default_rng(1).normal(size=kernel.shape)
    y, gradient = run_with_gradients(
        lambda kernel: fake_quantize_kernel(kernel, bits, channels), [kernel], upstream, mode
    )
    np.testing.assert_allclose(y, rounded_kernel(kernel, bits, axes), atol=1e-12)
    np.testing.assert_array_equal(gradient, upstream)
    assert np.abs(y).max(axes) == pytest.approx(np.abs(kernel).max(axes))


def test_ranges_follow_the_batches_of_training():
    layer = quantize.FakeQuantize(momentum=0.6)
    batches = np.random.default_rng(0).normal(size=(6, 9, 2)).astype("float32")
    np.testing.assert_array_equal(layer(batches[0]), batches[0])  # it has no range yet
    low = high = 0
    for count, batch in enumerate(batches):
        weight = max(1 / (count + 1), 0.4)
        low, high = low + (batch.min() - low) * weight, high + (batch.max() - high) * weight
        y = layer(batch, training=True)
        np.testing.assert_allclose(y, rounded(batch, low, high), atol=1e-6)
    layer(np.full((2, 2), np.nan, "float32"), training=True)
    layer(np.zeros((0, 2), "float32"), training=True)
    layer(10 * batches[0], training=False)
    layer.trainable = False
    layer(10 * batches[0], training=True)
    assert (float(layer.minimum), float(layer.maximum)) == pytest.approx((low, high))
    scale, zero = grid_of(low, high)
    assert (layer.scale, layer.zero_point) == (pytest.approx(scale), zero - 128)


# Models.


def net(rank, **arguments):
    """All that a file has a rule for: blocks, shortcuts, gates, pooling and concatenation."""

    def block(kind, *args, **kwargs):
        return getattr(sl, f"{kind}{rank}D")(*args, **kwargs)

    def layer(kind, *args, **kwargs):
        return getattr(keras.layers, kind.format(rank))(*args, **kwargs)

    x = inputs = keras.Input((*(12, 9, 7)[:rank], 3), name="signal")
    x = block("ConvBlock", 6, strides=2, activation="relu6", name="stem", **arguments)(x)
    x = block("ResidualSeparableConvBlock", 6, repeats=1, name="residual", **arguments)(x)
    x = block("InvertedBottleneckBlock", 6, expansion=2, se_ratio=0.5, name="inverted")(x)
    pooled = layer("MaxPooling{}D", 3, 1, "same")(x)
    separable = block("SeparableConv", 4, 3, padding="same", name="separable")
    x = keras.layers.Concatenate(name="concatenate")([separable(x), pooled])
    # The file pools volumes in two steps, and rounds after each.
    x = layer("AveragePooling{}D" if rank < 3 else "MaxPooling{}D", 2)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3, "softmax", name="classes")(x), name="net")


def sample_of(model, count=32):
    return np.random.default_rng(3).normal(size=(count, *model.input_shape[1:])).astype("float32")


def ranges_of(model):
    return [layer for layer in model.layers if isinstance(layer, quantize.FakeQuantize)]


def kernels_of(model):
    return [layer for layer in model.layers if isinstance(layer, quantize.FakeQuantizeKernel)]


@pytest.mark.parametrize("rank", [2, pytest.param(3, marks=the_same_everywhere)])
def test_an_aware_model_is_close_and_reloaded(rank, tmp_path):
    model = as_trained(net(rank))
    x = sample_of(model)
    before = model.get_weights()
    aware = quantize.aware(model, calibration=x)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    outputs = output_of(aware, x)
    assert 0 < np.abs(outputs - output_of(model, x)).max() < 0.1
    aware.save(tmp_path / "aware.keras")
    loaded = keras.saving.load_model(tmp_path / "aware.keras")
    np.testing.assert_array_equal(output_of(loaded, x), outputs)


def test_an_aware_model_trains_every_weight():
    inputs = keras.Input((12, 3))
    x = sl.SeparableConvBlock1D(6)(inputs)
    x = x + sl.ConvBlock1D(6)(x)
    x = keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling1D()(x))
    model = as_trained(keras.Model(inputs, x))
    x = sample_of(model)
    aware = quantize.aware(model)
    before = aware.get_weights()
    aware.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", **PLAINLY)
    aware.fit(x, np.arange(len(x)) % 3, batch_size=16, verbose=0)
    assert all(layer.is_ready for layer in ranges_of(aware))
    fixed = {id(weight) for one in ranges_of(aware) if one.fixed_range for weight in one.weights}
    for weight, old, new in zip(aware.weights, before, aware.get_weights(), strict=True):
        stays = id(weight) in fixed or weight.path.endswith(("range/minimum", "range/maximum"))
        assert stays or np.abs(new - old).max() > 0, weight.path


def test_ranges_are_where_the_file_has_them():
    aware = quantize.aware(net(2))
    names = [layer.name.removesuffix("_range") for layer in ranges_of(aware)]
    assert [name for name in names if name.startswith(("signal", "stem", "residual"))] == [
        "signal",
        "stem_conv_activation",  # not after the convolution or its normalization
        "residual_conv_0_depthwise",
        "residual_conv_0_norm",
        "residual_output_activation",  # not after the addition
    ]
    # Not after the convolution before the concatenation, nor after pooling and `Flatten`.
    assert names[-4:] == ["separable_depthwise", "concatenate", "classes", "classes_activation"]
    pooling, average = (layer.output for layer in aware.layers if "pooling" in layer.name)
    for tensor, source in ((pooling, names[-5]), (average, "concatenate")):
        (node,) = [
            node
            for layer in ranges_of(aware)
            for node in layer._inbound_nodes
            if node.input_tensors[0] is tensor
        ]
        assert node.operation.name == f"{source}_range"
        assert node.arguments.kwargs["is_update"] is False


# Files.


def tensors_of(path):
    """Operators of a file, as a name, and the scale and zero points of each tensor."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    types = {number: name for name, number in vars(schema.TensorType).items()}
    (graph,) = model.subgraphs
    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        read, written = (
            [graph.tensors[index] for index in indices if index >= 0]
            for indices in (operator.inputs, operator.outputs)
        )
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        found.append((kind, read, written, [types[tensor.type] for tensor in (*read, *written)]))
    return found


WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def check_scales(path, aware, bits):
    """The file has the learned scales, each of them, and no float but at its ends."""
    operators = tensors_of(path)
    kernels = [read[1] for kind, read, *_ in operators if kind in WEIGHTED]
    layers = kernels_of(aware)
    norms = {layer.name: layer for layer in aware.layers}
    expected = []
    for layer in layers:
        scales = layer.scales
        norm = norms.get(f"{layer.name}_norm")
        if norm is not None:
            gamma, _, _, variance = norm.get_weights()
            scales = scales * np.abs(gamma) / np.sqrt(variance + norm.epsilon)
        expected.append(scales)
    assert len(kernels) == len(expected)
    found = [np.asarray(kernel.quantization.scale) for kernel in kernels]
    for scales in expected:
        assert any(
            one.shape == scales.shape and np.allclose(one, scales, rtol=1e-5) for one in found
        )
    activations = {
        (float(one.quantization.scale[0]), int(one.quantization.zeroPoint[0]))
        for _, read, written, _ in operators
        for one in (*read[:1], *written)
        if one.quantization is not None and one.quantization.scale is not None
    }
    learned = {(one.scale, one.zero_point) for one in ranges_of(aware)}
    np.testing.assert_allclose(sorted(activations), sorted(learned), rtol=1e-5)
    types = {name for kind, *_, names in operators for name in names if kind in WEIGHTED}
    assert types == {"INT8", "INT32"} | ({"INT4"} if bits == 4 else set())
    assert not any("FLOAT32" in names for *_, names in operators)


@needs_export
@pytest.mark.parametrize(("rank", "bits"), [(1, 8), (2, 4), (3, 8)])
def test_the_file_has_the_learned_scales(rank, bits, tmp_path):
    keras.utils.set_random_seed(0)
    model = as_trained(net(rank))
    x = sample_of(model)
    aware = quantize.aware(model, weight_bits=bits, calibration=x)
    artifact = export.to_litert(
        aware, tmp_path / "net.tflite", quantize="int8", quantize_io=True, sample=x
    )
    check_scales(artifact.path, aware, bits)
    assert artifact.max_difference < 0.05  # a few steps of logits, after twenty roundings


def with_norm(layer):
    return lambda x: sl.BatchNormalization()(layer(x))


PLANES = [
    sl.Conv2D(6, 3, strides=2, padding="same", groups=2, activation="relu"),
    with_norm(sl.Conv2D(5, 3, dilation_rate=2, padding="causal")),
    with_norm(sl.DepthwiseConv2D(3, depth_multiplier=2, strides=(2, 1))),
    sl.SeparableConv2D(6, 3, activation="relu6"),
    sl.DepthwiseConv2DTranspose(3, strides=2, padding="same"),
    keras.layers.Conv2D(6, 3, activation="relu"),
    keras.layers.DepthwiseConv2D(3),
    keras.layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="tanh"),
    keras.layers.Conv2DTranspose(5, 3, strides=2, activation="sigmoid"),
    keras.layers.Dense(5, activation="hard_silu"),
    keras.layers.BatchNormalization(),
    keras.layers.LeakyReLU(),
    keras.layers.AveragePooling2D(2),
    keras.layers.UpSampling2D(2),
    keras.layers.ZeroPadding2D(1),
    lambda x: keras.layers.Concatenate()([x, 3 * x]),
    lambda x: keras.ops.relu(x - keras.layers.Conv2D(4, 1)(x)),
    lambda x: keras.ops.transpose(x, (0, 2, 1, 3))[:, 1:],
]
VOLUMES = [
    with_norm(sl.Conv3D(6, 3, strides=2, padding="same", activation=None)),
    with_norm(sl.Conv3D(6, (3, 2, 3), groups=2, dilation_rate=(2, 1, 1), padding="causal")),
    with_norm(sl.DepthwiseConv3D((2, 3, 2), strides=(2, 1, 2), depth_multiplier=2)),
    with_norm(sl.DepthwiseConv3D(3, dilation_rate=(2, 2, 1), padding="same")),
    with_norm(keras.layers.Conv3D(3, 2, strides=(1, 2, 1), padding="same")),
    keras.layers.MaxPooling3D(2, 1, "same"),
]


@needs_export
@pytest.mark.parametrize(("shape", "makers"), [((9, 8, 4), PLANES), ((7, 6, 5, 4), VOLUMES)])
def test_every_layer_rounds_as_in_its_file(shape, makers, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    outputs = {f"{index:02}": make(inputs) for index, make in enumerate(makers)}
    model = as_trained(keras.Model(inputs, outputs))
    aware = quantize.aware(model, calibration=sample_of(model))
    x, path = sample_of(model, 8), tmp_path / "layers.tflite"
    export.to_litert(aware, path, quantize="int8", sample=x)
    found = dict(zip(sorted(outputs), export.load(path)(x), strict=True))
    for name, wanted in aware(x).items():
        wanted = wanted.numpy()
        step = np.diff(np.unique(wanted.round(6))).min()
        difference = np.abs(found[name] - wanted) / step
        assert difference.max() < 2.1, (name, difference.max())
        assert np.mean(difference < 0.1) > 0.8, name  # halves may be rounded up or down


def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def accuracy(outputs, labels):
    return float((outputs.argmax(-1) == labels).mean())


@needs_export
def test_a_channel_out_of_scale_costs_nothing_after_training_aware(tmp_path):
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = digits()
    model = keras.Sequential([
        keras.Input((8, 8, 1)),
        sl.ConvBlock2D(16, strides=2, name="stem"),
        sl.SeparableConvBlock2D(32, name="block"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, name="logits"),
    ])  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, **PLAINLY)
    model.fit(x, y, epochs=20, batch_size=64, verbose=0)
    # The same function, but for one channel the others have a few integers left.
    factors = np.where(np.arange(16) == 3, 200.0, 1.0)
    norm, kernel = (model.get_layer(name).inner_layers() for name in ("stem", "block"))
    norm, kernel = norm[1], kernel[0].kernel
    for weight in (norm.gamma, norm.beta):
        weight.assign(weight * factors)
    kernel.assign(kernel / factors[:, None])
    before = accuracy(model.predict(x_test, verbose=0), y_test)

    def after(model, **arguments):
        path = tmp_path / "digits.tflite"
        artifact = export.to_litert(model, path, quantize="int8", sample=x_test, **arguments)
        (outputs,) = export.load(path)(x_test)
        return accuracy(outputs, y_test), artifact.agreement

    measured, _ = after(model, calibration=x[:100])
    aware = quantize.aware(model, momentum=0.9, calibration=x[:100])
    rate = keras.optimizers.schedules.CosineDecay(2e-3, 4 * 19)
    aware.compile(keras.optimizers.Adam(rate), loss, **PLAINLY)
    aware.fit(x, y, epochs=4, batch_size=64, verbose=0)
    learned, agreement = after(aware)
    assert before - measured > 0.05
    assert before - learned < 0.005
    assert agreement >= 0.995


# What is refused, and said.


def test_errors():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    with pytest.raises(ValueError, match="`weight_bits` argument must be one of"):
        quantize.aware(model, weight_bits=5)
    with pytest.raises(ValueError, match="`momentum`"):
        quantize.aware(model, momentum=1)
    with pytest.raises(ValueError, match="`calibration` argument must be a batch"):
        quantize.aware(model, calibration=3)
    with pytest.raises(ValueError, match="functional model or a built sequential model"):
        quantize.aware(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="model without fake quantization"):
        quantize.aware(quantize.aware(model))
    with pytest.raises(ValueError, match="`fixed_range` argument"):
        quantize.FakeQuantize(fixed_range=(1, 2))
    with pytest.raises(ValueError, match="must be a convolution or dense layer"):
        quantize.FakeQuantizeKernel(keras.layers.LSTM(3))
    model.get_layer("dense").quantize("int8")
    with pytest.raises(UserWarning, match="layers dense stay in float32"):  # here an error
        quantize.aware(model)


def test_weights_that_stay_in_float_are_named():
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(5, name="memory")])
    with pytest.raises(UserWarning, match="Weights of the layers memory stay in float32"):
        quantize.aware(model)  # here a warning is an error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        aware = quantize.aware(model, calibration=np.ones((2, 4, 3), "float32"))
    assert [layer.name for layer in ranges_of(aware)][1:] == ["memory_range"]


@needs_export
def test_errors_of_the_export(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    x, path = np.ones((3, 4), "float32"), tmp_path / "net.tflite"
    with pytest.raises(ValueError, match="has learned its ranges, and needs quantize='int8'"):
        export.to_litert(quantize.aware(model, calibration=x), path)
    with pytest.raises(ValueError, match="and calibration=None"):
        export.to_litert(quantize.aware(model), path, quantize="int8", calibration=x)
    with pytest.raises(ValueError, match="aware model with known ranges"):
        export.to_litert(quantize.aware(model), path, quantize="int8")
