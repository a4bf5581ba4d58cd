"""A model in chunks gives what it gives at once, and what cannot is refused."""

import dataclasses
import math

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import streaming
from tests.backends import BACKEND, CONFIGURATIONS, SHORT, output_of
from tests.cases import BLOCKS, RANKS, SIZES, class_of

LAYERS = ("Conv", "DepthwiseConv", "SeparableConv")
FAMILIES = (*LAYERS, *(name for pair in BLOCKS.items() for name in pair))
NORMALIZATIONS = ("batch", "layer", None)
CHANNELS = 3

only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has it")


def drawn_layer(rng, rank, data_format, families, padding="causal"):
    """A layer or block with random arguments, causal by default."""
    family = families[rng.integers(len(families))]
    size = (int(rng.integers(1, 6)), *(int(n) for n in rng.integers(1, 4, rank - 1)))
    if family in LAYERS:
        arguments = {"activation": ("relu", "tanh", None)[rng.integers(3)]}
    else:
        arguments = {"normalization": NORMALIZATIONS[rng.integers(3)]}
        if "Residual" in family:
            arguments["repeats"] = int(rng.integers(1, 3))
            arguments["project_shortcut"] = bool(rng.integers(2))
        if "Inverted" in family:
            arguments["expansion"] = int(rng.integers(1, 4))
        if "Separable" not in family or "Residual" in family:
            arguments["drop_path"] = 0.3
    if family in ("DepthwiseConv", "SeparableConv", "SeparableConvBlock"):
        arguments["depth_multiplier"] = int(rng.integers(1, 3))
    if family != "DepthwiseConv":
        arguments["filters"] = (CHANNELS, 4)[rng.integers(2)]
    if family == "ConvBlock":
        del arguments["drop_path"]
    return class_of(family, rank)(
        kernel_size=size,
        strides=tuple(int(n) for n in rng.choice((1, 1, 2, 3), rank)),
        dilation_rate=tuple(int(n) for n in rng.integers(1, 4, rank)),
        padding=padding,
        data_format=data_format,
        **arguments,
    )


def drawn_model(rng, rank, data_format="channels_last", families=FAMILIES):
    """One or two such layers, with what may stand between and behind them."""
    last = data_format == "channels_last"
    frames = (None, *SIZES[1:rank])
    inputs = x = keras.Input((*frames, CHANNELS) if last else (CHANNELS, *frames))
    for _ in range(rng.choice((1, 1, 2))):
        x = drawn_layer(rng, rank, data_format, families)(x)
        between = rng.integers(7)
        if between == 0:
            x = keras.layers.Dropout(0.5)(keras.layers.Activation("tanh")(x))
        elif between == 1:
            x = sl.BatchNormalization(-1 if last else 1)(x)
        elif between == 2:
            y = class_of("Conv", rank)(4, 2, padding="causal", data_format=data_format)(x)
            x = keras.layers.Concatenate(-1 if last else 1)([x, y])
        elif between == 3:
            y = class_of("DepthwiseConv", rank)(3, padding="causal", data_format=data_format)(x)
            x = x + y if rng.integers(2) else keras.layers.Add()([x, y])
    behind = rng.integers(4)
    if behind == 0 and last:
        x = keras.layers.Dense(5)(x)
    elif behind in (1, 2):
        kind = ("Average", "Max")[behind - 1]
        pool = getattr(keras.layers, f"Global{kind}Pooling{rank}D")
        x = keras.layers.Dense(3)(pool(data_format=data_format)(x))
    model = keras.Model(inputs, x)
    model.set_weights([drawn_weight(rng, weight) for weight in model.weights])
    return model


