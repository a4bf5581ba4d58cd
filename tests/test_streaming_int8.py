"""Models in chunks, in integers: streamed outputs are those of the int8 file for whole inputs."""

import functools
from importlib.util import find_spec

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import export, quantize, streaming
from tests.backends import BACKEND, output_of
from tests.test_convert import as_trained

EXPORTS = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)
K = keras.layers
FRAMES = 24


def blocks():
    """Residual and inverted blocks, strides, and what joins branches."""
    x = inputs = keras.Input((FRAMES, 6), name="frames")
    x = sl.ResidualSeparableConvBlock1D(8, 3, strides=2, padding="causal", repeats=2)(x)
    x = sl.InvertedBottleneckBlock1D(8, 3, padding="causal")(x)
    x = K.AveragePooling1D(2, 1)(K.ZeroPadding1D((2, 0))(x))
    y = sl.Conv1D(8, 3, padding="causal", activation="tanh", dilation_rate=2)(x)
    return keras.Model(inputs, K.Dense(3)(K.Concatenate()([x, y])))


def of_keras():
    """Layers of Keras, whose first frames need a count, and a pooling over all time."""
    x = inputs = keras.Input((FRAMES, 6), name="frames")
    x = K.ReLU()(K.BatchNormalization()(K.Conv1D(8, 3)(x)))
    x = K.ZeroPadding1D((3, 0))(K.MaxPooling1D(2)(x))
    x = K.SeparableConv1D(5, 3, activation="relu")(x)
    x = K.UpSampling1D(2)(K.DepthwiseConv1D(3, activation="relu")(x)[:, 1::2])
    return keras.Model(inputs, K.Dense(3)(K.GlobalMaxPooling1D()(x)))


def averaged():
    x = inputs = keras.Input((FRAMES, 6), name="frames")
    x = sl.SeparableConvBlock1D(6, 3, padding="causal", strides=2)(x)
    return keras.Model(inputs, K.Dense(3)(K.GlobalAveragePooling1D()(x)))


def image():
    x = inputs = keras.Input((FRAMES, 6, 2), name="frames")
    x = sl.SeparableConvBlock2D(6, 3, padding="valid")(x)
    x = K.Reshape((-1, 24))(sl.ConvBlock2D(6, 3, padding="causal")(x))
    return keras.Model(inputs, K.Dense(3, activation="softmax")(x))


def volume():
    x = inputs = keras.Input((FRAMES, 3, 3, 2), name="frames")
    x = sl.SeparableConvBlock3D(6, 3, padding="causal")(x)
    return keras.Model(inputs, K.Dense(3)(K.GlobalAveragePooling3D()(x)))


# Each net, the frames of a chunk, and the window of the global pooling, if there is one.
CASES = [
    (blocks, 2, None),
    (of_keras, 4, None),
    (of_keras, 4, FRAMES),
    (averaged, 2, None),
    (averaged, 4, FRAMES),
    (image, 4, None),
    (volume, 1, FRAMES),
]
SAMPLES = 4


@functools.cache
def aware_model(build):
    """A net as it is after training, with the ranges of its activations, and inputs for it."""
    keras.utils.set_random_seed(0)
    model = as_trained(build())
    x = np.random.default_rng(0).normal(size=(SAMPLES, *model.input.shape[1:])).astype("float32")
    return quantize.aware(model, calibration=x), x


@functools.cache
def step_of(build, chunk_size, pool_window):
    return streaming.to_streaming(aware_model(build)[0], chunk_size, pool_window=pool_window)