def drawn_step(rng, rank, data_format):
    """A layer that makes fewer, more or other frames than it gets, or keeps a state of its own."""

    def two(before, after=0):
        widths = [(int(rng.integers(before + 1)), int(rng.integers(after + 1)))]
        widths += [tuple(int(n) for n in rng.integers(2, size=2)) for _ in range(rank - 1)]
        return widths[0] if rank == 1 else tuple(widths)

    def sizes(most, others=2):
        size = [int(rng.integers(1, most + 1))]
        size += [int(n) for n in rng.integers(1, others + 1, rank - 1)]
        return size[0] if rank == 1 else tuple(size)

    last = data_format == "channels_last"
    in_format = {"data_format": data_format}
    # Their 1D forms know the first axis only.
    of_any_axis = ["Cropping", "UpSampling"] if last or rank > 1 else []
    kinds = ["convolution", "pool", "pool", "ZeroPadding", "ZeroPadding", *of_any_axis]
    kinds += ["TimeDistributed", "recurrent"] if last and rank == 1 else []
    kind = kinds[rng.integers(len(kinds))]
    layers = vars(keras.layers)
    if kind == "convolution":
        return drawn_layer(rng, rank, data_format, FAMILIES, "valid")
    if kind == "pool":
        pool = layers[f"{('Average', 'Max')[rng.integers(2)]}Pooling{rank}D"]
        return pool(sizes(4), sizes(4) if rng.integers(2) else None, **in_format)
    if kind == "ZeroPadding":
        return layers[f"ZeroPadding{rank}D"](two(5), **in_format)
    if kind == "Cropping":
        widths = two(3, 2)
        widths = widths if rank == 1 else (widths[0], *[(0, 0)] * (rank - 1))
        return layers[f"Cropping{rank}D"](widths, **({} if rank == 1 else in_format))
    if kind == "UpSampling":
        return layers[f"UpSampling{rank}D"](sizes(3), **({} if rank == 1 else in_format))
    if kind == "TimeDistributed":
        return keras.layers.TimeDistributed(keras.layers.Dense(4, "tanh"))
    cell = layers[("LSTM", "GRU", "SimpleRNN")[rng.integers(3)]]
    return cell(3, return_sequences=True)


def model_of_any_steps(rng, rank, data_format):
    """Some layers of every kind that runs in chunks, in any order."""
    last = data_format == "channels_last"
    frames = (None, *(2 * size for size in SIZES[1:rank]))
    inputs = x = keras.Input((*frames, CHANNELS) if last else (CHANNELS, *frames))
    outputs = []
    for _ in range(rng.integers(1, 5)):
        try:
            y = drawn_step(rng, rank, data_format)(x)
        except ValueError:  # other axes became too short
            continue
        x = y if rng.integers(2) else sl.BatchNormalization(-1 if last else 1)(y)
        if rng.integers(4) == 0:
            x = drawn_layer(rng, rank, data_format, FAMILIES)(x)
        if rng.integers(4) == 0:
            outputs.append(x)
    kind = ("Average", "Max", None)[rng.integers(3)]
    if kind:
        pool = getattr(keras.layers, f"Global{kind}Pooling{rank}D")
        x = keras.layers.Dense(2)(pool(data_format=data_format)(x))
    elif last and rank == 1 and rng.integers(2):
        x = keras.layers.LSTM(2)(x)
    model = keras.Model(inputs, [*outputs, x])
    model.set_weights([drawn_weight(rng, weight) for weight in model.weights])
    return model


def fewest_frames(model, axis):
    """How many frames the model itself needs: no layer may be left without one."""
    inner = keras.Model(model.inputs, [layer.output for layer in model.layers[1:]])
    made = streaming.to_streaming(inner, time_axis=axis)
    return max(1, *(output.first for output in made.outputs))


def drawn_weight(rng, weight):
    if "seed" in weight.path:
        return weight
    if "variance" in weight.path or "gamma" in weight.path:
        return rng.uniform(0.5, 2, weight.shape)
    fan = math.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 1
    return rng.normal(size=weight.shape) / math.sqrt(fan)


def frames_for(rng, model, frames, batch=2, axis=1):
    shape = [batch, *model.inputs[0].shape[1:]]
    shape[axis] = frames
    return rng.normal(size=shape).astype("float32")


def cut(rng, x, axis, parts):
    """Cuts an array into chunks of random lengths."""
    inner = range(1, x.shape[axis])
    at = sorted(rng.choice(inner, min(parts - 1, len(inner)), replace=False)) if inner else []
    return np.split(x, at, axis)


def assert_close(y, expected, tolerance=1e-5):
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-3)


@pytest.mark.parametrize("seed", range(CONFIGURATIONS // 3))
@pytest.mark.parametrize("check", ["check_any_chunks", "check_any_steps"])
def test_any_chunks_give_the_batch_outputs(check, seed):
    rng = np.random.default_rng(seed)
    data_format = ("channels_last", "channels_first")[seed % 4 == 3]
    globals()[check](rng, seed % 3 + 1, data_format)


def check_any_chunks(rng, rank, data_format):
    """A causal model, with as many outputs as inputs."""
    axis = 1 if data_format == "channels_last" else 2
    model = drawn_model(rng, rank, data_format)
    before = model.get_weights()
    made = streaming.to_streaming(model, time_axis=axis)
    x = frames_for(rng, model, int(rng.integers(1, 25)), axis=axis)
    expected = output_of(model, x)
    (time,) = made.output_axes
    for parts in rng.choice((1, 2, 3, 4), 2, replace=False):
        stream = made.stream(batch_size=2)
        outputs = [stream(chunk) for chunk in cut(rng, x, axis, parts)]
        assert_close(outputs[-1] if time is None else np.concatenate(outputs, time), expected)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def check_any_steps(rng, rank, data_format):
    """A model of any layers that run in chunks, after each of these."""
    axis = 1 if data_format == "channels_last" else 2
    model = model_of_any_steps(rng, rank, data_format)
    made = streaming.to_streaming(model, time_axis=axis)
    fewest = fewest_frames(model, axis)
    x = frames_for(rng, model, fewest + int(rng.integers(16)), axis=axis)
    stream, known = made.stream(batch_size=2), 0
    so_far = [None] * len(made.outputs)
    for chunk in cut(rng, x, axis, int(rng.integers(1, 6))):
        new = stream(chunk)
        known += chunk.shape[axis]
        new = new if isinstance(new, list) else [new]
        so_far = [
            y if before is None or time is None else np.concatenate([before, y], time)
            for before, y, time in zip(so_far, new, made.output_axes, strict=True)
        ]
        if known < fewest:
            continue
        outputs = keras.tree.flatten(model(np.split(x, [known], axis)[0]))
        for y, expected in zip(so_far, outputs, strict=True):
            assert_close(y, keras.ops.convert_to_numpy(expected), 1e-4)


def test_before_its_first_frame_a_result_over_time_is_not_a_number():
    model = chain(K.Conv1D(3, 4), K.GlobalMaxPooling1D(), K.Dense(2))
    stream = streaming.to_streaming(model).stream()
    x = np.random.default_rng(0).normal(size=(1, 4, 4)).astype("float32")
    assert np.isnan(stream(x[:, :3])).all()
    assert_close(stream(x[:, 3:]), output_of(model, x))


def test_a_recurrent_layer_behind_a_kernel_sees_none_but_its_frames():
    model = chain(K.Conv1D(3, 3), K.GRU(3, return_sequences=True), K.MaxPooling1D(2), K.LSTM(2))
    x = np.random.default_rng(0).normal(size=(1, 9, 4)).astype("float32")
    stream = streaming.to_streaming(model).stream()
    *_, y = [stream(chunk) for chunk in np.split(x, [1, 2, 6], 1)]
    assert_close(y, output_of(model, x))


def test_what_the_step_of_a_fixed_chunk_makes_is_described():
    model = chain(K.Conv1D(3, 4), K.MaxPooling1D(2), K.ZeroPadding1D((3, 0)), K.Dense(2))
    made = streaming.to_streaming(model, chunk_size=2)
    x = np.random.default_rng(0).normal(size=(1, 12, 4)).astype("float32")
    (about,) = made.outputs
    assert (about.axis, about.pace.stride, about.skip, about.first) == (1, 2, -1, 0)
    states, outputs = made.initial_states(), [about.lead]
    for chunk in np.split(x, 6, 1):
        output, *states = made.model.predict_on_batch([chunk, *states])
        outputs.append(output)
    assert_close(np.concatenate(outputs, 1), output_of(model, x))


@pytest.mark.parametrize("rank", RANKS[:1] if SHORT else RANKS)
def test_after_each_chunk_the_outputs_are_those_of_the_frames_so_far(rank):
    rng = np.random.default_rng(rank)
    inputs = keras.Input((None, *SIZES[1:rank], CHANNELS))
    fine = class_of("SeparableConvBlock", rank)(4, 3, strides=2, padding="causal")(inputs)
    coarse = class_of("ResidualSeparableConvBlock", rank)(5, 3, strides=3, padding="causal")(fine)
    pools = [
        getattr(keras.layers, f"Global{kind}Pooling{rank}D")(keepdims=keepdims)(x)
        for kind, x, keepdims in (("Average", fine, True), ("Max", coarse, False))
    ]
    model = keras.Model(inputs, [fine, coarse, *pools])
    made = streaming.to_streaming(model)
    assert made.stride == 6
    assert made.output_strides[:2] == (2, 6)
    x = -np.abs(frames_for(rng, model, 23))
    stream, known, so_far = made.stream(batch_size=2), 0, None
    for frames in (1, 2, 7, 1, 12):
        new = stream(x[:, known : known + frames])
        known += frames
        expected = [keras.ops.convert_to_numpy(y) for y in model(x[:, :known])]
        so_far = [
            np.concatenate([a, b], 1) if so_far and time else b
            for a, b, time in zip(so_far or new, new, made.output_axes, strict=True)
        ]
        for y, right in zip(so_far, expected, strict=True):
            assert_close(y, right)


def test_the_model_of_a_step_takes_and_gives_states_in_pairs():
    model = drawn_model(np.random.default_rng(5), 2)
    made = streaming.to_streaming(model, chunk_size=36)
    states = made.initial_states(3)
    names = [tensor.name for tensor in made.model.inputs]
    assert names == ["chunk", *(f"state_{i}" for i in range(len(states)))]
    assert made.model.output_names[1:] == [f"new_state_{i}" for i in range(len(states))]
    for state, tensor, new in zip(
        states, made.model.inputs[1:], made.model.outputs[1:], strict=True
    ):
        assert tensor.shape == new.shape == (None, *state.shape[1:])
        assert tensor.dtype == new.dtype == state.dtype == "float32"
        assert not state.any()


def test_keras_layers_nested_models_and_operators():
    rng = np.random.default_rng(0)
    shared = keras.layers.Conv1D(4, 3, dilation_rate=2, padding="causal", activation="relu")
    head = keras.Sequential([keras.Input((None, 4)), keras.layers.LayerNormalization(), shared])
    inputs = keras.Input((None, 4, 1))
    x = keras.layers.Conv2D(6, (1, 3), strides=(2, 1), name="concatenate")(inputs)
    x = keras.layers.AveragePooling2D((1, 2))(x)
    x = keras.layers.Reshape((-1, 6))(x)
    x = keras.layers.Conv1D(4, 5, strides=2, padding="causal", name="get_item")(x)
    x = keras.layers.Permute((1, 2))(keras.layers.PReLU(shared_axes=[1])(x))
    y = keras.ops.relu(head(shared(x)) * 0.5 + x)
    y = keras.layers.SeparableConv1D(4, 1)(keras.layers.Rescaling(2.0)(y))
    model = keras.Model(inputs, keras.layers.Softmax()(y))
    made = streaming.to_streaming(model)
    assert len(made.model.inputs) == 1 + 1 + 2  # the shared layer is called twice
    assert len(made.model.weights) == len(model.weights)
    x = frames_for(rng, model, 19)
    stream = made.stream(2)
    outputs = [stream(chunk) for chunk in cut(rng, x, 1, 6)]
    assert_close(np.concatenate(outputs, 1), output_of(model, x))


@pytest.mark.parametrize("is_adapted", [True, False])
def test_a_normalization_keeps_what_it_has_learned(is_adapted):
    moments = {} if is_adapted else {"mean": np.arange(3.0), "variance": np.arange(1.0, 4.0)}
    norm = keras.layers.Normalization(**moments)
    x = np.random.default_rng(0).normal(4, 3, (2, 9, 3)).astype("float32")
    if is_adapted:
        norm.adapt(x)
    model = keras.Sequential([keras.Input((None, 3)), norm, sl.Conv1D(2, 3, padding="causal")])
    stream = streaming.to_streaming(model).stream(batch_size=2)
    outputs = [stream(chunk) for chunk in np.split(x, [4, 5], axis=1)]
    np.testing.assert_allclose(np.concatenate(outputs, 1), output_of(model, x), atol=1e-5)


def test_words_and_a_head_without_time():
    rng = np.random.default_rng(0)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(20, 6)(inputs)
    x = sl.SeparableConvBlock1D(5, padding="causal")(x)
    x = keras.layers.GlobalMaxPooling1D()(x)
    x = keras.layers.Reshape((5, 1))(x)
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.LSTM(3)(x)))
    stream = streaming.to_streaming(model).stream(2)
    x = rng.integers(20, size=(2, 15))
    for chunk in cut(rng, x, 1, 4):
        y = stream(chunk)
    assert_close(y, output_of(model, x))