def in_chunks(run, step, x):
    """All frames of the only output, or the result after the last chunk, of a function by name."""
    states = dict(
        zip([s.name for s in step.model.inputs[1:]], step.initial_states(len(x)), strict=True)
    )
    about, found = step.outputs[0], []
    for chunk in np.split(x, FRAMES // step.model.inputs[0].shape[1], 1):
        outputs = run({"chunk": chunk, **states})
        states = {name: outputs.pop(f"new_{name}") for name in states}
        found.extend(outputs.values())
    if about.axis is None:
        return found[-1]
    lead = [] if about.lead is None else [np.repeat(about.lead, len(x), 0)]
    return np.concatenate([*lead, *found], about.axis)[:, max(about.skip, 0) :]


@pytest.mark.parametrize("build, chunk_size, pool_window", CASES[:4])
def test_an_aware_model_in_chunks_rounds_as_it_does_at_once(build, chunk_size, pool_window):
    aware, x = aware_model(build)
    step = step_of(build, chunk_size, pool_window)

    def run(arrays):  # eagerly, as `output_of`: compilers compute sums in another order
        outputs = map(keras.ops.convert_to_numpy, step.model(list(arrays.values())))
        return dict(zip(step.model.output_names, outputs, strict=True))

    expected, found = output_of(aware, x), in_chunks(run, step, x)
    assert found.shape == expected.shape
    # Where a sum of floats ends next to the middle of two values, either may be its rounding.
    # Means of two numbers of a scale do so half of the time.
    assert np.abs(found - expected).max() < 0.03 * np.ptp(expected)
    assert np.mean(np.abs(found - expected) < 1e-4 * np.ptp(expected)) > 0.9


@EXPORTS
@pytest.mark.parametrize("build, chunk_size, pool_window", CASES)
def test_the_int8_file_of_a_step_computes_the_integers_of_the_file_for_whole_inputs(
    build, chunk_size, pool_window, tmp_path
):
    aware, x = aware_model(build)
    step = step_of(build, chunk_size, pool_window)
    whole, part = (
        export.to_litert(model, tmp_path / f"{name}.tflite", "int8", quantize_io=True).path
        for name, model in (("whole", aware), ("step", step.model))
    )
    file = export.load(part)
    found = in_chunks(lambda arrays: dict(zip(file.outputs, file(arrays), strict=True)), step, x)
    (expected,) = export.load(whole)(x)
    scales = details_of(part)
    for name in [state.name for state in step.model.inputs[1:]]:
        assert scales[name] == scales[f"new_{name}"]  # so that no frame is rounded again
    assert scales["chunk"] == details_of(whole)[aware.inputs[0].name]
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(found, expected)


def details_of(path):
    """The type, scale and zero point of each input and output of a file, by name."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    signature = interpreter.get_signature_runner("serving_default")
    details = {**signature.get_input_details(), **signature.get_output_details()}
    return {name: (one["dtype"], one["quantization"]) for name, one in details.items()}


def test_a_pooling_window_moves_with_the_chunks():
    keras.utils.set_random_seed(0)
    model = averaged()
    step = streaming.to_streaming(model, chunk_size=2, pool_window=8)
    assert step.outputs[0].first == 8
    x = np.random.default_rng(0).normal(size=(2, FRAMES, 6)).astype("float32")
    frames = keras.Model(model.input, model.layers[1].output)
    dense = model.layers[-1]
    all_frames = output_of(frames, x)
    states = step.initial_states(2)
    for count, chunk in enumerate(np.split(x, FRAMES // 2, 1), 1):
        found, *states = step.model.predict_on_batch([chunk, *states])
        if count >= 4:
            expected = output_of(dense, all_frames[:, count - 4 : count].mean(1))
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bad_windows_are_refused():
    model = averaged()
    for value, words in [
        (0, "`pool_window`"),
        (2.5, "`pool_window`"),
        (8, "needs a `chunk_size`"),
    ]:
        chunk_size = None if value == 8 else 2
        with pytest.raises(ValueError, match=words):
            streaming.to_streaming(model, chunk_size, pool_window=value)
    short = keras.Sequential([keras.Input((FRAMES, 6)), K.Conv1D(3, 5), K.GlobalMaxPooling1D()])
    with pytest.raises(ValueError, match="no frame after pool_window=4"):
        streaming.to_streaming(short, 1, pool_window=4)


@pytest.mark.parametrize("key", [(slice(None), slice(0, 5)), (slice(None), slice(-3, None))])
def test_slices_that_need_the_length_are_refused(key):
    inputs = keras.Input((FRAMES, 6))
    with pytest.raises(ValueError, match="must count from both ends"):
        streaming.to_streaming(keras.Model(inputs, inputs[key] * 2.0))


@EXPORTS
def test_a_file_with_internal_states_runs_from_chunk_to_chunk(tmp_path):
    aware, x = aware_model(of_keras)
    step = step_of(of_keras, 4, FRAMES)
    paths = [
        export.to_litert(step.model, tmp_path / f"{states}.tflite", "int8", states=states).path
        for states in ("explicit", "internal")
    ]
    explicit = export.load(paths[0])
    expected = in_chunks(
        lambda arrays: dict(zip(explicit.outputs, explicit(arrays), strict=True)), step, x
    )
    for sample, right in zip(x, expected, strict=True):
        file = export.load(paths[1])  # with the states of the beginning
        assert [tensor.name for tensor in file.inputs] == ["chunk"]
        for chunk in np.split(sample[None], FRAMES // 4, 1):
            (found,) = file(chunk)
        np.testing.assert_array_equal(found[0], right)


@EXPORTS
def test_internal_states_of_a_float_model_and_their_check(tmp_path):
    step = streaming.to_streaming(as_trained(averaged()), chunk_size=2)
    x = np.random.default_rng(0).normal(size=(12, 2, 6)).astype("float32")
    states = [np.zeros((12, *state.shape[1:])) for state in step.model.inputs[1:]]
    artifact = export.to_litert(
        step.model, tmp_path / "step.tflite", sample=[x, *states], states="internal"
    )
    assert artifact.max_difference < 1e-5  # of consecutive chunks from the model
    for states, words in [("inside", "one of .*'internal'"), ("internal", "without states")]:
        with pytest.raises(ValueError, match=f"`states`.*{words}"):
            export.to_litert(averaged(), tmp_path / "net.tflite", states=states)


@EXPORTS
@pytest.mark.skipif(find_spec("tflite_micro") is None, reason="needs tflite-micro")
def test_a_streaming_net_runs_on_microcontrollers(tmp_path):
    net = sl.models.ds_cnn((FRAMES, 10, 1), classes=12, padding="causal")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, FRAMES, 10, 1)).astype("float32")
    aware = quantize.aware(as_trained(net), calibration=x)
    step = streaming.to_streaming(aware, chunk_size=2, pool_window=FRAMES)
    for states in ("explicit", "internal"):
        artifact = export.to_micro(step.model, tmp_path / states, states=states)
        # Where a mean falls between two integers, the last bits of a scale decide.
        assert artifact.litert_steps <= 1
        assert artifact.flash_bytes < 60_000
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(artifact.operators)
        assert artifact.macs < sl.profile(net).macs / 4  # of two frames instead of all
        main = (artifact.path / "main.cc").read_text("utf-8")
        assert ("MicroResourceVariables::Create(allocator, 6)" in main) == (states == "internal")