def test_mixed_precision_keeps_the_types_of_the_model():
    rng = np.random.default_rng(0)
    inputs = keras.Input((None, 4))
    x = sl.ResidualConvBlock1D(
        4, padding="causal", normalization=keras.layers.LayerNormalization, dtype="mixed_float16"
    )(inputs)
    pooled = keras.layers.GlobalAveragePooling1D(dtype="mixed_float16")(x)
    model = keras.Model(inputs, [x, pooled])
    made = streaming.to_streaming(model)
    assert [y.dtype for y in made.model.outputs[:2]] == [y.dtype for y in model.outputs]
    x = frames_for(rng, model, 9)
    stream, expected = made.stream(2), [output_of(y, x) for y in [lambda x: model(x)[0]]]
    y = np.concatenate([stream(chunk)[0] for chunk in cut(rng, x, 1, 3)], 1)
    assert_close(y.astype("float32"), expected[0].astype("float32"), 0.01)


def test_a_saved_step_reloads(tmp_path):
    rng = np.random.default_rng(3)
    inputs = keras.Input((None, 5, CHANNELS))
    x = sl.ResidualSeparableConvBlock2D(4, strides=2, padding="causal")(inputs)
    x = sl.InvertedBottleneckBlock2D(4, padding="causal", expansion=2)(x)
    x = sl.BatchNormalization()(keras.layers.ZeroPadding2D(((2, 0), (0, 0)))(x))  # not of zeros
    x = keras.layers.Conv2D(4, (2, 1), bias_initializer="ones")(x)
    model = keras.Model(inputs, [x, keras.layers.GlobalMaxPooling2D()(x)])
    made = streaming.to_streaming(model)
    made.model.save(tmp_path / "step.keras")
    again = keras.saving.load_model(tmp_path / "step.keras")
    x = frames_for(rng, model, 7)
    outputs = [dataclasses.replace(made, model=step).stream(2)(x) for step in (made.model, again)]
    for y, expected in zip(*outputs, strict=True):
        np.testing.assert_array_equal(y, expected)


@only_tensorflow
@pytest.mark.parametrize("seed", range(300, 310))
def test_litert_gives_the_batch_outputs_chunk_by_chunk(seed, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    rng = np.random.default_rng(seed)
    # LiteRT has no dilated standard convolution in three dimensions.
    families = [name for name in FAMILIES if name not in ("Conv", *BLOCKS.values())]
    model = drawn_model(rng, seed % 3 + 1, families=families)
    size = streaming.to_streaming(model).stride * int(rng.integers(1, 3))
    made = streaming.to_streaming(model, chunk_size=size)
    x = frames_for(rng, model, 4 * size, batch=1)
    first, *chunks = np.split(x, 4, 1)
    sl.export.to_litert(made.model, tmp_path / "step", sample=[first, *made.initial_states()])
    run = interpreter.Interpreter(str(tmp_path / "step")).get_signature_runner("serving_default")
    states = {f"state_{i}": state for i, state in enumerate(made.initial_states())}
    outputs = []
    for chunk in (first, *chunks):
        results = run(chunk=chunk, **states)
        states = {name: results.pop(f"new_{name}") for name in states}
        outputs.extend(results.values())
    (time,) = made.output_axes
    y = outputs[-1] if time is None else np.concatenate(outputs, time)
    assert_close(y, output_of(model, x))


@only_tensorflow
def test_litert_takes_what_begins_later_or_keeps_a_state(tmp_path):
    pytest.importorskip("ai_edge_litert.interpreter")
    inputs = keras.Input((None, 4))
    x = keras.layers.Conv1D(4, 3, activation="relu")(inputs)
    x = keras.layers.TimeDistributed(keras.layers.Dense(5))(keras.layers.MaxPooling1D(2)(x))
    x = sl.SeparableConvBlock1D(4, padding="causal")(x)  # its zeros come before that
    padded = sl.BatchNormalization()(keras.layers.ZeroPadding1D((2, 0))(x))
    y = keras.layers.GRU(3, return_sequences=True)(keras.layers.Conv1D(3, 2)(padded))
    pooled = keras.layers.GlobalAveragePooling1D()(y)
    model = keras.Model(inputs, [y, pooled])
    rng = np.random.default_rng(0)
    model.set_weights([drawn_weight(rng, weight) for weight in model.weights])
    made = streaming.to_streaming(model, chunk_size=4)
    x = frames_for(rng, model, 20, batch=1)
    first, *chunks = np.split(x, 5, 1)
    states = made.initial_states()
    sl.export.to_litert(made.model, tmp_path / "step.tflite", sample=[first, *states])
    run = sl.export.load(tmp_path / "step.tflite")
    states = {f"state_{i}": state for i, state in enumerate(states)}
    parts = []
    for chunk in (first, *chunks):
        results = dict(zip(run.outputs, run({"chunk": chunk, **states}), strict=True))
        states = {name: results.pop(f"new_{name}") for name in states}
        parts.append(sorted(results.values(), key=np.ndim))
    about, _ = made.outputs
    frames = np.concatenate([part[1] for part in parts], 1)[:, max(about.skip, 0) :]
    if about.lead is not None:
        frames = np.concatenate([about.lead, frames], 1)
    expected = [keras.ops.convert_to_numpy(output) for output in model(x)]
    assert_close(frames, expected[0], 1e-4)
    assert_close(parts[-1][0], expected[1], 1e-4)


# What cannot run in chunks.


def chain(*layers, shape=(None, 4)):
    return keras.Sequential([keras.Input(shape), *layers])


def pooled_and_added():
    inputs = keras.Input((None, 4))
    pooled = keras.layers.GlobalAveragePooling1D(keepdims=True)(inputs)
    return keras.Model(inputs, keras.layers.Multiply()([inputs, pooled]))


def out_of_step():
    inputs = keras.Input((1, 4))
    x = sl.Conv1D(4, 1, strides=2)(inputs)
    return keras.Model(inputs, inputs + x)


def begin_apart():
    inputs = keras.Input((1, 4))
    fewer = K.Cropping1D((0, 0))(K.ZeroPadding1D((2, 0))(inputs))
    return keras.Model(inputs, K.Add()([inputs, fewer]))


class Doubled(keras.layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


K = keras.layers
REFUSED = {
    "same": (lambda: chain(sl.SeparableConvBlock1D(4, name="b")), "'b/depthwise'", "='causal'"),
    "Keras": (
        lambda: chain(K.Conv1D(4, 2, padding="same", name="c")),
        "'c' (Conv1D)",
        "padding='causal'",
        "padding='valid'",
    ),
    "pad behind": (lambda: chain(K.ZeroPadding1D((2, 1), name="z")), "'z'", "after the last"),
    "causal on another axis": (
        lambda: chain(K.Permute((2, 1, 3)), sl.Conv2D(3, 2, padding="causal"), shape=(8, 4, 1)),
        "axis 1 of it",
    ),
    "between frames": (
        lambda: chain(K.UpSampling2D(interpolation="bilinear"), shape=(8, 4, 1)),
        "interpolation='nearest'",
    ),
    "backwards": (lambda: chain(K.LSTM(3, go_backwards=True)), "LSTM", "forwards"),
    "distributed over another axis": (
        lambda: chain(
            K.Permute((2, 1, 3)), K.TimeDistributed(K.Dense(3), name="t"), shape=(8, 4, 1)
        ),
        "'t'",
        "runs over axis 1",
    ),
    "begin apart": (begin_apart, "Add", "begin with the same frame"),
    "Keras depthwise": (lambda: chain(K.DepthwiseConv1D(3, padding="same")), "later frames"),
    "pool": (lambda: chain(K.MaxPooling1D(2, padding="same")), "MaxPooling1D", "later frames"),
    "group": (lambda: chain(sl.ConvBlock1D(4, 1, normalization="group")), "over all time"),
    "squeeze": (
        lambda: chain(sl.InvertedBottleneckBlock1D(4, 1, se_ratio=0.5, name="b")),
        "'b/squeeze_excite' (SqueezeExcite1D)",
        "average over all time",
        "se_ratio=0",
    ),
    "recurrent": (lambda: chain(K.RNN(K.LSTMCell(3))), "RNN", "recurrent"),
    "both ways": (lambda: chain(K.Bidirectional(K.GRU(3))), "Bidirectional", "recurrent"),
    "transposed": (lambda: chain(sl.DepthwiseConv1DTranspose(3)), "DepthwiseConv1DTranspose"),
    "flat": (lambda: chain(K.Flatten(), shape=(8, 4)), "Flatten", "global pooling"),
    "mixed": (lambda: chain(K.Reshape((16, 2)), shape=(8, 4)), "mixes time"),
    "norm over time": (lambda: chain(K.LayerNormalization([1, 2]), shape=(8, 4)), "axis 1"),
    "softmax over time": (lambda: chain(K.Softmax(axis=1)), "axis 1, which is time"),
    "dense over time": (lambda: chain(K.Permute((2, 1)), K.Dense(3), shape=(8, 4)), "axis 2"),
    "activation over time": (
        lambda: chain(K.Permute((2, 1)), K.Activation("softmax")),
        "last axis, which is time",
    ),
    "mask": (lambda: chain(K.Embedding(9, 3, mask_zero=True), shape=(None,)), "mask_zero=False"),
    "unknown": (lambda: chain(K.RandomRotation(1.0), shape=(8, 4, 1)), "no rule"),
    "own call": (lambda: chain(Doubled(3)), "Doubled", "no rule"),
    "pooled and added": (pooled_and_added, "Multiply", "same rank"),
    "out of step": (out_of_step, "same stride"),
    "sizes": (
        lambda: chain(sl.Conv2D(3, 2, padding="causal"), shape=(None, None, 3)),
        "all sizes of the model input except batch and time",
    ),
}


@pytest.mark.parametrize("why", list(REFUSED))
def test_what_needs_later_frames_is_refused_by_name(why):
    make, *words = REFUSED[why]
    with pytest.raises(ValueError) as error:
        streaming.to_streaming(make())
    assert all(word in str(error.value) for word in [*words, "Received: the layer"]), error.value


def test_attention_is_refused():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, K.MultiHeadAttention(1, 2)(inputs, inputs))
    with pytest.raises(ValueError, match="all frames at once"):
        streaming.to_streaming(model)


def test_channels_first_needs_its_time_axis():
    model = chain(sl.Conv1D(3, 2, padding="causal", data_format="channels_first"), shape=(4, None))
    with pytest.raises(ValueError, match="not a spatial axis.*`time_axis`"):
        streaming.to_streaming(model)
    assert streaming.to_streaming(model, time_axis=2).model.inputs[0].shape == (None, 4, None)


def test_bad_arguments_are_named():
    model = chain(sl.Conv1D(3, 2, strides=2, padding="causal"))
    for argument, value in [
        ("chunk_size", 3),
        ("chunk_size", 0),
        ("chunk_size", 2.0),
        ("time_axis", 0),
        ("time_axis", 3),
    ]:
        with pytest.raises(ValueError, match=f"`{argument}`.*{value}"):
            streaming.to_streaming(model, **{argument: value})
    for wrong in (keras.Sequential([K.Dense(3)]), K.Dense(3), None):
        with pytest.raises(ValueError, match="`model` argument must be a built"):
            streaming.to_streaming(wrong)
    made = streaming.to_streaming(model)
    for wrong in (np.ones((1, 0, 4)), np.ones((2, 3, 4)), np.ones((1, 3, 5)), np.ones((3, 4))):
        with pytest.raises(ValueError, match="A chunk must have the shape"):
            made.stream()(wrong)
    with pytest.raises(ValueError, match="`batch_size`"):
        made.stream(batch_size=0)
    with pytest.raises(ValueError, match="chunk_size=None"):
        streaming.to_streaming(model, chunk_size=4).stream()
